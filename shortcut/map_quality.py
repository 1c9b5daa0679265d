"""How good maps are: agreement of two halves of the sentences, composition of two jumps, spectrum and gain.

Shapes: source states X and target states Y [n, d] of n sentences. All is computed in float64; none is in the paper.
"""

from typing import NamedTuple

import torch

from shortcut import metrics
from shortcut.linear import KINDS, LEAST_SQUARES, Kind, Map

LARGE = 1000.0  # gain in directions of hardly any variance above which rounding to half precision ruins a map


def agreement(A: Map, B: Map, X: torch.Tensor) -> float:
    """r2 between A x and B x over all x, the mean of the r2 of A x for B x and of B x for A x.

    A cosine between A and B would also count directions that hardly occur in the states.
    """
    made = [M.to(torch.float64)(X.double()) for M in (A, B)]
    return (metrics.r2_score(*made).mean + metrics.r2_score(*made[::-1]).mean) / 2


def split_half(X: torch.Tensor, Y: torch.Tensor, rcond: float, kind: Kind = KINDS[LEAST_SQUARES]) -> float:
    """Agreement on the training states X of two maps from X to Y, one fitted on each half of the sentences."""
    halves = [(X[rows], Y[rows]) for rows in (slice(len(X) // 2), slice(len(X) // 2, None))]
    fitted = (kind.fit(kind.factorize(x, rcond), x, y)[0] for x, y in halves)
    return agreement(*(Map(A, kind.name, 0, 1) for A in fitted), X)


def r2(A: Map, X: torch.Tensor, Y: torch.Tensor) -> float:
    """r2 of A x for y, the mean over coordinates."""
    return metrics.r2_score(A.to(torch.float64)(X.double()), Y).mean


class Directions(NamedTuple):
    """The principal directions of source states: C = V diag(sd^2) V^T, C their centred covariance."""

    sd: torch.Tensor  # [d], ascending
    V: torch.Tensor  # [d, d], a direction a column

    def spectrum(self, A: Map) -> torch.Tensor:
        """The singular values of A C^(1/2), descending: standard deviations of A x along its principal directions."""
        return torch.linalg.svdvals(A.matrix.double() @ self.V * self.sd)

    def gain(self, A: Map) -> float:
        """The largest ||A v|| over unit vectors v in which the sources hardly vary; 0 if there is no such direction.

        In such a direction the variance is at most `metrics.FLAT` times the 90th percentile over all directions. The
        outputs of a layer norm lie in a plane: along its normal they are constant, and a fit uses the constant as an
        intercept, however large A becomes. Rounded to half precision such a map is another map. With n <= d sentences
        the directions that these do not span count too.
        """
        hardly = self.sd.square() <= metrics.FLAT * self.sd.square().quantile(0.9)
        return torch.linalg.matrix_norm(A.matrix.double() @ self.V[:, hardly], 2).item() if hardly.any() else 0.0


def directions(X: torch.Tensor) -> Directions:
    """The principal directions of states."""
    centred = X.double() - X.double().mean(0)
    variances, V = torch.linalg.eigh(centred.T @ centred / len(X))
    return Directions(variances.clamp_min(0).sqrt(), V)


def effective_rank(spectrum: torch.Tensor) -> float:
    """exp(-sum p ln p), p the singular values as shares of their sum, after Roy and Vetterli (2007)."""
    p = spectrum[spectrum > 0] / spectrum.sum()
    return (-p * p.log()).sum().exp().item()
