"""Tables of the results, for the summary, the page, the terminal and the CSV files."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from shortcut.metrics import METRICS
from shortcut.results import SHARES, Comparison, Curve, Estimate, Results
from shortcut.sentence_grid import Grid, shown
from shortcut.show.table import BOTH, Column, Table, cell

Scores = Mapping[tuple[int, int], float]

THIN = 200  # number of points that are stored of a curve over all lambda
WIDE = 7  # number of grid columns side by side in a terminal


def of_metric(metric: str, name: str, sign: str = "") -> Column:
    """A table column for a metric, in its unit."""
    unit = METRICS[metric].unit
    return Column(name, unit, f"{sign}.1f" if unit == "%" else f"{sign}.3f")


def heading(metric: str, curves: Iterable[Curve]) -> str:
    """Title and unit of a metric, and the number of sentences with a value if some have none."""
    values = next(iter(curves)).values[metric][0]
    some = "" if (n := int((~values.isnan()).sum())) == len(values) else f", over the {n} with a value"
    return f"{METRICS[metric].title}, {METRICS[metric].unit}{some}"


def by_layer(metric: str, curves: Mapping[str, Curve], differences: Mapping[str, Curve], **more: Any) -> Table:
    """A table of a metric at every layer, with its mean over layers 0 ... L - 1, for curves and differences of curves.

    `more` has `name`, `sample` (for the title), and optionally `constant`, an estimate for all layers.
    """
    L, constant = next(iter(curves.values())).n_layers, more.get("constant")
    columns = [Column("layer"), *(of_metric(metric, name) for name in curves)]
    columns += [of_metric(metric, "constant")] if constant else []
    columns += [of_metric(metric, name, "+") for name in differences]
    found = [_points(metric, curve) for curve in curves.values()]
    found += [dict.fromkeys((*range(L + 1), "mean"), constant)] if constant else []
    found += [_points(metric, curve) for curve in differences.values()]
    rows = [[place, *(points.get(place) for points in found)] for place in (*range(L + 1), "mean")]
    means = f"±: half of the 95% interval; mean: over layers 0 to {L - 1}"
    first, rest = heading(metric, curves.values()).split(",", 1)
    return Table(more["name"], f"{first} at each layer,{rest}, {more['sample']} ({means})", columns, rows)


def _points(metric: str, curve: Curve) -> dict[Any, Estimate]:
    points = dict(zip(map(int, curve.layers), curve.estimates[metric], strict=True))
    return points | ({"mean": curve.over_layers[metric]} if len(points) == curve.n_layers + 1 else {})


def fixed_exit(r: Results, metrics: Iterable[str] = tuple(METRICS)) -> list[Table]:
    """A table for each metric: every mode at every layer, the best constant token, and mat - id."""
    tables = []
    for metric in metrics:
        curves = {mode: curve for mode, curve in r.fixed.items() if metric in curve.values}
        differences = {"mat - id": r.apart} if r.apart and metric in r.apart.values else {}
        if curves:
            tables.append(
                by_layer(metric, curves, differences, constant=r.floor.get(metric), name=metric, sample=r.sample)
            )
    return tables


def lenses(c: Comparison, sample: str, metrics: Iterable[str] = tuple(METRICS)) -> list[Table]:
    """Tables that compare map kinds by layer; [] if there are only id and least squares."""
    tables = []
    for metric in metrics if len(c.curves) > 2 else ():
        curves = {name: curve for name, curve in c.curves.items() if metric in curve.values}
        differences = {f"{name} - ls": curve for name, curve in c.differences.items() if metric in curve.values}
        if curves:
            tables.append(by_layer(metric, curves, {}, name=f"lenses_{metric}", sample=sample))
        if differences:
            own = f"{sample}, differences to least squares (ls), paired"
            tables.append(by_layer(metric, differences, {}, name=f"lenses_{metric}_minus_least_squares", sample=own))
    return tables


def of_results(r: Results, c: Comparison | None, metrics: Iterable[str] = tuple(METRICS)) -> list[Table]:
    """All tables of the results and of the comparison of map kinds, for the given metrics."""
    compared = [*lenses(c, r.sample, metrics), *fits(c)] if c else []
    return [*fixed_exit(r, metrics), *early_exit(r), *alternation(r), *compared]


def fits(c: Comparison) -> list[Table]:
    """Agreement of the maps fitted on two halves of the training sentences, and costs of the maps."""
    layers, columns = sorted({l for r2 in c.halves.values() for l in r2}), [*map(Column, c.halves)]
    rows = [[l, *(r2.get(l) for r2 in c.halves.values())] for l in layers]
    title = "Agreement of the maps fitted on two halves of the sentences, r2"
    halves = [Table("halves", title, [Column("layer"), *columns], rows)] if rows else []
    costs = Table("costs_of_maps", "Cost of the maps", [Column("map kind"), Column("cost")], [*c.costs.items()])
    return [*halves, costs]


def early_exit(r: Results) -> list[Table]:
    """Layers processed and metrics of early exit at every lambda, and the layers that it saves."""
    tables = []
    for mode, curve in r.early.items():
        points = zip(curve.lambdas, curve.layers, *curve.estimates.values(), strict=True)
        columns = [Column("lambda", digits=".4g"), Column("layers processed", digits=".2f")]
        columns += [of_metric(metric, METRICS[metric].title) for metric in curve.estimates]
        title = f"Early exit with {mode}: Precision@k, %, surprisal, nats; a higher lambda asks for more confidence"
        tables.append(Table(f"early_exit_{mode}", title, columns, [*points]))
    return [*tables, *_saved(r)] if tables else []


def _saved(r: Results) -> list[Table]:
    """Blocks saved at a share of the full model's Precision@1, also net of read-outs and matrices, and those costs."""
    (layers, *net), L, costs = r.saved, r.n_layers, []
    rows = [
        [share, mode, None if x is None or mode == "mat - id" else L - x.mean, x, x and x.mean / L]
        + [r.saved[unit][mode][share] for unit in net]
        for share in SHARES
        for mode, found in r.saved[layers].items()
        for x in [found[share]]
    ]
    columns = [Column("Precision@1", digits=".0%"), Column("mode"), Column("needs", digits=".2f")]
    columns += [Column("saves", digits=".2f", interval=BOTH), Column("share", digits=".1%")]
    columns += [Column(f"net, {unit}", digits="+.2f", interval=BOTH) for unit in net]
    how = "over all lambda, with 95% intervals" if net else "interpolated between the lambdas"
    tables = [Table("layers_saved", f"Layers (of {L}) that early exit needs and saves, {how}", columns, rows)]
    for unit in net:
        T = r.costs.of(1, unit).tokens.double().mean().item()
        what = {"token": "for one token, as with a cache", "sentence": "for all tokens of the forward pass"}[unit]
        costs.append([unit, what, T, *(x / r.costs.block / T for x in (r.costs.read_out, r.costs.matrix))])
    columns = [Column("net"), Column("counted"), Column("tokens", digits=".1f"), Column("read-out"), Column("matrix")]
    title = "Costs that the net savings subtract, in blocks"
    return [*tables, Table("costs", title, columns, costs)] if costs else tables


