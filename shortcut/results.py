"""The records of add_results.py, and the numbers that are read off them, each once.

A record is a dict as the original code wrote it: `info` (`type`, `mode`, `layer` or `lambda`),
`layers_processed`, `topk`, `surprisal`. There a mode goes by its `key`, elsewhere by its name.

Every number is a mean over the validation sentences, and comes with a 95% interval (see `intervals`), but for
constants: at layer L every approximation is the model itself, so that Precision@k is 1 and mat - id is 0.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch

from shortcut import Problem, early_exit, metrics
from shortcut.approximation import MODES, mode_of
from shortcut.early_exit import Costs, Exits
from shortcut.intervals import Estimate, average, estimate, proportion
from shortcut.predictions import Predictions

PRECISIONS = (1, 5, 10)
METRICS = (*(f"precision@{k}" for k in PRECISIONS), "surprisal")
SHARES = (0.90, 0.95, 0.98)  # of the full model's Precision@1, which is 1
SAME = 0.01  # share of sentences whose prediction may differ by rounding between two runs

Record = dict[str, Any]


def fixed_exits(mode: str, predictions: Predictions) -> list[Record]:
    """One record a layer: every sentence leaves there."""
    info, judged = {"type": "jump", "mode": MODES[mode].key}, zip(predictions.topk, predictions.surprisal, strict=True)
    return [_record({**info, "layer": layer}, float(layer), *of_layer) for layer, of_layer in enumerate(judged)]


def early_exits(
    mode: str, predictions: Predictions, positions: torch.Tensor, lambdas: Iterable[float], tau: float
) -> list[Record]:
    """One record a lambda: every sentence leaves at the layer the confidence rule gives it."""
    records = []
    for lam in lambdas:
        layers = early_exit.exit_layers(predictions.gap, early_exit.thresholds(lam, positions, tau))
        info = {"type": "early_exit", "mode": MODES[mode].key, "lambda": lam}
        records.append(_record(info, layers.double().mean().item(), *predictions.at(layers)))
    return records


def of_sentences(records: list[Record], numbers: torch.Tensor | None) -> list[Record]:
    """The records; the first says which sentence each of n positions is of, where sentences have several."""
    return records if numbers is None else [records[0] | {"sentence_numbers": numbers}, *records[1:]]


def _record(info: dict[str, Any], layers_processed: float, topk: torch.Tensor, surprisal: torch.Tensor) -> Record:
    return {"info": info, "layers_processed": layers_processed, "topk": topk, "surprisal": surprisal}


@dataclass(frozen=True)
class Curve:
    """One mode along the layers or along lambda, p points."""

    layers: list[float]  # [p], blocks run, mean over the sentences; ascending
    lambdas: list[float]  # [p], of an early exit; else empty
    # by metric, what each sentence has at each point, [p, n]: hits (bool) for Precision@k, nats for the surprisal,
    # which is missing where the records hold none
    values: dict[str, torch.Tensor]
    of: torch.Tensor | None = None  # int64 [n], which sentence each is of, where sentences have several positions
    exits: Exits | None = None  # of an early exit, the curve over all lambda, where the gaps are known
    n_layers: int | None = None  # L: where every sentence runs so many blocks, the best tokens are the model's own

    @cached_property
    def estimates(self) -> dict[str, list[Estimate]]:
        """By metric, its estimate at each point: fractions, or nats."""
        last = [layers == self.n_layers for layers in self.layers]
        return {
            metric: [estimate(x, self.of, constant=c and x.dtype == torch.bool) for x, c in zip(xs, last, strict=True)]
            for metric, xs in self.values.items()
        }

    def layers_needed(self, share: float) -> float | None:
        """The blocks run at the first point of the curve over all lambda with Precision@1 >= `share`.

        Where only the points of the grid are known, the fewest on the straight lines between them; None if none has.
        """
        if self.exits:
            return self.exits.needed([share]).item()
        points = [(x, y.mean) for x, y in zip(self.layers, self.estimates["precision@1"], strict=True)]
        if points and points[0][1] >= share:
            return points[0][0]
        for (x0, y0), (x1, y1) in pairwise(points):
            if y0 < share <= y1:
                return x0 + (x1 - x0) * (share - y0) / (y1 - y0)
        return None


@dataclass(frozen=True)
class Results:
    """Everything that figures, tables, page and summary show."""

    n_layers: int  # L
    n: int  # validation sentences, or positions in them
    best: torch.Tensor  # int64 [n], the best token of the full model for each
    fixed: dict[str, Curve]  # by mode, fixed exits at layers 0 ... L
    early: dict[str, Curve]  # by mode, early exits along lambda
    of: torch.Tensor | None = None  # as `Curve.of`
    full: torch.Tensor | None = None  # int64 [n, 10], the best tokens of the full model
    alternation: Sequence[Any] = ()  # schedules, as `alternation.judge` has them
    lenses: Any = None  # kinds of maps side by side, as `comparison.Comparison`, where they were judged as lenses
    costs: Costs | None = None  # of what early exit adds, where it is known
    masked: bool = False  # True for a masked model, which runs no token alone

    @property
    def sentences(self) -> int:
        """Number of validation sentences."""
        return self.n if self.of is None else int(self.of.max()) + 1

    @property
    def sample(self) -> str:
        """What the numbers are means over."""
        return f"{self.n} sentences" if self.of is None else f"{self.n} positions of {self.sentences} sentences"

    @cached_property
    def differences(self) -> dict[str, dict[int, Estimate]]:
        """By metric that both have, mat - id by layer, paired over the sentences."""
        return {metric: found for metric in METRICS if (found := self._differences(metric))}

    def _differences(self, metric: str) -> dict[int, Estimate]:
        mat, identity = self.fixed.get("mat"), self.fixed.get("id")
        if not (mat and identity and metric in mat.values and metric in identity.values):
            return {}
        a, b = (dict(zip(map(int, c.layers), c.values[metric].double(), strict=True)) for c in (mat, identity))
        return {l: estimate(a[l] - b[l], self.of, constant=l == self.n_layers) for l in a if l in b}

    @cached_property
    def mean_over_layers(self) -> dict[str, Estimate]:
        """By mode, Precision@1 averaged over the fixed exits at layers 0 ... L - 1; at L all are the model itself."""
        whole = [mode for mode, curve in self.fixed.items() if {*range(self.n_layers)} <= {*curve.layers}]
        return {mode: average(self._hits_below(mode), self.of) for mode in whole}

    def _hits_below(self, mode: str) -> torch.Tensor:
        """Of each sentence, the share of layers 0 ... L - 1 at which the best token is right, [n]."""
        curve = self.fixed[mode]
        below = torch.tensor(curve.layers) < self.n_layers
        return curve.values["precision@1"][below].double().mean(0)

    @cached_property
    def floor(self) -> dict[str, Estimate]:
        """By metric, Precision@k of the best constant, that uses no state at all: a floor under all else.

        For each k it says the token most often among the model's best k, on the other half of the sentences: each
        half is judged by the other's. With 25 tokens it is right nine times in ten at k = 10.
        """
        found, of = {}, torch.arange(self.n) if self.of is None else self.of
        for k in PRECISIONS if self.full is not None else ():
            hits, best = torch.zeros(self.n, dtype=torch.bool), self.full[:, :k]
            for half in (of % 2 == 0, of % 2 == 1):
                if half.any() and not half.all():
                    hits[half] = (best[half] == best[~half].flatten().bincount().argmax()).any(1)
            found[f"precision@{k}"] = proportion(hits, self.of)
        return found

    @cached_property
    def layers_saved(self) -> dict[str, dict[float, float | None]]:
        """By mode and share of the full model's Precision@1, the blocks that early exit saves; None if it is missed."""
        needed = {mode: {s: curve.layers_needed(s) for s in SHARES} for mode, curve in self.early.items()}
        return {
            mode: {s: None if x is None else self.n_layers - x for s, x in of.items()} for mode, of in needed.items()
        }

    @cached_property
    def saved(self) -> dict[str, dict[float, Estimate]]:
        """By mode and share the blocks that early exit saves, and of "mat - id" the difference; {} without the gaps."""
        return self._saved(dict.fromkeys(self.early))

    @cached_property
    def net(self) -> dict[str, dict[str, dict[float, Estimate]]]:
        """By unit what `saved` has, less read-outs and maps; {} where costs are unknown.

        The units: "token", for causal models, which may cache the prefix, and "sentence" (see `Costs.of`).
        """
        if not self.costs:
            return {}
        units = ("sentence",) if self.masked else ("token", "sentence")
        return {
            unit: self._saved({mode: self.costs.of(MODES[mode].maps, unit) for mode in self.early}) for unit in units
        }

    def _saved(self, costs: dict[str, Costs | None]) -> dict[str, dict[float, Estimate]]:
        exits = {mode: curve.exits for mode, curve in self.early.items() if curve.exits}
        return early_exit.saved(exits, SHARES, costs, self.of) if exits else {}

    def change_from(self, own: "Results") -> dict[str, Estimate]:
        """Mean Precision@1 with the maps of another corpus minus that with its own, by mode.

        Paired over the sentences. "Effect of scale and of data" in the paper.

        Raises Problem: the results are of other sentences, as the full model's predictions tell.
        """
        if self.n != own.n or (self.best != own.best).double().mean() > SAME:
            raise Problem("the results of the two corpora's maps are not of the same sentences: make both anew")
        modes = [mode for mode in self.mean_over_layers if mode in own.mean_over_layers and mode != "id"]
        return {mode: average(self._hits_below(mode) - own._hits_below(mode), self.of) for mode in modes}


