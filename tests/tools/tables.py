"""Write the tables of README.md and docs/ from the numbers in docs/results/: `make tables`.

A table is between `<!-- table: NAME -->` and `<!-- end -->`. NAME is a row of `TABLES`, or a file in docs/results/.
With --collect the numbers of the embedded models, docs/results/embedded.json, are first taken from the files that the
scripts have written in experiment/ for least squares and the four other map kinds fitted here.
"""

import argparse
import json
import os
import re
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS = ROOT / "docs" / "results"
BLOCK = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
EMBEDDED = {"GPT-2": "gpt2-docstrings", "BERT": "bert-docstrings_mask"}
KINDS = ("id", "least-squares", "affine", "ridge", "low-rank", "jacobian")
LAYERS = (0, 3, 6, 9, 11)
STORIES = "stories260K"  # a trained Llama of five layers
NAMES = {"precision@1": "Precision@1, %", "kl": "KL, nats"}
WHAT = {  # map kinds in a few words
    "id": "none (logit lens)",
    "least-squares": "the paper's",
    "affine": "least squares with an intercept",
    "ridge": "identity and a penalized matrix",
    "low-rank": "identity and a matrix of rank 16",
    "jacobian": "mean derivative at the same position",
    "jacobian-later": "mean derivative of all later positions (published Jacobian lens)",
    "jacobian-affine": "`jacobian` with the means of both layers",
    "trained": "affine map of least KL (as the tuned lens)",
}
STAGES = (  # script, what it reads, what it writes
    ("get_wikipedia_sentences.py", "the hub, or `--source`", "sentences"),
    ("add_tokenization.py", "sentences", "tokens and a random token position for each sentence"),
    ("add_linreg.py", "training tokens", "the matrix of each jump from layer i to layer j"),
    ("add_plot_r2.py", "validation tokens, matrices", "r2 of id and mat, quality of the maps"),
    ("add_linreg_submodules.py", "training tokens", "a matrix for each attention, feed-forward and layer norm"),
    ("add_results.py", "validation tokens, all matrices, r2", "predictions of each mode at each layer, early exits"),
    ("plot_results.py", "results", "figures, tables, summary, page"),
    ("bert_add_reps.py", "sentences", "masked sentences with their hidden states"),
    ("bert_add_linreg.py", "training states", "the matrix of each jump"),
    ("bert_add_plot_r2.py", "validation states, matrices", "r2 of id and mat, quality of the maps"),
    ("bert_add_results.py", "validation states, matrices", "predictions of id and mat at each layer, early exits"),
)


def load(name: str) -> dict[str, Any]:
    """The numbers in one file of docs/results/."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def markdown(data: dict[str, Any], columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown, followed by when and on what its numbers were measured."""
    head, *lines = (f"| {' | '.join(map(str, line))} |" for line in (columns, *rows))
    table = "\n".join([head, f"|{'---|' * len(columns)}", *lines])
    return f"{table}\n\n*Measured {data['date']} on {data['cores']} CPU cores: {data['measured']}.*"


def plus_minus(x: dict[str, float], scale: int = 1, digits: str = ".2f") -> str:
    """An estimate and half of its 95% interval."""
    return f"{scale * x['mean']:{digits}} ±{scale * (x['high'] - x['low']) / 2:{digits.removeprefix('+')}}"


def ends(x: dict[str, float]) -> str:
    """An estimate and its 95% interval."""
    return f"{x['mean']:.2f} [{x['low']:.2f}, {x['high']:.2f}]"


def percent(x: dict[str, float], sign: str = "") -> str:
    return plus_minus(x, 100, f"{sign}.1f")


def stored(name: str) -> str:
    """A table as stored."""
    data = load(name)
    return markdown(with_details(data), data["columns"], data["rows"])


def with_details(data: dict[str, Any]) -> dict[str, Any]:
    """The numbers, with all that is known about how they were measured."""
    return {**data, "measured": "; ".join(data[key] for key in ("measured", "also") if key in data)}


