"""Linear maps between hidden states, fitted by least squares.

    A = argmin_A  sum over k of || A x_k - y_k ||^2          (no intercept, no penalty, minimum norm)

Shapes: sources X [n, d], row k is x_k; targets Y [n, m]; A [m, d], applied as `A @ x`. The solution
is A^T = X^+ Y. It goes through X = Q R and R = U S V^T, so one factorization of X serves any number
of targets: A^T = V S^+ U^T (Q^T Y), and the singular values of X come with it.

Edges: singular values up to `rcond` times the largest count as zero, so that rank-deficient sources
(fewer sentences than d; BERT's layer 0 at [MASK], which knows only its position) give the solution
of minimum norm. Fits are solved in float64.

"Linear Shortcut Across Blocks" in the paper, which used scikit-learn 1.2.0 on float32.
Departure: solved in float64. Same estimator, same cut-off, no rounding of the solution.

`KINDS` has a row for each map kind, `Map` is a fitted map.
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
Fit = tuple[torch.Tensor, dict[str, Any]]  # A, and further numbers of the fit


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

    def project(self, targets: torch.Tensor) -> torch.Tensor:
        """U^T Q^T Y, [rank, m]: the part of `targets` Y [n, m] in the space of the sources."""
        return self.u.T @ (self.q.T @ targets.to(self.q))

    def solve(self, projected: torch.Tensor, penalty: float = 0.0) -> torch.Tensor:
        """The A [m, d], float64, that takes the sources to the targets of `projected`:

            A^T = V S (S^2 + c)^-1 U^T Q^T Y

        With the penalty c = 0 it is the least-squares solution of minimum norm, else that of ridge regression.
        """
        s = self.singular_values
        return (self.v @ (projected * (s / (s.square() + penalty))[:, None])).T.contiguous()

    def fit(self, targets: torch.Tensor) -> torch.Tensor:
        """The least-squares solution of minimum norm, A [m, d], float64, for `targets` Y [n, m] (see `project`)."""
        return self.solve(self.project(targets))


def factorize(sources: torch.Tensor, rcond: float) -> Factorization:
    """Factorize X [n, d] once for all its targets; singular values up to `rcond` S[0] count as zero.

    Raises ValueError: a value is not finite.
    """
    if not torch.isfinite(sources).all():
        raise ValueError("sources hold values that are not finite: the fit would be garbage")
    q, r = torch.linalg.qr(sources.double())
    u, s, vh = torch.linalg.svd(r, full_matrices=False)
    rank = int((s > rcond * s[0]).sum())
    return Factorization(q, u[:, :rank], s[:rank], vh[:rank].T)


def least_squares(factors: Factorization, X: torch.Tensor, Y: torch.Tensor) -> Fit:
    """The paper's map; affine, A x + b, if X has a column of ones."""
    return factors.fit(Y), {}


