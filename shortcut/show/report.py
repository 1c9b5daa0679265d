"""The report on one model and dataset: one HTML file that can be sent by mail, and the paper's claims beside it."""

import base64
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from shortcut.results import PRECISIONS, SHARES, Curve, Results
from shortcut.show import table, tables
from shortcut.show.canvas import Plot
from shortcut.show.maps import R2
from shortcut.show.table import Table

Pictures = Iterable[tuple[str, Plot, bytes, str]]  # a figure's name, content, PNG, and path of its files without ending
NAMED = "gpt2 gpt2-medium gpt2-large gpt2-xl bert-base-uncased bert-large-uncased"  # models that the paper names


def page(
    summary: dict[str, Any], title: str, r: Results, pictures: Pictures, shown: Iterable[Table], origin: dict[str, Any]
) -> str:
    """The page as HTML: a few numbers, the figures with captions, the tables, and the summary as JSON.

    origin: `mat` (its label in figures), `train` (number of training sentences), `date`, `settings` and `versions` of
    the results, as far as they are known. The captions and the notes on the tables are in the template.
    """
    from jinja2 import Environment, StrictUndefined  # noqa: PLC0415

    figures = []
    for name, plot, png, link in pictures:
        width, height = (int.from_bytes(png[k : k + 4], "big") for k in (16, 20))  # in the PNG header
        figures.append((name.rpartition("_")[0], plot, base64.b64encode(png).decode(), width, height, link))
    templates = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    return templates.from_string(Path(__file__).with_name("report.html").read_text(encoding="utf-8")).render(
        title=title, summary=summary, results=r, figures=figures, origin=origin,
        tables=[(x, table.cells(x)) for x in shown], cell=table.cell, precision=tables.of_metric("precision@1", ""),
        data=json.dumps(summary, separators=(",", ":")).replace("<", "\\u003c"),
    )  # fmt: skip


def claims(model: str, r: Results, r2: R2) -> list[dict[str, str | None]]:
    """The paper's claims on this model, if any: `what`, its value in the `paper`, and `here` (None: not measured)."""
    mat, ten, early, apart = r.fixed.get("mat"), range(1, 11), "@{} {:.0f}-{:.0f}%", "@{} {:.0f} to {:.0f}"
    lower = _share([x < 0 for x in _means(r.apart, "surprisal", range(r.n_layers))])
    saved, higher = _saved(r), _share([x > r2["score_id"][pair] for pair, x in r2["score_mat"].items()] if r2 else [])
    rows = (
        ("gpt2-xl", "Precision@k of mat in early layers (here: layers 1-10)",
         "@1 28-45%, @5 52-74%, @10 62-82%", _precision(mat, ten, early)),
        ("gpt2-xl", "Precision@k of mat minus id, layers up to 44, minimum and maximum",
         "more than 20 points at every layer", _precision(r.apart, range(45), apart, " points")),
        ("bert-large-uncased", "Precision@k of mat in the first ten layers (here: layers 1-10)",
         "8-52% over k = 1, 5, 10; over 25% from layer 3 on", _precision(mat, ten, early)),
        ("bert-large-uncased", "Precision@k of mat minus id in the first ten layers, minimum and maximum",
         "more than 17 points at most layers", _precision(r.apart, ten, apart, " points")),
        (NAMED, "layers before the last at which mat has lower surprisal than id", "every layer",
         lower and f"at {lower}"),
        ("gpt2-medium", "layers that early exit saves at 95% Precision@1",
         "mat 3.3 (13.8%), id 1.4 (5.9%), difference 7.9 points", saved),
        ("bert-large-uncased", "layers that early exit saves at 95% Precision@1",
         "mat 4.8 (20.0%), id 3.5 (14.6%), difference 5.4 points", saved),
        ("gpt2-medium", "the layer from which on every linear sub-module beats mat in Precision@1",
         "about layer 7", _parts_beat_mat(r)),
        ("gpt2-xl bert-large-uncased", "pairs of layers with higher r2 for mat than for id", "all", higher),
    )  # fmt: skip
    return [{"what": what, "paper": paper, "here": here} for names, what, paper, here in rows if model in names.split()]


def _precision(curve: Curve | None, layers: range, text: str, unit: str = "") -> str | None:
    """For each k the text with k and the lowest and highest Precision@k at these layers, in percent."""
    found = {k: [100 * y for y in _means(curve, metric, layers)] for metric, k in PRECISIONS.items()}
    ranges = ", ".join(text.format(k, min(x), max(x)) for k, x in found.items() if x)
    return ranges + unit if ranges else None


def _means(curve: Curve | None, metric: str, layers: range) -> list[float]:
    points = zip(curve.layers, curve.estimates[metric], strict=True) if curve and metric in curve.values else ()
    return [estimate.mean for layer, estimate in points if layer in layers]


def _share(hits: list[bool]) -> str | None:
    return f"{sum(hits)} of {len(hits)}" if hits else None


def _saved(r: Results) -> str | None:
    mat, identity = (r.saved["layers"].get(mode, {}).get(SHARES[1]) for mode in ("mat", "id"))
    if mat is None or identity is None:
        return None
    share = 100 / r.n_layers
    modes = (f"{mode} {x.mean:.1f} ({x.mean * share:.1f}%)" for mode, x in (("mat", mat), ("id", identity)))
    return f"{', '.join(modes)}, difference {(mat.mean - identity.mean) * share:.1f} points"


def _parts_beat_mat(r: Results) -> str | None:
    """The layer from which on replacing any sub-module gives at least the Precision@1 of mat."""
    parts = [curve.estimates["precision@1"] for mode, curve in r.whole.items() if mode not in ("id", "mat")]
    if not parts or "mat" not in r.whole:
        return None
    mat = r.whole["mat"].estimates["precision@1"]
    below = [l for l in range(r.n_layers) if min(part[l].mean for part in parts) < mat[l].mean]
    return f"layer {max(below, default=-1) + 1}"
