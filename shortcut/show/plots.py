"""The figures: each is drawn from data that it keeps beside it, and is written as PDF, PNG or CSV.

The only file that imports matplotlib. A mode has one colour and one line style in all figures,
those of the paper where it has some; bands are 95% intervals over the sentences.
"""

import contextlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from shortcut import lens
from shortcut.approximation import MODES
from shortcut.lens import Grid
from shortcut.results import Curve, Results
from shortcut.show import figures, tables
from shortcut.show.figures import FREE, LOOKS, SCHEDULED
from shortcut.show.tables import Scores, Table

COLUMN, PAGE = 3.3, 6.9  # widths of a figure in inches: a column of a paper, a page
STYLE = {
    "font.size": 8, "axes.titlesize": 8, "figure.titlesize": 9, "axes.linewidth": 0.6, "lines.linewidth": 1.2,
    "axes.grid": True, "grid.alpha": 0.3, "grid.linewidth": 0.5, "legend.frameon": False, "legend.handlelength": 2.6,
    "pdf.fonttype": 42,
}  # fmt: skip
Curves = Mapping[str, Curve]
NO_DATES = {"pdf": {"CreationDate": None}, "png": {"Software": None}}  # the same figure gives the same bytes


@dataclass(frozen=True)
class Plot:
    """One figure in all its forms."""

    draw: Callable[[], Any]  # makes the figure
    data: Table  # what it shows, as numbers
    alt: str  # the same in words, for who cannot see it

    def write(self, file: BinaryIO, ending: str) -> None:
        """Write it as "pdf", "png" or "csv"."""
        if ending == "csv":
            file.write(tables.to_csv(self.data).encode(errors="backslashreplace"))  # halves of pairs are in no encoding
        else:
            matplotlib = _matplotlib()
            with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE}):
                self.draw().savefig(file, format=ending, dpi=200, metadata=NO_DATES[ending])


def _matplotlib() -> Any:
    """The library, imported where the first settings file that it finds is its own, which sets nothing."""
    os.environ["MPLBACKEND"] = "agg"  # one that is not installed would stop the import
    with contextlib.chdir(Path(find_spec("matplotlib").origin).parent / "mpl-data"):
        import matplotlib  # noqa: PLC0415  (takes a second, and figures are mostly there already)
    return matplotlib


def _figure(width: float, height: float, title: str, layout: str = "constrained") -> Any:
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(width, height), layout=layout)
    figure.suptitle("\n".join(drawable(line, 120) for line in title.split("\n")), parse_math=False)
    return figure


def r2_heat_maps(r2: Mapping[str, Scores], title: str) -> Plot:
    """r2 of the jumps, mat and id side by side. Jumps without a score stay empty."""
    mat, identity = r2["score_mat"], r2["score_id"]
    L = max(j for _, j in mat)
    rows = [[*pair, *(scores[pair] for scores in r2.values())] for pair in sorted(mat)]
    header = ["source", "target", *(name.removeprefix("score_") for name in r2)]
    data = Table(f"r² of every jump between layers: {title}", header, rows)
    means = [sum(max(0.0, score) for score in scores.values()) / len(scores) for scores in (mat, identity)]
    mean = f"Mean over {len(mat)} jumps, values below 0 counted as 0: mat {means[0]:.2f}, id {means[1]:.2f}."
    alt = f"Two heat maps of r² by source layer (rows) and target layer (columns), {L} layers. {mean}"
    return Plot(partial(_heat_maps, {"mat": mat, "id": identity}, L, title), data, alt)


