"""When to stop computing: the confidence rule of "Implication to Early Exiting", as a look-up in one table.

    exit after layer l  when  gap_l > 0.9 lambda + 0.1 exp(-tau t / N)

with gap_l = p(best) - p(second) read out after layer l, t the 0-based position of the token, N the
mean over the sentences of (position + 1). The paper has tau = 4. Never before layer 1; at layer L in
any case. The gaps of all layers come from one pass, so a lambda costs a comparison.

A sentence leaves at the first l with v_l > lambda, v_l = (gap_l - 0.1 exp(-tau t / N)) / 0.9: only the running
maxima of v matter, and the curve over all lambda, between which the original's grid has points, is exact (`Exits`).

Departure: the original runs the model again for every lambda and sentence; the exits are the same.

Departure: the original's BERT code has the constant 3 in place of the position t; the paper's
formula has the position, and so does this.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch


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
class Exits:
    """The exits of n sentences as lambda rises from below every threshold: m events, each moves a sentence on."""

    lambdas: torch.Tensor  # float64 [m], ascending: from this lambda on
    sentence: torch.Tensor  # int64 [m], this sentence
    before: torch.Tensor  # int64 [m], no longer leaves at this layer
    after: torch.Tensor  # int64 [m], but at this one
    hits: torch.Tensor  # bool [L + 1, n], whether the best token read out at a layer is the model's

    def along(self, weights: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """lambda [p], and there the mean of the layers processed and Precision@1 [..., p]; at first all leave at 1.

        With `weights` [..., n], whose sums are n, sentences count as often.
        """
        n, hits = self.hits.shape[1], self.hits.double()
        w = torch.ones(n, dtype=torch.float64) if weights is None else weights.double()
        of = w[..., self.sentence]
        steps = (
            of * (self.after - self.before),
            of * (hits[self.after, self.sentence] - hits[self.before, self.sentence]),
        )
        starts = w.sum(-1, keepdim=True), (w * hits[1]).sum(-1, keepdim=True)
        layers, precision = ((torch.cat([a, b], -1).cumsum(-1) / n) for a, b in zip(starts, steps, strict=True))
        lambdas = torch.cat([torch.tensor([-math.inf], dtype=torch.float64), self.lambdas])
        last = torch.cat([lambdas[1:] > lambdas[:-1], torch.tensor([True])])  # of equal ones all have moved
        return lambdas[last], layers[..., last], precision[..., last]

    def needed(self, shares: Sequence[float], weights: torch.Tensor | None = None) -> torch.Tensor:
        """Layers processed [..., S] at the first point, as lambda rises, that reaches each share of Precision@1."""
        _, layers, precision = self.along(weights)
        first = [(precision >= share - 1e-9).int().argmax(-1, keepdim=True) for share in shares]
        return torch.cat([layers.gather(-1, k) for k in first], -1)


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
