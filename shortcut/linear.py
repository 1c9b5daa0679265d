"""Linear maps between hidden states, fitted by least squares.

    A = argmin_A  sum over k of || A x_k - y_k ||^2          (no intercept, no penalty, minimum norm)

Shapes: sources X [n, d], row k is x_k; targets Y [n, m]; A [m, d], applied as `A @ x`. The solution
is A^T = X^+ Y. With X = Q R and R = U S V^T it is A^T = V S^+ U^T (Q^T Y), so one factorization of X
serves any number of targets and gives the singular values of X.

Edge case: singular values up to `rcond` times the largest count as zero. Rank-deficient sources (fewer
sentences than d; BERT's layer 0 at [MASK], which depends only on the position) give the solution of
minimum norm.

"Linear Shortcut Across Blocks" in the paper, which used scikit-learn 1.2.0 on float32.
Departure: fits are solved in float64, with the same estimator and cut-off, so the solution is not rounded.

`KINDS` has a row for each map kind; `Map` is a fitted map.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from math import inf, isfinite
from typing import Any

import torch

from shortcut import LEAST_SQUARES

States = torch.Tensor | Sequence[torch.Tensor]
Fit = tuple[torch.Tensor, dict[str, Any]]  # A, and statistics of the fit


@dataclass(frozen=True)
class Factorization:
    """X = Q U S V^T, without the singular values that count as zero."""

    q: torch.Tensor  # Q, [n, min(n, d)], orthonormal columns
    u: torch.Tensor  # U, [min(n, d), rank], orthonormal columns
    singular_values: torch.Tensor  # S, [rank], descending
    v: torch.Tensor  # V, [d, rank], orthonormal columns

    @property
    def rank(self) -> int:
        """Number of singular values above the cut-off."""
        return len(self.singular_values)

    def project(self, targets: torch.Tensor) -> torch.Tensor:
        """U^T Q^T Y, [rank, m]: `targets` Y [n, m] projected on the column space of X."""
        return self.u.T @ (self.q.T @ targets.to(self.q))

    def solve(self, projected: torch.Tensor, penalty: float = 0.0) -> torch.Tensor:
        """A [m, d], float64, from projected targets [rank, m] (see `project`) and the penalty c:

            A^T = V S (S^2 + c)^-1 U^T Q^T Y

        For c = 0 it is the least-squares solution of minimum norm, otherwise the solution of ridge regression.
        """
        s = self.singular_values
        return (self.v @ (projected * (s / (s.square() + penalty))[:, None])).T.contiguous()

    def fit(self, targets: torch.Tensor) -> torch.Tensor:
        """The least-squares solution of minimum norm, A [m, d], float64, for `targets` Y [n, m] (see `project`)."""
        return self.solve(self.project(targets))


def factorize(sources: torch.Tensor, rcond: float) -> Factorization:
    """Factorize X [n, d] for any number of targets; singular values up to `rcond` times the largest count as zero.

    Raises ValueError: a value is not finite.
    """
    if not torch.isfinite(sources).all():
        raise ValueError("sources hold values that are not finite: make the states again")
    q, r = torch.linalg.qr(sources.double())
    u, s, vh = torch.linalg.svd(r, full_matrices=False)
    rank = int((s > rcond * s[0]).sum())
    return Factorization(q, u[:, :rank], s[:rank], vh[:rank].T)


def least_squares(factors: Factorization, X: torch.Tensor, Y: torch.Tensor) -> Fit:
    """The paper's map; affine, A x + b, if X has a column of ones."""
    return factors.fit(Y), {}


