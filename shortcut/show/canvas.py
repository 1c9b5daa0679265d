"""Write figures as PDF, PNG or CSV. No other module imports matplotlib."""

import contextlib
import io
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from shortcut import sentence_grid
from shortcut.show.table import Table, to_csv

COLUMN, PAGE = 3.3, 6.9  # widths of figures in inches: one column of a paper, and a page
STYLE = {
    "font.size": 8, "axes.titlesize": 8, "figure.titlesize": 9, "axes.linewidth": 0.6, "lines.linewidth": 1.2,
    "axes.grid": True, "grid.alpha": 0.3, "grid.linewidth": 0.5, "legend.frameon": False, "legend.handlelength": 2.6,
    "pdf.fonttype": 42,
}  # fmt: skip
INTEGERS = {"nbins": 7, "integer": True, "steps": None}  # `locator_params` for at most eight ticks, all at integers
NO_DATES = {"pdf": {"CreationDate": None}, "png": {"Software": None}}  # the same figure gives the same bytes


class Plot(NamedTuple):
    """A figure, with its numbers and its description."""

    draw: Callable[[], Any]  # makes the figure
    data: Table  # its numbers
    alt: str  # its content in words

    def render(self, ending: str) -> bytes:
        """Content of the figure's file with this ending: "pdf", "png" or "csv"."""
        if ending == "csv":
            return to_csv(self.data).encode(errors="backslashreplace")  # no encoding has halves of surrogate pairs
        os.environ["MPLBACKEND"] = "agg"  # a backend that is not installed would stop the import
        with contextlib.chdir(Path(find_spec("matplotlib").origin).parent / "mpl-data"):  # no user's matplotlibrc
            import matplotlib  # noqa: PLC0415  (takes a second, and most figures exist already)
        with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE}):
            self.draw().savefig(file := io.BytesIO(), format=ending, dpi=200, metadata=NO_DATES[ending])
        return file.getvalue()


def subplots(width: float, height: float, title: str, rows: int, columns: int, **settings: Any) -> tuple[Any, Any]:
    """A figure with a title, and its axes; width and height in inches."""
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(width, height), layout=settings.pop("layout", "constrained"))
    figure.suptitle("\n".join(drawable(line, 120) for line in title.split("\n")), parse_math=False)
    return figure, figure.subplots(rows, columns, **settings)


def legend(figure: Any, columns: int) -> None:
    """Add one legend for all axes, below them; a label that several axes share is listed once."""
    shown = (zip(*ax.get_legend_handles_labels(), strict=True) for ax in figure.axes)
    known = {label: handle for pairs in shown for handle, label in pairs}
    figure.legend(known.values(), known.keys(), loc="outside lower center", ncols=columns)


def drawable(text: str, longest: int = 9) -> str:
    """Text cut to fit a cell (see `sentence_grid.shown`), with □ for each character that the font lacks."""
    from matplotlib.font_manager import FontProperties, findfont, get_font  # noqa: PLC0415

    font = get_font(findfont(FontProperties()))
    return "".join(c if font.get_char_index(ord(c)) else "□" for c in sentence_grid.shown(text, longest))
