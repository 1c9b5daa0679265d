"""The stages of the pipeline in their order, one row each: inputs, outputs and what the outputs depend on.

`python -m shortcut.pipeline.stages causal|masked` prints the scripts for one model kind, for the Makefile. No
library is imported at the top, so that `python config.py` answers immediately.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from shortcut import LEAST_SQUARES, Problem
from shortcut.files.names import Names, find_model, similar_model
from shortcut.loading import checkpoint
from shortcut.pipeline import manifest, options, terminal


@dataclass(frozen=True)
class Stage:
    """One script of the pipeline."""

    script: str  # file name
    masked: bool | None  # True for masked models, False for causal models, None for both
    reads: tuple[str, ...]  # inputs, names in `paths`; further ones are known to the script
    writes: tuple[str, ...]  # outputs, names in `paths`; figures of results: see `show.figures`
    settings: tuple[str, ...] = ()  # that the outputs depend on: names in config.py in lower case, and "context"
    depends: tuple[str, ...] = ("weights",)  # model files that the outputs depend on: "weights", "tokenizer"
    shared: bool = True  # True if several processes can share the work
    either: bool = False  # True if the script also runs on the other model kind, outside the pipeline for it
    shows: bool = False  # True if the script shows results for either model kind
    layout: int = 1  # version of the outputs' layout, raised when their meaning changes
    takes: str = ""  # its options, names in `options`, in addition to those of all scripts
    does: str = ""  # what it does in a run, for its first line


def pairs(L: int, config: ModuleType, map_kind: str) -> list[tuple[int, int]]:
    """All jumps (i, j), 0 <= i < j <= L, by source; only jumps into layer L with LAST_ONLY and for some map kinds."""
    last_only = config.LAST_ONLY
    if map_kind != LEAST_SQUARES:
        from shortcut.linear import KINDS  # noqa: PLC0415  (loads torch)

        last_only = last_only or KINDS[map_kind].last_only
    return [(i, j) for i in range(L) for j in range(L if last_only else i + 1, L + 1)]


def alternates(f: Names, config: ModuleType) -> bool:
    """True if alternation schedules are evaluated: causal models, with all least-squares maps of the same dataset."""
    return config.SCHEDULES and not (config.LAST_ONLY or f.masked or f.matrices_from or f.map_kind != LEAST_SQUARES)


def paths(names: tuple[str, ...], f: Names, L: int, config: ModuleType) -> list[Path]:
    """Inputs or outputs of a stage, called as in `STAGES`, for a model of L layers."""
    files = {
        "sentences": [f.sentences],
        "train": [f.split("train")],
        "val": [f.split("val")],
        "jumps": [f.matrix(i, j) for i, j in pairs(L, config, f.map_kind)],
        "parts": [f.submodules, *(f.part(*key) for key in f.parts or ())],
        "r2": [f.r2_scores, f.quality, *f.plots(f"r2_scores_{L}", f"maps_{L}")],
        "results": [f.results, f.predictions],
        "shown": [f.summary, f.report],
    }
    return [path for name in names for path in files[name]]


DRAWN = ("seed", "train", "val", "positions", "context")
STAGES = (
    Stage("get_wikipedia_sentences.py", None, (), ("sentences",), ("seed", "sentences", "spacy"), (), False,
          takes="source seed", does="draw up to {n:,} sentences from {source}"),
    Stage("add_tokenization.py", False, ("sentences",), ("train", "val"), DRAWN, ("tokenizer",), shared=False,
          takes="model seed", does="tokenize {train:,} + {val:,} sentences, choose {positions} token(s) each"),
    Stage("add_linreg.py", False, ("train",), ("jumps",), ("rcond", "dtype"),
          takes="model map device batch-size seed", does="fit {map} maps from layer to layer"),
    Stage("add_plot_r2.py", False, ("val", "jumps"), ("r2",), ("dtype",),
          takes="model map matrices-from device batch-size seed", does="score id and {map} maps by r2"),
    Stage("bert_add_reps.py", True, ("sentences",), ("train", "val"), (*DRAWN, "dtype"), ("weights", "tokenizer"),
          takes="model device batch-size seed", does="mask {positions} token(s) in {train:,} + {val:,} sentences"),
    Stage("bert_add_linreg.py", True, ("train",), ("jumps",), ("rcond", "dtype"), shared=False,
          takes="model map device batch-size seed", does="fit {map} maps from layer to layer"),
    Stage("bert_add_plot_r2.py", True, ("val", "jumps"), ("r2",), ("dtype",), shared=False,
          takes="model map matrices-from device seed", does="score id and {map} maps by r2"),
    Stage("add_linreg_submodules.py", False, ("train",), ("parts",), ("rcond", "dtype"), either=True,
          takes="model device batch-size seed", does="fit a map for every sub-module of every block"),
    Stage("add_results.py", False, ("val",), ("results",), ("lambdas", "tau", "schedules", "dtype"), layout=2,
          takes="model map matrices-from device batch-size seed", does="predict with id and {map} maps"),
    Stage("bert_add_results.py", True, ("val",), ("results",), ("lambdas", "tau", "dtype"), layout=2,
          takes="model map matrices-from device batch-size seed", does="predict with id and {map} maps"),
    Stage("plot_results.py", None, ("results",), ("shown",), (), (), shared=False, shows=True, layout=2,
          takes="model map matrices-from sentence words device", does="show the results of id and {map} maps"),
)  # fmt: skip
IMPORT = Stage("shortcut import", None, (), ("jumps",), (), ("weights", "tokenizer"))  # lenses from other tools


def answer(config: ModuleType, file: str, doc: str) -> None:
    """Answer --help and mistakes in options and config.py; the scripts call this before they import torch."""
    stage = of_script(Path(file).name)
    terminal.shell(lambda: options.read(None, config, stage.script, stage.takes, doc))


def of_script(script: str) -> Stage:
    """Stage of a script."""
    return next((stage for stage in STAGES if stage.script == script), IMPORT)


def n_layers(config: ModuleType, name: str, *, masked: bool) -> int:
    """Number of layers, from the model's config. Raises Problem if config.py has another number or no such name."""
    known = None if Path(name).is_dir() else config.LAYERS.get(name)
    try:
        layers, _, _ = checkpoint.dimensions(name, masked=masked)
    except checkpoint.NotFound as problem:
        if known or Path(name).is_dir():
            raise
        names = [name for name in config.LAYERS if masked == (name in config.MASKED)]
        hint = similar_model(name, names) or f"; known names: {', '.join(names)}"
        raise Problem(f"{problem}{hint}") from problem
    if known not in (None, layers):
        raise Problem(f"{name} has {layers} layers, config.py says {known}: correct LAYERS in config.py")
    return layers


