"""The report on one model and dataset: an HTML page with all figures, tables and numbers.

The page is one self-contained file (pictures, tables, style and data), so it can be sent by mail.
"""

import base64
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from shortcut.results import Results
from shortcut.show import table, tables
from shortcut.show.canvas import Plot
from shortcut.show.table import Table


def page(
    summary: dict[str, Any], title: str, r: Results, figures: Iterable[tuple[Plot, bytes]], shown: Iterable[Table]
) -> str:
    """The page as HTML: a few numbers, the figures with their pictures (PNG), the tables, and the summary as JSON."""
    from jinja2 import Environment, StrictUndefined  # noqa: PLC0415

    pictures = []
    for plot, png in figures:
        width, height = (int.from_bytes(png[k : k + 4], "big") for k in (16, 20))  # in the PNG header
        pictures.append((plot, base64.b64encode(png).decode(), width, height))
    templates = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    return templates.from_string(Path(__file__).with_name("report.html").read_text(encoding="utf-8")).render(
        title=title, summary=summary, results=r, figures=pictures, tables=[(item, table.cells(item)) for item in shown],
        cell=table.cell, precision=tables.of_metric("precision@1", ""),
        data=json.dumps(summary, separators=(",", ":")).replace("<", "\\u003c"),
    )  # fmt: skip
