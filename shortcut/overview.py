"""Where a pipeline stands: the settings in force, what is there of each stage, and the next command.

    python config.py [--model NAME_OR_FOLDER] [--dataset NAME] [--out FOLDER]

Reads names, manifests and hashes recorded there; no data, so that it answers at once.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from shortcut import Problem, drop_output, entries, settings
from shortcut.layout import MAPS_OF, Layout, find_model, model_folder, results_folder
from shortcut.provenance import changes

FIGURES = ("pre", "surp", "ee_pre1")
STALE = "made from another"
OTHERWISE = "made with other settings"
PART_FIGURES = ("parts_pre1", "parts_pre5", "parts_pre10", "parts_surp")


def stages(files: Layout, L: int, *, last_only: bool) -> dict[str, list[Path]]:
    """What each script of a model's pipeline writes, in the order of the scripts."""
    jumps = [files.matrix(i, j) for i in range(L) for j in range(L if last_only else i + 1, L + 1)]
    r2 = [files.r2_scores, *files.plots(f"r2_scores_{L}")]
    figures = FIGURES if files.masked else FIGURES + PART_FIGURES
    shown = [*files.plots(*(f"{name}_{L}" for name in figures)), files.summary, files.report]
    if files.masked:
        return {
            "get_wikipedia_sentences.py": [files.sentences],
            "bert_add_reps.py": [files.states("train"), files.states("val")],
            "bert_add_linreg.py": jumps,
            "bert_add_plot_r2.py": r2,
            "bert_add_results.py": [files.results],
            "plot_results.py": shown,
        }
    return {
        "get_wikipedia_sentences.py": [files.sentences],
        "add_tokenization.py": [files.tokenized("train"), files.tokenized("val")],
        "add_linreg.py": jumps,
        "add_plot_r2.py": r2,
        "add_linreg_submodules.py": [files.part(i, a) for i in range(L) for a in range(1, 7)],
        "add_results.py": [files.results],
        "plot_results.py": shown,
    }


def main(config: ModuleType) -> None:
    """Print the settings and how far each pipeline is.

    Args:
        config: the configuration.
    """
    try:
        settings.check(config)
        for line in _overview(config, _options(config)):
            print(line)
        sys.stdout.flush()
    except BrokenPipeError:
        drop_output()
    except Problem as problem:
        sys.exit(f"config.py: {problem}")


def _options(config: ModuleType) -> argparse.Namespace:
    options = argparse.ArgumentParser(
        prog="config.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--model", metavar="NAME_OR_FOLDER", help="the pipeline of this model alone")
    options.add_argument("--dataset", metavar="NAME", default=config.DATASET, help=f"default: {config.DATASET}")
    options.add_argument("--out", metavar="FOLDER", type=Path, default=config.OUT, help="default: here")
    return options.parse_args()


def _overview(config: ModuleType, args: argparse.Namespace) -> Iterator[str]:
    root = args.out.resolve()
    if args.model is None:
        yield from _settings(config)
        wanted = [(config.GPT2, False), (config.BERT, True)]
    else:
        name = find_model(args.model.removesuffix("_mask"))
        wanted = [(name, args.model.endswith("_mask") or _is_masked(name, root))]
    shown = set()
    for name, masked in wanted:
        files = Layout(root, model_folder(name, masked=masked), args.dataset)
        shown.add((files.model, files.dataset))
        given = ["--dataset", args.dataset] if args.dataset != config.DATASET else []
        given += ["--out", str(args.out)] if args.out != config.OUT else []
        yield from _pipeline(config, files, name, given)
    if others := [pair for pair in _there(root) if pair not in shown]:
        yield "\nalso here (python config.py --model M --dataset D shows how far):"
        for model, dataset in others:
            yield f"  {model} on {dataset.replace(MAPS_OF, ', maps of ')}"


def _settings(config: ModuleType) -> Iterator[str]:
    yield "settings in config.py"
    for name, value in vars(config).items():
        if name.isupper():
            text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
            yield f"  {name:18} {text if len(text) <= 96 else text[:92] + ' ...'}"


