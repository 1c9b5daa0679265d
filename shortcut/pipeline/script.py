"""The `@script` decorator, which makes a function the main function of a script, and `Work`, one run of a stage.

A script's body runs only if an output is missing. Skipping, locks, partial results, --force and several processes are
handled here.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import cache, cached_property, partial
from pathlib import Path
from types import ModuleType
from typing import Any

from shortcut import Problem
from shortcut.files import store
from shortcut.files.names import Names, model_folder
from shortcut.linear import LEAST_SQUARES
from shortcut.loading import checkpoint
from shortcut.pipeline import options, processes, stages, terminal
from shortcut.pipeline.manifest import Provenance, load_parts
from shortcut.pipeline.outputs import Outputs
from shortcut.pipeline.partial import Done, PartialResults
from shortcut.pipeline.status import results_of

Body = Callable[["Work"], None]
Then = Callable[["Work", Outputs], None]
Settings = Callable[["Work"], dict[str, Any]]
Main = Callable[..., None]


def script(
    config: ModuleType, *takes: str, then: Then = lambda work, outputs: None, settings: Settings = lambda work: {}
) -> Callable[[Body], Main]:
    """Make a function the main function of a script that `takes` options.

    `then` shows the outputs, new or old. `settings(work)` returns settings that only the script knows.
    """

    def decorate(body: Body) -> Main:
        name, doc = Path(body.__globals__["__file__"]).name, body.__globals__["__doc__"]
        stage = stages.of_script(name)

        def main(argv: list[str] | None = None) -> None:
            model = config.BERT if stage.masked else config.GPT2
            args = options.read(options.parser(name, doc, config, takes, model), argv, config)
            map_kinds = getattr(args, "map", (LEAST_SQUARES,))
            map_kinds = map_kinds[: 1 if getattr(args, "sentence", None) else None]
            works = [Work(stage, config, args, map_kind) for map_kind in map_kinds]
            if stage.shared:
                processes.join()
            elif processes.is_superfluous():
                return
            for work in works:
                work.own_settings = settings
                work.introduce(doc)
                if work.map_kind == "tuned" and "jumps" in stage.writes:
                    work.say("  tuned maps are not fitted here: use python -m shortcut import")
                    continue
                try:
                    with suppress(Done):
                        work.run(body, then)
                except checkpoint.NotFound as problem:
                    raise Problem(f"{problem}{options.known_models(config, args.model, work.masked)}") from problem

        return main

    return decorate


def shell(main: Main) -> None:
    """Run a script's main from the shell (see `terminal.shell`)."""
    try:
        terminal.shell(main)
    finally:
        processes.leave()


