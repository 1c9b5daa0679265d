"""What is handed on about one model and dataset: a summary for programs, and a page for people.

The page stands alone: pictures, tables, style and data are all within, so that it can be mailed.
"""

import base64
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from html import escape
from typing import Any

from shortcut import cli, paper, plots, results, store, tables
from shortcut.plots import Plot
from shortcut.provenance import Provenance
from shortcut.results import METRICS, SHARES, Curve, Estimate, Results
from shortcut.tables import Scores, Table

R2, CHANGE = "r2", "change_from_own_matrices"  # of the summary: what other scripts' files add to it
STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --dim: #5c6670; --paper: #fff; --card: #f5f6f8; --line: #d9dde2 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7ea; --dim: #9aa4ae; --paper: #15181b; --card: #1e2226; --line: #363c43 }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif }
main { max-width: 60rem; margin: 0 auto; padding: 2rem 1rem 4rem }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem }
p { max-width: 45rem }
.lead, figcaption, .note { color: var(--dim) }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(12rem, 1fr)); gap: .75rem; padding: 0 }
.facts div { background: var(--card); border-radius: .5rem; padding: .75rem 1rem }
dt { color: var(--dim); font-size: .875rem }
dd { margin: 0; font-size: 1.25rem; font-variant-numeric: tabular-nums }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr)); gap: 1rem }
figure { margin: 0; background: var(--card); border-radius: .5rem; padding: .75rem }
figure.wide { grid-column: 1 / -1 }
img { display: block; width: 100%; height: auto; background: #fff; border-radius: .25rem }
figcaption { font-size: .875rem; margin-top: .5rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap }
.words th, .words td { text-align: left; white-space: normal }
details { margin: .5rem 0; border: 1px solid var(--line); border-radius: .5rem; padding: .5rem .75rem }
summary { cursor: pointer }
"""


def summary(
    r: Results, model: str, dataset: str, matrices_from: str, own: Results | None, r2: dict[str, Scores] | None
) -> dict[str, Any]:
    """Every number with its interval, as JSON has it: fractions, nats and layers.

    Args:
        r: the results.
        model: the model's name.
        dataset: the dataset's.
        matrices_from: the dataset's that the matrices were fitted on.
        own: the results with the dataset's own matrices, if those are of another and these are there.
        r2: `score_mat` and `score_id`, if they are there; in the summary "i_j" is the jump from i to j.
    """
    differences = {metric: results.differences(r, metric) for metric in METRICS}
    return {
        "model": model,
        "dataset": dataset,
        "matrices_from": matrices_from,
        "layers": r.n_layers,
        "sentences": r.n,
        "confidence": 0.95,
        "fixed_exit": {mode: _points(curve, "layer") for mode, curve in r.fixed.items()},
        "mat_minus_id": [
            {"layer": layer, **{m: _interval(by_layer[layer]) for m, by_layer in differences.items() if by_layer}}
            for layer in differences[METRICS[0]]
        ],
        "mean_precision@1_over_layers": {mode: _interval(results.mean_over_layers(r, mode)) for mode in r.fixed},
        CHANGE: {mode: _interval(change) for mode, change in results.changes(r, own).items()} if own else None,
        "early_exit": {mode: _points(curve, "layers_processed") for mode, curve in r.early.items()},
        "layers_saved": {
            mode: {f"{share:.2f}": _saved(r, results.layers_needed(curve, share)) for share in SHARES}
            for mode, curve in r.early.items()
        },
        R2: {mode: {f"{i}_{j}": round(x, 6) for (i, j), x in r2[f"score_{mode}"].items()} for mode in ("mat", "id")}
        if r2
        else None,
        "paper": paper.claims(model, r, r2),
    }


def _points(curve: Curve, place: str) -> list[dict[str, Any]]:
    estimates = {metric: curve.estimates(metric) for metric in curve.values}
    return [
        {
            **({"lambda": curve.lambdas[k]} if curve.lambdas else {}),
            place: int(layers) if place == "layer" else round(layers, 6),
            **{metric: _interval(points[k]) for metric, points in estimates.items()},
        }
        for k, layers in enumerate(curve.layers)
    ]


def _interval(estimate: Estimate) -> dict[str, float]:
    return {name: round(value, 6) for name, value in estimate._asdict().items()}


def _saved(r: Results, needed: float | None) -> float | None:
    return None if needed is None else round(r.n_layers - needed, 6)


def page(r: Results, summary: dict[str, Any], title: str, figures: Mapping[str, Plot], pictures: Mapping[str, bytes],
         told: Iterable[Table]) -> str:  # fmt: skip
    """The page, as HTML.

    Args:
        r: the results.
        summary: their summary, which the page holds as it is.
        title: model and dataset.
        figures: by name.
        pictures: the figures as PNG.
        told: the tables.
    """
    data = json.dumps(summary, separators=(",", ":")).replace("<", "\\u003c")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}: linear shortcuts</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
<p class="lead">How far one matrix stands in for the layers it skips: predictions read out at each of {r.n_layers}
layers, from the state as it stands (id) and after one fitted matrix (mat), on {r.n} validation sentences.
Precision@k: how often the best token read out there is among the k best of the whole model; surprisal: −ln of the
probability that the whole model gives that token. Bands and ± are 95% intervals over the sentences.</p>
<dl class="facts">
{_facts(r)}
</dl>
<h2>Figures</h2>
<div class="figures">
{"".join(_figure(plot, pictures[name]) for name, plot in figures.items())}</div>
{_paper(summary["paper"])}<h2>Numbers</h2>
{"".join(_details(table) for table in told)}
<p class="note">The same numbers, with both ends of each interval, stand in this page
as JSON: the script element with the id “data”.</p>
</main>
<script type="application/json" id="data">{data}</script>
</body>
</html>
"""


def _facts(r: Results) -> str:
    facts = {
        f"Precision@1 with {mode}, mean over layers 0 to {r.n_layers - 1}": tables.estimate(
            results.mean_over_layers(r, mode), "precision@1"
        )
        + " %"
        for mode in ("mat", "id")
        if mode in r.fixed
    }
    for mode in ("mat", "id"):
        needed = results.layers_needed(r.early[mode], SHARES[1]) if mode in r.early else None
        if needed is not None:
            saved = f"{r.n_layers - needed:.2f} of {r.n_layers}"
            facts[f"Layers that early exit with {mode} saves at 95% Precision@1"] = saved
    return "\n".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())