def summarize(records: list[Record]) -> Results:
    """The curves of all modes in the records; those of no mode in `MODES` are passed over.

    Raises Problem: no jumps among them below the last layer, so that the full model is unknown; a single sentence,
        which tells nothing; or records of two runs, which the original code appends to one file, that differ.
    """
    records = [record for record in records if mode_of(record["info"]["mode"])]
    layers = [r["info"]["layer"] for r in records if r["info"]["type"] == "jump"]
    if not any(layers):
        raise Problem("the results hold no jumps of several layers: run add_results.py --force")
    full = next(r["topk"] for r in records if r["info"].get("layer") == max(layers))
    numbers = next((record["sentence_numbers"] for record in records if "sentence_numbers" in record), None)
    if numbers is not None:
        numbers = numbers.unique(return_inverse=True)[1]
    if (len(full) if numbers is None else int(numbers.max()) + 1) < 2:
        raise Problem("the results are of 1 sentence, expected at least 2: raise VAL in config.py")
    of: dict[tuple[str, str], dict[float, Record]] = {}
    for record in records:
        info, mode = record["info"], mode_of(record["info"]["mode"])
        kind, place = info["type"], info.get("layer", info.get("lambda"))
        first = of.setdefault((kind, mode), {}).setdefault(place, record)
        if not first["topk"].equal(record["topk"]):
            raise Problem(f"the results hold two {kind}s of {mode} at {place} that differ: keep the file of one run")
    fixed, early = (
        {mode: _curve([*of[kind, mode].values()], full, numbers, max(layers)) for mode in MODES if (kind, mode) in of}
        for kind in ("jump", "early_exit")
    )
    return Results(max(layers), len(full), full[:, 0], fixed, early, numbers, full)


def _curve(records: list[Record], full: torch.Tensor, numbers: torch.Tensor | None, L: int) -> Curve:
    records = sorted(records, key=lambda r: (r["layers_processed"], r["info"].get("lambda", 0)))
    hits = {k: torch.stack([metrics.hits_at_k(r["topk"], full, k) for r in records]) for k in PRECISIONS}
    values = {f"precision@{k}": found for k, found in hits.items()}
    if all("surprisal" in r for r in records):
        values["surprisal"] = torch.stack([r["surprisal"] for r in records])
    lambdas = [r["info"]["lambda"] for r in records if "lambda" in r["info"]]
    return Curve([r["layers_processed"] for r in records], lambdas, values, numbers, n_layers=L)
