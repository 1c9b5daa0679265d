"""The kinds of maps side by side, each a lens: what it makes of h_l, read out, on the same sentences.

    id              h_l as it stands, the logit lens
    least-squares   the paper's mat, to which the others are compared
    others          a row of `linear.KINDS` each

Of the tokens looked at the first of a sentence is one, as in the paper; other lenses often leave it out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch

from shortcut.intervals import Estimate, estimate
from shortcut.linear import LEAST_SQUARES
from shortcut.predictions import LENS
from shortcut.results import METRICS, PRECISIONS

LENS_METRICS = (*METRICS, *LENS)  # fractions, then nats
Values = Mapping[str, torch.Tensor]  # by metric [L + 1, n]; nan where a cross-entropy has no token


@dataclass(frozen=True)
class Comparison:
    """Lenses on the same n sentences."""

    values: Mapping[str, Values]  # by lens
    costs: Mapping[str, str]  # by lens, what its maps took, in words
    of: torch.Tensor | None = None  # as `Curve.of`
    halves: Mapping[str, Mapping[int, float]] = field(default_factory=dict)  # by lens and layer, r2 between the maps
    # that either half of the training sentences gives, where that is known

    @property
    def with_token(self) -> int:
        """How many of the sentences have a token that the cross-entropy is of."""
        return int(next(iter(self.values.values()))[LENS[-1]][0].isfinite().sum())

    @property
    def metrics(self) -> list[str]:
        """The metrics there are; no cross-entropy where fewer than two sentences have a token."""
        there = next(iter(self.values.values()))[LENS[-1]][0].isfinite()
        sentences = self.with_token if self.of is None else len(self.of[there].unique())
        return [metric for metric in LENS_METRICS if metric != LENS[-1] or sentences > 1]

    @cached_property
    def estimates(self) -> dict[str, dict[str, list[Estimate]]]:
        """By metric and lens, its mean at layers 0 ... L, and at last that over layers 0 ... L - 1."""
        constants = ("kl", *(f"precision@{k}" for k in PRECISIONS))
        return {name: {lens: self._along(of[name], constant=name in constants) for lens, of in self.values.items()}
                for name in self.metrics}  # fmt: skip

    @cached_property
    def differences(self) -> dict[str, dict[str, list[Estimate]]]:
        """The same of what each lens has beyond least squares, paired over the sentences; {} without that.

        At layer L every lens is the model itself, so that differences are constants there, as Precision@k and KL are.
        """
        if (own := self.values.get(LEAST_SQUARES)) is None:
            return {}
        return {
            metric: {
                lens: self._along(of[metric].double() - own[metric].double(), constant=True)
                for lens, of in self.values.items()
                if lens != LEAST_SQUARES
            }
            for metric in self.metrics
        }

    def _along(self, values: torch.Tensor, *, constant: bool) -> list[Estimate]:
        there = values[0].isfinite() if values.is_floating_point() else torch.ones(values.shape[1], dtype=torch.bool)
        of = None if self.of is None else self.of[there].unique(return_inverse=True)[1]
        below = [*values[:-1, there], values[:-1, there].double().mean(0)]
        *points, mean = (estimate(row, of) for row in below)
        return [*points, estimate(values[-1, there], of, constant=constant), mean]