def _figure(plot: Plot, picture: bytes) -> str:
    wide, height = (int.from_bytes(picture[k : k + 4], "big") for k in (16, 20))  # of the PNG's header
    return (
        f'<figure{" class=wide" if wide > 1.5 * height else ""}><img width="{wide}" height="{height}"'
        f' src="data:image/png;base64,{base64.b64encode(picture).decode()}" alt="{escape(plot.alt)}">'
        f"<figcaption>{escape(plot.data.title)}</figcaption></figure>\n"
    )


def _paper(claims: list[dict[str, str | None]]) -> str:
    if not claims:
        return ""
    rows = [[claim["what"], claim["paper"], claim["here"] or "not measured here"] for claim in claims]
    table = _table(Table("", ["what", "in the paper, on Wikipedia", "here"], rows), "words")
    return f"<h2>Beside the paper</h2>\n{table}\n"


def _details(table: Table) -> str:
    return f"<details><summary>{escape(table.title)}</summary>\n{_table(table)}\n</details>\n"


def _table(table: Table, kind: str = "numbers") -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.header)
    rows = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    table = f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table>'
    return f'<div class="scroll">{table}</div>'


def save(run: cli.Run, r: Results, figures: Mapping[str, Plot]) -> None:
    """Write the summary and the page of results whose figures have been drawn, if that is to do.

    The heat maps of r2 come first where their scores are there, and the change from the dataset's own matrices
    where it was judged with them too; where either has come since, both are made anew.
    """
    files = run.files
    scores = [files.r2_scores] if files.r2_scores.exists() else []
    owns = [files.own.results] if files.matrices_from and files.own.results.exists() else []
    before = [Provenance(files).made_by(path) for path in (files.summary, files.report) if path.exists()]
    come_since = [
        path
        for path in (*scores, *owns)
        if any(made and files.relative(path) not in made[1]["inputs"] for made in before)
    ]
    if come_since and all(before):  # what is not ours stays
        run = replace(run, force=True)
    with run.stage(reads=[files.results, *scores, *owns], writes=[files.summary, files.report], depends=[]) as stage:
        if stage.made:
            return
        r2 = store.load_r2(files.r2_scores) if scores else None
        own = results.summarize(store.load_results(files.own.results)) if owns else None
        told = [*tables.fixed_exit(r), *tables.early_exit(r)]
        if own:
            told.insert(0, tables.change(r, own, files.dataset, files.matrices_from))
        pictures = {name: files.plot(name, "png").read_bytes() for name in figures}
        if r2:
            heat_maps = plots.r2_heat_maps(r2["score_mat"], r2["score_id"], files.title)
            with io.BytesIO() as file:
                heat_maps.write(file, "png")
                pictures["r2_scores"] = file.getvalue()
            figures = {"r2_scores": heat_maps, **figures}
            told.append(tables.r2(r2["score_mat"], r2["score_id"]))
        numbers = summary(r, files.model.removesuffix("_mask"), files.dataset, files.matrices.name, own, r2)
        for path, text in {
            files.summary: json.dumps(numbers, indent=1) + "\n",
            files.report: page(r, numbers, files.title, figures, pictures, told),
        }.items():
            if path in stage.todo:
                with stage.writing(path) as file:
                    file.write(text.encode())
