"""The kinds of maps side by side (see `comparison`): tables, figures, and the summary's numbers."""

from collections.abc import Iterable
from functools import partial
from typing import Any

from shortcut.comparison import Comparison
from shortcut.predictions import LENS
from shortcut.results import Estimate
from shortcut.show import canvas
from shortcut.show.canvas import COLUMN, Plot, count_in_integers
from shortcut.show.figures import FREE, LENS_LOOKS
from shortcut.show.tables import Table, estimate, interval


def figures(c: Comparison, L: int, title: str) -> dict[str, Plot]:
    """A figure a metric, by its name."""
    return {f"lenses_{metric.replace('@', '')}_{L}": _figure(c, metric, title) for metric in shown(c)}


def shown(c: Comparison) -> list[str]:
    """The metrics that have a figure: where there are only id and least squares, those that others do not show."""
    return c.metrics if len(c.values) > 2 else [metric for metric in c.metrics if metric in LENS]


def tables(c: Comparison, metrics: Iterable[str] | None = None) -> list[Table]:
    """Each metric at every layer by lens, and what lenses have beyond least squares; what their maps took."""
    made = []
    for metric in c.metrics if metrics is None else [metric for metric in metrics if metric in c.metrics]:
        for what, of, sign in (("", c.estimates, ""), (" minus that of least squares, paired", c.differences, "+")):
            if columns := of.get(metric):
                L = len(next(iter(columns.values()))) - 2
                rows = [
                    [str(l) if l <= L else "mean", *(_cell(points[l], metric, sign) for points in columns.values())]
                    for l in range(L + 2)
                ]
                made.append(
                    Table(f"{_name(c, metric)}{what} (mean: of layers 0 to {L - 1})", ["layer", *columns], rows)
                )
    if c.halves:
        layers = sorted({l for of in c.halves.values() for l in of})
        rows = [[str(l), *(f"{of[l]:.3f}" if l in of else "-" for of in c.halves.values())] for l in layers]
        made.append(Table("Agreement of the maps of two halves of the sentences, r2", ["layer", *c.halves], rows))
    if c.costs:
        made.append(Table("What the maps took", ["kind", "cost"], [[*item] for item in c.costs.items()]))
    return made


def in_short(c: Comparison) -> list[Table]:
    """Those for the terminal: of Precision@1, where there are more lenses than other tables have, and KL."""
    return tables(c, [metric for metric in ("precision@1", "kl") if metric in shown(c)])


def _name(c: Comparison, metric: str) -> str:
    names = {
        "surprisal": "Surprisal, nats",
        "kl": "KL(model || lens), nats",
        "entropy": "Entropy of the lens, nats",
        "cross-entropy": f"Cross-entropy of the token that is there, nats, of the {c.with_token} that have one",
    }
    return names.get(metric, f"{metric.capitalize()}, %")


def _cell(point: Estimate, metric: str, sign: str) -> str:
    return estimate(point, metric if metric.startswith("precision") else "surprisal", sign)


def _figure(c: Comparison, metric: str, title: str) -> Plot:
    rows = [
        [
            *(metric, lens, l if l < len(points) - 1 else "mean"),
            *(*point, *(apart[l] if apart else [None] * 3), c.halves.get(lens, {}).get(l)),
        ]
        for lens, points in c.estimates[metric].items()
        for apart in [c.differences.get(metric, {}).get(lens)]
        for l, point in enumerate(points)
    ]
    header = ["metric", "lens", "layer", "value", "low", "high", "minus_least_squares", "low", "high", "halves"]
    data = Table(f"{_name(c, metric)}, by layer and kind of map: {title}", header, rows)
    means = "; ".join(f"{lens} {_cell(points[-1], metric, '')}" for lens, points in c.estimates[metric].items())
    return Plot(partial(_draw, c, metric, title), data, f"{data.title}. Mean over layers: {means}.")


def _draw(c: Comparison, metric: str, title: str) -> Any:
    drawn = canvas.figure(COLUMN * 1.3, 3.0, title)
    ax = drawn.subplots()
    others = [lens for lens in c.estimates[metric] if lens not in LENS_LOOKS]
    for lens, points in c.estimates[metric].items():
        line, colour = LENS_LOOKS[lens][::-1] if lens in LENS_LOOKS else FREE[others.index(lens) % len(FREE)]
        means = [point.mean for point in points[:-1]]
        ax.fill_between(range(len(means)), *canvas.ends(points[:-1]), color=colour, alpha=0.2, linewidth=0)
        ax.plot(range(len(means)), means, color=colour, linestyle=line, label=lens)
    label = _name(c, metric).removesuffix(", %").split(", of the")[0].replace("that is there", "\nthat is there")
    ax.set(xlabel="layer", ylabel=label, xlim=(0, len(means) - 1))
    highest = max(p.high or p.mean for lens, of in c.estimates[metric].items() for p in of[lens == "id" : -1])
    ax.set_ylim(*((-0.02, 1.02) if metric.startswith("precision") else (0, 1.05 * highest)))  # id at 0 is far above
    count_in_integers(ax.xaxis)
    drawn.legend(loc="outside lower center", ncols=3)
    return drawn


def numbers(c: Comparison) -> dict[str, Any]:
    """What the summary has of it."""
    return {
        "costs": dict(c.costs),
        "halves": {lens: {str(l): r2 for l, r2 in of.items()} for lens, of in c.halves.items()},
        "with_token": c.with_token,
        **{
            name: {m: {lens: [*map(interval, points)] for lens, points in of.items()} for m, of in found.items()}
            for name, found in (("estimates", c.estimates), ("minus_least_squares", c.differences))
        },
    }
