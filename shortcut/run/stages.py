"""The scripts in their order, a row each: what they read and write, and what that depends on.

`python -m shortcut.run.stages causal|masked` prints those of one kind of model, for the Makefile. Loads no
library, so that `python config.py` answers at once.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from shortcut.files.names import Names
from shortcut.run import options


@dataclass(frozen=True)
class Stage:
    """One script."""

    script: str  # its name
    masked: bool | None  # whether it is of masked models, of causal ones, or (None) of both
    reads: tuple[str, ...]  # what it reads, and
    writes: tuple[str, ...]  # what it writes, names of `FILES`
    settings: tuple[str, ...] = ()  # which of `options.recorded` these depend on, and "context"
    depends: tuple[str, ...] = ("weights",)  # what of the model they depend on: "weights", "tokenizer"
    shared: bool = True  # whether several processes can share its work
    either: bool = False  # whether it works on the other kind of model too, though that kind's pipeline lacks it
    shows: bool = False  # whether it shows results, of whatever kind of model, and writes what these hold
    layout: int = 1  # version of what it writes, raised when that changes meaning


def pairs(L: int, config: ModuleType, kind: str = "") -> list[tuple[int, int]]:
    """Every jump (i, j), 0 <= i < j <= L, sources in order; with LAST_ONLY, and of some kinds, those into layer L."""
    last_only = config.LAST_ONLY
    if kind:
        from shortcut.linear import KINDS  # noqa: PLC0415  (loads torch)

        last_only = last_only or KINDS[kind].last_only
    return [(i, j) for i in range(L) for j in range(L if last_only else i + 1, L + 1)]


def _maps(f: Names, L: int, config: ModuleType) -> list[Path]:
    from shortcut.approximation import needed  # noqa: PLC0415  (loads torch)

    jumps, parts = needed(f.parts or {}, L)
    # of a masked model, whose sub-modules are not in the paper, as far as they were fitted
    unknown = [f.submodules] if f.parts is None and not f.masked else []
    return [*(f.matrix(*key) for key in jumps), *unknown, *(f.part(*key) for key in parts)]


def alternates(f: Names, config: ModuleType) -> bool:
    """Whether blocks and jumps are alternated: of a causal model, by all jumps of the dataset's own."""
    return config.SCHEDULES and not (f.masked or config.LAST_ONLY or f.matrices_from or f.kind)


def _figures(f: Names, L: int, config: ModuleType) -> list[Path]:
    from shortcut.show import figures  # noqa: PLC0415  (loads torch)

    lenses = bool(f.others("predictions"))
    return f.plots(*figures.names(L, parts=bool(f.parts), alternation=alternates(f, config), lenses=lenses))


FILES: dict[str, Callable[[Names, int, ModuleType], list[Path]]] = {  # of a model of L layers, under config c
    "sentences": lambda f, L, c: [f.sentences],
    "tokenized train": lambda f, L, c: [f.tokenized("train")],
    "train": lambda f, L, c: [(f.states if f.masked else f.tokenized)("train")],  # where a kind's tokens are
    "tokenized val": lambda f, L, c: [f.tokenized("val")],
    "states train": lambda f, L, c: [f.states("train")],
    "states val": lambda f, L, c: [f.states("val")],
    "jumps": lambda f, L, c: [f.matrix(i, j) for i, j in pairs(L, c, f.kind)],
    "parts": lambda f, L, c: [f.submodules, *(f.part(*key) for key in f.parts or ())],
    "maps": _maps,
    "r2": lambda f, L, c: [f.r2_scores, f.quality, *f.plots(f"r2_scores_{L}", f"maps_{L}")],
    "results": lambda f, L, c: [f.results, f.predictions],
    "for schedules": lambda f, L, c: [f.r2_scores, *FILES["jumps"](f, L, c)] if alternates(f, c) else [],
    "shown": lambda f, L, c: [*_figures(f, L, c), f.summary, f.report],
}
DRAWN = ("seed", "train", "val", "positions", "context")
STAGES = (
    Stage("get_wikipedia_sentences.py", None, (), ("sentences",), ("seed", "sentences", "spacy"), (), False),
    Stage("add_tokenization.py", False, ("sentences",), ("tokenized train", "tokenized val"), DRAWN, ("tokenizer",),
          shared=False),
    Stage("add_linreg.py", False, ("tokenized train",), ("jumps",), ("rcond", "dtype")),
    Stage("add_plot_r2.py", False, ("tokenized val", "jumps"), ("r2",), ("dtype",)),
    Stage("bert_add_reps.py", True, ("sentences",), ("states train", "states val"), (*DRAWN, "dtype"),
          ("weights", "tokenizer")),
    Stage("bert_add_linreg.py", True, ("states train",), ("jumps",), ("rcond", "dtype"), shared=False),
    Stage("bert_add_plot_r2.py", True, ("states val", "jumps"), ("r2",), ("dtype",), shared=False),
    Stage("add_linreg_submodules.py", False, ("train",), ("parts",), ("rcond", "dtype"), either=True),
    Stage("add_results.py", False, ("tokenized val", "maps", "for schedules"), ("results",),
          ("lambdas", "tau", "schedules", "dtype"), layout=2),
    Stage("bert_add_results.py", True, ("states val", "maps"), ("results",), ("lambdas", "tau", "dtype"), layout=2),
    Stage("plot_results.py", None, ("results",), ("shown",), (), (), shared=False, shows=True),
)  # fmt: skip

IMPORT = Stage("shortcut import", None, (), ("jumps",), (), ("weights", "tokenizer"))  # lenses of other tools


def of_script(script: str) -> Stage:
    """The stage of a script."""
    return next((stage for stage in STAGES if stage.script == script), IMPORT)


def settings(stage: Stage, config: ModuleType, files: Names) -> dict[str, Any]:
    """What a stage depends on in config.py, by the names that its manifest has."""
    recorded = options.recorded(config, files.dataset)
    found = {name: recorded[name] for name in stage.settings if name in recorded}
    if files.kind:
        found.pop("schedules", None)
    if files.kind and "jumps" in stage.writes:
        from shortcut.linear import KINDS  # noqa: PLC0415  (loads torch)

        found |= {"map": files.kind, **{name: recorded[name] for name in KINDS[files.kind].settings}}
    return {"layout": stage.layout, **found}


def paths(kinds: tuple[str, ...], files: Names, L: int, config: ModuleType) -> list[Path]:
    """The files of some kinds, of a model of L layers."""
    return [*dict.fromkeys(path for kind in kinds for path in FILES[kind](files, L, config))]


def of(*, masked: bool) -> list[Stage]:
    """The stages of a kind of model, in their order."""
    return [stage for stage in STAGES if stage.masked in (None, masked)]


def maker(path: Path, files: Names, L: int, config: ModuleType) -> str:
    """The script that makes a file."""
    makers = [stage for stage in STAGES if stage in of(masked=files.masked) or stage.either]
    return next(stage.script for stage in makers if path in paths(stage.writes, files, L, config))


if __name__ == "__main__":
    print(*(stage.script for stage in of(masked=sys.argv[1:] == ["masked"])))
