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

Other kinds of maps stand beside the paper's, a row of `KINDS` each. With B the least-squares map from x to y - x:

    affine     A x + b, that of x with a 1 below it: A is [m, d + 1]
    ridge      A = I + B, B penalized by c || B ||^2, c by generalized cross-validation for each pair of layers
    low-rank   A = I + W W^T B, W the r directions that most of what B explains lies in
    jacobian   the mean derivative of y by x (see `jacobian`)
    tuned      an affine map that others have trained on what it predicts, imported
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from math import inf, isfinite
from typing import Any

import torch

States = torch.Tensor | Sequence[torch.Tensor]
Fit = tuple[torch.Tensor, dict[str, Any]]  # A, and what is told of it

INFLATION = 0.25  # of the expected error on new sentences, from which on a warning is printed


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

    def project(self, targets: torch.Tensor) -> torch.Tensor:
        """U^T Q^T Y, [rank, m]: what of `targets` Y [n, m] lies in the space of the sources.

        Raises ValueError: another number of rows than the sources had.
        """
        if targets.ndim != 2 or len(targets) != len(self.q):
            raise ValueError(f"targets are {list(targets.shape)}, expected [{len(self.q)}, m] as the sources")
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


def least_squares(factors: Factorization, X: torch.Tensor, Y: torch.Tensor) -> Fit:
    """The paper's map."""
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
    """A kind of map from layer to layer."""

    fit: Callable[..., Fit] | None = None  # from the factorized sources, X and Y; None: not from these
    intercept: bool = False  # whether A has a column more, which is added
    last_only: bool = False  # whether there are only maps into the last layer
    settings: tuple[str, ...] = ()  # of config.py, that it depends on

    def of_rank(self, rank: int) -> "Kind":
        """The same where its maps are, if they are of low rank, of this one."""
        return replace(self, fit=partial(self.fit, rank=rank)) if "rank" in self.settings else self

    def sources(self, X: torch.Tensor) -> torch.Tensor:
        """What is factorized for it, [n, d] or [n, d + 1]."""
        return torch.cat([X, X.new_ones(len(X), 1)], 1) if self.intercept else X

    def is_exact(self, n: int, d: int) -> bool:
        """True if a fit on n training states of width d goes through all of them, and so does that of two jumps."""
        return self.fit is least_squares and n <= d + self.intercept

    def warning(self, n: int, d: int) -> str:
        """One line if the squared error on new sentences is expected to be far above that of the best map, else "".

        With p = d parameters a coordinate, d + 1 with an intercept, least squares is above it by p / (n - p - 1), and
        without bound for n <= p + 1. Low-rank maps have no formula, and no bound there either. Ridge has a penalty.
        """
        p = d + self.intercept
        inflation = p / (n - p - 1) if n > p + 1 else inf
        if not (inflation > INFLATION if self.fit is least_squares else "rank" in self.settings and inflation == inf):
            return ""
        above = f"{inflation:.0%} above" if isfinite(inflation) else "any number of times"
        expected = f"{n} training states of width {d}: expect a squared error on new sentences {above} the best map's."
        exact = " The maps fit their training states exactly: that two jumps lose nothing has no meaning."
        return f"{expected} Use more sentences or, between layers, --map ridge.{exact * self.is_exact(n, d)}"


LEAST_SQUARES = "least-squares"
KINDS = {
    LEAST_SQUARES: Kind(least_squares),
    "affine": Kind(least_squares, intercept=True),
    "ridge": Kind(ridge),
    "low-rank": Kind(low_rank, settings=("rank",)),
    "jacobian": Kind(last_only=True, settings=("probes",)),
    "tuned": Kind(intercept=True, last_only=True),
}
GRID = 121  # penalties that are tried


def apply(A: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """A h for every state in h [..., d]; the result is [..., m]. The last column of an A [m, d + 1] is added."""
    d = h.shape[-1]
    return h @ A[:, :d].T + A[:, d] if A.shape[1] > d else h @ A.T


def numbers(A: torch.Tensor, factors: Factorization) -> dict[str, float | int | None]:
    """Number, rank and condition (None at rank 0) of the sources; norms of A and A - I, without the intercept."""
    A = A[:, : len(A)].double()
    norm, distance = (torch.linalg.norm(M).item() for M in (A, A - torch.eye(len(A)).to(A)))
    told = {"condition": factors.condition, "norm": norm, "distance_from_identity": distance}
    counts = {"states": len(factors.q), "rank": factors.rank}
    return counts | {name: float(f"{x:.6g}") if isfinite(x) else None for name, x in told.items()}


def fit_pairs(
    h: States, wanted: Iterable[tuple[int, int]], rcond: float, device: str, notice: Callable[[str], None],
    kind: Kind = KINDS[LEAST_SQUARES],
) -> Iterator[tuple[tuple[int, int], torch.Tensor, dict[str, Any]]]:  # fmt: skip
    """(i, j), A from h[i] to h[j] and its `numbers`, for each wanted (i, j); an i is factorized once in a row.

    The states h[k] are [n, d]; A is float32 [d, d], or [d, d + 1], as it is stored.
    `notice` is told once the `Kind.warning`, if there is one, and the ranks at the end.
    """
    if not (wanted := [*wanted]):
        return
    n, d = h[0].shape
    if warning := kind.warning(n, d):
        notice(f"  {warning}")
    ranks = []
    for i, pairs_from_i in groupby(wanted, key=lambda pair: pair[0]):
        X = h[i].to(device)
        factors = factorize(kind.sources(X), rcond)
        ranks.append(factors.rank)
        for _, j in pairs_from_i:
            A, told = kind.fit(factors, X, h[j].to(device))
            A = A.float().cpu()
            yield (i, j), A, numbers(A, factors) | told
    columns = d + kind.intercept
    short = sum(rank < columns for rank in ranks)
    below = f"; below {columns}, of {short} of {len(ranks)} sources, the solution is the one of minimum norm"
    below = below if short and kind.fit is least_squares else ""
    notice(f"  ranks of the sources: {min(ranks)} to {max(ranks)} of {columns}{below}")
