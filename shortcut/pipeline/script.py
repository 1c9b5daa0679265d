"""The `@script` decorator, which makes a function the main function of a script, and `Work`, one run of a stage.

A script's body runs only if an output is missing. Skipping, locks, partial results, --force and processes are here.
"""

import os
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from shortcut import Problem
from shortcut.files import store
from shortcut.files.names import Names
from shortcut.linear import LEAST_SQUARES
from shortcut.loading import checkpoint
from shortcut.pipeline import options, partial, stages, terminal
from shortcut.pipeline.manifest import Provenance, load_parts
from shortcut.pipeline.outputs import Outputs

Main = Callable[..., None]


def script(
    config: ModuleType,
    *,
    reads: Callable[["Work"], list[Path]] = lambda work: [],
    settings: Callable[["Work"], dict[str, Any]] = lambda work: {},
    then: Callable[["Work", Outputs], None] = lambda work, outputs: None,
) -> Callable[[Callable[["Work"], None]], Main]:
    """Make a function a script's main. `reads`, `settings`: those only the script knows; `then` shows all outputs."""

    def decorate(body: Callable[["Work"], None]) -> Main:
        name, doc = Path(body.__globals__["__file__"]).name, body.__globals__["__doc__"]
        stage = stages.of_script(name)

        def main(argv: list[str] | None = None) -> None:
            args = options.read(argv, config, name, stage.takes, doc)
            map_kinds = getattr(args, "map", (LEAST_SQUARES,))
            first = Work(stage, config, args, map_kinds[0])
            works = [first, *(first.of_kind(map_kind) for map_kind in map_kinds[1:])]
            if stage.shared:
                partial.join()
            elif not terminal.leads():
                return
            if args.force:
                first.discard_shared()
            for work in works[: 1 if getattr(args, "sentence", None) else None]:
                if work.map_kind == "tuned" and "jumps" in stage.writes:
                    why = f"tuned maps are not fitted here: run {work.files.fitted_by(work.files.matrix(0, 1))}"
                    if len(works) == 1:
                        raise Problem(why)
                    work.say(f"{name}: {why}")
                    continue
                work.introduce()
                if stage.shows:
                    body(work)
                else:
                    with suppress(partial.Done):
                        work.run(body, then, reads, settings)
            first.discard_shared()

        return main

    return decorate


def shell(main: Main) -> None:
    """Run a script's main from the shell (see `terminal.shell`)."""
    try:
        terminal.shell(main)
    finally:
        partial.leave()


