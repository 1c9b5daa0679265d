"""What every script does besides its work: options, settings printed, progress, one line for a problem."""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from shortcut import Problem, corpus, drop_output, interruptions, layout, loading, manifest, processes, settings
from shortcut.models import Model
from shortcut.provenance import MODEL_FILES, Hashes

Item = TypeVar("Item")


@dataclass(frozen=True)
class Run:
    """One run of one script, as its options and config.py have it.

    Attributes:
        script: name of the script.
        config: the configuration, a module.
        model: name or folder of the model.
        masked: whether the script is for masked models.
        files: where everything lies.
        source: where sentences come from.
        sentence: one to look inside at, or a file of them.
        device: "cpu", "cuda" or the like.
        batch_size: tokens that run together.
        seed: of every draw; None where what others have drawn is shown.
        force: whether to make anew what is there.
        hashes: of the files it has read.
    """

    script: str
    config: ModuleType
    model: str
    masked: bool
    files: layout.Layout
    source: str | None
    sentence: str | None
    device: str
    batch_size: int
    seed: int | None
    force: bool
    hashes: Hashes = field(default_factory=Hashes)

    def n_layers(self) -> int:
        """L, from the model's config; raises Problem if config.py has another."""
        with self._naming_known_models():
            return loading.n_layers(self.model, masked=self.masked, expected=self._known_layers())

    def context(self) -> int:
        """The longest sequence the model takes, from its config alone."""
        return loading.context(self.model, masked=self.masked)

    def load_model(self) -> Model:
        """The model, checked (see `loading.load`)."""
        return loading.load(
            self.model,
            masked=self.masked,
            layers=self._known_layers(),
            device=self.device,
            safetensors_only=self.config.SAFETENSORS_ONLY,
        )

    def stage(self, *, reads: list[Path], writes: list[Path], depends: list[str], **others: Any) -> manifest.Stage:
        """The stage of this script (see `manifest.Stage`).

        Args:
            reads: its inputs.
            writes: its outputs.
            depends: what of the model its outputs depend on: "weights", "tokenizer", both or nothing.
            others: settings that they depend on besides.
        """
        expects: dict[str, Any] = {}
        if processes.leads() and reads:
            for path in reads:
                self.files.require(path)  # before a model is downloaded to take its hash
            with self._naming_known_models():
                if depends:
                    others |= {"model": self.files.model, **{kind: self._fingerprint(kind) for kind in depends}}
                if "weights" in depends:
                    expects["tokenizer"] = self._fingerprint("tokenizer")
                elif not depends and loading.is_model_folder(self.model):  # a name of results tells no model
                    expects |= {kind: self._fingerprint(kind) for kind in MODEL_FILES}
            if self.seed is not None:
                expects |= self.sizes()
                if "seed" not in others:  # else it draws anew, from whatever sentences there are
                    expects["seed"] = self.seed
        return manifest.Stage(
            self.files, self.script, reads=reads, writes=writes, settings=others, force=self.force, notice=say,
            expects=expects, hashes=self.hashes,
        )  # fmt: skip

    @cached_property
    def _fingerprint(self) -> Callable[[str], str | None]:
        """The model's fingerprint of one kind, each taken once: of a large model it takes seconds."""
        return cache(partial(loading.fingerprint, self.model))

    def sizes(self) -> dict[str, int]:
        """How many sentences train and validate, by "train" and "val"."""
        return settings.sizes(self.config, self.files.dataset)

    def source_settings(self) -> dict[str, Any]:
        """What the sentences depend on, by where they come from."""
        c = self.config
        if self.source == "hub":
            return {"source": "hub", "hub": [c.HUB_DATASET, c.HUB_CONFIG], "bytes": c.READ_BYTES}
        if self.source == "docstrings":
            return {"source": "docstrings", "packages": c.DOCSTRING_PACKAGES, "train": self.sizes()["train"]}
        return corpus.identity(self.source, c.READ_BYTES)

    @contextmanager
    def _naming_known_models(self) -> Iterator[None]:
        """To what is said of a model that config.py does not name, add those it does."""
        try:
            yield
        except Problem as problem:
            if self.model in self.config.LAYERS or Path(self.model).is_dir():
                raise
            known = settings.known_models(self.config, masked=self.masked)
            raise Problem(f"{problem}; known names: {known}") from problem

    def _known_layers(self) -> int | None:
        return None if Path(self.model).is_dir() else self.config.LAYERS.get(self.model)


