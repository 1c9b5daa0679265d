"""When to stop computing: the confidence rule of "Implication to Early Exiting", as a look-up in one table.

    exit after layer l  when  gap_l > 0.9 lambda + 0.1 exp(-tau t / N)

with gap_l = p(best) - p(second) read out after layer l, t the 0-based position of the token, N the
mean over the sentences of (position + 1). The paper has tau = 4. Never before layer 1; at layer L in
any case. The gaps of all layers come from one pass, so a lambda costs a comparison.

A sentence leaves at the first l with v_l > lambda, v_l = (gap_l - 0.1 exp(-tau t / N)) / 0.9: only the running
maxima of v matter, and the curve over all lambda, between which the original's grid has points, is exact (`Exits`).

The paper counts the blocks that are not run, L - e_s for sentence s that leaves at layer e_s. On the way the head was
read at layers 1 ... e_s, and the mode's maps applied at each of them below L (`Costs`). The read-out of the token
itself is the whole model's too, and not charged. With B, R and M the multiplications of a block for one token, of a
read-out and of the maps, and T_s the tokens that are run for sentence s, the share of all work saved, in blocks, is

    net = sum_s [ B T_s (L - e_s) - R (e_s - 1) - M min(e_s, L - 1) ] / (B sum_s T_s)

so that long sentences count more than short ones; T_s = 1 where the prefix is cached.

Departure: the original runs the model again for every lambda and sentence; the exits are the same.

Departure: the original's BERT code has the constant 3 in place of the position t; the paper's
formula has the position, and so does this.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from shortcut.intervals import Estimate

DRAWS = 1000  # of the sentences with replacement, for the intervals of what is saved
TOGETHER = 50  # of them at a time


def thresholds(lam: float, positions: torch.Tensor, tau: float) -> torch.Tensor:
    """The gap to exceed, float64 [n], for tokens at 0-based `positions` [n]."""
    N = (positions.double() + 1).mean()
    return 0.9 * lam + 0.1 * torch.exp(-tau * positions.double() / N)


def exit_layers(gaps: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """The layer after which each sentence stops, int64 [n] in 1 ... L.

    Row l of `gaps` [L + 1, n] is read out after layer l, and has to exceed `threshold` [n]; 0 and L do not count.

    Raises ValueError: fewer than two rows, or a gap that is not finite.
    """
    if gaps.ndim != 2 or len(gaps) < 2:
        raise ValueError(f"gaps are {list(gaps.shape)}, expected [L + 1, n] with L >= 1")
    if not math.isfinite(gaps.double().sum().item()):
        raise ValueError("gaps hold values that are not finite")
    confident = gaps.double() > threshold
    confident[0] = False
    confident[-1] = True
    return confident.int().argmax(0)  # the first layer that is confident


@dataclass(frozen=True)
class Costs:
    """Multiplications of matrices for one token, without attention's own, which grow with the length of the prefix."""

    block: float  # B, mean over the blocks
    read_out: float  # R
    matrix: float  # of one map; M of a mode
    tokens: torch.Tensor  # T_s, int64 [n]: a causal model's prefix, a masked model's whole sentence

    def of(self, maps: int, unit: str) -> "Costs":
        """Costs of a mode that applies so many `maps` before a read-out, for one "token" or for the "sentence"."""
        tokens = {"token": torch.ones_like(self.tokens), "sentence": self.tokens}[unit]
        return replace(self, matrix=maps * self.matrix, tokens=tokens)


