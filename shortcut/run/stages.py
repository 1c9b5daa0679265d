"""The scripts in their order, a row each: what they read and write, and what that depends on.

`python -m shortcut.run.stages causal|masked` prints those of one kind of model, for the Makefile. Loads no
library, so that `python config.py` answers at once.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from shortcut.files.names import Names
from shortcut.show import figures

Files = Callable[[Names, int, ModuleType], list[Path]]  # of a model of L layers, under a configuration


@dataclass(frozen=True)
class Stage:
    """One script.

    Attributes:
        script: its name.
        masked: whether it is of masked models, of causal ones, or (None) of both.
        reads: the files that it reads.
        writes: the files that it writes.
        settings: which of `settings.in_force` these depend on, and "context".
        depends: what of the model they depend on: "weights", "tokenizer".
        says: the option that tells it what to work on.
        shared: whether several processes can share its work.
        shows: whether it shows what results there are, of whatever kind of model; what it writes depends on them.
    """

    script: str
    masked: bool | None
    reads: Files
    writes: Files
    settings: tuple[str, ...] = ()
    depends: tuple[str, ...] = ("weights",)
    says: str = "model"
    shared: bool = True
    shows: bool = False


def pairs(L: int, config: ModuleType) -> list[tuple[int, int]]:
    """Every jump (i, j), 0 <= i < j <= L, sources in order; with LAST_ONLY those into layer L."""
    return [(i, j) for i in range(L) for j in range(L if config.LAST_ONLY else i + 1, L + 1)]


def _sentences(f: Names, L: int, c: ModuleType) -> list[Path]:
    return [f.sentences]


def _tokenized(f: Names, L: int, c: ModuleType) -> list[Path]:
    return [f.tokenized("train"), f.tokenized("val")]


def _states(f: Names, L: int, c: ModuleType) -> list[Path]:
    return [f.states("train"), f.states("val")]


def _jumps(f: Names, L: int, c: ModuleType) -> list[Path]:
    return [f.matrix(i, j) for i, j in pairs(L, c)]


def _parts(f: Names, L: int, c: ModuleType) -> list[Path]:
    return [f.part(i, a) for i in range(L) for a in range(1, 7)]


def _maps(f: Names, L: int, c: ModuleType) -> list[Path]:
    """The maps that the ways to go on need."""
    from shortcut.approximation import MODES, needed  # noqa: PLC0415  (loads torch)

    jumps, parts = needed([mode.name for mode in MODES.values() if not (f.masked and mode.parts)], L)
    return [*(f.matrix(*key) for key in jumps), *(f.part(*key) for key in parts)]


def _r2(f: Names, L: int, c: ModuleType) -> list[Path]:
    return [f.r2_scores, *f.plots(f"r2_scores_{L}")]


def _results(f: Names, L: int, c: ModuleType) -> list[Path]:
    return [f.results]


def _shown(f: Names, L: int, c: ModuleType) -> list[Path]:
    return [*f.plots(*figures.names(L, parts=not f.masked)), f.summary, f.report]


def _first(of: Files, *then: Files) -> Files:
    """The training file of two, or with `then` the validation file and what else is read with it."""
    return lambda f, L, c: [of(f, L, c)[bool(then)], *(path for more in then for path in more(f, L, c))]


STAGES = (
    Stage("get_wikipedia_sentences.py", None, lambda f, L, c: [], _sentences, ("seed", "sentences", "spacy"),
          depends=(), says="source", shared=False),
    Stage("add_tokenization.py", False, _sentences, _tokenized, ("seed", "train", "val", "context"),
          depends=("tokenizer",), shared=False),
    Stage("add_linreg.py", False, _first(_tokenized), _jumps, ("rcond",)),
    Stage("add_plot_r2.py", False, _first(_tokenized, _jumps), _r2, ("last_only",)),
    Stage("add_linreg_submodules.py", False, _first(_tokenized), _parts, ("rcond",)),
    Stage("add_results.py", False, _first(_tokenized, _maps), _results, ("lambdas", "tau")),
    Stage("bert_add_reps.py", True, _sentences, _states, ("seed", "train", "val", "context"),
          depends=("weights", "tokenizer")),
    Stage("bert_add_linreg.py", True, _first(_states), _jumps, ("rcond",), shared=False),
    Stage("bert_add_plot_r2.py", True, _first(_states, _jumps), _r2, ("last_only",), shared=False),
    Stage("bert_add_results.py", True, _first(_states, _maps), _results, ("lambdas", "tau")),
    Stage("plot_results.py", None, _results, _shown, depends=(), shared=False, shows=True),
)  # fmt: skip


def of(*, masked: bool) -> list[Stage]:
    """The stages of a kind of model, in their order."""
    return [stage for stage in STAGES if stage.masked in (None, masked)]


def maker(path: Path, files: Names, L: int, config: ModuleType) -> str:
    """The script that makes a file."""
    return next(stage.script for stage in of(masked=files.masked) if path in stage.writes(files, L, config))


if __name__ == "__main__":
    print(*(stage.script for stage in of(masked=sys.argv[1:] == ["masked"])))