def ridge(factors: Factorization, X: torch.Tensor, Y: torch.Tensor, penalty: float | None = None) -> Fit:
    """A = I + B with B = argmin || X B^T - (Y - X) ||^2 + c || B ||^2, where c is the `penalty`.

    If it is None, c minimizes this score on a grid around the squared singular values (Golub, Heath and Wahba 1979):

        GCV(c) = || X B^T - (Y - X) ||^2 / (n - sum over k of s_k^2 / (s_k^2 + c))^2

    It assumes independent rows, and positions in one sentence are correlated: at correlations of 0.5 and 0.8 the error
    is 2% and 14% above the error with the best penalty.
    """
    n, residual = len(X), Y.double() - X.double()
    projected, s2 = factors.project(residual), factors.singular_values.square()
    if penalty is None and factors.rank:
        outside, inside = residual.square().sum() - projected.square().sum(), projected.square().sum(1)
        ends = s2[-1].log10() - 2, s2[0].log10() + 4
        c = torch.logspace(*map(float, ends), GRID, dtype=torch.float64)[:, None].to(s2)
        gcv = (outside + (inside * (c / (s2 + c)).square()).sum(1)) / (n - (s2 / (s2 + c)).sum(1)).square()
        penalty = c[gcv.argmin()].item()
    A = factors.solve(projected, penalty or 0.0)
    return A + torch.eye(len(A)).to(A), {"penalty": float(f"{penalty or 0.0:.6g}")}


def low_rank(factors: Factorization, X: torch.Tensor, Y: torch.Tensor, rank: int) -> Fit:
    """A = I + W W^T B, where W has the leading eigenvectors of B X^T X B^T and B is as in `ridge` with c = 0.

    Among all maps I + C with C of this rank, it has the least squared error on the training states (reduced-rank
    regression). The fit also gives r2 on them by rank, 1 - sum SSE / sum SST, from the eigenvalues.
    """
    residual = Y.double() - X.double()
    projected = factors.project(residual)
    values, vectors = torch.linalg.eigh(projected.T @ projected)
    W = vectors[:, -rank:]
    A = W @ (W.T @ factors.solve(projected))
    unexplained = residual.square().sum() - torch.cat([values.new_zeros(1), values.flip(0).clamp_min(0).cumsum(0)])
    r2 = 1 - unexplained / (Y.double() - Y.double().mean(0)).square().sum().clamp_min(torch.finfo(Y.dtype).tiny)
    ranks = sorted({0, *(2**k for k in range(len(A).bit_length())), rank, len(A)})
    by_rank = {str(r): float(f"{r2[r].item():.6g}") for r in ranks if r <= len(A)}
    return A + torch.eye(len(A)).to(A), {"kept_rank": min(rank, len(A)), "r2_by_rank": by_rank}


@dataclass(frozen=True)
class Kind:
    """A map kind: how its maps are fitted, and the properties they have."""

    name: str
    fit: Callable[..., Fit] | None = None  # called with factorized X, X, Y and settings; None: fitted elsewhere
    settings: tuple[str, ...] = ()  # keyword arguments of `fit`; in config.py their names are in capitals
    intercept: bool = False  # True if A has one more column, which is added to A h
    last_only: bool = False  # True if all maps have the last layer as target
    exact: bool = False  # True if the fit is exact on few training states
    tolerated: float = inf  # excess of the expected squared error on new sentences above which a warning is printed

    def with_settings(self, **settings: Any) -> "Kind":
        """The same kind with its `settings` fixed."""
        return replace(self, fit=partial(self.fit, **settings)) if settings else self

    def columns(self, d: int) -> int:
        """Number of columns in A for a model of width d."""
        return d + self.intercept

    def factorize(self, X: torch.Tensor, rcond: float) -> Factorization:
        """Factorize the sources X [n, d], with a column of ones if there is an intercept."""
        return factorize(torch.cat([X, X.new_ones(len(X), 1)], 1) if self.intercept else X, rcond)

    def is_exact(self, n: int, d: int) -> bool:
        """True if maps fitted on n training states of width d are exact on them, and so are two jumps in a row."""
        return self.exact and n <= self.columns(d)

    def warning(self, n: int, d: int) -> str:
        """One line if the expected squared error on new sentences is far above the best map's, else "".

        With p parameters per coordinate (d, or d + 1 with an intercept) the excess error of least squares is
        p / (n - p - 1), unbounded for n <= p + 1. For low-rank maps only the unbounded case is known.
        """
        p = self.columns(d)
        excess = p / (n - p - 1) if n > p + 1 else inf
        if excess <= self.tolerated:
            return ""
        above = f"{excess:.0%} above" if isfinite(excess) else "arbitrarily far above"
        expected = f"{n} training states of width {d}: the expected squared error on new sentences is {above}"
        exact = self.is_exact(n, d) * " The fits are exact, so the loss of two jumps has no meaning."
        return f"{expected} the best map's. Use more sentences or, between layers, --map ridge.{exact}"