class Work:
    """One run of a stage, with its configuration and options."""

    own_settings: Settings = staticmethod(lambda work: {})  # settings that only the script knows

    def __init__(self, stage: stages.Stage, config: ModuleType, args: Any, map_kind: str = LEAST_SQUARES):
        self.stage, self.config, self.args, self.map_kind = stage, config, args, map_kind
        self.device = terminal.device(args.device) if "device" in args else "cpu"
        root, folder, masked = args.out.resolve(), "sentences", stage.masked
        if "model" in args:
            masked = checkpoint.is_masked(args.model, config) if stage.shows or stage.either else masked
            folder = model_folder(args.model, masked=bool(masked))
            if masked is None:
                folder, masked = results_of(folder, root)
        fitted_on = getattr(args, "matrices_from", None) or args.dataset
        other_corpus = "" if fitted_on == args.dataset else fitted_on
        self.files = Names(root, folder, args.dataset, other_corpus, self.map_kind, bool(masked))
        self.masked = self.files.masked
        self.sizes = options.sizes(config, args.dataset)  # numbers of sentences
        self.provenance = Provenance(self.files, self._in_force)
        self.fingerprint = cache(
            partial(checkpoint.fingerprint, getattr(args, "model", ""))
        )  # hashing weights takes seconds
        self.todo: list[Path] = []  # missing outputs

    def of_kind(self, map_kind: str) -> "Work":
        """The same stage for another map kind."""
        return Work(self.stage, self.config, self.args, map_kind)

    def introduce(self, doc: str) -> None:
        """Print what the script does, and its settings."""
        shown = {**vars(self.args), "device": self.device, "matrices_from": self.files.matrices_from}
        shown["map"] = self.map_kind
        names = ("source", "model", "device", "dataset", "out", "seed", "matrices_from", "map")
        parts = [f"{name.replace('_', ' ')} {shown[name]}" for name in names if name in self.args and shown[name] != ""]
        self.say(f"{self.stage.script}: {doc.strip().splitlines()[0]}\n  {', '.join(parts)}")

    def run(self, body: Body, then: Then) -> None:
        """Run the body if an output is missing; then show the outputs, in the leading process only."""
        if self.stage.shows:
            return body(self)
        with self._outputs():
            if any(path.suffix in (".pickle", ".json") for path in self.todo):
                body(self)
            if processes.leads():
                then(self, self._out)

    @contextmanager
    def _outputs(self) -> Iterator[None]:
        L = 0
        if "model" in self.args:
            if self.stage.shared:
                processes.agree([0])  # wait until every process sees the files of the stage before
            L = self.L
            self.files = replace(self.files, parts=load_parts(self.files, L) if self.map_kind == LEAST_SQUARES else {})
        names = (self.stage.reads, self.stage.writes)
        reads, writes = (stages.paths(group, self.files, L, self.config) for group in names)
        with self.outputs(reads, writes) if processes.leads() else nullcontext() as outputs:
            digest, todo = (outputs.key, outputs.todo) if outputs else (32 * "0", [])
            shared = [*(int(digest[k : k + 8], 16) for k in range(0, 32, 8)), *(path in todo for path in writes)]
            shared = processes.agree(shared) if self.stage.shared else shared
            self.todo = [path for path, missing in zip(writes, shared[4:], strict=True) if missing]
            key = "".join(f"{number:08x}" for number in shared[:4])
            self._out, self.partial = outputs, PartialResults(self.files.partial(self.stage.script), key, self.say)
            if outputs and (self.args.force or not self.todo):
                self.partial.discard()
            yield
            if outputs:
                self.partial.discard()

    def outputs(self, reads: list[Path], writes: list[Path], *, renew: bool = False, **more: Any) -> Outputs:
        """Context manager for the outputs; `more` are further settings that they depend on."""
        for path in reads:
            self.require(path)  # before a model is downloaded and hashed
        settings = stages.settings(self.stage, self.config, self.files) | self._of_this_run(self.stage) | more
        probed = self.map_kind == "jacobian" and "jumps" in self.stage.writes
        if "seed" in self.stage.settings or probed:
            settings |= {"seed": self.args.seed}
        settings |= self.own_settings(self)
        return Outputs(
            self.provenance, self.stage.script, reads=reads, writes=writes, settings=settings, notice=self.say,
            force=self.args.force, renew=renew,
        )  # fmt: skip

    def _in_force(self, script: str, path: Path) -> dict[str, Any]:
        """Settings that a script would now use for a file, as far as this script knows them."""
        stage = stages.of_script(script)
        found = stages.settings(stage, self.config, replace(self.files, map_kind=self.files.map_kind_of(path)))
        found |= self._of_this_run(stage)
        if "sentences" in stage.writes:  # the source "docstrings" keeps validation sentences apart
            found |= {"train": self.sizes["train"]}
        if "seed" in found:  # sentences and positions may have different seeds
            found.pop("seed")
            found |= {"seed": self.args.seed} if "seed" in self.args and "sentences" not in stage.writes else {}
        return json.loads(json.dumps(found))

    def _of_this_run(self, stage: stages.Stage) -> dict[str, Any]:
        """Model fingerprints and context length for a stage; {} if results are shown by name, without the model."""
        by_name = self.stage.shows and not self.args.sentence and not checkpoint.is_model_folder(self.args.model)
        if by_name or not stage.depends:
            return {}
        found = {"model": self.files.model, **{file_kind: self.fingerprint(file_kind) for file_kind in stage.depends}}
        context = "context" in stage.settings
        return found | ({"context": checkpoint.limits(self.args.model, masked=self.masked)[0]} if context else {})

    @cached_property
    def L(self) -> int:  # noqa: N802
        """Number of layers, from the model's config. Raises Problem if config.py has another number."""
        known = None if Path(self.args.model).is_dir() else self.config.LAYERS.get(self.args.model)
        return checkpoint.n_layers(self.args.model, masked=self.masked, expected=known)

    def require(self, path: Path) -> Path:
        """Return the path. Raises Problem if the file is missing; the message names the script that makes it."""
        if not self.files.root.is_dir():
            raise Problem(f"no folder {self.files.root}: give an existing folder with --out, or leave --out away")
        if not path.exists():
            made_by = stages.maker(path, self.files, self.L, self.config) + self.files.options(path)
            made_by = self.files.fitted_by(path) if path.parent == self.files.matrices else made_by
            raise Problem(f"{self.files.relative(path)} not found: run {made_by} first")
        return path

    def add_parts(self, parts: dict[tuple[int, int], tuple[str, int]]) -> None:
        """Add the maps of the model's sub-modules, which only the loaded model knows, to the outputs."""
        self.files = replace(self.files, parts=parts)
        if self._out:
            self.todo = self._out.add(stages.paths(self.stage.writes, self.files, self.L, self.config))

    def missing(self, name: Callable[..., Path], keys: Iterable[tuple]) -> list[tuple]:
        """Keys whose file, `name(*key)`, is missing."""
        return [key for key in keys if name(*key) in self.todo]

    def begin(self) -> None:
        """Begin to write: everything that the stage needs has been checked (see `Outputs.begin`)."""
        if self._out:
            self._out.begin()

    def save(self, path: Path, *values: Any, **numbers: Any) -> None:
        """Pickle the values, one after another, to output `path`, with `numbers` in its manifest entry."""
        with self._out.writing(path, **numbers) as file:
            store.dump(file, *values)

    def save_missing(self, path: Path, *values: Any) -> None:
        """Pickle the values to output `path` if it is missing."""
        if path in self.todo:
            self.save(path, *values)

    def save_json(self, path: Path, value: Any) -> None:
        """Write the value as JSON to output `path` if it is missing."""
        if self._out and path in self.todo:
            with self._out.writing(path) as file:
                file.write(store.dump_json(value))

    def say(self, line: str) -> None:
        """Print a line, in the leading process only."""
        if processes.leads():
            terminal.say(line)

    def bar(self, title: str, total: int | None, unit: str = "sentences"):
        """Progress bar, in the leading process only (see `terminal.bar`)."""
        return terminal.bar(title, total, unit, shown=processes.leads())
