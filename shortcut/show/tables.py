"""Tables of the results, for the summary, the page, the terminal and the CSV files."""

import math
from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any

from shortcut import Problem
from shortcut.metrics import METRICS
from shortcut.results import SHARES, Comparison, Curve, Estimate, Results
from shortcut.sentence_grid import Grid, shown
from shortcut.show.table import Column, Table, select

Scores = Mapping[tuple[int, int], float]
Curves = Mapping[str, Curve]

THIN = 200  # number of points that are stored of a curve over all lambda
WIDE = 7  # number of grid columns side by side in a terminal


def of_metric(metric: str, name: str, sign: str = "") -> Column:
    """A table column for a metric, in its unit."""
    return Column(name, f"{sign}.1f", 100) if METRICS[metric].k else Column(name, f"{sign}.3f")


def _by_layer(
    metric: str, name: str, sample: str, curves: Curves, constant: Estimate | None = None, apart: Curve | None = None
) -> list[Table]:
    """A table of a metric at every layer and of its mean over layers 0 ... L - 1; [] if no curve has the metric."""
    curves = {key: curve for key, curve in curves.items() if metric in curve.values}
    if not curves:
        return []
    first = next(iter(curves.values()))
    L, values = first.n_layers, first.values[metric][0]
    places = (*range(L + 1), "mean")
    found = {of_metric(metric, key): _points(metric, curve) for key, curve in curves.items()}
    if constant:
        found[of_metric(metric, "constant")] = dict.fromkeys(places, constant)
    if apart and metric in apart.values:
        found[of_metric(metric, "mat - id", "+")] = _points(metric, apart)
    rows = [[place, *(points.get(place) for points in found.values())] for place in places]
    some = "" if (n := int((~values.isnan()).sum())) == len(values) else f", over the {n} with a value"
    means = f"±: half of the 95% interval; mean: over layers 0 to {L - 1}"
    title = f"{METRICS[metric].title} at each layer, {METRICS[metric].unit}{some}, {sample} ({means})"
    return [Table(name, title, [Column("layer"), *found], rows)]


def _points(metric: str, curve: Curve) -> dict[Any, Estimate]:
    points = dict(zip(map(int, curve.layers), curve.estimates[metric], strict=True))
    return points | ({"mean": curve.over_layers[metric]} if len(points) == curve.n_layers + 1 else {})


def of_results(r: Results, c: Comparison | None) -> list[Table]:
    """All tables: each metric by layer, with the best constant and mat - id; early exit; alternation; the map kinds."""
    tables = [x for m in METRICS for x in _by_layer(m, m, r.sample, r.fixed, r.floor.get(m), r.apart)]
    return [*tables, *early_exit(r), *alternation(r), *(map_kinds(c, r.sample) if c else [])]


def headlines(r: Results, c: Comparison | None) -> list[Table]:
    """Tables for the terminal: Precision@1 of id and mat or all map kinds, and the layers that early exit saves."""
    curves = c.curves if c and len(c.curves) > 2 else {mode: r.fixed[mode] for mode in ("id", "mat") if mode in r.fixed}
    saved = [select(_saved(r)[0], "Precision@1", "mode", "needs", "saves", "share")] if r.early else []
    return [*_by_layer("precision@1", "precision@1", r.sample, curves), *saved]


def map_kinds(c: Comparison, sample: str) -> list[Table]:
    """All metrics by layer if there are more than id and least squares; agreement of halves; costs of the maps."""
    tables, paired = [], f"{sample}, differences to least squares (ls), paired"
    differences = {f"{name} - ls": curve for name, curve in c.differences.items()}
    for metric in METRICS if len(c.curves) > 2 else ():
        tables += _by_layer(metric, f"lenses_{metric}", f"{sample}, by map kind", c.curves)
        tables += _by_layer(metric, f"lenses_{metric}_minus_least_squares", paired, differences)
    if layers := sorted(set().union(*c.halves.values())):
        rows = [[l, *(r2.get(l) for r2 in c.halves.values())] for l in layers]
        title = "Agreement of the maps fitted on two halves of the sentences, r2"
        tables.append(Table("halves", title, [*map(Column, ("layer", *c.halves))], rows))
    columns = [*map(Column, ("map kind", "cost"))]
    return [*tables, Table("costs_of_maps", "Cost of the maps", columns, [*c.costs.items()])]


