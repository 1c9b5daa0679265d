"""The figures. Each function takes data and returns a figure; `save` writes it.

The only file that imports matplotlib. A mode has one colour and one line style in all figures,
those of the paper.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import BinaryIO

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from shortcut.results import PRECISIONS, Curve, Results

LOOKS = {  # mode: colour, line style
    "id": ("red", "--"),
    "mat": ("blue", "-"),
    "mat_attn": ("green", "-."),
    "mat_ffn": ("magenta", ":"),
    "mat_ln1_ln2": ("orange", (0, (5, 1, 1, 1, 1, 1))),
}
STYLE = {"font.size": 9, "axes.grid": True, "grid.alpha": 0.3, "pdf.fonttype": 42, "legend.frameon": False}
SURPRISAL = "Surprisal (nats)"

Scores = Mapping[tuple[int, int], float]


def save(figure: Figure, file: BinaryIO) -> None:
    """Write a figure as PDF, without the date: the same figure gives the same bytes."""
    with matplotlib.rc_context(STYLE):
        figure.savefig(file, format="pdf", bbox_inches="tight", metadata={"CreationDate": None})


def r2_heat_maps(mat: Scores, identity: Scores, title: str) -> Figure:
    """r2 of every jump, mat and id side by side; source layer on y, target on x; figure 2 of the paper."""
    L = max(j for _, j in mat)
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(7, 3.2), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        for ax, name, scores in ((axes[0], "mat", mat), (axes[1], "id", identity)):
            grid = np.full((L + 1, L + 1), np.nan)
            grid[np.diag_indices(L + 1)] = 1
            for (i, j), score in scores.items():
                grid[i, j] = score
            image = ax.imshow(grid, vmin=0, vmax=1, cmap="viridis")
            ticks = range(0, L + 1, max(1, -(-L // 8)))
            ax.set(title=name, xlabel="target layer", xticks=ticks, yticks=ticks)
        axes[0].set_ylabel("source layer")
        bar = figure.colorbar(image, ax=axes, label="$r^2$", shrink=0.9)
        bar.set_ticks([0, 0.2, 0.4, 0.6, 0.8, 1], labels=["≤0.0", "0.2", "0.4", "0.6", "0.8", "1.0"])
        figure.suptitle(title)
        return figure


def precision(r: Results, title: str) -> Figure:
    """Precision@k at each layer, a panel for each k, mat and id; figure 3 of the paper."""
    modes = [mode for mode in ("mat", "id") if mode in r.fixed]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 2.6), layout="constrained")
        axes = figure.subplots(1, len(PRECISIONS), sharey=True)
        for ax, k in zip(axes, PRECISIONS, strict=True):
            for mode in modes:
                _draw(ax, mode, r.fixed[mode].layers, r.fixed[mode].precision[k])
            ax.set(title=f"Precision@{k}", xlabel="layer", ylim=(-0.02, 1.02), xlim=(0, r.n_layers))
        axes[0].legend()
        figure.suptitle(title)
        return figure


def surprisal(r: Results, modes: tuple[str, ...], title: str) -> Figure:
    """Surprisal at each layer; figure 4 of the paper (mat, id), and section 5 (sub-modules)."""
    curves = {mode: (r.fixed[mode].layers, r.fixed[mode].surprisal) for mode in modes}
    return _curves(curves, SURPRISAL, r.n_layers, title)


def parts_precision(r: Results, k: int, modes: tuple[str, ...], title: str) -> Figure:
    """Precision@k at each layer with sub-modules replaced, beside mat; section 5 of the paper."""
    curves = {mode: (r.fixed[mode].layers, r.fixed[mode].precision[k]) for mode in modes}
    return _curves(curves, f"Precision@{k}", r.n_layers, title)


def early_exit(r: Results, title: str) -> Figure:
    """Precision@1 against blocks run, early and fixed exit, id and mat; section 4.3 of the paper."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4, 3), layout="constrained")
        ax = figure.subplots()
        for mode, curve in r.early.items():
            _draw(ax, mode, curve.layers, curve.precision[1], label=f"{mode}, early exit", marker=".")
        for mode in r.early:
            fixed: Curve = r.fixed[mode]
            ax.plot(
                fixed.layers, fixed.precision[1], color=LOOKS[mode][0], linestyle=":", linewidth=1, alpha=0.7,
                label=f"{mode}, fixed exit",
            )  # fmt: skip
        ax.set(xlabel="layers processed", ylabel="Precision@1", xlim=(0, r.n_layers), ylim=(-0.02, 1.02), title=title)
        ax.legend()
        return figure


def all_figures(r: Results, title: str) -> dict[str, Callable[[], Figure]]:
    """What draws each figure the results hold, by its name."""
    figures: dict[str, Callable[[], Figure]] = {}
    whole = tuple(mode for mode in ("mat", "id") if mode in r.fixed)
    parts = tuple(mode for mode in LOOKS if mode in r.fixed and mode != "id")
    if whole:
        figures["pre"] = partial(precision, r, title)
        if all(r.fixed[mode].surprisal for mode in whole):
            figures["surp"] = partial(surprisal, r, whole, title)
    if len(parts) > 1:
        for k in PRECISIONS:
            figures[f"parts_pre{k}"] = partial(parts_precision, r, k, parts, title)
        figures["parts_surp"] = partial(surprisal, r, parts, title)
    if r.early:
        figures["ee_pre1"] = partial(early_exit, r, title)
    return figures


def _curves(curves: Mapping[str, tuple[list[float], list[float]]], label: str, n_layers: int, title: str) -> Figure:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4, 3), layout="constrained")
        ax = figure.subplots()
        for mode, (layers, values) in curves.items():
            _draw(ax, mode, layers, values)
        ax.set(xlabel="layer", ylabel=label, xlim=(0, n_layers), title=title)
        ax.set_ylim(*((-0.02, 1.02) if label != SURPRISAL else (0, None)))
        ax.legend()
        return figure


def _draw(ax, mode: str, layers: list[float], values: list[float], label: str | None = None, **style) -> None:
    ax.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    colour, line = LOOKS[mode]
    ax.plot(layers, values, color=colour, linestyle=line, label=label or mode, **style)
