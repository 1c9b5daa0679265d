"""Fit and judge all map kinds on the embedded models and on stories260K: the numbers in docs/results/kinds.json.

    .venv/bin/python tests/tools/kinds.py OUT --stories FOLDER      run all stages in OUT, then write the numbers
    .venv/bin/python tests/tools/kinds.py OUT --only gpt2-docstrings ...                     only for these models

Every kind is fitted for the jumps into the last layer. The cost is the processor time of its run of add_linreg.py, with
one thread, so that other work on the machine hardly changes it, and its passes over the training sentences.
"""

import argparse
import importlib
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))
os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # noqa: E402

import config  # noqa: E402
from shortcut import LEAST_SQUARES  # noqa: E402
from shortcut.approximation import mode_of  # noqa: E402
from shortcut.files import result_formats  # noqa: E402
from shortcut.files.names import Names  # noqa: E402
from shortcut.intervals import Estimate, estimate  # noqa: E402
from shortcut.linear import KINDS  # noqa: E402
from shortcut.pipeline import manifest  # noqa: E402

RESULTS = ROOT / "docs" / "results" / "kinds.json"
FITTED = [name for name, row in KINDS.items() if row.fitted_from]
MODELS = {  # model: its title, dataset, layers
    "gpt2-docstrings": ("GPT-2", "docstrings", (0, 3, 6, 9, 11)),
    "bert-docstrings": ("BERT", "docstrings", (0, 3, 6, 9, 11)),
    "stories260K": ("stories260K", "stories", (0, 1, 2, 3, 4)),
}
SPLITS = {"stories": (9_000, 3_000)}
SETTINGS = {"LAST_ONLY": True, "SCHEDULES": False, "SPLITS": config.SPLITS | SPLITS, "DEVICE": "cpu"}


def run(script: str, *options: object) -> None:
    importlib.import_module(script).main([*map(str, options)])


def names_of(model: str, out: Path) -> Names:
    masked = model.startswith("bert")
    return Names(out.resolve(), model + "_mask" * masked, MODELS[model][1], masked=masked)


def kinds_of(files: Names) -> list[str]:
    return [kind for kind in FITTED if not (files.masked and kind == "jacobian-later")]


def measure(model: str, out: Path, stories: Path) -> None:
    """Run all stages for a model; the seconds of each kind's fit go to OUT/<model>_seconds.json."""
    files, dataset = names_of(model, out), MODELS[model][1]
    folder = stories if dataset == "stories" else ROOT / "models" / model
    on, prefix = ("--dataset", dataset, "--out", out), "bert_" * files.masked
    source = stories / "stories.txt" if dataset == "stories" else "docstrings"
    if not files.sentences.exists():
        config.SENTENCES = 12_000 if dataset == "stories" else 20_000
        run("get_wikipedia_sentences", "--source", source, *on)
        config.SENTENCES = 20_000
    run("bert_add_reps" if files.masked else "add_tokenization", "--model", folder, *on)
    path = out / f"{model}_seconds.json"
    seconds = json.loads(path.read_bytes()) if path.exists() else {}
    for kind in [kind for kind in kinds_of(files) if kind not in seconds]:
        start = time.process_time()
        run(f"{prefix}add_linreg", "--map", kind, "--model", folder, *on)
        path.write_text(json.dumps(seconds := seconds | {kind: round(time.process_time() - start, 1)}))
    if not files.masked:
        run("add_linreg_submodules", "--model", folder, *on)
    run(f"{prefix}add_results", "--map", *kinds_of(files), "--model", folder, *on)


def values(files: Names, mode: str, layers: Sequence[int]) -> dict[str, torch.Tensor]:
    """KL and hits of Precision@1 of one mode at these layers, [layers, n] each."""
    records = result_formats.load_results(files.results)
    jumps = {r["info"]["layer"]: r["topk"][:, 0] for r in records
             if r["info"]["type"] == "jump" and mode_of(r["info"]["mode"]) == mode}  # fmt: skip
    L = max(jumps)
    judged = result_formats.load_predictions(files.predictions, len(jumps[L]), L).modes[mode]["kl"]
    return {
        "kl": torch.stack([judged[l] for l in layers]),
        "precision@1": torch.stack([jumps[l] == jumps[L] for l in layers]),
    }


def estimates(x: torch.Tensor, layers: Sequence[int]) -> dict[str, dict[str, float]]:
    """Means over the sentences with their intervals, by layer, and of the mean over the layers."""
    found = {str(l): estimate(row) for l, row in zip(layers, x, strict=True)}
    return {l: rounded(e) for l, e in (found | {"mean": estimate(x.double().mean(0))}).items()}


def rounded(e: Estimate) -> dict[str, float]:
    return {name: float(f"{value:.6g}") for name, value in e._asdict().items()}


def collect(model: str, out: Path) -> dict[str, Any]:
    """Numbers of a model: KL, Precision@1, their differences to least squares, and the costs, by map kind."""
    files, (_, _, layers) = names_of(model, out), MODELS[model]
    seconds = json.loads((out / f"{model}_seconds.json").read_bytes())
    found = {"id": values(files, "id", layers)}
    found |= {kind: values(replace(files, map_kind=kind), "mat", layers) for kind in kinds_of(files)}
    numbers: dict[str, Any] = {"layers": [*layers]}
    for metric in ("kl", "precision@1"):
        least = found[LEAST_SQUARES][metric].double()
        numbers[metric] = {kind: estimates(of[metric], layers) for kind, of in found.items()}
        numbers[f"{metric} - least squares"] = {
            kind: estimates(of[metric].double() - least, layers) for kind, of in found.items() if kind != LEAST_SQUARES
        }
    numbers["cost"] = {}
    for kind in kinds_of(files):
        entries = manifest.load(replace(files, map_kind=kind).matrices)
        of_jumps = [entry for name, entry in entries.items() if name[0].isdigit()]
        numbers["cost"][kind] = {
            "seconds": seconds[kind], "forward": 1, "backward": of_jumps[0].get("probes", 0),
            "epochs": sum(entry.get("epochs", 0) for entry in of_jumps), "maps": len(of_jumps),
        }  # fmt: skip
    return numbers


def main() -> None:
    """Run the stages and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for experiment/ and linreg/")
    parser.add_argument("--stories", type=Path, help="folder of stories260K, with stories.txt")
    parser.add_argument("--only", nargs="+", choices=MODELS, default=[*MODELS], help="run only these models")
    args = parser.parse_args()
    for name, value in SETTINGS.items():
        setattr(config, name, value)
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    for model in args.only:
        measure(model, args.out, args.stories)
    there = [model for model in MODELS if (args.out / f"{model}_seconds.json").exists()]
    if not {*MODELS} <= {*there}:
        return
    measured = "9,000 + 3,000 sentences; 95% intervals over validation sentences; processor seconds, one thread"
    text = {"date": str(date.today()), "cores": os.cpu_count(), "measured": measured}
    text |= {MODELS[model][0]: collect(model, args.out) for model in there}
    lines = json.dumps(text, ensure_ascii=False, indent=1)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(lines + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