def alternation(r: Results) -> list[Table]:
    """Precision@1 by blocks executed: direct jump, r2-informed, and round-robin chosen on half of the sentences."""
    if not r.alternation:
        return []
    found = {(judged.first, judged.k): judged for judged in r.alternation if judged.first in ("r2", "chosen")}
    rows = []
    for k, direct in enumerate(r.fixed["mat"].estimates["precision@1"]):
        judged = [found.get((first, k)) for first in ("r2", "chosen")]
        pairs = [(j.precision, j.difference) if j else (None, None) for j in judged]
        rows.append([k, direct, *pairs[0], *pairs[1], judged[1] and judged[1].name])
    p1 = [of_metric("precision@1", *name) for name in (
        ("direct jump",), ("r2-informed",), ("- direct", "+"), ("round-robin*",), ("- direct*", "+"))]  # fmt: skip
    title = (
        f"Alternation of blocks and jumps: Precision@1, %, {r.sample} (* chosen on one half, evaluated on the other)"
    )
    return [Table("alternation", title, [Column("blocks"), *p1, Column("which")], rows)]


def facts(r: Results) -> list[tuple[str, str]]:
    """The numbers at the top of the page: (description, text)."""
    lines, p1 = [], of_metric("precision@1", "")
    for mode in (mode for mode in ("mat", "id") if mode in r.whole):
        what = f"Precision@1 with {mode}, mean over layers 0 to {r.n_layers - 1}"
        lines.append((what, f"{cell(r.whole[mode].over_layers['precision@1'], p1)} %"))
    for mode in (mode for mode in ("mat", "id") if r.saved["layers"].get(mode, {}).get(0.95)):
        saved = f"{r.saved['layers'][mode][0.95].mean:.2f} of {r.n_layers}"
        lines.append((f"Layers that early exit with {mode} saves at 95% Precision@1", saved))
    return lines


