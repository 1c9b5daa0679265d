"""The paper's own figures (arXiv 2303.09435, on Wikipedia), and what the results at hand have in their place.

A claim stands for the models it was made of, and for no other.
"""

from collections.abc import Callable
from dataclasses import dataclass

from shortcut.results import METRICS, PRECISIONS, SHARES, Results
from shortcut.show.tables import Scores

FIRST_TEN = range(1, 11)


@dataclass(frozen=True)
class Claim:
    """One figure of the paper.

    Attributes:
        models: those it was reported for.
        what: what it is the figure of.
        paper: the figure.
        here: the same from the results; None where they cannot tell.
    """

    models: tuple[str, ...]
    what: str
    paper: str
    here: Callable[[Results], str | None] | None = None


def claims(model: str, r: Results, r2: dict[str, Scores] | None) -> list[dict[str, str | None]]:
    """The claims about a model, as `what`, `paper` and `here`; none for a model that the paper does not name.

    Args:
        model: its name.
        r: its results.
        r2: its `score_mat` and `score_id`, if they are there.
    """
    told = [
        {"what": claim.what, "paper": claim.paper, "here": claim.here(r) if claim.here else None}
        for claim in CLAIMS
        if model in claim.models
    ]
    if model in ("gpt2-xl", "bert-large-uncased"):
        told.append(
            {"what": "pairs of layers whose r2 is higher with mat than with id", "paper": "all", "here": _r2(r2)}
        )
    return told


def _r2(r2: dict[str, Scores] | None) -> str | None:
    if r2 is None:
        return None
    mat, identity = r2["score_mat"], r2["score_id"]
    return f"{sum(mat[pair] > identity[pair] for pair in mat)} of {len(mat)}"


def _precision(layers: range) -> Callable[[Results], str | None]:
    """The range of mat's Precision@k over these layers, for each k."""

    def here(r: Results) -> str | None:
        if "mat" not in r.fixed:
            return None
        parts = []
        for k in PRECISIONS:
            of_k = r.fixed["mat"].estimates[f"precision@{k}"]
            means = [100 * e.mean for e in of_k[layers.start : layers.stop]]
            parts.append(f"@{k} {min(means):.0f}-{max(means):.0f}%")
        return ", ".join(parts)

    return here


def _apart(layers: range) -> Callable[[Results], str | None]:
    """How far mat is above id in Precision@k over these layers, least and most, for each k."""

    def here(r: Results) -> str | None:
        parts = []
        for k in PRECISIONS:
            apart = r.differences.get(f"precision@{k}", {})
            points = [100 * e.mean for l, e in apart.items() if l in layers]
            if points:
                parts.append(f"@{k} {min(points):.0f} to {max(points):.0f}")
        return ", ".join(parts) + " points" if parts else None

    return here


def _surprisal(r: Results) -> str | None:
    points = [e.mean for l, e in r.differences.get(METRICS[-1], {}).items() if l < r.n_layers]
    return f"at {sum(x < 0 for x in points)} of {len(points)}" if points else None


def _saved(r: Results) -> str | None:
    """What early exit saves at 95% Precision@1, as the paper has it."""
    mat, identity = (r.layers_saved.get(mode, {}).get(SHARES[1]) for mode in ("mat", "id"))
    if mat is None or identity is None:
        return None
    share = 100 / r.n_layers
    return (
        f"mat {mat:.1f} ({mat * share:.1f}%), id {identity:.1f} ({identity * share:.1f}%),"
        f" {(mat - identity) * share:.1f} points apart"
    )


def _parts_beat_mat(r: Results) -> str | None:
    """The layer from which on every sub-module's replacement has at least mat's Precision@1."""
    parts = [curve.estimates["precision@1"] for mode, curve in r.fixed.items() if mode not in ("id", "mat")]
    if not parts or "mat" not in r.fixed:
        return None
    mat = r.fixed["mat"].estimates["precision@1"]
    below = [l for l in range(r.n_layers) if min(part[l].mean for part in parts) < mat[l].mean]
    return f"layer {max(below, default=-1) + 1}"


NAMED = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "bert-base-uncased", "bert-large-uncased")
CLAIMS = (
    Claim(
        ("gpt2-xl",), "Precision@k of mat in early layers (here: layers 1-10)",
        "@1 28-45%, @5 52-74%, @10 62-82%", _precision(FIRST_TEN),
    ),
    Claim(
        ("gpt2-xl",), "mat above id in Precision@k, layers up to 44, least and most",
        "more than 20 points at every layer", _apart(range(45)),
    ),
    Claim(
        ("bert-large-uncased",), "Precision@k of mat in the first ten layers (here: layers 1-10)",
        "8-52% over k = 1, 5, 10; over 25% from layer 3 on", _precision(FIRST_TEN),
    ),
    Claim(
        ("bert-large-uncased",), "mat above id in Precision@k in the first ten layers, least and most",
        "more than 17 points at most layers", _apart(FIRST_TEN),
    ),
    Claim(NAMED, "layers below the last at which the surprisal of mat is below that of id", "every layer", _surprisal),
    Claim(
        ("gpt2-medium",), "layers that early exit saves at 95% Precision@1",
        "mat 3.3 (13.8%), id 1.4 (5.9%), 7.9 points apart", _saved,
    ),
    Claim(
        ("bert-large-uncased",), "layers that early exit saves at 95% Precision@1",
        "mat 4.8 (20.0%), id 3.5 (14.6%), 5.4 points apart", _saved,
    ),
    Claim(
        ("gpt2-medium",), "the layer from which on every linear sub-module beats mat in Precision@1",
        "about layer 7", _parts_beat_mat,
    ),
    Claim(
        ("gpt2-medium",), "mean Precision@1 over layers, on news instead of Wikipedia",
        "+0.3 points; maps swapped between the corpora -5.5 and -8.0",
    ),
    Claim(
        ("bert-large-uncased",), "mean Precision@1 over layers, on news instead of Wikipedia",
        "-1.4 points; maps swapped between the corpora -0.1 and +1.1",
    ),
)  # fmt: skip