class Work:
    """One run of a stage, with its configuration and options."""

    say, progress = staticmethod(terminal.say), staticmethod(terminal.progress)  # in the leading process only

    def __init__(self, stage: stages.Stage, config: ModuleType, args: Any, map_kind: str = LEAST_SQUARES):
        self.stage, self.config, self.args, self.map_kind = stage, config, args, map_kind
        self.device = terminal.device(args.device) if "device" in args else "cpu"
        files = Names(args.out.resolve(), "sentences", args.dataset)
        if "model" in args:
            masked = None if stage.shows or stage.either else stage.masked
            files = stages.find_files(args.model, args.dataset, args.out, config, masked=masked)
        fitted_on = getattr(args, "matrices_from", None) or args.dataset
        other_corpus = "" if fitted_on == args.dataset else fitted_on
        self.files = replace(files, matrices_from=other_corpus, map_kind=map_kind)
        self.masked = self.files.masked
        self.sizes = options.sizes(config, args.dataset)  # numbers of sentences
        self.provenance = Provenance(self.files, self._in_force)
        self.fingerprint = cache(lambda file_kind: checkpoint.fingerprint(args.model, file_kind))  # takes seconds
        self.todo: list[Path] = []  # missing outputs
        self.loaded: list[Any] = []  # the model, once it is loaded
        map_kinds = getattr(args, "map", ())
        together = replace(self.files, map_kind="+".join(sorted(map_kinds))).partial(stage.script)
        self._shared_folder = together if len(map_kinds) > 1 else None

    def of_kind(self, map_kind: str) -> "Work":
        """The same stage for another map kind, with the same model."""
        other = Work(self.stage, self.config, self.args, map_kind)
        other.fingerprint, other.loaded = self.fingerprint, self.loaded
        return other

    def discard_shared(self) -> None:
        """Remove the partial results that all map kinds of this run share; in the leading process only."""
        if self._shared_folder and terminal.leads():
            partial.discard(self._shared_folder)

    def introduce(self) -> None:
        """Print what the script does in this run, and its settings."""
        args, config, source = self.args, self.config, getattr(self.args, "source", "")
        now = {"n": config.SENTENCES, "positions": config.POSITIONS, "map": self.map_kind, **self.sizes}
        now["source"] = {"hub": config.HUB_DATASET, "docstrings": "docstrings of packages"}.get(source, source)
        does = self.stage.does.format(**now)
        if text := getattr(args, "sentence", None):
            does = "show the predictions of every layer in "
            does += text if os.path.isfile(text) else f"{text!r}, taken as text"
        used = {"device": self.device, "matrices_from": self.files.matrices_from, "map": self.map_kind}
        shown = {name: used.get(name, value) for name, value in vars(self.args).items()}
        names = ("source", "model", "device", "dataset", "out", "seed", "matrices_from", "map")
        parts = [f"{name.replace('_', ' ')} {shown[name]}" for name in names if shown.get(name, "") != ""]
        self.say(f"{self.stage.script}: {does}\n  {', '.join(parts)}")

    def run(self, body: Callable, then: Callable, reads: Callable, settings: Callable) -> None:
        """Run the body if an output is missing; then show the outputs, in the leading process only (see `script`)."""
        with self._open(reads, settings) if terminal.leads() else nullcontext() as self._out:
            found = (self.files, self._out.key, self._out.states_key, self._out.todo) if self._out else None
            self.files, key, states_key, self.todo = partial.agree(found) if self.stage.shared else found
            folder, begin = self.files.partial(self.stage.script), self._out.begin if self._out else None
            self.partial, shared = partial.PartialResults(folder, key, begin), self._shared_folder
            self.shared = partial.PartialResults(shared, states_key, begin) if shared else None
            if self._out and (self.args.force or not self.todo):
                partial.discard(folder)
            if any(path.suffix in (".pickle", ".json") for path in self.todo):
                body(self)
            if self._out:
                then(self, self._out)
                partial.discard(folder)

    def _open(self, reads: Callable, settings: Callable) -> Outputs:
        L = self.L if "model" in self.args else 0
        self.files = replace(self.files, parts=load_parts(self.files, L) if self.map_kind == LEAST_SQUARES else {})
        inputs = [*stages.paths(self.stage.reads, self.files, L, self.config), *reads(self)]
        return self.outputs(inputs, stages.paths(self.stage.writes, self.files, L, self.config), **settings(self))

    def outputs(self, reads: list[Path], writes: list[Path], *, renew: bool = False, **more: Any) -> Outputs:
        """Context manager for the outputs; `more` are further settings that they depend on."""
        for path in reads:
            self.require(path)  # before a model is downloaded and hashed
        return Outputs(
            self.provenance, self.stage.script, reads=[*dict.fromkeys(reads)], writes=writes,
            settings=self._settings(self.stage, self.files) | more, notice=self.say, force=self.args.force, renew=renew,
        )  # fmt: skip

    def _settings(self, stage: stages.Stage, files: Names) -> dict[str, Any]:
        """Settings, model fingerprints and context length that a stage would now use, as far as this script knows."""
        found = stages.settings(stage, self.config, files)
        if "seed" in found and "seed" in self.args:
            found["seed"] = self.args.seed
        by_name = self.stage.shows and not self.args.sentence and not checkpoint.is_model_folder(self.args.model)
        if stage.depends and not by_name:  # else results are shown without the model
            found["model"] = self.files.model
            found |= {file_kind: self.fingerprint(file_kind) for file_kind in stage.depends}
            if "context" in stage.settings:
                _, found["context"], _ = checkpoint.dimensions(self.args.model, masked=self.masked)
        return found

    def _in_force(self, script: str, path: Path) -> dict[str, Any]:
        stage = stages.of_script(script)
        found = self._settings(stage, replace(self.files, map_kind=self.files.map_kind_of(path)))
        if "sentences" in stage.writes:  # the source "docstrings" keeps validation sentences apart
            found |= {"train": self.sizes["train"]}
        if "seed" not in self.args or "sentences" in stage.writes:  # sentences may have a seed of their own
            found.pop("seed", None)
        return found

    @cached_property
    def L(self) -> int:  # noqa: N802
        """Number of layers (see `stages.n_layers`)."""
        return stages.n_layers(self.config, self.args.model, masked=self.masked)

    def require(self, path: Path) -> Path:
        """Return the path. Raises Problem if the file is missing; the message names the script that makes it."""
        if not self.files.root.is_dir():
            raise Problem(f"no folder {self.files.root}: give an existing folder with --out, or leave --out away")
        if not path.exists():
            raise self.files.not_found(path, stages.maker(path, self.files, self.L, self.config))
        return path

    def add_parts(self, parts: dict[tuple[int, int], tuple[str, int]]) -> None:
        """Add the maps of the model's sub-modules, which only the loaded model knows, to the outputs."""
        self.files = replace(self.files, parts=parts)
        if self._out:
            self.todo = self._out.add(stages.paths(self.stage.writes, self.files, self.L, self.config))

    def missing(self, name: Callable[..., Path], keys: Iterable[tuple]) -> list[tuple]:
        """Keys whose file, `name(*key)`, is missing."""
        return [key for key in keys if name(*key) in self.todo]

    def save(self, path: Path, *values: Any, **numbers: Any) -> None:
        """Write an output if it is missing: values pickled one after another, or JSON; `numbers` join its entry."""
        if self._out and path in self.todo:
            with self._out.writing(path, **store.rounded(numbers)) as file:
                is_json = path.suffix == ".json"
                file.write(store.dump_json(*store.rounded(values))) if is_json else store.dump(file, *values)