def ridge(factors: Factorization, X: torch.Tensor, Y: torch.Tensor, penalty: float | None = None) -> Fit:
    """A = I + B with B = argmin || X B^T - (Y - X) ||^2 + c || B ||^2, by the `penalty` c.

    If that is None, the one of `GRID` between the squares of the singular values, and beyond, for which

        GCV(c) = || X B^T - (Y - X) ||^2 / (n - sum over k of s_k^2 / (s_k^2 + c))^2

    is least (Golub, Heath and Wahba 1979). It takes the rows as independent, which several positions of a sentence are
    not: at correlations of 0.5 and 0.8 between them the error is 2% and 14% above that of the best penalty.
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
    """A = I + W W^T B with W the leading eigenvectors of B X^T X B^T, B that of `ridge` with c = 0.

    Of all maps I + C of this rank it has the least squared error on the sources (reduced-rank regression). Told is
    r2 on them by rank, 1 - sum SSE / sum SST, which the eigenvalues give.
    """
    residual = Y.double() - X.double()
    projected = factors.project(residual)
    values, vectors = torch.linalg.eigh(projected.T @ projected)
    W = vectors[:, -rank:]
    A = W @ (W.T @ factors.solve(projected))
    unexplained = residual.square().sum() - torch.cat([values.new_zeros(1), values.flip(0).clamp_min(0).cumsum(0)])
    r2 = 1 - unexplained / (Y.double() - Y.double().mean(0)).square().sum().clamp_min(torch.finfo(Y.dtype).tiny)
    ranks = sorted({0, *(2**k for k in range(len(A).bit_length())), rank, len(A)})
    told = {str(r): float(f"{r2[r].item():.6g}") for r in ranks if r <= len(A)}
    return A + torch.eye(len(A)).to(A), {"kept_rank": min(rank, len(A)), "r2_by_rank": told}


@dataclass(frozen=True)
class Kind:
    """A map kind: how its maps are fitted, and what is known of them."""

    name: str
    fit: Callable[..., Fit] | None = None  # from the factorized sources, X, Y and its settings; None: made elsewhere
    settings: tuple[str, ...] = ()  # keyword arguments of `fit`, which config.py has in capital letters
    intercept: bool = False  # True if A has a further column, which is added
    last_only: bool = False  # True if all maps lead into the last layer
    exact: bool = False  # True if the fit goes through all training states when these are few
    tolerated: float = inf  # expected excess of the squared error on new sentences above which a warning is printed

    def with_settings(self, **settings: Any) -> "Kind":
        """The same kind with its `settings` fixed."""
        return replace(self, fit=partial(self.fit, **settings)) if settings else self

    def columns(self, d: int) -> int:
        """The number of columns of A in a model of width d."""
        return d + self.intercept

    def factorize(self, X: torch.Tensor, rcond: float) -> Factorization:
        """The factorization of the sources X [n, d], with a column of ones for an intercept."""
        return factorize(torch.cat([X, X.new_ones(len(X), 1)], 1) if self.intercept else X, rcond)

    def is_exact(self, n: int, d: int) -> bool:
        """True if a fit on n training states of width d goes through all of them, and so do two jumps in a row."""
        return self.exact and n <= self.columns(d)

    def warning(self, n: int, d: int) -> str:
        """One line if the expected squared error on new sentences is far above the best map's, else "".

        With p parameters a coordinate (d, or d + 1 with an intercept) the error of least squares is above it by
        p / (n - p - 1), and without bound for n <= p + 1. Low-rank maps have no formula, and no bound there either.
        """
        p = self.columns(d)
        excess = p / (n - p - 1) if n > p + 1 else inf
        if excess <= self.tolerated:
            return ""
        above = f"{excess:.0%} above" if isfinite(excess) else "any number of times"
        expected = f"{n} training states of width {d}: expect a squared error on new sentences {above} the best map's."
        exact = " The maps fit their training states exactly: that two jumps lose nothing has no meaning."
        return f"{expected} Use more sentences or, between layers, --map ridge.{exact * self.is_exact(n, d)}"


KINDS = {kind.name: kind for kind in (
    Kind(LEAST_SQUARES, least_squares, exact=True, tolerated=0.25),
    Kind("affine", least_squares, intercept=True, exact=True, tolerated=0.25),
    Kind("ridge", ridge),
    Kind("low-rank", low_rank, settings=("rank",), tolerated=torch.finfo(torch.float64).max),  # any finite excess
    Kind("jacobian", settings=("probes",), last_only=True),  # the mean derivative of h_L by h_l (see `jacobian`)
    Kind("tuned", intercept=True, last_only=True),  # imported: others have trained it on the model's predictions
)}  # fmt: skip
GRID = 121  # penalties that are tried


@dataclass(frozen=True, eq=False)
class Map:
    """The estimate A h of a state at layer `target` from the state h at layer `source`.

    A is [d, d]. With an intercept it is [d, d + 1], and the last column is added.
    """

    A: torch.Tensor
    map_kind: str  # a row of `KINDS`
    source: int
    target: int

    def __call__(self, h: torch.Tensor) -> torch.Tensor:
        """A h for every state in h [..., d]."""
        made = h @ self.matrix.T
        return made + self.A[:, -1] if self.A.shape[1] > len(self.A) else made

    @property
    def matrix(self) -> torch.Tensor:
        """A without the intercept, [d, d]."""
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
    """Number, rank and condition (None at rank 0) of the sources; norms of A and A - I, without the intercept."""
    matrix, s = A.matrix.double(), factors.singular_values
    norm, distance = (torch.linalg.norm(M).item() for M in (matrix, matrix - torch.eye(len(matrix)).to(matrix)))
    condition = (s[0] / s[-1]).item() if factors.rank else inf
    told = {"condition": condition, "norm": norm, "distance_from_identity": distance}
    counts = {"states": len(factors.q), "rank": factors.rank}
    return counts | {name: float(f"{x:.6g}") if isfinite(x) else None for name, x in told.items()}


def fit_pairs(
    h: States, wanted: Iterable[tuple[int, int]], rcond: float, device: str, notice: Callable[[str], None],
    kind: Kind = KINDS[LEAST_SQUARES],
) -> Iterator[tuple[Map, dict[str, Any]]]:  # fmt: skip
    """The map from h[i] to h[j], float32 as it is stored, and its `numbers`, for each wanted (i, j).

    The states h[k] are [n, d]. Each source i is factorized once if its pairs are neighbours in `wanted`.
    `notice` receives the `Kind.warning`, if there is one, and the ranks of the sources at the end.
    """
    if not (wanted := [*wanted]):
        return
    n, d = h[0].shape
    if warning := kind.warning(n, d):
        notice(f"  {warning}")
    ranks = []
    for i, pairs_from_i in groupby(wanted, key=lambda pair: pair[0]):
        X = h[i].to(device)
        factors = kind.factorize(X, rcond)
        ranks.append(factors.rank)
        for _, j in pairs_from_i:
            A, told = kind.fit(factors, X, h[j].to(device))
            made = Map(A.float().cpu(), kind.name, i, j)
            yield made, numbers(made, factors) | told
    columns = kind.columns(d)
    short = sum(rank < columns for rank in ranks)
    below = f"; below {columns}, of {short} of {len(ranks)} sources, the solution is the one of minimum norm"
    notice(f"  ranks of the sources: {min(ranks)} to {max(ranks)} of {columns}{below * bool(short and kind.exact)}")
