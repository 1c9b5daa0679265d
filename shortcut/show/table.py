"""A table of numbers, and its writers: text for the terminal, CSV, JSON, and cells for a page."""

import csv
import io
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from shortcut.intervals import Estimate

BOTH = "both"  # in `Column.interval`


class Column(NamedTuple):
    """A column of a table, and the format of its numbers as text."""

    name: str
    unit: str = ""  # "%": fractions are shown in percent
    digits: str = ".3f"  # format of a number; ints and text are shown as they are
    interval: str = "half"  # show half the width of an interval, or `BOTH` of its ends


class Table(NamedTuple):
    """A title, columns, and rows of estimates, numbers and text; None where there is no number."""

    name: str  # in the summary
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]


def cell(value: Any, column: Column) -> str:
    """A cell as text: "-" for None, an estimate with its interval, if it has one."""
    if isinstance(value, Estimate):
        scale, digits = 100 if column.unit == "%" else 1, column.digits.removeprefix("+")
        text = cell(value.mean, column)
        if value.low is None:
            return text
        if column.interval == BOTH:
            return f"{text} [{scale * value.low:{digits}}, {scale * value.high:{digits}}]"
        return f"{text} ±{scale * (value.high - value.low) / 2:{digits}}"
    if isinstance(value, float):
        number = 100 * value if column.unit == "%" else value
        return f"{number:{column.digits if abs(number) < 1e4 else '.2g'}}"
    return "-" if value is None else str(value)


def cells(table: Table) -> list[list[str]]:
    """All rows as text."""
    return [[cell(value, column) for value, column in zip(row, table.columns, strict=True)] for row in table.rows]


def text(tables: Iterable[Table]) -> str:
    """Tables under one another: columns aligned to the right, title above, blank line before."""
    lines = []
    for table in tables:
        rows = [[column.name for column in table.columns], *cells(table)]
        widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
        lines += ["", table.title]
        for row in rows:
            padded = (" " * (width - _width(x)) + x for x, width in zip(row, widths, strict=True))
            lines.append("  " + "  ".join(padded))
    return "\n".join(lines)


def _width(text: str) -> int:
    """Columns of a terminal: two for a wide character."""
    return sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def to_csv(table: Table) -> str:
    """Header and rows, separated by commas; six significant digits; both ends of an interval behind its mean."""
    wide = [any(isinstance(row[k], Estimate) for row in table.rows) for k in range(len(table.columns))]
    rows = [
        [
            column.name if not ends else Estimate(column.name, "low", "high")
            for column, ends in zip(table.columns, wide, strict=True)
        ],
        *table.rows,
    ]
    lines = []
    for row in rows:
        values: list[Any] = []
        for value, ends in zip(row, wide, strict=True):
            values += value if isinstance(value, Estimate) else [value, None, None] if ends else [value]
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\r\n")  # for either within a cell to be quoted
        writer.writerow([f"{x:.6g}" if isinstance(x, float) else x for x in values])
        lines.append(file.getvalue().removesuffix("\r\n"))
    return "\n".join(lines) + "\n"


def to_json(table: Table) -> list[dict[str, Any]]:
    """A dict a row, by the names of the columns: fractions, nats and layers, rounded to six decimals."""
    names = [column.name for column in table.columns]
    return [{name: _json(value) for name, value in zip(names, row, strict=True)} for row in table.rows]


def _json(value: Any) -> Any:
    if isinstance(value, Estimate):
        return {name: _json(x) for name, x in value._asdict().items()}
    return round(value, 6) if isinstance(value, float) else value
