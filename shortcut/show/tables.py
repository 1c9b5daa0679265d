"""The numbers of the plots as text: tables for people, CSV for other programs."""

import csv
import io
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from shortcut.lens import Grid, shown
from shortcut.results import METRICS, SHARES, Curve, Estimate, Results

Scores = Mapping[tuple[int, int], float]

POINTS = ["metric", "exit", "mode", "lambda", "layers", "value", "low", "high"]
THIN = 200  # points of a curve over all lambda
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
        widths = [max(map(_width, column)) for column in zip(header, *rows, strict=True)]
        lines += ["", title]
        for row in (header, *rows):
            cells = zip(row, widths, strict=True)
            lines.append("  " + "  ".join(" " * (width - _width(cell)) + cell for cell, width in cells))
    return "\n".join(lines)


def _width(text: str) -> int:
    """Columns of a terminal: two for a wide character."""
    return sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def to_csv(table: Table) -> str:
    """Header and rows, separated by commas; six significant digits; nothing where there is no number."""
    lines = []
    for row in (table.header, *table.rows):
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\r\n")  # for either within a cell to be quoted
        writer.writerow([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row])
        lines.append(file.getvalue().removesuffix("\r\n"))
    return "\n".join(lines) + "\n"


def fixed_exit(r: Results, metrics: Sequence[str] = METRICS) -> list[Table]:
    """Precision@k and surprisal of every mode at every layer, of the best constant, and how far mat is from id."""
    tables = []
    for metric in metrics:
        curves = {mode: curve for mode, curve in r.fixed.items() if metric in curve.estimates}
        columns = [dict(zip(curve.layers, curve.estimates[metric], strict=True)) for curve in curves.values()]
        apart = r.differences.get(metric, {})
        constant = [estimate(r.floor[metric])] if metric in r.floor else []
        rows = [[str(l), *(estimate(column.get(l), metric) for column in columns)] for l in range(r.n_layers + 1)]
        rows = [[*row, *constant] for row in rows]
        rows = [[*row, estimate(apart.get(l), metric, "+")] for l, row in enumerate(rows)] if apart else rows
        unit = "nats" if metric == "surprisal" else "%"
        title = f"{metric.capitalize()} at each layer, {unit}, {r.sample} (±: half of the 95% interval)"
        if columns:
            tables.append(
                Table(title, ["layer", *curves, *["constant"] * len(constant), *["mat - id"] * bool(apart)], rows)
            )
    return tables


def early_exit(r: Results) -> list[Table]:
    """Layers processed and Precision@1 at every lambda, and what early exit saves."""
    tables = []
    for mode, curve in r.early.items():
        points = zip(curve.lambdas, curve.layers, curve.estimates["precision@1"], strict=True)
        rows = [[f"{lam:.4g}", f"{layers:.2f}", estimate(hits, "precision@1")] for lam, layers, hits in points]
        title = f"Early exit with {mode}: Precision@1, %; the higher lambda, the surer a layer must be"
        tables.append(Table(title, ["lambda", "layers processed", "Precision@1"], rows))
    rows, L = [], r.n_layers
    for share in SHARES:
        saved = {mode: of_mode[share] for mode, of_mode in r.layers_saved.items()}
        ends = {mode: f" [{of[share].low:.2f}, {of[share].high:.2f}]" for mode, of in r.saved.items()}
        cells = (
            ["-", "-"] if x is None else [f"{L - x:.2f}", f"{x:.2f}{ends.get(mode, '')} ({x / L:.1%})"]
            for mode, x in saved.items()
        )
        apart = [f"{r.saved['mat - id'][share].mean:+.2f}{ends['mat - id']}"] if "mat - id" in r.saved else []
        rows.append([f"{100 * share:.0f}%", *(cell for pair in cells for cell in pair), *apart])
    header = ["Precision@1", *(cell for mode in r.early for cell in (f"{mode} needs", f"{mode} saves"))]
    header += ["mat - id"] * ("mat - id" in r.saved)
    how = "over all lambda, with 95% intervals" if r.saved else "interpolated between the lambdas"
    title = f"Layers (of {L}) that early exit needs and saves, {how}"
    return [*tables, Table(title, header, rows), *_net(r)] if tables else []


def _net(r: Results) -> list[Table]:
    """What is left of the layers saved, in blocks, once the read-outs and matrices on the way are paid for."""
    tables = []
    for unit, of in r.net.items():
        rows = [
            [
                f"{100 * share:.0f}%",
                *(f"{x.mean:+.2f} [{x.low:.2f}, {x.high:.2f}]" for x in (m[share] for m in of.values())),
            ]
            for share in SHARES
        ]
        T = r.costs.of(1, unit).tokens.double().mean().item()
        what = {"token": "for one token, as with a cache", "sentence": f"for all tokens that run, {T:.1f} on average"}
        read_out, matrix = (x / r.costs.block / T for x in (r.costs.read_out, r.costs.matrix))
        cost = f"a read-out costs {read_out:.2f} blocks, a matrix {matrix:.3f}"
        title = f"Blocks (of {r.n_layers}) saved net of read-outs and matrices, {what[unit]}: {cost}"
        tables.append(Table(title, ["Precision@1", *of], rows))
    return tables


