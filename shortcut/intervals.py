"""Means over validation sentences with 95% confidence intervals.

The interval is for the mean over all sentences that could have been sampled, with these maps. It does not include the
sampling of the training sentences. The mean of another sample, which varies too, is inside in 83% of cases. Sentences
count as independent, but not the positions within one: groups [n] has the sentence number of each position.
"""

from math import sqrt
from typing import NamedTuple

import torch

Z = 1.959964  # quantile of the standard normal distribution that leaves 2.5% on either side


class Estimate(NamedTuple):
    """A mean and its 95% interval, in the unit of the values; the ends are None if constant or not known."""

    mean: float
    low: float | None
    high: float | None


def estimate(values: torch.Tensor, groups: torch.Tensor | None = None, *, constant: bool = False) -> Estimate:
    """The mean of values [n]: `proportion` of bool, else `average`; no interval if it is the same for any sentences."""
    if constant:
        return Estimate(values.double().mean().item(), None, None)
    return (proportion if values.dtype == torch.bool else average)(values, groups)


def proportion(hits: torch.Tensor, groups: torch.Tensor | None = None) -> Estimate:
    """The share of hits [n], bool, with the score interval of Wilson (1927):

        (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)

    Unlike the normal interval, it stays within 0 and 1 and has a width at both. With groups, n is the number of
    independent positions with the same variance, or the number of sentences if nothing varies.
    """
    n, p = len(hits), hits.double().mean().item()
    if groups is not None:
        error = _standard_error(hits, groups)
        n = p * (1 - p) / error**2 if error > 1e-9 else int(groups.max()) + 1  # 1e-9: sums of thirds are not exactly 0
    centre, half = p + Z**2 / (2 * n), Z * sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    return Estimate(p, max(0.0, (centre - half) / (1 + Z**2 / n)), min(1.0, (centre + half) / (1 + Z**2 / n)))


def average(values: torch.Tensor, groups: torch.Tensor | None = None) -> Estimate:
    """The mean of values [n], n >= 2, with the normal interval."""
    mean, half = values.double().mean().item(), Z * _standard_error(values, groups)
    return Estimate(mean, mean - half, mean + half)


def _standard_error(values: torch.Tensor, groups: torch.Tensor | None) -> float:
    """s / sqrt(n); with G groups and deviations e, sqrt(G / (G - 1) sum over g of (sum over i in g of e_i)^2) / n."""
    if groups is None:
        return values.double().std().item() / sqrt(len(values))
    apart, G = values.double() - values.double().mean(), int(groups.max()) + 1
    sums = torch.zeros(G, dtype=torch.float64).index_add(0, groups, apart)
    return sqrt(sums.square().sum().item() * G / (G - 1)) / len(values)