def find_files(name: str, dataset: str, out: Path, config: ModuleType, *, masked: bool | None = None) -> Names:
    """Files for a model: a name or folder, or the name of a folder under experiment/ if the model is not available.
    `masked` is None if the model decides; for a folder under experiment/, its manifest or else its ending _mask does.
    """
    if masked is None and (masked := checkpoint.is_masked(name, config)) is None:
        name, root = Path(name).resolve().name, out.resolve()
        folder = next((model for model in (name, f"{name}_mask") if (root / "experiment" / model).is_dir()), name)
        made = [of_script(entry["script"]).masked for entry in manifest.load(root / "experiment" / folder).values()]
        masked = next((masked for masked in made if masked is not None), folder.endswith("_mask"))
        model = folder.removesuffix("_mask") if masked else folder
        known = (known for known in config.LAYERS if known.rpartition("/")[2] == model)
        return Names(root, folder, dataset, masked=masked, given=next(known, find_model(model)))
    return Names.of(name, dataset, out, masked=masked)


def settings(stage: Stage, config: ModuleType, files: Names) -> dict[str, Any]:
    """Settings in config.py that a stage depends on, by their names in the manifest."""
    now = {name.lower(): value for name, value in vars(config).items()} | options.sizes(config, files.dataset)
    found = {name: now[name] for name in stage.settings if name in now}
    if files.map_kind != LEAST_SQUARES:
        found.pop("schedules", None)
        if "jumps" in stage.writes:
            found |= {"map": files.map_kind} | map_settings(config, files.map_kind)
    return {"layout": stage.layout, **found}


def map_settings(config: ModuleType, map_kind: str) -> dict[str, Any]:
    """Settings in config.py that maps of a map kind depend on, by their names in lower case."""
    from shortcut.linear import KINDS  # noqa: PLC0415  (loads torch)

    return {name: getattr(config, name.upper()) for name in KINDS[map_kind].settings}


def pipeline(*, masked: bool) -> list[Stage]:
    """Stages for masked or for causal models, in order."""
    return [stage for stage in STAGES if stage.masked in (None, masked)]


def maker(path: Path, files: Names, L: int, config: ModuleType) -> str:
    """Command that makes a file."""
    makers = [stage for stage in STAGES if stage in pipeline(masked=files.masked) or stage.either]
    made_by = next(stage.script for stage in makers if path in paths(stage.writes, files, L, config))
    return files.command(made_by, path)


if __name__ == "__main__":
    print(*(stage.script for stage in pipeline(masked=sys.argv[1:] == ["masked"])))
