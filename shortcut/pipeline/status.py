"""The state of a pipeline: the settings, the outputs of each stage, and the next command to run.

    python config.py [--model NAME_OR_FOLDER] [--dataset NAME] [--out FOLDER] [--family]

Only file names and manifests are read, no data, so the answer is immediate.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

from shortcut import LEAST_SQUARES, Problem
from shortcut.files.names import Names, find_model, model_folder
from shortcut.loading import checkpoint
from shortcut.pipeline import manifest, options, stages, terminal
from shortcut.pipeline.manifest import Provenance
from shortcut.show import figures


def main(config: ModuleType) -> None:
    """Print the settings and the state of each pipeline."""

    def show() -> None:
        options.check(config)
        layout = argparse.RawDescriptionHelpFormatter
        parser = argparse.ArgumentParser(prog="config.py", description=__doc__, formatter_class=layout)
        parser.add_argument("--model", metavar="NAME_OR_FOLDER", help="show only the pipeline of this model")
        parser.add_argument("--dataset", metavar="NAME", default=config.DATASET, help=f"default: {config.DATASET}")
        parser.add_argument("--out", metavar="FOLDER", type=Path, default=config.OUT, help="default: here")
        parser.add_argument("--family", action="store_true", help="print only the family of scripts: gpt2 or bert")
        args = parser.parse_args()
        if args.family:
            return print(_family(config, args.model))
        for line in _overview(config, args):
            terminal.say(line)

    terminal.shell(show, "config.py")


def _family(config: ModuleType, model: str) -> str:
    if (masked := checkpoint.is_masked(model, config)) is None:
        why = "no folder here, not in config.py and not downloaded yet"
        print(f"{model} is treated as a causal model ({why}): add FAMILY=bert if it is masked", file=sys.stderr)
    return "bert" if masked else "gpt2"


def _overview(config: ModuleType, args: argparse.Namespace) -> Iterator[str]:
    root, wanted = args.out.resolve(), [(config.GPT2, False), (config.BERT, True)]
    if args.model is None:
        yield "settings in config.py"
        for name, value in vars(config).items():
            if name.isupper():
                text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
                yield f"  {name:18} {text if len(text) <= 96 else text[:92] + ' ...'}"
    else:
        name, masked = find_model(args.model), checkpoint.is_masked(find_model(args.model), config)
        if masked is None:
            folder, masked = stages.results_of(name, root)
            name = folder.removesuffix("_mask") if masked else name
        wanted = [(name, masked)]
    given = ["--dataset", args.dataset] if args.dataset != config.DATASET else []
    given += ["--out", str(args.out)] if args.out != config.OUT else []
    for (name, masked), map_kind in product(wanted, config.MAP):
        yield f"\n{name} on {args.dataset}" + (f", {map_kind} maps" if map_kind != LEAST_SQUARES else "")
        try:
            files = Names(root, model_folder(name, masked=masked), args.dataset, map_kind=map_kind, masked=masked)
            yield from _pipeline(config, files, name, given)
        except Problem as problem:
            yield f"  {problem}"


def _pipeline(config: ModuleType, files: Names, name: str, given: list[str]) -> Iterator[str]:
    def in_force(script: str, _: Path) -> dict[str, Any]:
        return stages.settings(stages.of_script(script), config, files)

    fitted = [int(path.stem.split("_")[1]) for path in files.matrices.glob("[0-9]*_[0-9]*.pickle")]
    known = None if Path(name).is_dir() else config.LAYERS.get(name, max(fitted, default=None))
    L, following = known or stages.n_layers(config, name, masked=files.masked), None
    files = replace(files, parts=manifest.load_parts(files, L) if files.map_kind == LEAST_SQUARES else {})
    provenance = Provenance(files, in_force, hashing=False)
    for stage in stages.pipeline(masked=files.masked):
        if not (writes := outputs(stage, files, L, config)):
            continue
        state, done = _state(provenance, stage, writes)
        yield f"  {stage.script:27} {state}"
        if not done and following is None:
            force = ["--force"] if state.startswith("made with other settings") else []
            own = _options(stage, config, name, files.dataset)
            following = [".venv/bin/python", stage.script, *own, *given, *force]
    yield f"  next: {shlex.join(following)}" if following else f"  complete: open {os.path.relpath(files.report)}"


def outputs(stage: stages.Stage, files: Names, L: int, config: ModuleType) -> list[Path]:
    """Outputs of a stage, with the figures of the results that exist."""
    drawn = []
    if stage.shows:
        there = {"parts": bool(files.parts), "lenses": bool(files.others("predictions"))}
        drawn = files.plots(*figures.names(L, alternation=stages.alternates(files, config), **there))
    return [*drawn, *stages.paths(stage.writes, files, L, config)]


def _options(stage: stages.Stage, config: ModuleType, name: str, dataset: str) -> list[str]:
    """Options for a stage's source or model, if they differ from config.py."""
    if "sentences" in stage.writes:
        known = {config.DATASET: [], "docstrings": ["--source", "docstrings"]}
        return known.get(dataset, ["--source", "PATH"])
    default = config.BERT if stage.masked else config.GPT2
    return [] if name == default else ["--model", name]


def _state(provenance: Provenance, stage: stages.Stage, paths: list[Path]) -> tuple[str, bool]:
    """What a line says about a stage, and True if all of its outputs are made."""
    files = provenance.files
    if not (existing := [path for path in paths if path.exists()]):
        of_stage = replace(files, model="sentences") if "sentences" in stage.writes else files
        unfinished = of_stage.partial(stage.script).exists()
        return ("partly computed: run the script again to resume" if unfinished else "-"), False
    entries = {path: entry for path in existing if (entry := provenance.entry(path))}
    for path, entry in entries.items():
        if why := provenance.differs(path, entry):
            return why[0].removeprefix("was "), False
    if len(existing) < len(paths):
        return f"{len(existing)} of {len(paths)} files: run the script again to resume", False
    made = max((entry["made"] for entry in entries.values()), default=None)
    when = f"made {made[:16].replace('T', ' ')} UTC" if made else "made by hand or by other code"
    return f"{when}, {files.relative(paths[0])}" + (f" and {len(paths) - 1} more" if len(paths) > 1 else ""), True
