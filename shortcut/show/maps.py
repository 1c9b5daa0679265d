"""Tables and figures of r2 ("Linear Shortcut Across Blocks" in the paper) and of `shortcut.map_quality`."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from shortcut import LEAST_SQUARES
from shortcut.show.canvas import INTEGERS, PAGE, Plot, legend, subplots
from shortcut.show.figures import label
from shortcut.show.table import Column, Table
from shortcut.show.tables import Scores

R2 = Mapping[str, Scores]  # see `result_formats.load_r2`
Quality = Mapping[str, Mapping[Any, Any]]  # see `result_formats.load_quality`
EXACT = "no more training states than d, so all fits are exact"


def r2_heat_maps(r2: R2, title: str, map_kind: str = LEAST_SQUARES) -> Plot:
    """Heat maps of r2 for all jumps, mat and id side by side. Jumps without a score are empty."""
    mat, identity = r2["score_mat"], r2["score_id"]
    L = max(j for _, j in mat)
    rows = [[*pair, *(scores[pair] for scores in r2.values())] for pair in sorted(mat)]
    columns = [*map(Column, ("source", "target", *(name.removeprefix("score_") for name in r2)))]
    data = Table("r2", f"r² of every jump between layers: {title}", columns, rows)
    means = [sum(max(0.0, score) for score in scores.values()) / len(scores) for scores in (mat, identity)]
    mean = f"Mean over {len(mat)} jumps, values below 0 counted as 0: mat {means[0]:.2f}, id {means[1]:.2f}."
    alt = f"Two heat maps of r² by source layer (rows) and target layer (columns), {L} layers. {mean}"
    return Plot(partial(_heat_maps, {label("mat", map_kind): mat, "id": identity}, L, title), data, alt)


def _heat_maps(maps: Mapping[str, Scores], L: int, title: str) -> Any:
    """Source layer on y, target layer on x. The diagonal is 1, cells below it are empty, the scale begins at 0."""
    drawn, axes = subplots(PAGE, 3.5, title, 1, len(maps), sharey=True, layout="compressed")
    for ax, (name, scores) in zip(axes, maps.items(), strict=True):
        grid = np.where(np.eye(L + 1), 1, np.nan)
        grid[*zip(*scores, strict=True)] = [*scores.values()]
        image = ax.imshow(grid, vmin=0, vmax=1, cmap="viridis", interpolation="nearest")
        ticks = range(0, L + 1, max(1, -(-L // 8)))
        ax.set(title=name, xlabel="target layer", xticks=ticks, yticks=ticks)
        ax.grid(False)
    axes[0].set_ylabel("source layer")
    bar = drawn.colorbar(image, ax=axes, label="$r^2$", shrink=0.9, pad=0.02)
    bar.set_ticks([0, 0.2, 0.4, 0.6, 0.8, 1], labels=["≤0.0", "0.2", "0.4", "0.6", "0.8", "1.0"])
    return drawn


def r2_tables(r2: R2) -> list[Table]:
    """r2 of mat and id from each layer to the next layer, to the last, and as a mean over all later layers."""
    titles = {
        "": "r2 from each layer to later layers",
        "_weighted": "r2 weighted by variance, so that coordinates that hardly vary count for little",
    }
    columns = [*map(Column, ("layer", "mat next", "mat last", "mat mean", "id next", "id last", "id mean"))]
    tables, layers = [], sorted({i for i, _ in r2.get("score_mat", {})})
    for weighted, title in titles.items():
        if f"score_mat{weighted}" in r2:
            modes = [r2[f"score_{mode}{weighted}"] for mode in ("mat", "id")]
            rows = [[i, *(x for scores in modes for x in _from_layer(i, scores))] for i in layers]
            tables.append(Table(f"r2{weighted}_by_layer", title, columns, rows))
    return tables


def _from_layer(i: int, scores: Scores) -> tuple[float | None, ...]:
    L = max(j for _, j in scores)
    later = [scores[i, j] for j in range(i + 1, L + 1) if (i, j) in scores]
    return scores.get((i, i + 1)), scores.get((i, L)), sum(later) / len(later) if len(later) == L - i else None


def quality_table(quality: Quality) -> Table:
    """Quality of the maps into the last layer, and the worst loss of going there by two maps; "-" for no number."""
    rows = []
    for l in sorted({i for i, _ in quality["gain"]}):
        worst = max(((x, k) for (i, k), x in quality["composition_loss"].items() if i == l), default=(None, None))
        gain = max(x for (i, _), x in quality["gain"].items() if i == l)
        rows.append([l, quality["split_half_r2"].get(l), quality["effective_rank"].get(l), *worst, gain])
    columns = [*map(Column, ("layer", "halves agree, r2")), Column("effective rank", ".1f")]
    columns += [*map(Column, ("r2 lost by two jumps", "via layer")), Column("gain, flat directions", ".3g")]
    of = f" (effective rank: of {d})" if (d := max(map(len, quality["spectrum"].values()), default=0)) else ""
    return Table("quality_of_maps", f"Quality of the maps into the last layer{of}", columns, rows)


def quality_figure(quality: Quality, title: str) -> Plot:
    """Agreement of halves and effective rank by layer, the r2 lost by two jumps, and the spectra."""
    rows = [
        [name, *(key if isinstance(key, tuple) else (key, None)), *(x if isinstance(x, list) else (k, x))]
        for name, found in quality.items()
        for key, xs in found.items()
        for k, x in (enumerate(xs) if isinstance(xs, list) else [(None, xs)])
    ]
    columns = [*map(Column, ("quantity", "source", "target", "number", "value"))]
    data = Table("maps", f"Quality of the maps: {title}", columns, rows)
    lost, halves = quality["composition_loss"], quality["split_half_r2"].values()
    findings = []
    if halves:
        findings.append(f"r² between maps of two halves of the sentences is {min(halves):.2f} to {max(halves):.2f}")
    if lost:
        most = f"up to {worst:.2f} in r² against one jump" if (worst := max(lost.values())) > 0 else "nothing"
        findings.append(f"two jumps to the last layer lose {most}")
    # the loss of two jumps was left out, although there are jumps to layers before the last (see `Kind.is_exact`)
    exact = not lost and any(j <= max(quality["gain"])[0] for _, j in quality["gain"])
    findings += [EXACT] * exact
    if ranks := quality["effective_rank"].values():
        findings.append(f"effective ranks are {min(ranks):.0f} to {max(ranks):.0f}")
    findings = "; ".join(findings) or "There is no record of how these maps were fitted"
    return Plot(partial(_draw_quality, quality, title, exact), data, f"{data.title}. {findings}.")


def _draw_quality(quality: Quality, title: str, exact: bool) -> Any:
    lost, ranks, halves = quality["composition_loss"], quality["effective_rank"], quality["split_half_r2"]
    by_rank, spectra, L = quality["r2_by_rank"], quality["spectrum"], max(i for i, _ in quality["gain"]) + 1
    width, panels = PAGE * (4 / 3 if by_rank else 1), 1 + bool(ranks) + bool(lost) + bool(by_rank)
    drawn, ((first, *axes),) = subplots(width, 3.1, title, 1, panels, squeeze=False)
    if ranks:
        shares = [rank / len(spectra[l]) for l, rank in ranks.items()]
        first.plot(ranks.keys(), shares, "--", color="gray", label="effective rank / d")
    if halves:
        beyond = f" (lowest: {min(halves.values()):.2g})" if min(halves.values()) < -1 else ""
        first.plot(halves.keys(), halves.values(), color="blue", label=f"halves agree, $r^2${beyond}")
    lowest = max(-1.0, min([0.0, *halves.values()])) - 0.02
    note = ("" if first.lines else "\n(not fitted here)") + f"\n({EXACT})" * exact
    first.set(title=f"maps into the last layer{note}", xlabel="source layer", xlim=(0, L), ylim=(lowest, 1.02))
    first.locator_params("x", **INTEGERS)
    if lost:
        ax, grid = axes.pop(0), np.full((L, L), np.nan)
        grid[*zip(*lost, strict=True)] = [*lost.values()]
        scale = {"vmin": min(0.0, *lost.values()), "vmax": max(1e-3, *lost.values())}
        image = ax.imshow(grid, cmap="magma_r", interpolation="nearest", **scale)
        note = "" if max(lost.values()) > 0 else "\n(none above 0: nothing is lost)"
        ax.set(title=f"$r^2$ lost by two jumps{note}", xlabel="via layer", ylabel="source layer")
        ax.grid(False)
        ax.locator_params("both", **INTEGERS)
        drawn.colorbar(image, ax=ax, shrink=0.8)
    chosen = {l: (l / L, 0.2, 1 - l / L) for l in range(0, L, max(1, -(-L // 6)))}  # layers and their colours
    if by_rank:
        ax = axes.pop(0)
        for l, colour in chosen.items():
            ax.plot(*zip(*by_rank[l], strict=True), color=colour, linewidth=1)
        ax.set(title="$r^2$ by rank (training)", xlabel="rank", xscale="symlog", xlim=(0, None), ylim=(None, 1.02))
    if ranks:
        ax = axes.pop(0)
        for l, colour in chosen.items():
            values = [x if x > 0 else np.nan for x in spectra.get(l, [])]
            ax.plot(range(1, len(values) + 1), values, color=colour, linewidth=1, label=f"layer {l}")
        every = [x for spectrum in spectra.values() for x in spectrum if x > 0] or [1.0]
        lowest, highest = max(min(every), 1e-7 * max(every)), max(every)
        ax.set(title="singular values of $A C^{1/2}$", xlabel="number", yscale="log", ylim=(lowest / 2, 2 * highest))
    legend(drawn, 5)
    return drawn
