"""The numbers of the plots as text: tables for people, CSV for other programs."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from shortcut.lens import Grid, shown
from shortcut.results import METRICS, SHARES, Curve, Estimate, Results

Scores = Mapping[tuple[int, int], float]

POINTS = ["metric", "exit", "mode", "lambda", "layers", "value", "low", "high"]
WIDE = 7  # columns of a grid side by side in a terminal


class Table(NamedTuple):
    """What it is of, its columns, and its rows: text for people, or numbers as they are for CSV."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]


def text(tables: Iterable[Table]) -> str:
    """Tables under one another: columns aligned to the right, title above, blank line before."""
    lines = []
    for title, header, rows in tables:
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        lines += ["", title]
        for row in (header, *rows):
            lines.append("  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    return "\n".join(lines)


def to_csv(table: Table) -> str:
    """Header and rows, separated by commas; six significant digits; nothing where there is no number."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(table.header)
    writer.writerows([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row] for row in table.rows)
    return file.getvalue()


def r2(mat: Scores, identity: Scores) -> Table:
    """r2 from each layer to the next, to the last and on average over all later layers; mat and id."""
    L = max(j for _, j in mat)
    rows = []
    for i in sorted({i for i, _ in mat}):
        row = [str(i)]
        for scores in (mat, identity):
            later = [scores[i, j] for j in range(i + 1, L + 1) if (i, j) in scores]
            mean = sum(later) / len(later) if len(later) == L - i else None
            row += [_number(scores.get((i, i + 1))), _number(scores.get((i, L))), _number(mean)]
        rows.append(row)
    header = ["layer", "mat next", "mat last", "mat mean", "id next", "id last", "id mean"]
    return Table("r2 from each layer to the next one, to the last one, and over all later ones", header, rows)


def fixed_exit(r: Results, metrics: Sequence[str] = METRICS) -> list[Table]:
    """Precision@k and surprisal of every mode at every layer, and how far mat and id are apart."""
    tables = []
    for metric in metrics:
        differences = r.differences.get(metric, {})
        columns = {
            mode: dict(zip(curve.layers, curve.estimates[metric], strict=True))
            for mode, curve in r.fixed.items()
            if metric in curve.estimates
        }
        rows = [
            [
                str(layer),
                *(estimate(column.get(layer), metric) for column in columns.values()),
                *([estimate(differences.get(layer), metric, "+")] if differences else []),
            ]
            for layer in range(r.n_layers + 1)
        ]
        unit = "nats" if metric == "surprisal" else "%"
        title = f"{metric.capitalize()} at each layer, {unit}, {r.n} sentences (±: half of the 95% interval)"
        if columns:
            tables.append(Table(title, ["layer", *columns, *(["mat - id"] if differences else [])], rows))
    return tables


def early_exit(r: Results) -> list[Table]:
    """Layers processed and Precision@1 at every lambda, and what early exit saves."""
    tables = []
    for mode, curve in r.early.items():
        rows = [
            [f"{lam:.4g}", f"{layers:.2f}", estimate(precision, "precision@1")]
            for lam, layers, precision in zip(curve.lambdas, curve.layers, curve.estimates["precision@1"], strict=True)
        ]
        title = f"Early exit with {mode}: Precision@1, %; the higher lambda, the surer a layer must be"
        tables.append(Table(title, ["lambda", "layers processed", "Precision@1"], rows))
    if not tables:
        return []
    rows = []
    for share in SHARES:
        row = [f"{100 * share:.0f}%"]
        for of_mode in r.layers_saved.values():
            saved, L = of_mode[share], r.n_layers
            row += ["-", "-"] if saved is None else [f"{L - saved:.2f}", f"{saved:.2f} ({saved / L:.1%})"]
        rows.append(row)
    header = ["Precision@1", *(cell for mode in r.early for cell in (f"{mode} needs", f"{mode} saves"))]
    return [*tables, Table(f"Layers (of {r.n_layers}) that early exit needs and saves, interpolated", header, rows)]


def change(other: Results, own: Results, dataset: str, fitted_on: str) -> Table:
    """Mean Precision@1 over layers 0 ... L - 1 with a corpus's own maps, with another's, and the change."""
    rows = [
        [
            mode,
            *(estimate(r.mean_over_layers[mode], "precision@1") for r in (own, other)),
            estimate(difference, "precision@1", "+"),
        ]
        for mode, difference in other.change_from(own).items()
    ]
    title = f"Mean Precision@1 over layers 0 to {own.n_layers - 1} on {dataset}, %, with the maps of either corpus"
    return Table(title, ["mode", f"of {dataset}", f"of {fitted_on}", "change"], rows)


def points(metric: str, kind: str, curves: Mapping[str, Curve]) -> list[list[Any]]:
    """The points of curves of one metric, for CSV, in the columns `POINTS`; kind: "fixed" or "early" exit."""
    return [
        [metric, kind, mode, lam, layers, *point]
        for mode, curve in curves.items()
        for lam, layers, point in zip(
            curve.lambdas or [None] * len(curve.layers), curve.layers, curve.estimates[metric], strict=True
        )
    ]


def in_words(metric: str, kind: str, curves: Mapping[str, Curve]) -> str:
    """The ends and the middle of the same curves, for who cannot see them."""
    parts = []
    for mode, curve in curves.items():
        estimates = curve.estimates[metric]
        chosen = [(curve.layers[k], estimates[k]) for k in (0, len(estimates) // 2, -1)]
        parts.append(f"{mode} {', '.join(f'{estimate(y, metric)} at {x:.3g}' for x, y in chosen)}")
    unit = "nats" if metric == "surprisal" else "%"
    return f"{metric.capitalize()} ({unit}), {kind} exit: {'; '.join(parts)}."


def grid_points(grid: Grid) -> Table:
    """The cells of a grid, for CSV."""
    rows = [
        [mode, layer, k, column, predicted[layer][k], grid.probabilities[mode][layer, k].item()]
        for mode, predicted in grid.predicted.items()
        for layer in range(len(predicted))
        for k, column in enumerate(grid.columns)
    ]
    header = ["mode", "layer", "column", grid.column, "predicted", "probability"]
    return Table(f"Predicted at each layer in “{grid.sentence}”", header, rows)


def grids(grid: Grid) -> list[Table]:
    """The cells of a grid with their probabilities, a few columns at a time, id above mat."""
    what = "the best tokens at [MASK]" if grid.masked else "the token predicted after each one"
    return [
        Table(
            f"{mode}: {what}, by layer, with its probability",
            ["layer", *map(shown, grid.columns[start : start + WIDE])],
            [
                [str(layer), *(f"{shown(row[k])} {grid.probabilities[mode][layer, k]:.0%}" for k in chosen)]
                for layer, row in enumerate(predicted)
            ],
        )
        for start in range(0, len(grid.columns), WIDE)
        for mode, predicted in grid.predicted.items()
        for chosen in [range(start, min(start + WIDE, len(grid.columns)))]
    ]


def estimate(value: Estimate | None, metric: str, sign: str = "") -> str:
    """A mean and half the width of its interval: Precision@k in percent, surprisal in nats."""
    if value is None:
        return "-"
    scale, digits = (1, 3) if metric == "surprisal" else (100, 1)
    return f"{scale * value.mean:{sign}.{digits}f} ±{scale * (value.high - value.low) / 2:.{digits}f}"


def _number(value: float | None, digits: int = 3) -> str:
    if value is None:
        return "-"
    return f"{value:.{digits}f}" if abs(value) < 1e4 else f"{value:.2g}"
