"""Linear maps between hidden states, fitted by least squares.

    A = argmin_A  sum over k of || A x_k - y_k ||^2          (no intercept, no penalty, minimum norm)

Shapes: sources X [n, d], row k is x_k; targets Y [n, m]; A [m, d], applied as `A @ x`. With X = Q R and R = U S V^T
the solution is A^T = X^+ Y = V S^+ U^T (Q^T Y), so one factorization of X serves any number of targets.

Edge case: singular values up to `rcond` times the largest count as zero. Rank-deficient sources (fewer sentences than
d; BERT's layer 0 at [MASK], which depends only on the position) give the solution of minimum norm.

"Linear Shortcut Across Blocks" in the paper, which used scikit-learn 1.2.0 on float32.
Departure: fits are solved in float64, with the same estimator and cut-off, so the solution is not rounded.
"""

from collections.abc import Callable, Iterator, Sequence
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

    def project(self, targets: torch.Tensor) -> torch.Tensor:
        """U^T Q^T Y, [rank, m]: the targets Y [n, m] projected on the column space of X."""
        return self.u.T @ (self.q.T @ targets.to(self.q))

    def solve(self, projected: torch.Tensor, penalty: float = 0.0) -> torch.Tensor:
        """A [m, d], float64, from `projected` targets: A^T = V S (S^2 + c)^-1 U^T Q^T Y, where c is the penalty."""
        s = self.singular_values
        return (self.v @ (projected * (s / (s.square() + penalty))[:, None])).T.contiguous()


def factorize(sources: torch.Tensor, rcond: float) -> Factorization:
    """Factorize X [n, d] without the singular values up to `rcond` times the largest."""
    q, r = torch.linalg.qr(sources.double())
    u, s, vh = torch.linalg.svd(r, full_matrices=False)
    rank = int((s > rcond * s[0]).sum())
    return Factorization(q, u[:, :rank], s[:rank], vh[:rank].T)


def least_squares(factors: Factorization, X: torch.Tensor, Y: torch.Tensor) -> Fit:
    """The paper's map; affine, A x + b, if X has a column of ones."""
    return factors.solve(factors.project(Y)), {}


def ridge(factors: Factorization, X: torch.Tensor, Y: torch.Tensor) -> Fit:
    """A = I + B with B = argmin || X B^T - (Y - X) ||^2 + c || B ||^2.

    The penalty c minimizes this score on a grid around the squared singular values (Golub, Heath and Wahba 1979):

        GCV(c) = || X B^T - (Y - X) ||^2 / (n - sum over k of s_k^2 / (s_k^2 + c))^2

    It assumes independent rows: with positions of one sentence correlated by 0.5 and 0.8, the error is 2% and 14% above
    the error with the best penalty.
    """
    residual, s2 = Y.double() - X.double(), factors.singular_values.square()
    if not len(s2):  # sources without any variance, once they are centred
        return torch.eye(X.shape[1], dtype=torch.float64).to(X.device), {"penalty": 0.0}
    projected = factors.project(residual)
    outside, inside = residual.square().sum() - projected.square().sum(), projected.square().sum(1)
    ends = s2[-1].log10() - 2, s2[0].log10() + 4
    c = torch.logspace(*map(float, ends), GRID, dtype=torch.float64)[:, None].to(s2)
    gcv = (outside + (inside * (c / (s2 + c)).square()).sum(1)) / (len(X) - (s2 / (s2 + c)).sum(1)).square()
    penalty = c[gcv.argmin()].item()
    A = factors.solve(projected, penalty)
    return A + torch.eye(len(A)).to(A), {"penalty": penalty}


def low_rank(factors: Factorization, X: torch.Tensor, Y: torch.Tensor, rank: int) -> Fit:
    """Reduced-rank regression: among all I + C with C of this rank, A has the least squared error on X and Y.

    A = I + W W^T B, where W has the leading eigenvectors of B X^T X B^T and B is as in `ridge` with c = 0. The
    eigenvalues also give r2 by rank, 1 - sum SSE / sum SST.
    """
    residual = Y.double() - X.double()
    projected = factors.project(residual)
    values, vectors = torch.linalg.eigh(projected.T @ projected)
    W = vectors[:, -rank:]
    A = W @ (W.T @ factors.solve(projected))
    unexplained = residual.square().sum() - torch.cat([values.new_zeros(1), values.flip(0).clamp_min(0).cumsum(0)])
    r2 = 1 - unexplained / (Y.double() - Y.double().mean(0)).square().sum().clamp_min(torch.finfo(Y.dtype).tiny)
    ranks = sorted({0, *(2**k for k in range(len(A).bit_length())), rank, len(A)})
    by_rank = {str(r): r2[r].item() for r in ranks if r <= len(A)}
    return A + torch.eye(len(A)).to(A), {"kept_rank": min(rank, len(A)), "r2_by_rank": by_rank}


