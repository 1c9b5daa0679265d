"""The state of a pipeline: the settings, the outputs of each stage, and the next command to run.

    python config.py [--model NAME_OR_FOLDER] [--dataset NAME] [--out FOLDER] [--family | --page]

Shown are the models in config.py and all models and datasets under experiment/. Only file names and manifests are
read, no data, so the answer is immediate.
"""

import argparse
import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import ModuleType

from shortcut import LEAST_SQUARES, Problem
from shortcut.files.names import Names, find_model, similar_model
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
        parser.add_argument("--dataset", metavar="NAME", type=options.dataset_name, help="show only this dataset")
        parser.add_argument("--out", metavar="FOLDER", type=Path, default=config.OUT, help="default: here")
        parser.add_argument("--family", action="store_true", help="print only the family of scripts: gpt2 or bert")
        parser.add_argument("--page", action="store_true", help="print only the page with all figures")
        args = parser.parse_args()
        if args.family:
            return print(_family(config, args.model))
        if args.page:
            args.dataset = args.dataset or config.DATASET
            return print(*(f"open {os.path.relpath(files.report)}" for files in _pipelines(config, args)), sep="\n")
        for line in _overview(config, args):
            terminal.say(line)

    terminal.shell(show, "config.py")


def _family(config: ModuleType, model: str) -> str:
    if (masked := checkpoint.is_masked(find_model(model), config)) is None:
        why = f"{model} is no folder here, not in config.py and not downloaded, so its kind is unknown"
        raise Problem(f"{why}: add FAMILY=gpt2 (causal) or FAMILY=bert (masked){similar_model(model, config.LAYERS)}")
    return "bert" if masked else "gpt2"


def _overview(config: ModuleType, args: argparse.Namespace) -> Iterator[str]:
    if args.model is None:
        yield "settings in config.py"
        for name, value in vars(config).items():
            if name.isupper():
                text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
                yield f"  {name:18} {text if len(text) <= 96 else text[:92] + ' ...'}"
    for files, map_kind in product(_pipelines(config, args), config.MAP):
        yield f"\n{files.given} on {files.dataset}" + (f", {map_kind} maps" if map_kind != LEAST_SQUARES else "")
        try:
            yield from _pipeline(config, replace(files, map_kind=map_kind))
        except Problem as problem:
            yield f"  {problem}"


def _pipelines(config: ModuleType, args: argparse.Namespace) -> list[Names]:
    """Files of each pipeline to show: of the models in config.py and all under experiment/, or those asked for."""
    out, dataset = args.out, args.dataset or config.DATASET
    found = [Names.of(config.GPT2, dataset, out, masked=False), Names.of(config.BERT, dataset, out, masked=True)]
    for path in sorted((out.resolve() / "experiment").glob("*/*_val.pickle")):
        named = path.name.removesuffix("_val.pickle").removesuffix("_tokenized")
        found.append(stages.find_files(path.parent.name, named, out, config))
    found = [files for files in found if args.dataset in (None, files.dataset)]
    if args.model is not None:
        asked = stages.find_files(find_model(args.model), dataset, out, config)
        found = [replace(files, given=asked.given) for files in found if files.model == asked.model] or [asked]
    return [*dict.fromkeys(found)]


def _pipeline(config: ModuleType, files: Names) -> Iterator[str]:
    last = max((int(path.stem.split("_")[1]) for path in files.matrices.glob("[0-9]*_[0-9]*.pickle")), default=0)
    whole = last > 1 and files.matrix(last - 1, last).exists()  # the last one that is fitted
    known = last * whole if Path(files.given).is_dir() else config.LAYERS.get(files.given, last * whole)
    L, following = known or stages.n_layers(config, files.given, masked=files.masked), None
    files = replace(files, parts=manifest.load_parts(files, L) if files.map_kind == LEAST_SQUARES else {})
    provenance = Provenance(
        files, lambda script, _: stages.settings(stages.of_script(script), config, files), hashing=False
    )
    for stage in stages.pipeline(masked=files.masked):
        if not (writes := outputs(stage, files, L, config)):
            continue
        state, done = _state(provenance, stage, writes)
        yield f"  {stage.script:27} {state}"
        if not done and following is None:
            force = ["--force"] if state.startswith("made with other settings") else []
            following = files.command(stage.script, writes[-1], *force)
    yield f"  next: {following}" if following else f"  complete: open {os.path.relpath(files.report)}"


def outputs(stage: stages.Stage, files: Names, L: int, config: ModuleType) -> list[Path]:
    """Outputs of a stage, with the figures of the results that exist."""
    there = {"parts": bool(files.parts), "lenses": bool(files.others)}
    drawn = files.plots(*figures.names(L, alternation=stages.alternates(files, config), **there)) if stage.shows else []
    return [*drawn, *stages.paths(stage.writes, files, L, config)]


def _state(provenance: Provenance, stage: stages.Stage, paths: list[Path]) -> tuple[str, bool]:
    """Text for the line of a stage, and True if all of its outputs are made."""
    files = provenance.files
    if not (existing := [path for path in paths if path.exists()]):
        of_stage = replace(files, model="sentences") if "sentences" in stage.writes else files
        unfinished = of_stage.partial(stage.script).exists()
        return ("partly computed: run the script again to resume" if unfinished else "-"), False
    for path in existing:
        if provenance.entry(path) and (why := provenance.differs(path)):
            return why[0].removeprefix("was "), False
    if len(existing) < len(paths):
        return f"{len(existing)} of {len(paths)} files: run the script again to resume", False
    made = max(provenance.entry(path).get("made", "") for path in paths)
    when = f"made {made[:16].replace('T', ' ')} UTC" if made else "made by hand or by other code"
    return f"{when}, {files.relative(paths[0])}" + (f" and {len(paths) - 1} more" if len(paths) > 1 else ""), True
