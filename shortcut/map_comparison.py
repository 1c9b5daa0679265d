"""Kinds of maps side by side, each used as a lens: its map applied to h_l, read out, on the same sentences.

    id              h_l unchanged, the logit lens
    least-squares   the paper's mat, to which the others are compared
    others          a row of `linear.KINDS` each

The first token of a sentence can be among the tokens looked at, as in the paper; other lenses often leave it out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from shortcut.linear import LEAST_SQUARES
from shortcut.results import Curve


@dataclass(frozen=True)
class Comparison:
    """Lenses on the same n sentences."""

    curves: Mapping[str, Curve]  # by lens
    costs: Mapping[str, str]  # by map kind, the cost of its maps, in words
    halves: Mapping[str, Mapping[int, float]]  # by lens and layer, r2 between the maps that either half of the
    # training sentences gives, if it is known

    @cached_property
    def differences(self) -> dict[str, Curve]:
        """By lens its difference to least squares, paired over the sentences; {} without least squares."""
        own = self.curves.get(LEAST_SQUARES)
        return {name: curve.minus(own) for name, curve in self.curves.items() if own and name != LEAST_SQUARES}
