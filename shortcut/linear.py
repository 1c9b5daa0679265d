"""Least squares between hidden states, and what a fitted matrix does.

    A = argmin_A  sum over k of || A x_k - y_k ||^2          (no intercept, no penalty, minimum norm)

Shapes: sources X [n, d], row k is x_k; targets Y [n, m]; A [m, d], applied as `A @ x`. The solution
is A^T = X^+ Y. It goes through X = Q R and R = U S V^T, so one factorization of X serves any number
of targets: A^T = V S^+ U^T (Q^T Y), and the singular values of X come with it.

Edges: singular values up to `rcond` times the largest count as zero, so that rank-deficient sources
(fewer sentences than d; BERT's layer 0 at [MASK], which knows only its position) give the solution
of minimum norm. Fits are solved in float64.

"Linear Shortcut Across Blocks" in the paper, which used scikit-learn 1.2.0 on float32.
Departure: solved in float64. Same estimator, same cut-off, no rounding of the solution.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import inf, isfinite

import torch

States = torch.Tensor | Sequence[torch.Tensor]
Filter = Callable[[torch.Tensor], torch.Tensor]

INFLATION = 0.25  # of the expected error on new sentences, from which on it is told


@dataclass(frozen=True)
class Factorization:
    """X = Q U S V^T without the singular values that count as zero."""

    q: torch.Tensor  # Q, [n, min(n, d)], orthonormal columns
    u: torch.Tensor  # U, [min(n, d), rank], orthonormal columns
    singular_values: torch.Tensor  # S, [rank], descending
    v: torch.Tensor  # V, [d, rank], orthonormal columns

    @property
    def rank(self) -> int:
        """Number of singular values above the cut-off."""
        return len(self.singular_values)

    @property
    def condition(self) -> float:
        """Largest singular value over the smallest one kept; infinite where none is."""
        return (self.singular_values[0] / self.singular_values[-1]).item() if self.rank else float("inf")

    def fit(self, targets: torch.Tensor, factors: Filter = torch.ones_like) -> torch.Tensor:
        """The A [m, d], float64, that takes the factorized sources to `targets` Y [n, m]:

            A^T = V f(S) S^-1 U^T Q^T Y

        f are the filter `factors` of the singular values, [rank] to [rank]: with 1 A is the least-squares
        solution of minimum norm, with S^2 / (S^2 + c) that of ridge regression.

        Raises ValueError: another number of rows than the sources had.
        """
        if targets.ndim != 2 or len(targets) != len(self.q):
            raise ValueError(f"targets are {list(targets.shape)}, expected [{len(self.q)}, m] as the sources")
        projected = self.u.T @ (self.q.T @ targets.to(self.q))
        filtered = projected * factors(self.singular_values)[:, None] / self.singular_values[:, None]
        return (self.v @ filtered).T.contiguous()


def factorize(sources: torch.Tensor, rcond: float) -> Factorization:
    """Factorize X [n, d] once for all its targets; singular values up to `rcond` S[0] count as zero.

    Raises ValueError: not a matrix with at least one row, or a value that is not finite.
    """
    if sources.ndim != 2 or not len(sources):
        raise ValueError(f"sources are {list(sources.shape)}, expected [n, d] with n >= 1")
    if not torch.isfinite(sources).all():
        raise ValueError("sources hold values that are not finite: the fit would be garbage")
    q, r = torch.linalg.qr(sources.double())
    u, s, vh = torch.linalg.svd(r, full_matrices=False)
    rank = int((s > rcond * s[0]).sum())
    return Factorization(q, u[:, :rank], s[:rank], vh[:rank].T)


def apply(A: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """A h for every state in h [..., d]; the result is [..., m]."""
    return h @ A.T


def numbers(A: torch.Tensor, factors: Factorization) -> dict[str, float | int | None]:
    """What shows a bad fit: rank and condition (None at rank 0) of its sources, Frobenius norms of A and A - I."""
    norm, distance = (torch.linalg.norm(M).item() for M in (A.double(), A.double() - torch.eye(*A.shape).double()))
    told = {"condition": factors.condition, "norm": norm, "distance_from_identity": distance}
    return {"rank": factors.rank, **{name: float(f"{x:.6g}") if isfinite(x) else None for name, x in told.items()}}


def fit_pairs(
    h: States, wanted: Iterable[tuple[int, int]], rcond: float, device: str, notice: Callable[[str], None]
) -> Iterator[tuple[tuple[int, int], torch.Tensor, dict[str, float | int | None]]]:
    """(i, j), A from h[i] to h[j] and its `numbers`, for each wanted (i, j); an i is factorized once in a row.

    The states h[k] are [n, d]; A is float32 [d, d], as it is stored. `notice` is told once if there are too few
    sentences, and the ranks at the end. Of n a little above d it is told what no penalty costs: the squared error
    on new sentences is expected to be d / (n - d - 1) above that of the best linear map.
    """
    if not (wanted := [*wanted]):
        return
    n, d = h[0].shape
    if n < d:
        notice(f"  {n} sentences for states of width {d}: the solution is the one of minimum norm")
    elif (inflation := d / (n - d - 1) if n > d + 1 else inf) > INFLATION:
        above = f"{inflation:.0%} above" if isfinite(inflation) else "any number of times"
        notice(f"  {n} sentences for states of width {d}: expect an error on new ones {above} the best map's")
    ranks = []
    for i, pairs_from_i in groupby(wanted, key=lambda pair: pair[0]):
        factors = factorize(h[i].to(device), rcond)
        ranks.append(factors.rank)
        for _, j in pairs_from_i:
            A = factors.fit(h[j].to(device)).float().cpu()
            yield (i, j), A, numbers(A, factors)
    short = sum(rank < d for rank in ranks)
    below = f"; below {d}, of {short} of {len(ranks)} sources, the solution is the one of minimum norm" if short else ""
    notice(f"  ranks of the sources: {min(ranks)} to {max(ranks)} of {d}{below}")
