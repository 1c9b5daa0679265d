"""The report on one model and dataset: one self-contained HTML file, which can be sent by mail."""

import base64
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from shortcut.results import Results
from shortcut.show import table, tables
from shortcut.show.canvas import Plot
from shortcut.show.table import Table

Pictures = Iterable[tuple[str, Plot, bytes, str]]  # a figure's name, content, PNG, and path of its files without ending


def page(
    summary: dict[str, Any], title: str, r: Results, pictures: Pictures, shown: Iterable[Table], origin: dict[str, Any]
) -> str:
    """The page as HTML: a few numbers, the figures with captions, the tables, and the summary as JSON.

    origin: `mat` (its label in figures), `train` (number of training sentences), `date`, `settings` and `versions` of
    the results, as far as they are known. The captions and the notes on the tables are in the template.
    """
    from jinja2 import Environment, StrictUndefined  # noqa: PLC0415

    figures = []
    for name, plot, png, link in pictures:
        width, height = (int.from_bytes(png[k : k + 4], "big") for k in (16, 20))  # in the PNG header
        figures.append((name.rpartition("_")[0], plot, base64.b64encode(png).decode(), width, height, link))
    templates = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    return templates.from_string(Path(__file__).with_name("report.html").read_text(encoding="utf-8")).render(
        title=title, summary=summary, results=r, figures=figures, origin=origin,
        tables=[(x, table.cells(x)) for x in shown], cell=table.cell, precision=tables.of_metric("precision@1", ""),
        data=json.dumps(summary, separators=(",", ":")).replace("<", "\\u003c"),
    )  # fmt: skip
