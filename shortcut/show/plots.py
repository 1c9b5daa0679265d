"""Draw the figures of the results, and of one sentence. Bands are 95% confidence intervals over the sentences."""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from shortcut import LEAST_SQUARES
from shortcut.approximation import MODES
from shortcut.linear import KINDS
from shortcut.metrics import LENS, METRICS
from shortcut.results import Comparison, Curve, Results
from shortcut.sentence_grid import Grid
from shortcut.show import table, tables
from shortcut.show.canvas import COLUMN, INTEGERS, PAGE, Plot, drawable, legend, subplots
from shortcut.show.figures import FIGURES, FREE, LOOKS, SCHEDULED, Figure, label

SIDE_BY_SIDE = 12  # tokens; the grids of a longer sentence are stacked


def all_figures(r: Results, title: str, map_kind: str = LEAST_SQUARES) -> dict[str, Plot]:
    """All figures of the results with maps of this kind, by name."""
    drawn = {}
    for figure in (figure for figure in FIGURES if not figure.lenses):
        modes = [mode for mode in {**LOOKS, **MODES} if mode != "id"] if figure.parts else ["mat", "id"]
        fixed = {mode: r.fixed[mode] for mode in modes if mode in r.fixed}
        early = {mode: r.early[mode] for mode in modes if mode in r.early} if figure.early else {}
        if len(fixed) > figure.parts and bool(early) == figure.early:
            shown = replace(r, fixed=fixed, early=early)
            drawn[f"{figure.name}_{r.n_layers}"] = _curves(figure, title, shown, map_kind)
    return drawn | ({f"alternation_{r.n_layers}": _alternation(r, title)} if r.alternation else {})


def lens_figures(c: Comparison, r: Results, title: str) -> dict[str, Plot]:
    """All figures that compare map kinds, by name."""
    drawn = {}
    for figure in (figure for figure in FIGURES if figure.lenses):
        (metric,) = figure.metrics
        curves = {name: curve for name, curve in c.curves.items() if metric in curve.values}
        if curves and (len(c.curves) > 2 or metric in LENS):
            plot = _curves(figure, title, replace(r, fixed=curves, early={}), LEAST_SQUARES)
            drawn[f"{figure.name}_{r.n_layers}"] = plot._replace(data=tables.lens_points(c, metric))
    return drawn


def _alternation(r: Results, title: str) -> Plot:
    data, findings, column = tables.schedules(r), [], tables.of_metric("precision@1", "", "+")
    for first, name in (("r2", "the r2-informed schedule"), ("chosen", "round-robin, chosen on other sentences,")):
        if found := [judged for judged in r.alternation if judged.first == first]:
            best = max(found, key=lambda judged: judged.difference.mean)
            gain = f"{table.cell(best.difference, column)} points"
            findings.append(f"{name} gains most over the direct jump at {best.k} blocks: {gain}")
    return Plot(partial(_draw_alternation, r, title), data, f"{data.title}: {title}. {'; '.join(findings)}.")


def _draw_alternation(r: Results, title: str) -> Any:
    """Precision@1 by blocks executed (upper panel), and the difference of each schedule to the direct jump (lower)."""
    figure, (above, below) = subplots(COLUMN * 1.4, 4.4, title, 2, 1, sharex=True, height_ratios=(3, 2))
    _line(above, "mat", r.fixed["mat"], "precision@1", label=f"{label('mat')}, one jump")
    below.axhline(0, color=LOOKS["mat"][0], linewidth=1)
    for first, (colour, marker, family) in SCHEDULED.items():
        found = sorted((judged for judged in r.alternation if judged.first == first), key=lambda judged: judged.k)
        x, line = [judged.k for judged in found], "-" if first == "r2" else ""
        for ax, points in ((above, [j.precision for j in found]), (below, [j.difference for j in found])):
            if ax is above and first == "chosen":  # on half of the sentences, so not comparable with the others
                continue
            mean, low, high = np.array(points, float).reshape(-1, 3).T
            ax.plot(x, mean, color=colour, linestyle=line, marker=marker, markersize=3, linewidth=1, label=family)
            if ax is below or first == "r2":
                ax.vlines(x, low, high, color=colour, linewidth=0.7)
    above.set(ylabel="Precision@1", ylim=(-0.02, 1.02), xlim=(0, r.n_layers))
    below.set(ylabel="minus direct jump", xlabel="blocks executed")
    below.locator_params("x", **INTEGERS)
    legend(figure, 2)
    return figure


def _curves(figure: Figure, title: str, r: Results, map_kind: str) -> Plot:
    exits = {"fixed": r.fixed, "early": r.early} if r.early else {"fixed": r.fixed}
    parts = [(metric, *shown) for metric in figure.metrics for shown in exits.items()]
    by = "blocks run, early and fixed exit" if r.early else "layer"
    replaced = ", sub-modules replaced" * figure.parts
    name = f"{', '.join(METRICS[metric].title for metric in figure.metrics)} by {by}{replaced}: {title}"
    alt = f"{name}. {' '.join(_in_words(*part) for part in parts)}"
    return Plot(partial(_draw_curves, figure, title, r, map_kind), tables.points(name, parts), alt)