def _heat_maps(maps: Mapping[str, Scores], L: int, title: str) -> Any:
    """Source layer on y, target on x, diagonal 1, below it nothing; the scale is cut at 0."""
    figure = _figure(PAGE, 3.5, title, "compressed")
    axes = figure.subplots(1, len(maps), sharey=True)
    for ax, (name, scores) in zip(axes, maps.items(), strict=True):
        grid = np.full((L + 1, L + 1), np.nan)
        grid[np.diag_indices(L + 1)] = 1
        for (i, j), score in scores.items():
            grid[i, j] = score
        image = ax.imshow(grid, vmin=0, vmax=1, cmap="viridis", interpolation="nearest")
        ticks = range(0, L + 1, max(1, -(-L // 8)))
        ax.set(title=name, xlabel="target layer", xticks=ticks, yticks=ticks)
        ax.grid(False)
    axes[0].set_ylabel("source layer")
    bar = figure.colorbar(image, ax=axes, label="$r^2$", shrink=0.9, pad=0.02)
    bar.set_ticks([0, 0.2, 0.4, 0.6, 0.8, 1], labels=["≤0.0", "0.2", "0.4", "0.6", "0.8", "1.0"])
    return figure


def all_figures(r: Results, title: str) -> dict[str, Plot]:
    """Every figure that the results hold, by its name."""
    drawn = {}
    for figure in figures.FIGURES:
        modes = [mode for mode in {**LOOKS, **MODES} if mode != "id"] if figure.parts else ["mat", "id"]
        fixed = {mode: r.fixed[mode] for mode in modes if mode in r.fixed}
        early = {mode: r.early[mode] for mode in modes if mode in r.early} if figure.early else {}
        known = all(metric in curve.values for curve in fixed.values() for metric in figure.metrics)
        if known and len(fixed) > figure.parts and bool(early) == figure.early:
            floor = {} if figure.early else {metric: floor.mean for metric, floor in r.floor.items()}
            drawn[f"{figure.name}_{r.n_layers}"] = _curves(r.n_layers, title, figure.metrics, (fixed, early), floor)
    return drawn | ({f"alternation_{r.n_layers}": _alternation(r, title)} if r.alternation else {})


def _alternation(r: Results, title: str) -> Plot:
    data = tables.alternation_points(r, title)
    told = []
    for first, name in (("r2", "the r2-informed schedule"), ("chosen", "round-robin, chosen on other sentences,")):
        if of := [judged for judged in r.alternation if judged.first == first]:
            best = max(of, key=lambda judged: judged.difference.mean)
            gain = tables.estimate(best.difference, sign="+")
            told.append(f"{name} gains most over the direct jump at {best.k} blocks: {gain} points")
    return Plot(partial(_draw_alternation, r, title), data, f"{data.title}. {'; '.join(told)}.")


def _draw_alternation(r: Results, title: str) -> Any:
    """Above Precision@1 by blocks executed, below what each schedule has beyond the direct jump."""
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

    L, figure = r.n_layers, _figure(COLUMN * 1.4, 4.4, title)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    _line(above, "mat", r.fixed["mat"], "precision@1", label="direct jump")
    below.axhline(0, color=LOOKS["mat"][0], linewidth=1)
    for first, (colour, marker, label) in SCHEDULED.items():
        of = sorted((j for j in r.alternation if j.first == first), key=lambda j: j.k)
        line = "-" if first == "r2" else ""
        x = [judged.k for judged in of]
        for ax, points in ((above, [j.precision for j in of]), (below, [j.difference for j in of])):
            if ax is above and first == "chosen":  # of half of the sentences: no point beside the others
                continue
            y, low, high = ([getattr(point, end) for point in points] for end in ("mean", "low", "high"))
            ax.plot(x, y, color=colour, linestyle=line, marker=marker, markersize=3, linewidth=1, label=label)
            if ax is below or first == "r2":
                ax.vlines(x, low, high, color=colour, linewidth=0.7)
    above.set(ylabel="Precision@1", ylim=(-0.02, 1.02), xlim=(0, L))
    below.set(ylabel="minus direct jump", xlabel="blocks executed")
    below.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    handles, labels = (of for of in zip(*(ax.get_legend_handles_labels() for ax in (above, below)), strict=True))
    known = dict(zip((*labels[0], *labels[1]), (*handles[0], *handles[1]), strict=True))
    figure.legend(known.values(), known.keys(), loc="outside lower center", ncols=2)
    return figure


def _curves(
    L: int, title: str, metrics: Sequence[str], exits: tuple[Curves, Curves], floor: Mapping[str, float]
) -> Plot:
    fixed, early = exits
    parts = [(metric, kind, curves) for metric in metrics for kind, curves in (("fixed", fixed), ("early", early))]
    rows = [row for part in parts for row in tables.points(*part)]
    name = ", ".join(metric.capitalize() for metric in metrics)
    by = "blocks run, early and fixed exit" if early else "layer"
    replaced = "" if fixed.keys() <= {"id", "mat"} else ", sub-modules replaced"
    of = f"{name} by {by}{replaced}: {title}"
    alt = f"{of}. {' '.join(tables.in_words(*part) for part in parts if part[2])}"
    return Plot(partial(_draw_curves, L, title, metrics, exits, floor), Table(of, tables.POINTS, rows), alt)


def _draw_curves(
    L: int, title: str, metrics: Sequence[str], exits: tuple[Curves, Curves], floor: Mapping[str, float]
) -> Any:
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

    fixed, early = exits
    figure = _figure(COLUMN if len(metrics) == 1 else PAGE, 2.6, title)
    axes = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for ax, metric in zip(axes, metrics, strict=True):
        for mode, curve in early.items():
            _line(ax, mode, curve, metric, label=f"{mode}, early exit", marker=".", markersize=4)
        for mode, curve in fixed.items():
            thin = {"label": f"{mode}, fixed exit", "linewidth": 0.8, "alpha": 0.6} if early else {"label": mode}
            _line(ax, mode, curve, metric, **thin)
        if metric in floor:
            ax.axhline(floor[metric], color="gray", linestyle=":", linewidth=1, label="best constant")
        ax.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
        ax.set(xlabel="layers processed" if early else "layer", xlim=(0, L))
        ax.set_ylim(*((0, None) if metric == "surprisal" else (-0.02, 1.02)))
        label = "Surprisal (nats)" if metric == "surprisal" else metric.capitalize()
        ax.set(**{"ylabel" if len(metrics) == 1 else "title": label})
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


def _line(ax, mode: str, curve: Curve, metric: str, **style) -> None:
    others = [other for other in MODES if other not in LOOKS]
    line, colour = LOOKS[mode][::-1] if mode in LOOKS else FREE[others.index(mode) % len(FREE)]
    means, lows, highs = zip(*curve.estimates[metric], strict=True)
    if curve.exits:  # all lambda as a line, those of the grid as points on it
        _, *exact = curve.exits.along()
        ax.plot(*exact, color=colour, linestyle=line, linewidth=1)
        line = ""
    ax.fill_between(curve.layers, lows, highs, color=colour, alpha=0.25, linewidth=0)
    ax.plot(curve.layers, means, color=colour, linestyle=line, **style)


def sentence_grid(grid: Grid, title: str) -> Plot:
    """What every layer would predict in one sentence: layers down, columns across, shade = probability."""
    data = tables.grid_points(grid)
    return Plot(partial(_draw_grid, grid, title), data, f"{data.title}: {title}. {grid.in_words()}")


def _draw_grid(grid: Grid, title: str) -> Any:
    rows, columns = len(grid.predicted["id"]), len(grid.columns)
    bold = "the model's best" if grid.masked else "as at the last layer"
    title = f"{lens.shown(grid.sentence, 90)}\n{title} (bold: {bold})"
    figure = _figure(max(PAGE, 2 * 0.56 * columns + 1), 0.17 * rows + 1.1, title)
    highest = math.ceil(10 * max(p.max().item() for p in grid.probabilities.values())) / 10
    axes = figure.subplots(1, 2, sharey=True)
    for ax, (mode, predicted) in zip(axes, grid.predicted.items(), strict=True):
        p = grid.probabilities[mode]
        image = ax.imshow(p.numpy(), vmin=0, vmax=highest, cmap="YlGnBu", aspect="auto", interpolation="nearest")
        for l, k in product(range(rows), range(columns)):
            ax.text(
                k, l, drawable(predicted[l][k]), ha="center", va="center", fontsize=6, parse_math=False,
                color="white" if p[l, k] > 0.55 * highest else "black", in_layout=False, clip_on=True,
                weight="bold" if grid.is_final(mode, l, k) else "normal",
            )  # fmt: skip
        ax.set_xticks(range(columns), [drawable(text) for text in grid.columns], fontsize=7, parse_math=False)
        ax.set(title=mode, xlabel=grid.column, yticks=range(0, rows, max(1, -(-rows // 25))))
        ax.tick_params(length=0)
        ax.grid(False)
    axes[0].set_ylabel("layer")
    figure.colorbar(image, ax=axes, label="probability", shrink=0.9, pad=0.01, aspect=30)
    return figure


def drawable(text: str, longest: int = 9) -> str:
    """A text as it fits a cell (see `lens.shown`), with □ for each character that the font lacks."""
    from matplotlib.font_manager import FontProperties, findfont, get_font  # noqa: PLC0415

    font = get_font(findfont(FontProperties()))
    return "".join(c if font.get_char_index(ord(c)) else "□" for c in lens.shown(text, longest))
