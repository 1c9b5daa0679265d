"""Quality of maps from states X to states Y, both [n, d], in float64; no number is in the paper."""

import torch

from shortcut import metrics
from shortcut.linear import KINDS, LEAST_SQUARES, Kind, Map

LARGE = 1000.0  # gain in directions with hardly any variance above which half precision ruins a map


def agreement(A: Map, B: Map, X: torch.Tensor) -> float:
    """The mean of two r2 between A x and B x, one with each as the target; x are the rows of X."""
    a, b = (M.to(torch.float64)(X.double()) for M in (A, B))
    return (metrics.r2_score(a, b).mean + metrics.r2_score(b, a).mean) / 2


def split_half(X: torch.Tensor, Y: torch.Tensor, rcond: float, map_kind: Kind = KINDS[LEAST_SQUARES]) -> float:
    """Agreement on the training states X between two maps from X to Y, each fitted on half of the sentences."""
    halves = [(X[rows], Y[rows]) for rows in (slice(len(X) // 2), slice(len(X) // 2, None))]
    fitted = (map_kind.fit(map_kind.factorize(x, rcond), x, y)[0] for x, y in halves)
    return agreement(*(Map(A, map_kind.name, 0, 1) for A in fitted), X)


def r2(A: Map, X: torch.Tensor, Y: torch.Tensor) -> float:
    """r2 of A x as a prediction of y, averaged over coordinates."""
    return metrics.r2_score(A.to(torch.float64)(X.double()), Y).mean


class Directions:
    """Principal directions of states X [n, d]: C = V diag(sd^2) V^T for their covariance C; sd is ascending."""

    def __init__(self, X: torch.Tensor):
        centred = X.double() - X.double().mean(0)
        variances, self.V = torch.linalg.eigh(centred.T @ centred / len(X))
        self.sd = variances.clamp_min(0).sqrt()

    def spectrum(self, A: Map) -> torch.Tensor:
        """Singular values of A C^(1/2), descending: standard deviations of A x along its own principal directions."""
        return torch.linalg.svdvals(A.matrix.double() @ self.V * self.sd)

    def gain(self, A: Map) -> float:
        """The largest ||A v|| over unit vectors v along which the sources hardly vary; 0 if there is no such direction.

        The variance along v is at most `metrics.FLAT` times the 90th percentile over all directions. Example: outputs
        of a layer norm are constant along the normal of a plane. A fit uses this constant as an intercept, however
        large A becomes, and rounding to half precision can then ruin the map. Directions without states count too.
        """
        hardly = self.sd.square() <= metrics.FLAT * self.sd.square().quantile(0.9)
        return torch.linalg.matrix_norm(A.matrix.double() @ self.V[:, hardly], 2).item() if hardly.any() else 0.0


def effective_rank(spectrum: torch.Tensor) -> float:
    """exp(-sum p ln p), where p are the singular values divided by their sum (Roy and Vetterli 2007)."""
    p = spectrum[spectrum > 0] / spectrum.sum()
    return (-p * p.log()).sum().exp().item()
