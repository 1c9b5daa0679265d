"""Metrics for an approximation of a hidden state, and for predictions from it.

In the paper: "Linear Shortcut Across Blocks" (r2), "Linear Shortcut for Language Modeling" (Precision@k, surprisal) and
"Implication to Early Exiting" (the gap). KL, entropy and cross-entropy, by which lenses are compared, came later.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

TOP = 10  # tokens kept of each prediction: the largest k of Precision@k
FLAT = 1e-6  # so small a share of the usual variance: a standard deviation of a thousandth


class R2(NamedTuple):
    """Coefficients of determination, and the number of coordinates that hardly vary."""

    mean: float  # plain mean over the d coordinates, as in the paper
    weighted: float  # mean weighted by the coordinates' variances
    flat: int  # target coordinates whose variance is at most `FLAT` times the usual variance

    @property
    def misleads(self) -> bool:
        """True if some coordinates hardly vary, or if those that vary little decide a plain mean below -1."""
        return self.flat > 0 or 1 - self.mean > max(2, 10 * (1 - self.weighted))


def r2_score(prediction: torch.Tensor, target: torch.Tensor) -> R2:
    """Coefficient of determination of states [n, d], from the sums over the sentences s of each coordinate c:

        sse_c = sum_s (target_sc - prediction_sc)^2        sst_c = sum_s (target_sc - m_c)^2
        mean = mean over c of  1 - sse_c / sst_c           weighted = 1 - sum_c sse_c / sum_c sst_c

    with m_c the mean of the targets: scikit-learn's `r2_score`, as in the paper, on float64. A coordinate without
    variance scores 1 if predicted exactly and 0 otherwise, and has no weight in the weighted score. The usual variance,
    for `flat`, is the one that a tenth of the coordinates exceed.
    """
    from sklearn.metrics import r2_score as scores  # noqa: PLC0415  (takes a second to import)

    target, prediction = (states.double().cpu().numpy() for states in (target, prediction))
    by_coordinate, variance = scores(target, prediction, multioutput="raw_values"), target.var(0)
    weights = variance if variance.any() else None  # scikit-learn's convention where nothing varies
    flat = int((variance <= FLAT * np.quantile(variance, 0.9)).sum())
    return R2(float(by_coordinate.mean()), float(np.average(by_coordinate, weights=weights)), flat)


def hits_at_k(approximation: torch.Tensor, full: torch.Tensor, k: int) -> torch.Tensor:
    """True where the best token of `approximation` is among the k best of `full`, bool [n]; its mean is Precision@k."""
    return (approximation[:, :1] == full[:, :k]).any(1)


def surprisal(full_log_p: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """-ln p_full(token) in nats, [n], for tokens int64 [n]; from a log-softmax [n, v], never the log of a softmax."""
    return -full_log_p.gather(1, tokens[:, None])[:, 0]


def top_two_gap(logits: torch.Tensor, top: torch.Tensor) -> torch.Tensor:
    """p(best) - p(second), [n], as in CALM (2207.07061), from logits [n, v] and the largest of each row, best first."""
    total = (logits - top[:, :1]).exp_().sum(1)  # of p / p(best); logsumexp would make two more copies
    return (1 - (top[:, 1] - top[:, 0]).exp()) / total


def kl(full_log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """KL(model || lens) = sum over tokens of p (ln p - ln q) in nats, [n], from log-softmaxes [n, v]."""
    return (full_log_p.exp() * (full_log_p - log_q)).sum(1)


def entropy(log_q: torch.Tensor) -> torch.Tensor:
    """Entropy -sum over tokens of q ln q in nats, [n], from a log-softmax [n, v]."""
    return -(log_q.exp() * log_q).sum(1)


def cross_entropy(log_q: torch.Tensor, actual: torch.Tensor) -> torch.Tensor:
    """-ln q(actual token) in nats, [n], for tokens int64 [n]; nan where there is no token (-1)."""
    return torch.where(actual >= 0, -log_q.gather(1, actual.clamp_min(0)[:, None])[:, 0], torch.nan)


@dataclass(frozen=True)
class Metric:
    """A metric by layer: Precision@k, the surprisal, or computed from whole distributions by `compute`."""

    title: str  # in headings
    k: int = 0  # of Precision@k: values are hits (bool); all other metrics are in nats
    compute: Callable[..., torch.Tensor] | None = None  # full_log_p [n, v], log_q [n, v], actual [n] -> nats [n]
    constant: bool = False  # True if it is the same for any sentences at layer L, where the lens is the model itself

    @property
    def unit(self) -> str:
        """Unit in tables: Precision@k is shown in percent."""
        return "%" if self.k else "nats"


METRICS = {
    "precision@1": Metric("Precision@1", 1, constant=True),
    "precision@5": Metric("Precision@5", 5, constant=True),
    "precision@10": Metric("Precision@10", 10, constant=True),
    "surprisal": Metric("Surprisal"),
    "kl": Metric("KL(model || lens)", compute=lambda p, q, actual: kl(p, q), constant=True),
    "entropy": Metric("Entropy of the lens", compute=lambda p, q, actual: entropy(q)),
    "cross-entropy": Metric("Cross-entropy of the token that is there", compute=lambda p, q, a: cross_entropy(q, a)),
}
LENS = tuple(name for name, metric in METRICS.items() if metric.compute)  # computed only for the modes read as lenses
