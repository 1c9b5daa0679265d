"""Least squares between hidden states, and what a fitted matrix does.

    A = argmin_A  sum over k of || A x_k - y_k ||^2          (no intercept, no penalty, minimum norm)

Shapes: sources X [n, d], row k is x_k; targets Y [n, m]; A [m, d], applied as `A @ x`. The solution
is A^T = X^+ Y. It goes through X = Q R and R = U S V^T, so one factorization of X serves any number
of targets: A^T = V S^+ U^T (Q^T Y), and the singular values of X come with it.

Edges: singular values up to `rcond` times the largest count as zero, so that rank-deficient sources
(fewer sentences than d; BERT's layer 0 at [MASK], which knows only its position) give the solution
of minimum norm. All arithmetic is float64, whatever the states came in.

"Linear Shortcut Across Blocks" in the paper, which used scikit-learn 1.2.0 on float32.
Departure: solved in float64. Same estimator, same cut-off, no rounding of the solution.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch

States = torch.Tensor | Sequence[torch.Tensor]
Filter = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Factorization:
    """X = Q U S V^T without the singular values that count as zero.

    Attributes:
        q: Q, [n, min(n, d)], orthonormal columns.
        u: U, [min(n, d), rank], orthonormal columns.
        singular_values: S, [rank], descending.
        v: V, [d, rank], orthonormal columns.
    """

    q: torch.Tensor
    u: torch.Tensor
    singular_values: torch.Tensor
    v: torch.Tensor

    @property
    def rank(self) -> int:
        """Number of singular values above the cut-off."""
        return len(self.singular_values)

    @property
    def condition(self) -> float:
        """Largest singular value over the smallest one kept; infinite where none is."""
        return (self.singular_values[0] / self.singular_values[-1]).item() if self.rank else float("inf")

    def fit(self, targets: torch.Tensor, factors: Filter = torch.ones_like) -> torch.Tensor:
        """The A [m, d], float64, that takes the factorized sources to `targets` [n, m]:

            A^T = V f(S) S^-1 U^T Q^T Y

        Args:
            targets: Y.
            factors: f, the filter factors of the singular values, [rank] to [rank]; with 1 A is the
                least-squares solution of minimum norm, with S^2 / (S^2 + c) that of ridge regression.

        Raises:
            ValueError: another number of rows than the sources had.
        """
        if targets.ndim != 2 or len(targets) != len(self.q):
            raise ValueError(f"targets are {list(targets.shape)}, expected [{len(self.q)}, m] as the sources")
        projected = self.u.T @ (self.q.T @ targets.to(self.q))
        filtered = projected * factors(self.singular_values)[:, None] / self.singular_values[:, None]
        return (self.v @ filtered).T.contiguous()


def factorize(sources: torch.Tensor, rcond: float) -> Factorization:
    """Factorize X [n, d] once for all its targets; singular values up to `rcond` S[0] count as zero.

    Raises:
        ValueError: not a matrix with at least one row, or a value that is not finite.
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


@dataclass(frozen=True)
class Fit:
    """One fitted matrix and the numbers by which a bad fit is seen.

    Attributes:
        A: float32 [m, d], as it is stored.
        rank: of its sources.
        condition: of its sources, see `Factorization.condition`.
    """

    A: torch.Tensor
    rank: int
    condition: float

    @property
    def numbers(self) -> dict[str, float | int | None]:
        """Rank of the sources and their condition (None at rank 0), Frobenius norms of A and of A - I."""
        distance = torch.linalg.norm(self.A.double() - torch.eye(*self.A.shape, dtype=torch.float64))
        norm = torch.linalg.norm(self.A.double())
        return {
            "rank": self.rank,
            "condition": float(f"{self.condition:.6g}") if self.rank else None,
            "norm": float(f"{norm.item():.6g}"),
            "distance_from_identity": float(f"{distance.item():.6g}"),
        }


def fit_pairs(
    h: States, wanted: Iterable[tuple[int, int]], rcond: float, device: str, notice: Callable[[str], None]
) -> Iterator[tuple[tuple[int, int], Fit]]:
    """(i, j) and the fit of A from h[i] to h[j], for each wanted (i, j); each run of equal i is factorized once.

    Args:
        h: states; h[k] is [n, d].
        wanted: pairs of indices into `h`.
        rcond: see `factorize`.
        device: where to compute.
        notice: told once if there are fewer sentences than d, and the ranks at the end.
    """
    n, d = h[0].shape
    if n < d:
        notice(f"  {n} sentences for states of width {d}: the solution is the one of minimum norm")
    ranks = []
    for i, pairs_from_i in groupby(wanted, key=lambda pair: pair[0]):
        factors = factorize(h[i].to(device), rcond)
        ranks.append(factors.rank)
        for _, j in pairs_from_i:
            yield (i, j), Fit(factors.fit(h[j].to(device)).float().cpu(), factors.rank, factors.condition)
    short = sum(rank < d for rank in ranks)
    below = f"; below {d}, of {short} of {len(ranks)} sources, the solution is the one of minimum norm" if short else ""
    notice(f"  ranks of the sources: {min(ranks)} to {max(ranks)} of {d}{below}")
