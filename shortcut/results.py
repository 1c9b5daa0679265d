"""Curves and summary numbers from the records and predictions of add_results.py.

Records have the keys of the original code (see `predictions.records`) and the `key` of a mode, not its name.

Every number is a mean over the validation sentences with a 95% confidence interval (see `intervals`). Constants have
none: at layer L every approximation is exact, so Precision@k is 1 and the difference between two modes is 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import torch

from shortcut import LEAST_SQUARES, Problem, early_exit
from shortcut.alternation import Judged, judge
from shortcut.approximation import MODES, mode_of
from shortcut.intervals import Estimate, estimate, proportion
from shortcut.metrics import LENS, METRICS, hits_at_k
from shortcut.predictions import Evaluation, Record

PRECISIONS = {name: metric.k for name, metric in METRICS.items() if metric.k}
SHARES = (0.90, 0.95, 0.98)  # Precision@1 to reach; the full model has 1
SAME = 0.01  # largest share of sentences in which two runs may differ by rounding


@dataclass(frozen=True)
class Curve:
    """One mode at p layers or values of lambda, or the difference between two modes."""

    layers: list[float]  # [p], mean number of blocks run, ascending
    lambdas: list[float]  # [p] for early exits; else empty
    values: dict[str, torch.Tensor]  # by metric, [p, n]: hits (bool) for Precision@k, else nats; nan: no value
    groups: torch.Tensor | None = None  # int64 [n], sentence number of each position, if sentences have several
    exits: early_exit.Exits | None = None  # for early exits, the exact curve over all lambda, if the gaps are known
    n_layers: int | None = None  # L, where all approximations are exact
    difference: bool = False  # True for a difference between two modes, which is 0 at layer L

    @cached_property
    def estimates(self) -> dict[str, list[Estimate]]:
        """The mean of each metric at each point, in fractions or nats."""
        return {m: [self._mean(m, *pair) for pair in zip(x, self.layers, strict=True)] for m, x in self.values.items()}

    @cached_property
    def over_layers(self) -> dict[str, Estimate]:
        """The mean of each metric over layers 0 ... L - 1, for a fixed exit."""
        below = torch.tensor(self.layers) < self.n_layers
        return {metric: self._mean(metric, x[below].double().mean(0)) for metric, x in self.values.items()}

    def _mean(self, metric: str, values: torch.Tensor, layers: float | None = None) -> Estimate:
        constant = layers == self.n_layers and (self.difference or METRICS[metric].constant)
        there = ~values.isnan()
        groups = None if self.groups is None else self.groups[there].unique(return_inverse=True)[1]
        return estimate(values[there], groups, constant=constant)

    def minus(self, other: "Curve") -> "Curve":
        """This curve minus another on the same sentences, for the layers and metrics that both have."""
        layers = [layer for layer in self.layers if layer in other.layers]
        a, b = ([curve.layers.index(layer) for layer in layers] for curve in (self, other))
        values = {m: x[a].double() - other.values[m][b].double() for m, x in self.values.items() if m in other.values}
        return Curve(layers, [], values, self.groups, n_layers=self.n_layers, difference=True)

    def saved(self, share: float) -> Estimate | None:
        """L minus the fewest blocks run to reach `share` of Precision@1, by linear interpolation between the points."""
        points = [(x, y.mean) for x, y in zip(self.layers, self.estimates["precision@1"], strict=True)]
        for (x0, y0), (x1, y1) in pairwise([*points[:1], *points]):
            if y1 >= share:  # all points before are below
                x = x1 if y0 >= share else x0 + (x1 - x0) * (share - y0) / (y1 - y0)
                return Estimate(self.n_layers - x, None, None)
        return None


@dataclass(frozen=True)
class Results:
    """The numbers in figures, tables, page and summary."""

    n_layers: int  # L
    full: torch.Tensor  # int64 [n, 10], the full model's best tokens, by sentence or position
    fixed: dict[str, Curve]  # by mode: fixed exits at layers 0 ... L
    early: dict[str, Curve]  # by mode: early exits by lambda
    groups: torch.Tensor | None = None  # as in `Curve.groups`
    alternation: Sequence[Judged] = ()  # evaluated schedules of blocks and jumps
    costs: early_exit.Costs | None = None  # of early exit, if known
    masked: bool = False  # True for a masked model, which cannot run a single token

    @property
    def n(self) -> int:
        """Number of validation sentences, or of positions in them."""
        return len(self.full)

    @property
    def sentence_numbers(self) -> torch.Tensor:
        """The sentence number of each position, int64 [n]."""
        return torch.arange(self.n) if self.groups is None else self.groups

    @property
    def sentences(self) -> int:
        """Number of validation sentences."""
        return int(self.sentence_numbers.max()) + 1

    @property
    def sample(self) -> str:
        """The sample size in words."""
        return f"{self.n} sentences" if self.groups is None else f"{self.n} positions of {self.sentences} sentences"

    @cached_property
    def apart(self) -> Curve | None:
        """The difference mat - id at each layer, paired over the sentences."""
        return self.fixed["mat"].minus(self.fixed["id"]) if {"mat", "id"} <= self.fixed.keys() else None

    @cached_property
    def whole(self) -> dict[str, Curve]:
        """Fixed exits, for the modes that have all layers."""
        return {mode: curve for mode, curve in self.fixed.items() if {*range(self.n_layers)} <= {*curve.layers}}

    @cached_property
    def floor(self) -> dict[str, Estimate]:
        """Baseline by metric: Precision@k of the token most often in the full model's best k on the other half."""
        found, odd = {}, self.sentence_numbers % 2 == 1
        for metric, k in PRECISIONS.items():
            hits, best = torch.zeros(self.n, dtype=torch.bool), self.full[:, :k]
            for half in (odd, ~odd):
                hits[half] = (best[half] == best[~half].flatten().bincount().argmax()).any(1)
            found[metric] = proportion(hits, self.groups)
        return found

    @cached_property
    def saved(self) -> dict[str, dict[str, dict[float, Estimate | None]]]:
        """Blocks saved by early exit, by unit, mode (or "mat - id") and share of Precision@1; None if not reached.

        The unit "layers" counts blocks that are not run. The units "token" (causal models with a cached prefix) and
        "sentence" subtract read-outs and maps (see `Costs.of`). If the gaps are not known, the only unit is "layers",
        interpolated between the values of lambda, without intervals.
        """
        exits = {mode: curve.exits for mode, curve in self.early.items() if curve.exits}
        if not exits:
            return {"layers": {mode: {share: x.saved(share) for share in SHARES} for mode, x in self.early.items()}}
        found = {}
        for unit in ("layers", "sentence") if self.masked else ("layers", "token", "sentence"):
            costs = {m: None if unit == "layers" else self.costs.of(MODES[m].maps, unit) for m in exits}
            found[unit] = early_exit.saved(exits, SHARES, costs, self.sentence_numbers)
        return found

    def has_sentences_of(self, other: "Results") -> bool:
        """True if both are for the same sentences, judged by the full model's best tokens."""
        return self.n == other.n and (self.full[:, 0] != other.full[:, 0]).double().mean() <= SAME


