"""The table of figures, one row each, with their colours and line styles. Nothing is drawn here."""

from itertools import product
from typing import NamedTuple

from shortcut import LEAST_SQUARES

# Names in `metrics`, repeated here since importing it would import torch; `python config.py` has to answer at once.
ALL_MODES = ("precision@1", "precision@5", "precision@10", "surprisal")  # metrics computed for all modes
LENS = ("kl", "entropy", "cross-entropy")  # metrics computed only for the modes read as lenses
LOOKS = {  # mode or map kind: colour, line style; the same as in the paper if the paper draws it
    "id": ("red", "--"),
    "mat": ("blue", "-"),
    "mat_attn": ("green", "-."),
    "mat_ffn": ("magenta", ":"),
    "mat_ln1_ln2": ("orange", (0, (5, 1, 1, 1, 1, 1))),
    "least-squares": ("blue", "-"),
    "affine": ("green", "-."),
    "ridge": ("orange", ":"),
    "low-rank": ("magenta", (0, (5, 1))),
    "jacobian": ("black", "-"),
    "jacobian-later": ("black", ":"),
    "jacobian-affine": ("black", "-."),
    "trained": ("brown", "-"),
    "tuned": ("teal", "-"),
}
FREE = tuple(product(((0, (1, 2)), (0, (8, 2)), (0, (4, 1, 1, 1))), ("black", "brown", "teal")))  # for other modes
SCHEDULED = {  # family of schedules: colour, marker, label
    "r2": ("black", "o", "r2-informed"),
    "blocks": ("teal", "^", "round-robin, blocks first"),
    "jumps": ("peru", "v", "round-robin, jumps first"),
    "chosen": ("crimson", "*", "round-robin, chosen on one half,\nshown on the other"),
}


class Figure(NamedTuple):
    """A figure: a panel for each metric, a curve for each mode."""

    name: str  # of its files, without the number of layers at the end
    metrics: tuple[str, ...]
    parts: bool = False  # True if its curves are mat and the replaced sub-modules; else mat and id
    early: bool = False  # True if it shows early exits too
    lenses: bool = False  # True if its curves are id and all map kinds


FIGURES = (
    Figure("pre", ("precision@1", "precision@5", "precision@10")),
    Figure("surp", ("surprisal",)),
    Figure("parts_pre1", ("precision@1",), parts=True),
    Figure("parts_pre5", ("precision@5",), parts=True),
    Figure("parts_pre10", ("precision@10",), parts=True),
    Figure("parts_surp", ("surprisal",), parts=True),
    Figure("ee_pre1", ("precision@1",), early=True),
    *(Figure(f"lenses_{metric.replace('@', '')}", (metric,), lenses=True) for metric in ALL_MODES + LENS),
)


def label(name: str, map_kind: str = LEAST_SQUARES) -> str:
    """A curve's name in figures: mat with its map kind. Among map kinds, least-squares is the same curve."""
    return f"mat ({map_kind.replace('-', ' ')})" if name in ("mat", LEAST_SQUARES) else name


def names(L: int, *, parts: bool, alternation: bool, lenses: bool) -> list[str]:
    """Names of the figures for a model of L layers; `parts`: sub-modules are replaced; `alternation`: schedules run.
    `lenses`: there are other map kinds than least squares. If not, `lenses_*` shows only what no other figure has.
    """
    found = [f for f in FIGURES if (parts or not f.parts) and (lenses or not f.lenses or f.metrics[0] in LENS)]
    return [f"{figure.name}_{L}" for figure in found] + [f"alternation_{L}"] * alternation
