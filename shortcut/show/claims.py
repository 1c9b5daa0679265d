"""Numbers that the paper claims (arXiv 2303.09435, on Wikipedia), and the same numbers from these results.

A claim applies only to the models for which the paper makes it.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from shortcut.results import PRECISIONS, SHARES, Results
from shortcut.show.tables import Scores

FIRST_TEN = range(1, 11)
R2 = dict[str, Scores]


def claims(model: str, r: Results, r2: R2 | None) -> list[dict[str, str | None]]:
    """The paper's claims about a model, each with `what`, `paper` and `here`; [] if the paper does not name it."""
    chosen = [claim for claim in CLAIMS if model in claim.models]
    return [{"what": claim.what, "paper": claim.paper, "here": claim.here(r, r2)} for claim in chosen]


def _r2(r: Results, r2: R2 | None) -> str | None:
    if r2 is None:
        return None
    mat, identity = r2["score_mat"], r2["score_id"]
    return f"{sum(mat[pair] > identity[pair] for pair in mat)} of {len(mat)}"


def _precision(layers: range, r: Results, r2: R2 | None) -> str | None:
    if "mat" not in r.fixed:
        return None
    points = {k: r.fixed["mat"].estimates[metric][layers.start : layers.stop] for metric, k in PRECISIONS.items()}
    means = {k: [100 * point.mean for point in found] for k, found in points.items()}
    return ", ".join(f"@{k} {min(found):.0f}-{max(found):.0f}%" for k, found in means.items())


def _apart(layers: range, r: Results, r2: R2 | None) -> str | None:
    points = {k: [100 * x for l, x in _differences(metric, r) if l in layers] for metric, k in PRECISIONS.items()}
    ranges = [f"@{k} {min(found):.0f} to {max(found):.0f}" for k, found in points.items() if found]
    return ", ".join(ranges) + " points" if ranges else None


def _differences(metric: str, r: Results) -> list[tuple[float, float]]:
    """The difference mat - id of a metric, with its layer: [(layer, mean)]."""
    points = r.apart.estimates.get(metric, []) if r.apart else []
    return [(l, x.mean) for l, x in zip(r.apart.layers, points, strict=True)] if points else []


def _surprisal(r: Results, r2: R2 | None) -> str | None:
    points = [x for l, x in _differences("surprisal", r) if l < r.n_layers]
    return f"at {sum(x < 0 for x in points)} of {len(points)}" if points else None


def _saved(r: Results, r2: R2 | None) -> str | None:
    mat, identity = (r.saved["layers"].get(mode, {}).get(SHARES[1]) for mode in ("mat", "id"))
    if mat is None or identity is None:
        return None
    share = 100 / r.n_layers
    modes = (f"{mode} {x.mean:.1f} ({x.mean * share:.1f}%)" for mode, x in (("mat", mat), ("id", identity)))
    return f"{', '.join(modes)}, difference {(mat.mean - identity.mean) * share:.1f} points"


def _parts_beat_mat(r: Results, r2: R2 | None) -> str | None:
    """The layer from which on replacing any sub-module gives at least the Precision@1 of mat."""
    parts = [curve.estimates["precision@1"] for mode, curve in r.fixed.items() if mode not in ("id", "mat")]
    if not parts or "mat" not in r.fixed:
        return None
    mat = r.fixed["mat"].estimates["precision@1"]
    below = [l for l in range(r.n_layers) if min(part[l].mean for part in parts) < mat[l].mean]
    return f"layer {max(below, default=-1) + 1}"


class Claim(NamedTuple):
    """A claim of the paper."""

    what: str  # the quantity
    models: tuple[str, ...]  # those for which the paper reports it
    paper: str  # its value in the paper
    here: Callable[[Results, R2 | None], str | None]  # its value in these results; None if not measured


MEDIUM, XL, LARGE_BERT = ("gpt2-medium",), ("gpt2-xl",), ("bert-large-uncased",)
NAMED = ("gpt2", *MEDIUM, "gpt2-large", *XL, "bert-base-uncased", *LARGE_BERT)
CLAIMS = (
    Claim("Precision@k of mat in early layers (here: layers 1-10)", XL,
          "@1 28-45%, @5 52-74%, @10 62-82%", partial(_precision, FIRST_TEN)),
    Claim("Precision@k of mat minus id, layers up to 44, minimum and maximum", XL,
          "more than 20 points at every layer", partial(_apart, range(45))),
    Claim("Precision@k of mat in the first ten layers (here: layers 1-10)", LARGE_BERT,
          "8-52% over k = 1, 5, 10; over 25% from layer 3 on", partial(_precision, FIRST_TEN)),
    Claim("Precision@k of mat minus id in the first ten layers, minimum and maximum", LARGE_BERT,
          "more than 17 points at most layers", partial(_apart, FIRST_TEN)),
    Claim("layers before the last at which mat has lower surprisal than id", NAMED, "every layer", _surprisal),
    Claim("layers that early exit saves at 95% Precision@1", MEDIUM,
          "mat 3.3 (13.8%), id 1.4 (5.9%), difference 7.9 points", _saved),
    Claim("layers that early exit saves at 95% Precision@1", LARGE_BERT,
          "mat 4.8 (20.0%), id 3.5 (14.6%), difference 5.4 points", _saved),
    Claim("the layer from which on every linear sub-module beats mat in Precision@1", MEDIUM,
          "about layer 7", _parts_beat_mat),
    Claim("mean Precision@1 over layers, on news instead of Wikipedia", MEDIUM,
          "+0.3 points; maps swapped between the corpora -5.5 and -8.0", lambda r, r2: None),
    Claim("mean Precision@1 over layers, on news instead of Wikipedia", LARGE_BERT,
          "-1.4 points; maps swapped between the corpora -0.1 and +1.1", lambda r, r2: None),
    Claim("pairs of layers with higher r2 for mat than for id", (*XL, *LARGE_BERT), "all", _r2),
)  # fmt: skip