def schedules(r: Results, title: str) -> Table:
    """A table of all schedules of blocks and jumps."""
    rows = [
        [j.first, j.name, j.k, " ".join(f"{a}-{b}" for a, b in j.schedule), j.precision, j.difference]
        for j in r.alternation
    ]
    names = ("family", "schedule", "blocks", "jumps", "precision@1", "minus_direct")
    full_title = f"Precision@1 by blocks executed, alternation of blocks and jumps: {title}"
    return Table("schedules", full_title, [*map(Column, names)], rows)


def change(other: Results, own: Results, dataset: str, fitted_on: str) -> Table:
    """Mean Precision@1 over layers 0 ... L - 1 with the dataset's own maps, with another dataset's, and the change."""
    means = [{mode: curve.over_layers["precision@1"] for mode, curve in r.whole.items()} for r in (own, other)]
    rows = [[mode, *(x[mode] for x in means), apart] for mode, apart in other.change_from(own).items()]
    columns = [of_metric("precision@1", f"maps of {name}") for name in (dataset, fitted_on)]
    title = f"Mean Precision@1 over layers 0 to {own.n_layers - 1} on {dataset}, %, with the maps of each dataset"
    return Table("change", title, [Column("mode"), *columns, of_metric("precision@1", "change", "+")], rows)


def points(metric: str, exit_type: str, curves: Mapping[str, Curve]) -> list[list[Any]]:
    """Rows for the points of curves, with the columns `POINTS`. exit_type is "fixed" or "early"."""
    rows: list[list[Any]] = []
    for mode, curve in curves.items():
        lambdas = curve.lambdas or [None] * len(curve.layers)
        along = zip(lambdas, curve.layers, curve.estimates[metric], strict=True)
        rows += [[metric, exit_type, mode, *point] for point in along]
        if curve.exits and metric == "precision@1":
            exact = [x.flip(0)[:: max(1, len(x) // THIN)].flip(0).tolist() for x in curve.exits.along()[:3]]
            rows += [
                [metric, "all lambda", mode, lam if math.isfinite(lam) else None, *point]
                for lam, *point in zip(*exact, strict=True)
            ]
    return rows


POINTS = [*map(Column, ("metric", "exit", "mode", "lambda", "layers", "value"))]


def lens_points(c: Comparison, metric: str, title: str) -> Table:
    """A table of one metric for all map kinds at every layer, and the means over layers."""
    rows = [
        [metric, map_kind, place, point, apart.get(place), c.halves.get(map_kind, {}).get(place)]
        for map_kind, curve in c.curves.items()
        for apart in [_points(metric, c.differences[map_kind]) if map_kind in c.differences else {}]
        for place, point in _points(metric, curve).items()
    ]
    names = ("metric", "lens", "layer", "value", "minus_least_squares", "halves")
    full_title = f"{heading(metric, c.curves.values())}, by layer and map kind: {title}"
    return Table("lenses", full_title, [*map(Column, names)], rows)


def grid_points(grid: Grid) -> Table:
    """The cells of a grid, one per row."""
    rows = [
        [mode, layer, k, column, texts[k], ids[k], grid.probabilities[mode][layer, k].item()]
        for mode in grid.ids
        for layer, (texts, ids) in enumerate(zip(grid.predicted[mode], grid.ids[mode], strict=True))
        for k, column in enumerate(grid.columns)
    ]
    names = ("mode", "layer", "column", grid.column, "predicted", "predicted_id", "probability")
    return Table("grid", f"Predicted at each layer in “{grid.sentence}”", [*map(Column, names)], rows)


def grids(grid: Grid) -> list[Table]:
    """The cells of a grid with their probabilities: a table for each `WIDE` columns and each mode."""
    what = "the best tokens at [MASK]" if grid.masked else "the token predicted after each one"
    tables = []
    for start in range(0, len(grid.columns), WIDE):
        chosen = range(start, min(start + WIDE, len(grid.columns)))
        columns = [Column("layer"), *(Column(shown(grid.columns[k])) for k in chosen)]
        for mode, predicted in grid.predicted.items():
            p = grid.probabilities[mode]
            rows = [[l, *(f"{shown(row[k])} {p[l, k]:.0%}" for k in chosen)] for l, row in enumerate(predicted)]
            tables.append(Table("grid", f"{mode}: {what}, by layer, with its probability", columns, rows))
    return tables