def _in_words(metric: str, exit_type: str, curves: Mapping[str, Curve]) -> str:
    """The first, middle and last points of the curves, in words."""
    lines, column = [], tables.of_metric(metric, "")
    for mode, curve in curves.items():
        layers, points = curve.layers, curve.estimates[metric]
        chosen = (f"{table.cell(points[k], column)} at {layers[k]:.3g}" for k in (0, len(layers) // 2, -1))
        lines.append(f"{mode} {', '.join(chosen)}")
    return f"{METRICS[metric].title} ({METRICS[metric].unit}), {exit_type} exit: {'; '.join(lines)}."


def _draw_curves(figure: Figure, title: str, r: Results, map_kind: str) -> Any:
    fixed, early, single = r.fixed, r.early, len(figure.metrics) == 1
    width, height = (COLUMN * 1.3, 3.0) if figure.lenses else (COLUMN if single else PAGE, 3.0 if early else 2.6)
    drawn, (axes,) = subplots(width, height, title, 1, len(figure.metrics), sharey=True, squeeze=False)
    for ax, metric in zip(axes, figure.metrics, strict=True):
        for mode, curve in early.items():
            _line(ax, mode, curve, metric, label=f"{label(mode, map_kind)}, early exit", marker=".", markersize=4)
        for mode, curve in fixed.items():
            thin = {"linewidth": 0.8, "alpha": 0.6} if early else {}
            _line(ax, mode, curve, metric, label=label(mode, map_kind) + ", fixed exit" * bool(early), **thin)
        if metric in r.floor and not early and not figure.lenses:
            ax.axhline(r.floor[metric].mean, color="gray", linestyle=":", linewidth=1, label="best constant")
        ax.locator_params("x", **INTEGERS)
        ylim, unit = ((-0.02, 1.02), "") if METRICS[metric].k else ((0, None), " (nats)")
        if figure.lenses and unit:
            points = [x for mode, c in fixed.items() for x in c.estimates[metric][mode == "id" :]]
            ylim = 0, 1.05 * max(x.high or x.mean for x in points)
            if (beyond := fixed["id"].estimates[metric][0].mean) > ylim[1]:  # may be far above all other values
                ax.set_title(f"↑ id at layer 0: {beyond:.3g}", loc="left", color=LOOKS["id"][0])
        ax.set(xlabel="layers processed" if early else "layer", xlim=(0, r.n_layers), ylim=ylim)
        ax.set(**{"ylabel" if single else "title": METRICS[metric].title.replace(" that is", "\nthat is") + unit})
    legend(drawn, 1 if early else 3 if figure.lenses else 2)
    return drawn


def _line(ax: Any, name: str, curve: Curve, metric: str, **style: Any) -> None:
    others = [other for other in (*MODES, *KINDS) if other not in LOOKS]
    line, colour = LOOKS[name][::-1] if name in LOOKS else FREE[others.index(name) % len(FREE)]
    mean, low, high = np.array(curve.estimates[metric], float).T  # nan: no interval
    if curve.exits:  # a line for all lambda, points for the lambdas in config.py; the legend shows both
        ax.plot(*curve.exits.along()[1:3], color=colour, linestyle=line, linewidth=1, markevery=[], **style)
        line, style["label"] = "", None
    ax.fill_between(curve.layers, low, high, color=colour, alpha=0.25, linewidth=0)
    ax.plot(curve.layers, mean, color=colour, linestyle=line, **style)


def sentence_grid(grid: Grid, title: str) -> Plot:
    """Predictions of every layer in one sentence: a row for each layer, shaded by probability."""
    data = tables.grid_points(grid)
    return Plot(partial(_draw_grid, grid, title), data, f"{data.title}: {title}. {grid.in_words()}")


def _draw_grid(grid: Grid, title: str) -> Any:
    rows, columns = len(grid.predicted["id"]), len(grid.columns)
    bold, column = ("the model's best", "rank") if grid.mask else ("as at the last layer", "token")
    title, modes = f"{grid.heading()}\n{title} (bold: {bold})", len(grid.predicted)
    down, across = (modes, 1) if columns > SIDE_BY_SIDE else (1, modes)
    width, height = max(PAGE, across * 0.56 * columns + 1), down * (0.17 * rows + 0.6) + 0.5
    figure, axes = subplots(width, height, title, down, across, sharey=True)
    highest = math.ceil(10 * max(p.max().item() for p in grid.probabilities.values())) / 10
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
        ax.set(title=label(mode), xlabel=column, ylabel="layer", yticks=range(0, rows, max(1, -(-rows // 25))))
        ax.tick_params(length=0)
        ax.grid(False)
    figure.colorbar(image, ax=axes, label="probability", shrink=0.9, pad=0.01, aspect=30)
    return figure