def early_exit(r: Results) -> list[Table]:
    """Layers processed and metrics of early exit at every lambda, and the layers that it saves."""
    tables = []
    for mode, curve in r.early.items():
        points = zip(curve.lambdas, curve.layers, *curve.estimates.values(), strict=True)
        columns = [Column("lambda", ".4g"), Column("layers processed", ".2f")]
        columns += [of_metric(metric, METRICS[metric].title) for metric in curve.estimates]
        title = f"Early exit with {mode}: Precision@k, %, surprisal, nats; a higher lambda asks for more confidence"
        tables.append(Table(f"early_exit_{mode}", title, columns, [*points]))
    return [*tables, *_saved(r)] if tables else []


def _saved(r: Results) -> list[Table]:
    """Blocks saved at a share of the full model's Precision@1, also net of read-outs and matrices, and those costs."""
    (layers, *net), L, rows, costs = r.saved, r.n_layers, [], []
    for share, (mode, found) in product(SHARES, r.saved[layers].items()):
        x = found[share]
        needs = None if x is None or mode == "mat - id" else L - x.mean
        rows.append([share, mode, needs, x, x and x.mean / L, *(r.saved[unit][mode][share] for unit in net)])
    columns = [Column("Precision@1", ".0%"), Column("mode"), Column("needs", ".2f"), Column("saves", ".2f", ends=True)]
    columns += [Column("share", ".1%"), *(Column(f"net, {unit}", "+.2f", ends=True) for unit in net)]
    how = "over all lambda, with 95% intervals" if net else "interpolated between the lambdas"
    saved = Table("layers_saved", f"Layers (of {L}) that early exit needs and saves, {how}", columns, rows)
    for unit in net:
        T = r.costs.of(1, unit).tokens.double().mean().item()
        what = {"token": "for one token, as with a cache", "sentence": "for all tokens of the forward pass"}[unit]
        costs.append([unit, what, T, *(x / r.costs.block / T for x in (r.costs.read_out, r.costs.matrix))])
    columns = [*map(Column, ("net", "counted")), Column("tokens", ".1f"), *map(Column, ("read-out", "matrix"))]
    return [saved, Table("costs", "Costs that the net savings subtract, in blocks", columns, costs)] if net else [saved]


def alternation(r: Results) -> list[Table]:
    """Precision@1 by blocks executed: direct jump, r2-informed, and round-robin chosen on half of the sentences."""
    if not r.alternation:
        return []
    found, rows = {(judged.first, judged.k): judged for judged in r.alternation}, []
    for k, direct in enumerate(r.fixed["mat"].estimates["precision@1"]):
        pair = [found.get((first, k)) for first in ("r2", "chosen")]
        numbers = [x for judged in pair for x in ((judged.precision, judged.difference) if judged else (None, None))]
        rows.append([k, direct, *numbers, pair[1] and pair[1].name])
    names = (("direct jump",), ("r2-informed",), ("- direct", "+"), ("round-robin*",), ("- direct*", "+"))
    columns = [Column("blocks"), *(of_metric("precision@1", *name) for name in names), Column("which")]
    starred = "* chosen on one half, evaluated on the other"
    title = f"Alternation of blocks and jumps: Precision@1, %, {r.sample} ({starred})"
    return [Table("alternation", title, columns, rows)]


def schedules(r: Results) -> Table:
    """A table of all schedules of blocks and jumps."""
    rows = [
        [j.first, j.name, j.k, " ".join(f"{a}-{b}" for a, b in j.schedule), j.precision, j.difference]
        for j in r.alternation
    ]
    columns = [*map(Column, ("family", "schedule", "blocks", "jumps", "precision@1", "minus_direct"))]
    return Table("schedules", "Precision@1 by blocks executed, alternation of blocks and jumps", columns, rows)