@dataclass(frozen=True)
class Comparison:
    """Map kinds as lenses on the same sentences, each by its name; "id", the logit lens, leaves h_l unchanged."""

    curves: Mapping[str, Curve]
    costs: Mapping[str, str]  # in words
    halves: Mapping[str, Mapping[int, float]]  # by layer, r2 between maps fitted on the two halves of the sentences

    @cached_property
    def differences(self) -> dict[str, Curve]:
        """Differences to least squares, the paper's maps, paired over the sentences; {} without least squares."""
        own = self.curves.get(LEAST_SQUARES)
        return {name: curve.minus(own) for name, curve in self.curves.items() if own and name != LEAST_SQUARES}


def summarize(records: list[Record], evaluation: Evaluation | None = None) -> Results:
    """Results from the records of the modes in `MODES`; `evaluation` adds exact early exits, lenses, and schedules.
    Raises Problem: no jumps above layer 0; a single sentence; or records that differ: the original appends each run.
    """
    records = [record for record in records if mode_of(record["info"]["mode"])]
    L = max((r["info"]["layer"] for r in records if r["info"]["type"] == "jump"), default=0)
    if not L:
        raise Problem("the results hold no jumps at layers above 0: run add_results.py --force")
    full = next(r["topk"] for r in records if r["info"].get("layer") == L)
    numbers = next((r["sentence_numbers"] for r in records if "sentence_numbers" in r), None)
    groups = None if numbers is None else numbers.unique(return_inverse=True)[1]
    found: dict[tuple[str, str], dict[float, Record]] = {}  # by exit type and mode, then by layer or lambda
    for record in records:
        info, mode = record["info"], mode_of(record["info"]["mode"])
        exit_type, place = info["type"], info.get("layer", info.get("lambda"))
        first = found.setdefault((exit_type, mode), {}).setdefault(place, record)
        if not first["topk"].equal(record["topk"]):
            raise Problem(f"the results hold two {exit_type}s of {mode} at {place} that differ: keep one run's file")
    fixed, early = (
        {mode: _curve([*found[name, mode].values()], full, groups, L) for mode in MODES if (name, mode) in found}
        for name in ("jump", "early_exit")
    )
    r = Results(L, full, fixed, early, groups)
    if r.sentences < 2:
        raise Problem("the results are for 1 sentence, expected at least 2: raise VAL in config.py")
    return _with(evaluation, r) if evaluation else r


def _curve(records: list[Record], full: torch.Tensor, groups: torch.Tensor | None, L: int) -> Curve:
    records = sorted(records, key=lambda r: (r["layers_processed"], r["info"].get("lambda", 0)))
    values = {m: torch.stack([hits_at_k(r["topk"], full, k) for r in records]) for m, k in PRECISIONS.items()}
    if all("surprisal" in r for r in records):
        values["surprisal"] = torch.stack([r["surprisal"] for r in records])
    lambdas = [r["info"]["lambda"] for r in records if "lambda" in r["info"]]
    return Curve([r["layers_processed"] for r in records], lambdas, values, groups, n_layers=L)


def _with(evaluation: Evaluation, r: Results) -> Results:
    """Add the evaluation, which is of the same run and so has the same modes, each at all layers."""
    fixed, early, judged = dict(r.fixed), dict(r.early), ()
    several = len(r.sentence_numbers[evaluation.actual >= 0].unique()) > 1
    lens_metrics = [metric for metric in LENS if several or metric != "cross-entropy"]  # one sentence has no interval
    for mode, tables in evaluation.modes.items():
        values = fixed[mode].values
        fixed[mode] = replace(fixed[mode], values=values | {metric: tables[metric] for metric in lens_metrics})
        if mode in early:
            exits = early_exit.exits(tables["gap"], evaluation.positions, evaluation.tau, values["precision@1"])
            early[mode] = replace(early[mode], exits=exits)
    if evaluation.schedules:
        direct = fixed["mat"].values["precision@1"]
        judged = judge(evaluation.schedules, evaluation.topk, r.full, direct, r.groups)
    return replace(r, fixed=fixed, early=early, alternation=judged, costs=evaluation.costs, masked=evaluation.masked)
