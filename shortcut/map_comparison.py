"""Comparison of map kinds as lenses on the same sentences: a lens applies its map to h_l and reads out the result.

    id              h_l unchanged, the logit lens
    least-squares   the paper's mat, the reference for the others
    others          one for each other row of `linear.KINDS`

The first token of a sentence may be chosen, as in the paper; other work on lenses often leaves it out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from shortcut.linear import LEAST_SQUARES
from shortcut.results import Curve


@dataclass(frozen=True)
class Comparison:
    """Results of several lenses on the same n sentences."""

    curves: Mapping[str, Curve]  # by lens
    costs: Mapping[str, str]  # by map kind, the cost of its maps, in words
    halves: Mapping[str, Mapping[int, float]]  # by lens and layer, r2 between maps fitted on the two halves of the
    # training sentences, where it is known

    @cached_property
    def differences(self) -> dict[str, Curve]:
        """Differences to least squares by lens, paired over the sentences; {} without least squares."""
        own = self.curves.get(LEAST_SQUARES)
        return {name: curve.minus(own) for name, curve in self.curves.items() if own and name != LEAST_SQUARES}
