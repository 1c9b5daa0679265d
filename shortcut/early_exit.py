"""Early exit by the confidence rule of "Implication to Early Exiting", as a look-up in one table.

    exit after layer l  when  gap_l > 0.9 lambda + 0.1 exp(-tau t / N)

with gap_l = p(best) - p(second) read out after layer l, t the 0-based position of the token, N the mean over the
sentences of (position + 1). The paper has tau = 4. No sentence exits before layer 1; at layer L every sentence exits.
A sentence exits at the first l with v_l > lambda, where v_l = (gap_l - 0.1 exp(-tau t / N)) / 0.9. Only the running
maxima of v matter, so the curve over all lambda is exact (`Exits`); the original has a grid of points on it.

The paper counts the blocks that are not run: L - e_s for a sentence s that exits at layer e_s. The net saving also
charges the read-outs at layers 1 ... e_s, but for the last, which the full model needs too, and the mode's maps, at
each of these layers below L. B, R and M are the multiplications in a block for one token, in a read-out and in the
maps; T_s is the number of tokens that are run for sentence s, 1 if the prefix is cached. In blocks it is

    net = sum_s [ B T_s (L - e_s) - R (e_s - 1) - M min(e_s, L - 1) ] / (B sum_s T_s)

Departure: the original runs the model again for every lambda and sentence; the exits are the same.
Departure: the original's BERT code has the constant 3 in place of the position t of the paper's formula.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import starmap

import torch

from shortcut.intervals import Estimate

DRAWS = 1000  # bootstrap samples for the intervals of the layers saved
TOGETHER = 50  # bootstrap samples computed at a time


def thresholds(lam: float, positions: torch.Tensor, tau: float) -> torch.Tensor:
    """The gaps to exceed, float64 [n], for tokens at 0-based `positions` [n]."""
    N = (positions.double() + 1).mean()
    return 0.9 * lam + 0.1 * torch.exp(-tau * positions.double() / N)


def exit_layers(gaps: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """The layer at which each sentence exits, int64 [n], in 1 ... L, from gaps [L + 1, n] and thresholds [n]."""
    confident = gaps.double() > threshold
    confident[0], confident[-1] = False, True
    return confident.int().argmax(0)  # the first confident layer


@dataclass(frozen=True)
class Costs:
    """Multiplications in matrix products for one token, without attention scores, whose cost depends on the prefix."""

    block: float  # B, mean over the blocks
    read_out: float  # R
    matrix: float  # one map; after `Costs.of` M, all maps of the mode
    tokens: torch.Tensor  # T_s, int64 [n]: a causal model's prefix, a masked model's whole sentence

    def of(self, maps: int, unit: str) -> "Costs":
        """Costs of a mode that applies this many `maps` before a read-out, for one "token" or the whole "sentence"."""
        tokens = self.tokens if unit == "sentence" else torch.ones_like(self.tokens)
        return replace(self, matrix=maps * self.matrix, tokens=tokens)


@dataclass(frozen=True)
class Exits:
    """Exits of n sentences as lambda rises from -inf: m events, and each moves one sentence to a later exit."""

    lambdas: torch.Tensor  # float64 [m], the lambda of each event, ascending
    sentence: torch.Tensor  # int64 [m], the sentence that moves
    before: torch.Tensor  # int64 [m], its exit layer before
    after: torch.Tensor  # int64 [m], its exit layer after
    hits: torch.Tensor  # bool [L + 1, n], True if the best token read out at a layer is the full model's

    def along(self, weights: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        """lambda [p]; mean layers, Precision@1 and share that runs to L, each [..., p]; `weights` [..., n] sum to n."""
        (L, n), hits = (len(self.hits) - 1, self.hits.shape[1]), self.hits.double()
        w = torch.ones(n, dtype=torch.float64) if weights is None else weights.double()
        s, moved = self.sentence, w[..., self.sentence]
        curves = (  # the sum over sentences that all exit at layer 1, and its change at each event
            (w, moved * (self.after - self.before)),
            (w * hits[1], moved * (hits[self.after, s] - hits[self.before, s])),
            (w * (L == 1), moved * (self.after == L)),
        )
        found = [torch.cat([start.sum(-1, keepdim=True), steps], -1).cumsum(-1) / n for start, steps in curves]
        lambdas = torch.cat([self.lambdas.new_tensor([-math.inf]), self.lambdas])
        last = torch.cat([lambdas.diff() > 0, torch.tensor([True])])  # events at equal lambda count together
        return lambdas[last], *(x[..., last] for x in found)

    def needed(
        self, shares: Sequence[float], weights: torch.Tensor | None = None, costs: Costs | None = None
    ) -> torch.Tensor:
        """Mean layers processed, [..., S], at the smallest lambda that reaches each of the S shares of Precision@1.
        With `costs` it is L minus the net saving. In Precision@1 all sentences have the same weight.
        """
        _, layers, precision, whole = self.along(weights)
        first = torch.cat([(precision >= share - 1e-9).int().argmax(-1, keepdim=True) for share in shares], -1)
        e, whole = layers.gather(-1, first), whole.gather(-1, first)
        if costs is None:
            return e
        T = costs.tokens.double() * (1.0 if weights is None else weights)
        mean = T.mean(-1, keepdim=True)
        blocks = self.along(T / mean)[1].gather(-1, first)
        return blocks + (costs.read_out * (e - 1) + costs.matrix * (e - whole)) / (costs.block * mean)


def exits(gaps: torch.Tensor, positions: torch.Tensor, tau: float, hits: torch.Tensor) -> Exits:
    """All exits from gaps [L + 1, n] of tokens at 0-based `positions` [n], with hits [L + 1, n] as in `Exits.hits`."""
    v = (gaps.double() - thresholds(0.0, positions, tau)) / 0.9
    v[0], v[-1] = -math.inf, math.inf
    sentence, layer = (v[1:] > v.cummax(0).values[:-1]).T.nonzero().T  # by sentence, its new maxima
    layer = layer + 1
    exits_before_L = (layer < len(v) - 1).nonzero()[:, 0]  # the sentence's next exit follows each of these
    events = exits_before_L[v[layer, sentence][exits_before_L].argsort(stable=True)]
    sentence, before, after = sentence[events], layer[events], layer[events + 1]
    return Exits(v[before, sentence], sentence, before, after, hits)


def saved(
    exits: Mapping[str, Exits], shares: Sequence[float], costs: Mapping[str, Costs | None], groups: torch.Tensor
) -> dict[str, dict[float, Estimate]]:
    """Layers saved, L minus layers needed (see `Exits.needed`), by mode and share, and the difference "mat - id".
    The 95% intervals are bootstrap quantiles over the sentences, with fixed thresholds. groups: as in `intervals`.
    """
    points, n = next(iter(exits.values())).hits.shape
    L, G, drawn = points - 1, int(groups.max()) + 1, {mode: [] for mode in exits}
    generator = torch.Generator().manual_seed(0)
    for _ in range(DRAWS // TOGETHER):
        sentences = torch.randint(G, (TOGETHER, G), generator=generator)
        weights = torch.zeros(TOGETHER, G).scatter_add(1, sentences, torch.ones(TOGETHER, G))[:, groups].double()
        weights *= n / weights.sum(1, keepdim=True)
        for mode, mode_exits in exits.items():
            drawn[mode].append(L - mode_exits.needed(shares, weights, costs[mode]))
    samples = {mode: torch.cat(found) for mode, found in drawn.items()}  # [DRAWS, S]
    means = {mode: L - exits[mode].needed(shares, None, costs[mode]) for mode in exits}
    if {"mat", "id"} <= exits.keys():
        samples["mat - id"], means["mat - id"] = (x["mat"] - x["id"] for x in (samples, means))
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    found = {mode: torch.cat([means[mode][None], sample.quantile(ends, 0)]) for mode, sample in samples.items()}
    return {mode: dict(zip(shares, starmap(Estimate, x.T.tolist()), strict=True)) for mode, x in found.items()}