def _pipeline(config: ModuleType, files: Layout, name: str, given: list[str]) -> Iterator[str]:
    yield f"\n{name} on {files.dataset}"
    try:
        L = _layers(config, name, files)
    except Problem as problem:
        yield f"  {problem}"
        return
    following, stale = None, False
    manifests: dict[Path, dict[str, Any]] = {}
    wanted = settings.in_force(config, files.dataset)
    for script, paths in stages(files, L, last_only=config.LAST_ONLY).items():
        state, done = _state(files, paths, manifests, wanted)
        yield f"  {script:27} {state}"
        if not done and following is None:
            following, stale = script, STALE in state or OTHERWISE in state
    if following is None:
        yield f"  complete: open {os.path.relpath(files.report)}"
    else:
        by_itself = name == (config.BERT if following.startswith("bert_") else config.GPT2)
        options = [] if by_itself else ["--model", name]
        if following == "get_wikipedia_sentences.py":
            source = {config.DATASET: [], "docstrings": ["--source", "docstrings"]}
            options = source.get(files.dataset, ["--source", "PATH"])
        options += [*given, *(["--force"] if stale else [])]
        yield "  next: " + shlex.join([".venv/bin/python", following, *options])


def _is_masked(name: str, root: Path) -> bool:
    """Whether a model is masked: a folder says so itself, of a name it is guessed."""
    if Path(name).is_dir():
        from shortcut import loading  # noqa: PLC0415  (takes seconds, and the known models do without)

        return loading.is_masked(name)
    return results_folder(name, root).endswith("_mask")


def _layers(config: ModuleType, name: str, files: Layout) -> int:
    """L, from the table of known models, from the model's folder, or from its matrices."""
    fitted = [int(path.stem.split("_")[1]) for path in files.matrices.glob("[0-9]*_[0-9]*.pickle")]
    if Path(name).is_dir() or (name not in config.LAYERS and not fitted):
        from shortcut import loading  # noqa: PLC0415

        try:
            return loading.n_layers(name, masked=files.masked)
        except Problem as problem:
            known = settings.known_models(config, masked=files.masked)
            raise problem if Path(name).is_dir() else Problem(f"{problem}; known names: {known}") from problem
    return config.LAYERS.get(name) or max(fitted)


def _state(
    files: Layout, paths: list[Path], manifests: dict[Path, dict[str, Any]], wanted: dict[str, Any]
) -> tuple[str, bool]:
    """In words, and whether the stage is done."""
    there = [path for path in paths if path.exists()]
    unfinished = any(path.with_name(f"{path.name}.parts").exists() for path in paths)
    if not there:
        return ("begun: goes on where it stopped" if unfinished else "-"), False
    entries = [entry for path in there if (entry := _entry(path, manifests))]
    if stale := next((name for entry in entries if (name := _made_from_another(files, entry, manifests))), None):
        return f"{STALE} {stale}", False
    for entry in entries:
        made = {key: value for key, value in entry["settings"].items() if key in wanted}
        if others := [*changes(made, {key: wanted[key] for key in made})]:
            return f"{OTHERWISE} ({'; '.join(others)})", False
    if len(there) < len(paths):
        return f"{len(there)} of {len(paths)} files: goes on where it stopped", False
    made = max((entry["made"] for entry in entries), default=None)
    when = f"made {made[:16].replace('T', ' ')} UTC" if made else "made by hand or by other code"
    return f"{when}, {files.relative(paths[0])}" + (f" and {len(paths) - 1} more" if len(paths) > 1 else ""), True


def _entry(path: Path, manifests: dict[Path, dict[str, Any]]) -> dict[str, Any] | None:
    """What the manifest beside a file says of it, with the run that made it."""
    folder = path.parent
    if folder not in manifests:
        try:
            manifests[folder] = entries.load(folder / entries.NAME)
        except (OSError, Problem):
            manifests[folder] = {"files": {}, "runs": {}}
    entry = manifests[folder]["files"].get(path.name)
    return entry and {**entry, **manifests[folder]["runs"][entry["run"]]}


def _made_from_another(files: Layout, entry: dict[str, Any], manifests: dict[Path, dict[str, Any]]) -> str | None:
    """The input that has been made anew since, if one has."""
    for name, sha256 in entry["inputs"].items():
        upstream = _entry(files.root / name, manifests)
        if upstream and upstream["sha256"] != sha256:
            return name
    return None


def _there(root: Path) -> list[tuple[str, str]]:
    """Models and datasets of which there is data under `root`."""
    found = set()
    for folder in sorted((root / "experiment").glob("*/")):
        for path in folder.glob("*.pickle"):
            for ending in ("_tokenized_val", "_val", "_results"):
                if path.stem.endswith(ending):
                    found.add((folder.name, path.stem.removesuffix(ending)))
                    break
    return sorted(found)