def change(other: Results, own: Results, dataset: str, fitted_on: str) -> Table:
    """Mean Precision@1 over layers 0 ... L - 1 with the dataset's own maps, with another dataset's, and the change.

    "Effect of scale and of data" in the paper. Raises Problem if the results are for different sentences.
    """
    if not other.has_sentences_of(own):
        raise Problem("the results with the maps of the two datasets are for different sentences: make both again")
    rows = []
    for mode, curve in other.whole.items():
        if mode in own.whole and mode != "id":
            curves = own.whole[mode], curve, curve.minus(own.whole[mode])
            rows.append([mode, *(x.over_layers["precision@1"] for x in curves)])
    columns = [of_metric("precision@1", f"maps of {name}") for name in (dataset, fitted_on)]
    title = f"Mean Precision@1 over layers 0 to {own.n_layers - 1} on {dataset}, %, with the maps of each dataset"
    return Table("change", title, [Column("mode"), *columns, of_metric("precision@1", "change", "+")], rows)


def points(title: str, parts: Iterable[tuple[str, str, Curves]]) -> Table:
    """A table of the points of curves. parts: metric, exit type ("fixed" or "early"), and curves by mode."""
    rows: list[list[Any]] = []
    for metric, exit_type, curves in parts:
        for mode, curve in curves.items():
            along = zip(curve.lambdas or [None] * len(curve.layers), curve.layers, curve.estimates[metric], strict=True)
            rows += [[metric, exit_type, mode, *point] for point in along]
            if curve.exits and metric == "precision@1":
                exact = [x.flip(0)[:: max(1, len(x) // THIN)].flip(0).tolist() for x in curve.exits.along()[:3]]
                along = zip((x if math.isfinite(x) else None for x in exact[0]), *exact[1:], strict=True)
                rows += [[metric, "all lambda", mode, *point] for point in along]
    return Table("", title, [*map(Column, ("metric", "exit", "mode", "lambda", "layers", "value"))], rows)


def lens_points(c: Comparison, metric: str) -> Table:
    """A table of one metric for all map kinds at every layer, and the means over layers."""
    rows = [
        [metric, map_kind, place, point, apart.get(place), c.halves.get(map_kind, {}).get(place)]
        for map_kind, curve in c.curves.items()
        for apart in [_points(metric, c.differences[map_kind]) if map_kind in c.differences else {}]
        for place, point in _points(metric, curve).items()
    ]
    columns = [*map(Column, ("metric", "lens", "layer", "value", "minus_least_squares", "halves"))]
    return Table("lenses", "", columns, rows)


def grid_points(grid: Grid) -> Table:
    """The cells of a grid, one per row."""
    rows = [
        [mode, layer, k, column, texts[k], ids[k], grid.probabilities[mode][layer, k].item()]
        for mode in grid.ids
        for layer, (texts, ids) in enumerate(zip(grid.predicted[mode], grid.ids[mode], strict=True))
        for k, column in enumerate(grid.columns)
    ]
    names = ("mode", "layer", "column", "rank" if grid.mask else "token", "predicted", "predicted_id", "probability")
    return Table("grid", f"Predicted at each layer in “{grid.sentence}”", [*map(Column, names)], rows)


def grids(grid: Grid) -> list[Table]:
    """The cells of a grid with their probabilities: a table for each `WIDE` columns and each mode."""
    what = "the best tokens at [MASK]" if grid.mask else "the token predicted after each one"
    tables = []
    for start in range(0, len(grid.columns), WIDE):
        chosen = range(start, min(start + WIDE, len(grid.columns)))
        columns = [Column("layer"), *(Column(shown(grid.columns[k])) for k in chosen)]
        for mode, predicted in grid.predicted.items():
            p = grid.probabilities[mode]
            rows = [[l, *(f"{shown(row[k])} {p[l, k]:.0%}" for k in chosen)] for l, row in enumerate(predicted)]
            tables.append(Table("grid", f"{mode}: {what}, by layer, with its probability", columns, rows))
    return tables