def alternation(r: Results) -> list[Table]:
    """By blocks executed: the direct jump, the r2-informed schedule, round-robin chosen on half of the sentences."""
    if not r.alternation:
        return []
    of = {(judged.first, judged.k): judged for judged in r.alternation if judged.first in ("r2", "chosen")}
    direct, rows = r.fixed["mat"].estimates["precision@1"], []
    for k in range(r.n_layers + 1):
        row = [str(k), estimate(direct[k])]
        for first in ("r2", "chosen"):
            judged = of.get((first, k))
            row += [estimate(judged and judged.precision), estimate(judged and judged.difference, sign="+")]
        rows.append([*row, of["chosen", k].name if ("chosen", k) in of else "-"])
    header = ["blocks", "direct jump", "r2-informed", "- direct", "round-robin*", "- direct*", "which"]
    title = f"Alternation of blocks and jumps: Precision@1, %, {r.sample} (* chosen on one half, shown on the other)"
    return [Table(title, header, rows)]


def alternation_points(r: Results, title: str) -> Table:
    """Every schedule, for CSV."""
    rows = [
        [j.first, j.name, j.k, " ".join(f"{a}-{b}" for a, b in j.schedule), *j.precision, *j.difference]
        for j in r.alternation
    ]
    header = ["family", "schedule", "blocks", "jumps", "precision@1", "low", "high", "minus_direct", "low", "high"]
    return Table(f"Precision@1 by blocks executed, alternation of blocks and jumps: {title}", header, rows)


def change(other: Results, own: Results, dataset: str, fitted_on: str) -> Table:
    """Mean Precision@1 over layers 0 ... L - 1 with a corpus's own maps, with another's, and the change."""
    rows = [
        [mode, *(estimate(r.mean_over_layers[mode]) for r in (own, other)), estimate(difference, sign="+")]
        for mode, difference in other.change_from(own).items()
    ]
    title = f"Mean Precision@1 over layers 0 to {own.n_layers - 1} on {dataset}, %, with the maps of either corpus"
    return Table(title, ["mode", f"of {dataset}", f"of {fitted_on}", "change"], rows)


def points(metric: str, kind: str, curves: Mapping[str, Curve]) -> list[list[Any]]:
    """The points of curves of one metric, for CSV, in the columns `POINTS`; kind: "fixed" or "early" exit."""
    rows = []
    for mode, curve in curves.items():
        lambdas = curve.lambdas or [None] * len(curve.layers)
        of_mode = zip(lambdas, curve.layers, curve.estimates[metric], strict=True)
        rows += [[metric, kind, mode, lam, layers, *point] for lam, layers, point in of_mode]
        if curve.exits and metric == "precision@1":
            rows += [[metric, "all lambda", mode, *point, None, None] for point in zip(*thinned(curve), strict=True)]
    return rows


def thinned(curve: Curve) -> list[list[float]]:
    """lambda, layers processed and Precision@1 of an early exit at some `THIN` of all lambda, the last included."""
    lambdas, layers, precision = (
        x.flip(0)[:: max(1, len(x) // THIN)].flip(0).tolist() for x in curve.exits.along()[:3]
    )
    return [[lam if math.isfinite(lam) else None for lam in lambdas], layers, precision]


def in_words(metric: str, kind: str, curves: Mapping[str, Curve]) -> str:
    """The ends and the middle of the same curves, for who cannot see them."""
    parts = []
    for mode, curve in curves.items():
        chosen = [(curve.layers[k], curve.estimates[metric][k]) for k in (0, len(curve.layers) // 2, -1)]
        parts.append(f"{mode} {', '.join(f'{estimate(y, metric)} at {x:.3g}' for x, y in chosen)}")
    unit = "nats" if metric == "surprisal" else "%"
    return f"{metric.capitalize()} ({unit}), {kind} exit: {'; '.join(parts)}."


def grid_points(grid: Grid) -> Table:
    """The cells of a grid, for CSV."""
    rows = [
        [mode, layer, k, column, texts[k], ids[k], grid.probabilities[mode][layer, k].item()]
        for mode in grid.ids
        for layer, (texts, ids) in enumerate(zip(grid.predicted[mode], grid.ids[mode], strict=True))
        for k, column in enumerate(grid.columns)
    ]
    header = ["mode", "layer", "column", grid.column, "predicted", "predicted_id", "probability"]
    return Table(f"Predicted at each layer in “{grid.sentence}”", header, rows)


def grids(grid: Grid) -> list[Table]:
    """The cells of a grid with their probabilities, a few columns at a time, id above mat."""
    what = "the best tokens at [MASK]" if grid.masked else "the token predicted after each one"
    tables = []
    for start in range(0, len(grid.columns), WIDE):
        chosen = range(start, min(start + WIDE, len(grid.columns)))
        header = ["layer", *(shown(grid.columns[k]) for k in chosen)]
        for mode, predicted in grid.predicted.items():
            p = grid.probabilities[mode]
            rows = [[str(l), *(f"{shown(row[k])} {p[l, k]:.0%}" for k in chosen)] for l, row in enumerate(predicted)]
            tables.append(Table(f"{mode}: {what}, by layer, with its probability", header, rows))
    return tables


def interval(estimate: Estimate) -> dict[str, float | None]:
    """A mean with its interval, as JSON has it."""
    return {name: None if value is None else round(value, 6) for name, value in estimate._asdict().items()}


def estimate(value: Estimate | None, metric: str = "precision@1", sign: str = "") -> str:
    """A mean and half the width of its interval, if it has one: Precision@k in percent, surprisal in nats."""
    if value is None:
        return "-"
    scale, digits = (1, 3) if metric == "surprisal" else (100, 1)
    half = "" if value.low is None else f" ±{scale * (value.high - value.low) / 2:.{digits}f}"
    return f"{scale * value.mean:{sign}.{digits}f}{half}"
