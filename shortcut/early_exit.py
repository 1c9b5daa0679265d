"""When to stop computing: the confidence rule of "Implication to Early Exiting", as a look-up in one table.

    exit after layer l  when  gap_l > 0.9 lambda + 0.1 exp(-tau t / N)

with gap_l = p(best) - p(second) read out after layer l, t the 0-based position of the token, N the
mean over the sentences of (position + 1). The paper has tau = 4. Never before layer 1; at layer L in
any case. The gaps of all layers come from one pass, so a lambda costs a comparison.

Departure: the original runs the model again for every lambda and sentence; the exits are the same.

Departure: the original's BERT code has the constant 3 in place of the position t; the paper's
formula has the position, and so does this.
"""

import math

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