def parser(script: str, doc: str, config: ModuleType, model: str, masked: bool | None) -> argparse.ArgumentParser:
    """The options that all scripts share, with their defaults from the configuration."""
    options = argparse.ArgumentParser(
        prog=script, description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = options.add_argument
    add("--model", metavar="NAME_OR_FOLDER", default=model,
        help=f"the model (default: {model}; known: {settings.known_models(config, masked=masked)})")  # fmt: skip
    add("--dataset", metavar="NAME", help=f"names the files (default: {config.DATASET})")
    add("--out", metavar="FOLDER", type=Path, default=config.OUT, help="holds experiment/ and linreg/ (default: here)")
    add("--device", default=config.DEVICE, help=f"cpu, cuda, cuda:1, auto (default: {config.DEVICE})")
    add("--batch-size", metavar="TOKENS", type=_positive, default=config.BATCH_SIZE,
        help=f"tokens that run together (default: {config.BATCH_SIZE})")  # fmt: skip
    add("--seed", metavar="N", type=int, default=config.SEED,
        help=f"of the draws of sentences and positions (default: {config.SEED})")  # fmt: skip
    add("--force", action="store_true", help="make anew what is there already")
    return options


def start(
    argv: list[str] | None, script: str, doc: str, config: ModuleType, *, model: str, masked: bool = False,
    shared: bool = False, source: bool = False, maps: bool = False, results: bool = False,
) -> Run:  # fmt: skip
    """Read the options, print the settings in force.

    Args:
        argv: the options; None for the command line's.
        script: path of the script.
        doc: its docstring, shown by --help.
        config: the configuration.
        model: the model it works on by default.
        masked: whether it is for masked models.
        shared: whether several processes can share its work; else all but the first of them end here.
        source: whether it takes --source.
        maps: whether it judges matrices, and so takes --matrices-from.
        results: whether it shows results: --model may name a folder under experiment/ too, and
            --sentence asks for what one sentence looks like inside.

    Raises:
        Problem: a setting that is missing or wrong, a device that is not there, a source without a name of its own.
    """
    settings.check(config)
    name = Path(script).name
    options = parser(name, doc, config, model, None if results else masked)
    if source:
        options.add_argument(
            "--source", metavar="hub|docstrings|PATH", default=config.SOURCE,
            help=f"where sentences come from; PATH: parquet, jsonl or txt, file or folder (default: {config.SOURCE})",
        )  # fmt: skip
    if maps:
        options.add_argument(
            "--matrices-from",
            metavar="DATASET",
            help="judge the matrices fitted on another dataset (section 5.2); files are then named <d>_maps_of_DATASET",
        )
    if results:
        options.add_argument(
            "--sentence", metavar="TEXT_OR_FILE", help="show what every layer would predict in it; FILE: one a line"
        )
    args = options.parse_args(argv)
    if source and args.source != config.SOURCE and args.dataset is None:
        raise Problem(
            f"--source {args.source} needs a name for its files, which are not those of {config.DATASET}:"
            f" add --dataset {'docstrings' if args.source == 'docstrings' else 'NAME'}"
        )
    args.dataset = config.DATASET if args.dataset is None else args.dataset
    args.model = layout.find_model(args.model)
    if shared:
        processes.join()
    elif processes.is_superfluous():
        sys.exit()
    fitted_on = args.matrices_from if maps and args.matrices_from is not None else args.dataset
    for dataset in (args.dataset, fitted_on):
        if dataset in ("", "..") or Path(dataset).name != dataset:
            options.error(f"a dataset's name is part of file names, got {dataset!r}")
    root = args.out.resolve()
    folder = layout.results_folder(args.model, root) if results else layout.model_folder(args.model, masked=masked)
    files = layout.Layout(root, folder, args.dataset, "" if fitted_on == args.dataset else fitted_on)
    run = Run(
        script=name,
        config=config,
        model=args.model,
        masked=files.masked if results else masked,
        files=files,
        source=args.source if source else None,
        sentence=args.sentence if results else None,
        device=_device(args.device),
        batch_size=args.batch_size,
        seed=None if results else args.seed,
        force=args.force,
    )
    say(f"{name}: {doc.strip().splitlines()[0]}")
    shown = {"source": run.source} if source else {"model": run.model, "device": run.device}
    shown |= {"dataset": run.files.dataset, "out": args.out}
    shown |= {} if run.seed is None else {"seed": run.seed}
    if files.matrices_from:
        shown["matrices from"] = files.matrices_from
    say("  " + ", ".join(f"{key} {value}" for key, value in shown.items()))
    return run


def run(main: Callable[[], object], script: str = "") -> None:
    """Run a script's main; a problem is one line and exit code 1, Ctrl-C one line and 130."""
    script = script or Path(sys.argv[0]).name
    try:
        interruptions.begin()
        main()
    except (Exception, KeyboardInterrupt) as error:
        interruptions.end()
        if interruptions.is_interruption(error):
            print(
                f"\n{script}: interrupted; the files that were finished are kept: run it again to go on",
                file=sys.stderr,
            )
            sys.exit(interruptions.INTERRUPTED)
        if isinstance(error, Problem):
            sys.exit(f"{script}: {error}")
        raise
    else:
        interruptions.end()
    finally:
        processes.leave()


def say(line: str) -> None:
    """One line for the person at the terminal, from the first of several processes."""
    if processes.leads():
        try:
            tqdm.write(line, file=sys.stdout)
            sys.stdout.flush()
        except OSError as error:  # the files matter more than what is said of them
            if not isinstance(error, BrokenPipeError):
                sys.stderr.write(f"cannot print ({error.strerror}): going on without\n")
            drop_output()


@contextmanager
def bar(title: str, total: int | None, unit: str) -> Iterator[Callable[[int], object]]:
    """A progress bar with rate and time left; yields what is to be told of progress made."""
    with tqdm(
        total=total, desc=f"  {title}", unit=f" {unit}", file=sys.stderr, smoothing=0.05,
        mininterval=0.2 if sys.stderr.isatty() else 30,  # a log file wants few lines
        leave=None if sys.stderr.isatty() else False, disable=not processes.leads(),
    ) as shown:  # fmt: skip
        yield shown.update


def progress(title: str, items: Iterable[Item], total: int, unit: str) -> Iterator[Item]:
    """The items, with a bar that advances as each has been dealt with."""
    with bar(title, total, unit) as advance:
        for item in items:
            yield item
            advance(1)


def _device(name: str) -> str:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and torch.cuda.is_available():  # a launcher gives every process of a machine its number
        name = f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0]
        why = "no kind that torch knows" if why.startswith("Expected one of") else why
        raise Problem(f"no device {name!r} here ({why}): use --device cpu") from error
    return name


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)
