"""The numbers of the plots as text."""

from collections.abc import Mapping, Sequence

from shortcut import results
from shortcut.results import Results

Scores = Mapping[tuple[int, int], float]


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned to the right, title above, blank line before."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in (header, *rows)]
    return "\n".join(["", title, *("  " + line for line in lines)])


def r2(mat: Scores, identity: Scores) -> str:
    """r2 from each layer to the next, to the last and on average over all later layers; mat and id."""
    L = max(j for _, j in mat)
    rows = []
    for i in sorted({i for i, _ in mat}):
        targets = [j for source, j in mat if source == i]
        row = [str(i)]
        for scores in (mat, identity):
            next_ = _number(scores.get((i, i + 1)))
            mean = sum(scores[i, j] for j in targets) / len(targets)
            row += [next_, _number(scores.get((i, L))), _number(mean)]
        rows.append(row)
    header = ["layer", "mat next", "mat last", "mat mean", "id next", "id last", "id mean"]
    return table("r2 from each layer to the next one, to the last one, and over all later ones", header, rows)


def _number(value: float | None, digits: int = 3) -> str:
    if value is None:
        return "-"
    return f"{value:.{digits}f}" if abs(value) < 1e4 else f"{value:.2g}"


def fixed_exit(r: Results) -> str:
    """Precision@k and surprisal of every mode at every layer."""
    modes = list(r.fixed)
    blocks = []
    for k in results.PRECISIONS:
        difference = "mat" in modes and "id" in modes
        header = ["layer", *modes, *(["mat - id"] if difference else [])]
        rows = []
        for layer in range(r.n_layers + 1):
            cells = {mode: _at(r.fixed[mode].layers, r.fixed[mode].precision[k], layer) for mode in modes}
            row = [str(layer), *(_percent(cells[mode]) for mode in modes)]
            if difference:
                known = cells["mat"] is not None and cells["id"] is not None
                row.append(f"{100 * (cells['mat'] - cells['id']):+.1f}" if known else "-")
            rows.append(row)
        blocks.append(table(f"Precision@{k} at each layer, % of {r.n} sentences", header, rows))
    modes = [mode for mode in modes if r.fixed[mode].surprisal]
    rows = [
        [str(layer), *(_number(_at(r.fixed[mode].layers, r.fixed[mode].surprisal, layer)) for mode in modes)]
        for layer in range(r.n_layers + 1)
    ]
    return "\n".join([*blocks, table("Surprisal at each layer, nats", ["layer", *modes], rows)])


def early_exit(r: Results) -> str:
    """Layers processed and Precision@1 at every lambda, and what early exit saves."""
    blocks = []
    for mode, curve in r.early.items():
        rows = [
            [f"{lam:.4g}", f"{layers:.2f}", _percent(precision)]
            for lam, layers, precision in zip(curve.lambdas, curve.layers, curve.precision[1], strict=True)
        ]
        header = ["lambda", "layers", "Precision@1"]
        blocks.append(table(f"Early exit with {mode}", header, rows))
    rows = []
    for share in results.SHARES:
        row = [f"{100 * share:.0f}%"]
        for curve in r.early.values():
            needed = results.layers_needed(curve, share)
            saved = None if needed is None else r.n_layers - needed
            row += ["-", "-"] if saved is None else [f"{needed:.2f}", f"{saved:.2f} ({saved / r.n_layers:.1%})"]
        rows.append(row)
    header = ["Precision@1", *(cell for mode in r.early for cell in (f"{mode} needs", f"{mode} saves"))]
    blocks.append(table(f"Layers (of {r.n_layers}) that early exit needs and saves, interpolated", header, rows))
    return "\n".join(blocks)


def _at(layers: Sequence[float], values: Sequence[float], layer: int) -> float | None:
    return values[layers.index(layer)] if layer in layers else None


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
