"""How good the maps are: whether other sentences give the same, whether two make one, what they keep.

Shapes: sources X and targets Y [n, d] of n sentences, A [d, d]. All of it in float64; none of it is in the paper.
"""

from typing import NamedTuple

import torch

from shortcut import linear, metrics

LARGE = 1000.0  # gain along a direction that the sources hardly have, from which on half precision ruins a map


def agreement(A: torch.Tensor, B: torch.Tensor, X: torch.Tensor) -> float:
    """r2 between A x and B x over all x, the mean of both directions.

    Cosines of A and B would be of directions that hardly occur too.
    """
    made = [linear.apply(M.double(), X.double()) for M in (A, B)]
    return (metrics.r2_score(*made).mean + metrics.r2_score(*made[::-1]).mean) / 2


def split_half(
    X: torch.Tensor, Y: torch.Tensor, rcond: float, kind: linear.Kind = linear.KINDS[linear.LEAST_SQUARES]
) -> float:
    """Agreement, on the training states X, of the maps that the first and the second n/2 of these give."""
    half = len(X) // 2
    A, B = (
        kind.fit(linear.factorize(kind.sources(X[rows]), rcond), X[rows], Y[rows])[0]
        for rows in (slice(half), slice(half, None))
    )
    return agreement(A, B, X)


def r2(A: torch.Tensor, X: torch.Tensor, Y: torch.Tensor) -> float:
    """r2 of A x for y, the mean over coordinates."""
    return metrics.r2_score(linear.apply(A.double(), X.double()), Y).mean


def composed(A: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
    """The map x -> A (B x): of jumps A_kL A_ik, in place of A_iL."""
    A, B, d = A.double(), B.double(), len(B)
    made = A[:, :d] @ B
    made[:, d:] += A[:, d:]  # the intercepts, where there are any
    return made


class Directions(NamedTuple):
    """The principal directions of sources: C = V diag(sd^2) V^T, C their covariance, centred."""

    sd: torch.Tensor  # [d], ascending
    V: torch.Tensor  # [d, d], a direction a column

    def spectrum(self, A: torch.Tensor) -> torch.Tensor:
        """The singular values of A C^(1/2), descending: standard deviations of A x along its principal directions."""
        return torch.linalg.svdvals(A[:, : len(self.V)].double() @ self.V * self.sd)

    def gain(self, A: torch.Tensor) -> float:
        """The largest ||A v|| of unit vectors v among what the sources hardly have; 0 if they have all.

        So little as `metrics.FLAT` of the variance that is usual, which a tenth of the directions exceed. States that
        a layer norm has left lie in a plane: along its normal they have nothing but a constant, which a map makes an
        intercept of, as large as it takes. Rounded to half precision such a map is another one. Of n <= d sentences
        what these few lack counts too.
        """
        hardly = self.sd.square() <= metrics.FLAT * self.sd.square().quantile(0.9)
        return (
            torch.linalg.matrix_norm(A[:, : len(self.V)].double() @ self.V[:, hardly], 2).item()
            if hardly.any()
            else 0.0
        )


def directions(X: torch.Tensor) -> Directions:
    """The principal directions of states."""
    centred = X.double() - X.double().mean(0)
    variances, V = torch.linalg.eigh(centred.T @ centred / len(X))
    return Directions(variances.clamp_min(0).sqrt(), V)


def effective_rank(spectrum: torch.Tensor) -> float:
    """exp(-sum p ln p), p the singular values as shares of their sum, after Roy and Vetterli (2007)."""
    p = spectrum[spectrum > 0] / spectrum.sum()
    return (-p * p.log()).sum().exp().item()