@dataclass(frozen=True)
class Exits:
    """The exits of n sentences as lambda rises from below every threshold: m events, each moves a sentence on."""

    lambdas: torch.Tensor  # float64 [m], ascending: from this lambda on
    sentence: torch.Tensor  # int64 [m], this sentence
    before: torch.Tensor  # int64 [m], no longer leaves at this layer
    after: torch.Tensor  # int64 [m], but at this one
    hits: torch.Tensor  # bool [L + 1, n], whether the best token read out at a layer is the model's

    def along(self, weights: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        """lambda [p], and there [..., p] the mean of the layers processed, Precision@1 and the share that runs to L.

        At first all leave at 1. With `weights` [..., n], whose sums are n, sentences count as often.
        """
        (L, n), hits = (len(self.hits) - 1, self.hits.shape[1]), self.hits.double()
        w = torch.ones(n, dtype=torch.float64) if weights is None else weights.double()
        of = w[..., self.sentence]
        steps = (
            of * (self.after - self.before),
            of * (hits[self.after, self.sentence] - hits[self.before, self.sentence]),
            of * (self.after == L),
        )
        starts = w.sum(-1, keepdim=True), (w * hits[1]).sum(-1, keepdim=True), (w * (L == 1)).sum(-1, keepdim=True)
        found = [(torch.cat([a, b], -1).cumsum(-1) / n) for a, b in zip(starts, steps, strict=True)]
        lambdas = torch.cat([torch.tensor([-math.inf], dtype=torch.float64), self.lambdas])
        last = torch.cat([lambdas[1:] > lambdas[:-1], torch.tensor([True])])  # of equal ones all have moved
        return lambdas[last], *(x[..., last] for x in found)

    def needed(
        self, shares: Sequence[float], weights: torch.Tensor | None = None, costs: Costs | None = None
    ) -> torch.Tensor:
        """Layers processed [..., S] at the first point, as lambda rises, that reaches each share of Precision@1.

        With `costs` L minus the net saving: the blocks run for a sentence count as often as it has tokens, and
        read-outs and maps are added. In Precision@1 all sentences count alike.
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
    """All exits by gaps [L + 1, n] of tokens at 0-based `positions` [n]; `hits` [L + 1, n] as `Exits` has them."""
    L = len(gaps) - 1
    v = (gaps[1:L].double() - thresholds(0.0, positions, tau)) / 0.9
    before = torch.cat([torch.full((1, v.shape[1]), -math.inf, dtype=torch.float64), v.cummax(0).values])[: len(v)]
    layer, sentence = (v > before).nonzero().T
    order = (sentence * (L + 1) + layer).argsort()
    layer, sentence = layer[order] + 1, sentence[order]
    following = torch.cat([layer[1:], torch.tensor([L])[: len(layer)]])
    ends = torch.cat([sentence[1:] != sentence[:-1], torch.tensor([True])[: len(layer)]])
    after = torch.where(ends, L, following)
    lambdas = v[layer - 1, sentence]
    order = lambdas.argsort(stable=True)
    return Exits(lambdas[order], sentence[order], layer[order], after[order], hits)


def saved(
    exits: Mapping[str, Exits], shares: Sequence[float], costs: Mapping[str, Costs | None],
    of: torch.Tensor | None = None,
) -> dict[str, dict[float, Estimate]]:  # fmt: skip
    """By mode and share L less what is needed at these `costs` (see `Exits.needed`); also of "mat - id".

    The 95% intervals are the quantiles over samples of the sentences drawn with replacement (the bootstrap), the
    thresholds kept; `of` [n] numbers the sentences where they have several positions.
    """
    L, n = (size - k for k, size in zip((1, 0), next(iter(exits.values())).hits.shape, strict=True))
    of = torch.arange(n) if of is None else of
    G, generator, drawn = int(of.max()) + 1, torch.Generator().manual_seed(0), {mode: [] for mode in exits}
    for _ in range(DRAWS // TOGETHER):
        groups = torch.randint(G, (TOGETHER, G), generator=generator)
        weights = torch.zeros(TOGETHER, G).scatter_add(1, groups, torch.ones(TOGETHER, G))[:, of].double()
        weights *= n / weights.sum(1, keepdim=True)
        for mode, of_mode in exits.items():
            drawn[mode].append(L - of_mode.needed(shares, weights, costs[mode]))
    samples = {mode: torch.cat(found) for mode, found in drawn.items()}  # [DRAWS, S]
    means = {mode: L - exits[mode].needed(shares, None, costs[mode]) for mode in exits}
    if {"mat", "id"} <= exits.keys():
        samples["mat - id"], means["mat - id"] = (x["mat"] - x["id"] for x in (samples, means))
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    return {
        mode: {
            share: Estimate(*torch.cat([means[mode][k : k + 1], found[:, k].quantile(ends)]).tolist())
            for k, share in enumerate(shares)
        }
        for mode, found in samples.items()
    }
