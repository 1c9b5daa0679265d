"""Tables of numbers, written as text for the terminal, as CSV, as JSON, or as cells for a page."""

import csv
import unicodedata
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

from shortcut.intervals import Estimate


class Column(NamedTuple):
    """A column of a table, and the format of its numbers as text."""

    name: str
    digits: str = ".3f"  # format of a number; ints and text are shown as they are
    scale: int = 1  # 100: fractions are shown in percent
    ends: bool = False  # True: show both ends of an interval; else half its width


class Table(NamedTuple):
    """A title, columns, and rows of estimates, numbers and text; None for a missing number."""

    name: str  # its key in the summary
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]


def cell(value: Any, column: Column) -> str:
    """A cell as text: "-" for None; an estimate is followed by its interval, if it has one."""
    if isinstance(value, float):
        number = column.scale * value
        return f"{number:{column.digits if abs(number) < 1e4 else '.2g'}}"
    if not isinstance(value, Estimate):
        return "-" if value is None else str(value)
    text, digits = cell(value.mean, column), column.digits.removeprefix("+")
    if value.low is None:
        return text
    if column.ends:
        return f"{text} [{column.scale * value.low:{digits}}, {column.scale * value.high:{digits}}]"
    return f"{text} ±{column.scale * (value.high - value.low) / 2:{digits}}"


def cells(table: Table) -> list[list[str]]:
    """All rows as text."""
    return [[cell(value, column) for value, column in zip(row, table.columns, strict=True)] for row in table.rows]


def select(table: Table, *names: str) -> Table:
    """The table with only the columns of these names."""
    places = [k for k, column in enumerate(table.columns) if column.name in names]
    rows = [[row[k] for k in places] for row in table.rows]
    return table._replace(columns=[table.columns[k] for k in places], rows=rows)


def text(tables: Iterable[Table]) -> str:
    """Tables as text, one below the other: a blank line, the title, then columns aligned to the right."""
    lines = []
    for table in tables:
        rows = [[column.name for column in table.columns], *cells(table)]
        widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
        lines += ["", table.title]
        for row in rows:
            lines.append("".join(" " * (2 + width - _width(x)) + x for x, width in zip(row, widths, strict=True)))
    return "\n".join(lines)


def _width(text: str) -> int:
    """Width of a text in terminal columns; a wide character takes two."""
    return sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def to_csv(table: Table) -> str:
    """A table as CSV: a header and rows, six significant digits; the ends of an interval follow the mean."""
    wide = [any(isinstance(row[k], Estimate) for row in table.rows) for k in range(len(table.columns))]
    pairs = zip([x.name for x in table.columns], wide, strict=True)
    names = [Estimate(x, f"{x}_low", f"{x}_high") if ends else x for x, ends in pairs]
    lines: list[str] = []
    writer = csv.writer(SimpleNamespace(write=lines.append))  # lines end in \r\n, so either is quoted within a cell
    for row in (names, *table.rows):
        values: list[Any] = []
        for value, ends in zip(row, wide, strict=True):
            values += value if isinstance(value, Estimate) else [value, None, None] if ends else [value]
        writer.writerow([f"{x:.6g}" if isinstance(x, float) else x for x in values])
    return "".join(line.removesuffix("\r\n") + "\n" for line in lines)


def to_json(table: Table) -> list[dict[str, Any]]:
    """A dict for each row, keyed by column name; numbers are fractions, nats or layers, rounded to six decimals."""
    return [{x.name: _json(value) for x, value in zip(table.columns, row, strict=True)} for row in table.rows]


def _json(value: Any) -> Any:
    if isinstance(value, Estimate):
        return {name: _json(x) for name, x in value._asdict().items()}
    return round(value, 6) if isinstance(value, float) else value