def stages() -> str:
    """The stages, with their times at the paper's setting."""
    data = load("speed")
    seconds = {row[0].split("`")[1]: row[1] for row in data["rows"]}
    rows = [[f"`{script}`", reads, writes, f"{seconds[script]} s"] for script, reads, writes in STAGES]
    return markdown(data, ["script", "reads", "writes", "time"], rows)


def results() -> str:
    """Precision@1 of id and mat, and the layers that early exit saves."""
    data, rows = load("embedded"), []
    for model in EMBEDDED:
        of = data[model]
        for mode, map_kind in (("id", "id"), ("mat", "least-squares")):
            found = [percent(of["precision@1"][map_kind][str(l)]) for l in LAYERS]
            rows.append([f"{model}, `{mode}`", *found, f"{ends(of['saved'][mode]['saves'])} of 12"])
    return markdown(data, ["Precision@1, %", *map("layer {}".format, LAYERS), "blocks saved at 95%"], rows)


def kinds(metric: str, models: Sequence[str]) -> str:
    """A metric of all map kinds at the stored layers, and the paired difference of the means from least squares."""
    data, rows = load("kinds"), []
    shown = percent if metric == "precision@1" else plus_minus
    for model in models:
        of, layers = data[model], data[model]["layers"]
        for map_kind, points in of[metric].items():
            found = [shown(points[str(place)]) for place in (*layers, "mean")]
            apart = of[f"{metric} - least squares"].get(map_kind)
            scale, digits = (100, "+.1f") if metric == "precision@1" else (1, "+.2f")
            difference = plus_minus(apart["mean"], scale, digits) if apart else "-"
            rows.append([f"{model}, `{map_kind}`", *found, difference])
    columns = [NAMES[metric], *map("layer {}".format, layers), "mean of these", "mean - least squares"]
    return markdown(data, columns, rows)


def kinds_cost() -> str:
    """Passes for each map kind, and processor time of passes and fits."""
    data, rows = load("kinds"), []
    for map_kind, cost in data["GPT-2"]["cost"].items():
        seconds = [data[model]["cost"].get(map_kind, {}).get("seconds", "-") for model in ("GPT-2", "BERT", STORIES)]
        rows.append([f"`{map_kind}`", cost["forward"], cost["backward"], *seconds])
    columns = ["map kind", "forward", "backward passes per sentence", *(f"{x}, s" for x in ("GPT-2", "BERT", STORIES))]
    return markdown(data, columns, rows)


def kinds_in_short() -> str:
    """Means of all map kinds on the embedded GPT-2, and their cost."""
    data, rows = load("kinds"), []
    of = data["GPT-2"]
    for map_kind in of["kl"]:
        means = percent(of["precision@1"][map_kind]["mean"]), plus_minus(of["kl"][map_kind]["mean"])
        rows.append([f"`{map_kind}`", WHAT[map_kind], *means, of["cost"].get(map_kind, {}).get("seconds", "-")])
    columns = ["map kind", "map into the last layer", "Precision@1, %", "KL, nats", "s"]
    return markdown(
        {**data, "measured": f"embedded GPT-2, means of layers 0, 3, 6, 9, 11; {data['measured']}"}, columns, rows
    )


def alternation() -> str:
    """Precision@1 of alternation schedules by executed blocks."""
    data, rows = load("embedded"), []
    for row in data["GPT-2"]["alternation"]:
        robin = percent(row["- direct*"], "+") if row["- direct*"] else "-"
        rows.append([row["blocks"], percent(row["direct jump"]), percent(row["- direct"], "+"), robin])
    columns = ["blocks executed", "direct jump, %", "r2-informed - direct", "best round-robin - direct"]
    return markdown(data, columns, rows)


