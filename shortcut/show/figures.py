"""The figures of the results, a row each; who only asks for their names loads no library."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """What a figure shows: a panel for each metric, a curve for each mode."""

    name: str  # of its files, before the number of layers
    metrics: tuple[str, ...]  # of `results.METRICS`
    parts: bool = False  # whether its curves are those of replaced sub-modules, beside mat; else mat and id
    early: bool = False  # whether early exits stand beside the fixed ones


FIGURES = (
    Figure("pre", ("precision@1", "precision@5", "precision@10")),
    Figure("surp", ("surprisal",)),
    Figure("parts_pre1", ("precision@1",), parts=True),
    Figure("parts_pre5", ("precision@5",), parts=True),
    Figure("parts_pre10", ("precision@10",), parts=True),
    Figure("parts_surp", ("surprisal",), parts=True),
    Figure("ee_pre1", ("precision@1",), early=True),
)


def names(L: int, parts: bool, alternation: bool) -> list[str]:
    """What the files of the figures are called in a model of L layers.

    `parts`: also of those of sub-modules; `alternation`: also of that of schedules.
    """
    found = [f"{figure.name}_{L}" for figure in FIGURES if parts or not figure.parts]
    return found + [f"alternation_{L}"] * alternation