@dataclass(frozen=True)
class Kind:
    """A map kind: how its maps are fitted, and the properties they have."""

    name: str
    fit: Callable[..., Fit] | None = None  # called with factorized X, X, Y and settings; None: fitted elsewhere
    fitted_from: str = "states"  # "gradients": see `jacobian`; "predictions": see `trained`; "": only imported
    settings: tuple[str, ...] = ()  # keyword arguments of `fit`; in config.py their names are in capitals
    intercept: bool = False  # True if A has one more column, which is added to A h
    last_only: bool = False  # True if all maps have the last layer as target
    tolerated: float = inf  # excess of the expected squared error (see `warning`) above which a warning is printed

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
        return self.fit is least_squares and n <= self.columns(d)

    def warning(self, n: int, d: int) -> str:
        """One line if the expected squared error on new sentences is far above the best map's, else "".
        With p columns the excess is p / (n - p - 1), unbounded for n <= p + 1; low-rank maps: only the latter is known.
        """
        p = self.columns(d)
        excess = p / (n - p - 1) if n > p + 1 else inf
        if excess <= self.tolerated:
            return ""
        above = f"{excess:.0%} above" if isfinite(excess) else "arbitrarily far above"
        expected = f"{n} training states of width {d}: the expected squared error on new sentences is {above}"
        exact = " The fits are exact, so the loss of two jumps has no meaning." if self.is_exact(n, d) else ""
        return f"{expected} the best map's. Use more sentences or, between layers, --map ridge.{exact}"


KINDS = {kind.name: kind for kind in (
    Kind(LEAST_SQUARES, least_squares, tolerated=0.25),
    Kind("affine", least_squares, intercept=True, tolerated=0.25),
    Kind("ridge", ridge),
    Kind("low-rank", low_rank, settings=("rank",), tolerated=torch.finfo(torch.float64).max),  # any finite excess
    Kind("jacobian", fitted_from="gradients", settings=("probes", "seed"), last_only=True),
    Kind("jacobian-later", fitted_from="gradients", settings=("probes", "seed"), last_only=True),
    Kind("jacobian-affine", fitted_from="gradients", settings=("probes", "seed"), intercept=True, last_only=True),
    Kind("trained", fitted_from="predictions", settings=("seed",), intercept=True, last_only=True),
    Kind("tuned", fitted_from="", intercept=True, last_only=True),  # trained elsewhere on the model's predictions
)}  # fmt: skip
GRID = 121  # penalties that `ridge` tries


@dataclass(frozen=True, eq=False)
class Map:
    """The estimate A h of the state at layer `target` from the state h at layer `source`."""

    A: torch.Tensor  # [d, d], or [d, d + 1] with an intercept, the last column, which is added to the product
    map_kind: str  # a row of `KINDS`
    source: int  # layer; for sub-modules, the number of the point among the states given to `fit_pairs`
    target: int  # likewise

    def __call__(self, h: torch.Tensor) -> torch.Tensor:
        """A h, plus the intercept if there is one, for states h [..., d]."""
        made = h @ self.matrix.T
        return made + self.A[:, -1] if self.A.shape[1] > len(self.A) else made

    @property
    def matrix(self) -> torch.Tensor:
        """A [d, d], without the intercept."""
        return self.A[:, : len(self.A)]

    def to(self, *where: Any) -> "Map":
        """The same map on another device or in another precision, as `torch.Tensor.to`."""
        return replace(self, A=self.A.to(*where))

    def after(self, first: "Map") -> "Map":
        """The map x -> self(first(x)), float64; `first` has the same map kind."""
        own, d = self.A.double(), len(self.A)
        A = own[:, :d] @ first.A.double()
        A[:, d:] += own[:, d:]  # the intercept, if there is one
        return replace(self, A=A, source=first.source)


def numbers(A: Map, factors: Factorization) -> dict[str, float | int | None]:
    """Number, rank and condition number of the sources (None at rank 0); norms of A and A - I without the intercept."""
    matrix, s = A.matrix.double(), factors.singular_values
    measured = {
        "condition": (s[0] / s[-1]).item() if len(s) else inf,
        "norm": torch.linalg.norm(matrix).item(),
        "distance_from_identity": torch.linalg.norm(matrix - torch.eye(len(matrix)).to(matrix)).item(),
    }
    finite = {name: x if isfinite(x) else None for name, x in measured.items()}
    return {"states": len(factors.q), "rank": len(s), **finite}


def fit_pairs(
    h: States, wanted: Sequence[tuple[int, int]], rcond: float, device: str, notice: Callable[[str], None],
    map_kind: Kind = KINDS[LEAST_SQUARES],
) -> Iterator[tuple[Map, dict[str, Any]]]:  # fmt: skip
    """Fit the map from h[i] to h[j], float32 as in its file, and its `numbers`, for each wanted (i, j).

    States h[k]: [n, d]. A source i is factorized once if its pairs are consecutive in `wanted`. `notice` is called with
    the `Kind.warning`, if there is one, and at the end with the ranks of the sources.
    """
    if not wanted:
        return
    n, d = h[0].shape
    if warning := map_kind.warning(n, d):
        notice(f"  {warning}")
    columns, ranks = map_kind.columns(d), []
    for i, pairs_from_i in groupby(wanted, key=lambda pair: pair[0]):
        X = h[i].to(device)
        factors = map_kind.factorize(X, rcond)
        ranks.append(len(factors.singular_values))
        for _, j in pairs_from_i:
            A, statistics = map_kind.fit(factors, X, h[j].to(device))
            made = Map(A.float().cpu(), map_kind.name, i, j)
            yield made, numbers(made, factors) | statistics
    below = f"; the lowest rank is {min(ranks)}" if min(ranks) < columns else ""
    norm = ", and its map has minimum norm" if below and map_kind.fit is least_squares else ""
    notice(f"  {ranks.count(columns)} of {len(ranks)} sources have full rank ({columns}){below}{norm}")
