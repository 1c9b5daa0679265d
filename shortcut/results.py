"""The records of add_results.py, and the numbers that are read off them.

A record is a dict as the original code wrote it: `info` (`type`, `mode`, `layer` or `lambda`),
`layers_processed`, `topk`, `surprisal`. Here a mode goes by its name in the paper; `KEYS` has what
stands in `info`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from shortcut import Problem, approximation, early_exit, metrics
from shortcut.decoding import Predictions

KEYS: dict[str, Any] = {
    "id": "idln",
    "mat": "mat",
    **{mode: ("blk_mat", {"what_to_mat": set(states)}) for mode, states in approximation.REPLACED.items()},
}
PRECISIONS = (1, 5, 10)
SHARES = (0.90, 0.95, 0.98)  # of the full model's Precision@1, which is 1

Record = dict[str, Any]


def jumps(mode: str, predictions: Predictions) -> list[Record]:
    """One record a layer: every sentence leaves there (fixed exit)."""
    return [
        {
            "info": {"type": "jump", "mode": KEYS[mode], "layer": layer},
            "layers_processed": float(layer),
            "topk": topk,
            "surprisal": surprisal,
        }
        for layer, (topk, surprisal) in enumerate(zip(predictions.topk, predictions.surprisal, strict=True))
    ]


def early_exits(
    mode: str, predictions: Predictions, positions: torch.Tensor, lambdas: Iterable[float], tau: float
) -> list[Record]:
    """One record a lambda: every sentence leaves at the layer the confidence rule gives it."""
    records = []
    for lam in lambdas:
        layers = early_exit.exit_layers(predictions.gap, early_exit.thresholds(lam, positions, tau))
        topk, surprisal = predictions.at(layers)
        records.append(
            {
                "info": {"type": "early_exit", "mode": KEYS[mode], "lambda": lam},
                "layers_processed": layers.double().mean().item(),
                "topk": topk,
                "surprisal": surprisal,
            }
        )
    return records


@dataclass(frozen=True)
class Curve:
    """One mode along the layers or along lambda.

    Attributes:
        layers: blocks run, mean over the sentences; ascending.
        precision: {k: Precision@k at each point}, fractions.
        surprisal: mean at each point, nats; empty where the records hold none.
        lambdas: of an early exit, else empty.
    """

    layers: list[float]
    precision: dict[int, list[float]]
    surprisal: list[float]
    lambdas: list[float]


@dataclass(frozen=True)
class Results:
    """Everything the plots and tables show.

    Attributes:
        n_layers: L.
        n: validation sentences.
        fixed: by mode, fixed exits at layers 0 ... L.
        early: by mode, early exits along lambda.
    """

    n_layers: int
    n: int
    fixed: dict[str, Curve]
    early: dict[str, Curve]


def summarize(records: list[Record]) -> Results:
    """The curves of all modes in the records.

    Raises:
        Problem: no jumps among them, so that the full model's own predictions are unknown.
    """
    layers = [r["info"]["layer"] for r in records if r["info"]["type"] == "jump"]
    if not layers:
        raise Problem("the results hold no jump: run add_results.py --force")
    full = next(r["topk"] for r in records if r["info"].get("layer") == max(layers))
    fixed, early = {}, {}
    for mode, key in KEYS.items():
        for kind, curves in (("jump", fixed), ("early_exit", early)):
            chosen = [r for r in records if r["info"]["type"] == kind and r["info"]["mode"] == key]
            if chosen:
                curves[mode] = _curve(chosen, full)
    return Results(max(layers), len(full), fixed, early)


def _curve(records: list[Record], full: torch.Tensor) -> Curve:
    records = sorted(records, key=lambda r: (r["layers_processed"], r["info"].get("lambda", 0)))
    surprisals = [r["surprisal"].double().mean().item() for r in records if "surprisal" in r]
    return Curve(
        layers=[r["layers_processed"] for r in records],
        precision={k: [metrics.precision_at_k(r["topk"], full, k) for r in records] for k in PRECISIONS},
        surprisal=surprisals if len(surprisals) == len(records) else [],
        lambdas=[r["info"]["lambda"] for r in records if "lambda" in r["info"]],
    )


def layers_needed(curve: Curve, share: float) -> float | None:
    """The fewest blocks at which the curve, drawn straight between its points, has Precision@1 >= `share`.

    None if it never has.
    """
    points = list(zip(curve.layers, curve.precision[1], strict=True))
    if points and points[0][1] >= share:
        return points[0][0]
    for (x0, y0), (x1, y1) in pairwise(points):
        if y0 < share <= y1:
            return x0 + (x1 - x0) * (share - y0) / (y1 - y0)
    return None
