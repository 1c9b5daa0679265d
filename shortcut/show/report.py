"""What is handed on about one model and dataset: a summary for programs, and a page for people.

The page stands alone: pictures, tables, style and data are all within, so that it can be mailed.
"""

import base64
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from shortcut.results import Curve, Estimate, Results
from shortcut.show import claims, lenses, tables
from shortcut.show.canvas import Plot
from shortcut.show.tables import Scores, Table


def summary(
    r: Results, own: Results | None, r2: dict[str, Scores] | None, model: str, dataset: str, matrices_from: str
) -> dict[str, Any]:
    """Every number with its interval, as JSON has it: fractions, nats and layers.

    `own` are the results with the dataset's own matrices, if r's are of another and they are there; of `r2`,
    the scores if they are there, "i_j" is the jump from i to j.
    """
    layers = sorted({layer for by_layer in r.differences.values() for layer in by_layer})
    return {
        **{"model": model, "dataset": dataset, "matrices_from": matrices_from},
        **{"layers": r.n_layers, "sentences": r.sentences, "positions": r.n, "confidence": 0.95},
        "fixed_exit": {mode: _points(curve, "layer") for mode, curve in r.fixed.items()},
        "mat_minus_id": [
            {"layer": layer, **{metric: tables.interval(of[layer]) for metric, of in r.differences.items()}}
            for layer in layers
        ],
        "best_constant": {metric: tables.interval(x) for metric, x in r.floor.items()},
        "mean_precision@1_over_layers": {mode: tables.interval(mean) for mode, mean in r.mean_over_layers.items()},
        "change_from_own_matrices": {mode: tables.interval(x) for mode, x in r.change_from(own).items()}
        if own
        else None,
        "early_exit": {mode: _points(curve, "layers_processed") for mode, curve in r.early.items()},
        "layers_saved": {
            mode: {f"{share:.2f}": None if x is None else round(x, 6) for share, x in saved.items()}
            for mode, saved in r.layers_saved.items()
        },
        "layers_saved_intervals": _saved(r.saved) or None,
        "layers_saved_net": {unit: _saved(of) for unit, of in r.net.items()} or None,
        "costs": r.costs and {**vars(r.costs), "tokens": r.costs.tokens.double().mean().item()},
        "alternation": [
            {
                **{"first": j.first, "schedule": j.name, "blocks": j.k, "jumps": [list(jump) for jump in j.schedule]},
                **{"precision@1": tables.interval(j.precision), "minus_direct_jump": tables.interval(j.difference)},
            }
            for j in r.alternation
        ]
        or None,
        "lenses": r.lenses and lenses.numbers(r.lenses),
        "r2": r2 and {name.removeprefix("score_"): _scores(of) for name, of in r2.items()},
        "paper": claims.claims(model, r, r2),
    }


def _points(curve: Curve, place: str) -> list[dict[str, Any]]:
    return [
        {
            **({"lambda": curve.lambdas[k]} if curve.lambdas else {}),
            place: int(layers) if place == "layer" else round(layers, 6),
            **{metric: tables.interval(points[k]) for metric, points in curve.estimates.items()},
        }
        for k, layers in enumerate(curve.layers)
    ]


def _saved(by_mode: dict[str, dict[float, Estimate]]) -> dict[str, dict[str, dict[str, float]]]:
    return {mode: {f"{share:.2f}": tables.interval(x) for share, x in of.items()} for mode, of in by_mode.items()}


def _scores(of: Scores) -> dict[str, float]:
    return {f"{i}_{j}": round(x, 6) for (i, j), x in of.items()}


def page(r: Results, summary: dict[str, Any], title: str, figures: Iterable[tuple[Plot, bytes]],
         told: Iterable[Table]) -> str:  # fmt: skip
    """The page, as HTML: the figures with their pictures (PNG), the tables, and the summary as it is."""
    from jinja2 import Environment, StrictUndefined  # noqa: PLC0415

    templates = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    return templates.from_string(Path(__file__).with_name("report.html").read_text(encoding="utf-8")).render(
        r=r, title=title, estimate=tables.estimate, tables=told, figures=[_figure(*figure) for figure in figures],
        claims=summary["paper"], warnings=summary["warnings"],
        data=json.dumps(summary, separators=(",", ":")).replace("<", "\\u003c"),
    )  # fmt: skip


def _figure(plot: Plot, picture: bytes) -> tuple[Plot, str, int, int]:
    sizes = (int.from_bytes(picture[k : k + 4], "big") for k in (16, 20))  # of the PNG's header
    return plot, base64.b64encode(picture).decode(), *sizes
