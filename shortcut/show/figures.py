"""The figures of the results, a row each, and the looks of what is in them; loads no library."""

from dataclasses import dataclass
from itertools import product

LOOKS = {  # mode: colour, line style, as in the paper
    "id": ("red", "--"),
    "mat": ("blue", "-"),
    "mat_attn": ("green", "-."),
    "mat_ffn": ("magenta", ":"),
    "mat_ln1_ln2": ("orange", (0, (5, 1, 1, 1, 1, 1))),
}
SCHEDULED = {  # who comes first in a schedule: colour, marker, label
    "r2": ("black", "o", "r2-informed"),
    "blocks": ("teal", "^", "round-robin, blocks first"),
    "jumps": ("peru", "v", "round-robin, jumps first"),
    "chosen": ("crimson", "*", "round-robin, chosen on one half,\nshown on the other"),
}
LENS_LOOKS = {  # kind of map: colour, line style
    "id": ("red", "--"),
    "least-squares": ("blue", "-"),
    "affine": ("green", "-."),
    "ridge": ("orange", ":"),
    "low-rank": ("magenta", (0, (5, 1))),
    "jacobian": ("black", "-"),
    "tuned": ("teal", "-"),
}
LENSES = ("precision1", "precision5", "precision10", "surprisal", "kl", "entropy", "cross-entropy")
FREE = tuple(product(((0, (1, 2)), (0, (8, 2)), (0, (4, 1, 1, 1))), ("black", "brown", "teal")))  # for other modes


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


def names(L: int, parts: bool, alternation: bool, lenses: bool) -> list[str]:
    """What the files of the figures are called in a model of L layers.

    `parts`: also of those of sub-modules; `alternation`: also of that of schedules; `lenses`: those of all metrics.
    """
    found = [f"{figure.name}_{L}" for figure in FIGURES if parts or not figure.parts]
    found += [f"alternation_{L}"] * alternation
    return found + [f"lenses_{metric}_{L}" for metric in LENSES[0 if lenses else 4 :]]