KINDS = {kind.name: kind for kind in (
    Kind(LEAST_SQUARES, least_squares, exact=True, tolerated=0.25),
    Kind("affine", least_squares, intercept=True, exact=True, tolerated=0.25),
    Kind("ridge", ridge),
    Kind("low-rank", low_rank, settings=("rank",), tolerated=torch.finfo(torch.float64).max),  # any finite excess
    Kind("jacobian", settings=("probes", "seed"), last_only=True),  # see `jacobian`
    Kind("tuned", intercept=True, last_only=True),  # imported; trained elsewhere on the model's predictions
)}  # fmt: skip
GRID = 121  # penalties that `ridge` tries


@dataclass(frozen=True, eq=False)
class Map:
    """The estimate A h of the state at layer `target` from the state h at layer `source`.

    A is [d, d]; with an intercept it is [d, d + 1], and the last column is added to the product.
    """

    A: torch.Tensor
    map_kind: str  # a row of `KINDS`
    source: int  # layer; for sub-modules, the number of the point among the states given to `fit_pairs`
    target: int  # likewise

    def __call__(self, h: torch.Tensor) -> torch.Tensor:
        """A h, with the intercept added if there is one, for states h [..., d]."""
        made = h @ self.matrix.T
        return made + self.A[:, -1] if self.A.shape[1] > len(self.A) else made

    @property
    def matrix(self) -> torch.Tensor:
        """A [d, d], without the intercept."""
        return self.A[:, : len(self.A)]

    def to(self, *where: Any) -> "Map":
        """The same map on another device or in another precision (see `torch.Tensor.to`)."""
        return replace(self, A=self.A.to(*where))

    def after(self, first: "Map") -> "Map":
        """The map x -> self(first(x)), float64; `first` has the same map kind."""
        own, d = self.to(torch.float64), len(self.A)
        A = own.matrix @ first.A.double()
        A[:, d:] += own.A[:, d:]  # the intercept, if there is one
        return replace(self, A=A, source=first.source)


def numbers(A: Map, factors: Factorization) -> dict[str, float | int | None]:
    """Number, rank and condition number of the sources (None at rank 0); norms of A and A - I without the intercept."""
    matrix, s = A.matrix.double(), factors.singular_values
    norm, distance = (torch.linalg.norm(M).item() for M in (matrix, matrix - torch.eye(len(matrix)).to(matrix)))
    condition = (s[0] / s[-1]).item() if factors.rank else inf
    measured = {"condition": condition, "norm": norm, "distance_from_identity": distance}
    counts = {"states": len(factors.q), "rank": factors.rank}
    return counts | {name: float(f"{x:.6g}") if isfinite(x) else None for name, x in measured.items()}


def fit_pairs(
    h: States, wanted: Iterable[tuple[int, int]], rcond: float, device: str, notice: Callable[[str], None],
    map_kind: Kind = KINDS[LEAST_SQUARES],
) -> Iterator[tuple[Map, dict[str, Any]]]:  # fmt: skip
    """Fit the map from h[i] to h[j], float32 as in its file, and its `numbers`, for each wanted (i, j).

    States h[k]: [n, d]. Each source i is factorized once if its pairs are consecutive in `wanted`.
    `notice` is called with the `Kind.warning`, if there is one, and at the end with the ranks of the sources.
    """
    if not (wanted := [*wanted]):
        return
    n, d = h[0].shape
    if warning := map_kind.warning(n, d):
        notice(f"  {warning}")
    ranks = []
    for i, pairs_from_i in groupby(wanted, key=lambda pair: pair[0]):
        X = h[i].to(device)
        factors = map_kind.factorize(X, rcond)
        ranks.append(factors.rank)
        for _, j in pairs_from_i:
            A, statistics = map_kind.fit(factors, X, h[j].to(device))
            made = Map(A.float().cpu(), map_kind.name, i, j)
            yield made, numbers(made, factors) | statistics
    columns = map_kind.columns(d)
    short = sum(rank < columns for rank in ranks)
    below = f"; the lowest rank is {min(ranks)}{', and its map has minimum norm' * map_kind.exact}"
    notice(f"  {len(ranks) - short} of {len(ranks)} sources have full rank ({columns}){below * bool(short)}")