def early_exit() -> str:
    """Blocks saved by early exit, before and after its own costs."""
    data, rows = load("embedded"), []
    for model in EMBEDDED:
        for mode in ("id", "mat", "mat - id"):
            of = data[model]["saved"][mode]
            token = ends(of["net, token"]) if "net, token" in of else "-"
            rows.append([f"{model}, `{mode}`", ends(of["saves"]), ends(of["net, sentence"]), token])
    return markdown(data, ["95% Precision@1", "blocks saved", "net, all tokens", "net, one token"], rows)


def gain() -> str:
    """How much the matrices amplify directions in which the states hardly vary."""
    data = load("embedded")
    rows = [[model, *data[model]["gain"]] for model in EMBEDDED]
    return markdown(data, ["", "matrices", "gain above 1,000", "largest gain", "in matrix"], rows)


TABLES: dict[str, Callable[[], str]] = {
    "stages": stages,
    "results": results,
    "kinds_precision": lambda: kinds("precision@1", [*EMBEDDED]),
    "kinds_kl": lambda: kinds("kl", [*EMBEDDED]),
    "kinds_stories_precision": lambda: kinds("precision@1", [STORIES]),
    "kinds_stories_kl": lambda: kinds("kl", [STORIES]),
    "kinds_cost": kinds_cost,
    "kinds_in_short": kinds_in_short,
    "alternation": alternation,
    "early_exit": early_exit,
    "gain": gain,
}


def page(text: str) -> str:
    """A page with all its tables written from the numbers."""

    def block(found: re.Match) -> str:
        name = found[2]
        return f"{found[1]}{TABLES[name]() if name in TABLES else stored(name)}\n{found[3]}"

    return BLOCK.sub(block, text)


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def collect(root: Path) -> dict[str, Any]:
    """The numbers of the embedded models, from the summaries and qualities of the maps in experiment/."""
    found: dict[str, Any] = {
        "date": str(date.today()),
        "cores": os.cpu_count(),
        "measured": "embedded models, 9,000 + 3,000 sentences; ±, [ ]: 95% intervals over validation sentences",
    }
    for model, folder in EMBEDDED.items():
        there = root / "experiment" / folder
        summary = json.loads((there / "docstrings_summary.json").read_text(encoding="utf-8"))["tables"]
        gains = json.loads((there / "docstrings_maps.json").read_text(encoding="utf-8"))["gain"]
        of: dict[str, Any] = {}
        for metric in ("precision@1", "kl"):
            by_layer = {str(row["layer"]): row for row in summary[f"lenses_{metric}"]}
            apart = {str(row["layer"]): row for row in summary[f"lenses_{metric}_minus_least_squares"]}["mean"]
            wanted = [*map(str, LAYERS), "mean"]
            of[metric] = {map_kind: {l: by_layer[l][map_kind] for l in wanted} for map_kind in KINDS}
            of[f"{metric} - least squares"] = {
                name.removesuffix(" - ls"): value for name, value in apart.items() if name != "layer"
            }
        of["saved"] = {row["mode"]: row for row in summary["layers_saved"] if row["Precision@1"] == 0.95}
        of["alternation"] = summary.get("alternation", [])[:-1]  # without all blocks, where nothing is approximated
        halves = {name: [row[name] for row in summary["halves"]] for name in summary["halves"][0] if name != "layer"}
        of["halves"] = {name: [min(values), max(values)] for name, values in halves.items()}
        largest = max(gains, key=gains.get)
        of["gain"] = [len(gains), sum(x > 1000 for x in gains.values()), f"{gains[largest]:,.0f}", f"`{largest}`"]
        found[model] = of
    return found


def main() -> None:
    """Write all pages, after collecting if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--collect", action="store_true", help="first take the embedded models' numbers")
    if parser.parse_args().collect:
        text = json.dumps(collect(ROOT), ensure_ascii=False, indent=1)
        lists = re.compile(r"[\[{][^\[\]{}]*[\]}]")  # the innermost ones are short: each on one line
        text = lists.sub(lambda found: re.sub(r"\s*\n\s*", " ", found[0]), text)
        (RESULTS / "embedded.json").write_text(text + "\n", encoding="utf-8")
    for path in pages():
        path.write_text(page(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
