"""The configuration and the command line: settings and options checked, what is said, one line for a problem.

Loads no library, so that `python config.py` answers at once.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from shortcut import Problem
from shortcut.files.names import find_model

LEAST = dict.fromkeys(("READ_BYTES", "SENTENCES", "TRAIN", "POSITIONS", "RANK", "PROBES", "BATCH_SIZE"), 1)
LEAST["VAL"] = 2  # intervals take two
DTYPES = ("float32", "auto")

Item = TypeVar("Item")


def check(config: ModuleType) -> None:
    """Raise Problem if a setting is missing, of another type than its line says, or too small."""
    for name, kind in get_type_hints(config).items():
        if not hasattr(config, name):
            raise Problem(f"config.py has no {name}: restore the line, or correct its name")
        value = getattr(config, name)
        kinds = get_args(kind) if get_origin(kind) not in (dict, tuple) and get_args(kind) else (kind,)
        kinds = tuple(get_origin(kind) or kind for kind in kinds)
        also = {float: int, Path: type(Path())}  # what does as well
        if type(value) not in (*kinds, *(also[kind] for kind in kinds if kind in also)):
            expected = " or ".join(kind.__name__ for kind in kinds)
            raise Problem(f"{name} in config.py is {value!r}, expected a value of type {expected}")
        if value is not None and name in LEAST and value < LEAST[name]:
            raise Problem(f"{name} in config.py is {value}, expected at least {LEAST[name]}")
    if not config.MAP:
        raise Problem("MAP in config.py is empty, expected kinds of maps, as ('least-squares',)")
    if config.DTYPE not in DTYPES:
        raise Problem(f"DTYPE in config.py is {config.DTYPE!r}, expected {' or '.join(DTYPES)}")
    for dataset, (train, val) in config.SPLITS.items():
        if train < LEAST["TRAIN"] or val < LEAST["VAL"]:
            raise Problem(f"SPLITS in config.py has {train, val} for {dataset}, expected at least 1 and 2 sentences")


def known_models(config: ModuleType, model: str, masked: bool) -> str:
    """To what is said of a model that is not found: the names that config.py knows, unless it is one of these."""
    known = [name for name in config.LAYERS if masked == (name in config.MASKED)]
    return "" if model in config.LAYERS or Path(model).is_dir() else f"; known names: {', '.join(known)}"


def sizes(config: ModuleType, dataset: str) -> dict[str, int]:
    """How many sentences train and validate, by "train" and "val"."""
    return dict(zip(("train", "val"), config.SPLITS.get(dataset, (config.TRAIN, config.VAL)), strict=True))


def in_force(config: ModuleType, dataset: str) -> dict[str, Any]:
    """Those settings, by the names they are recorded under (see `files.manifest`), as config.py has them."""
    names = (
        "seed", "sentences", "spacy", "positions", "rank", "probes", "rcond", "schedules", "tau", "dtype",
    )  # fmt: skip
    alone = {name: getattr(config, name.upper()) for name in names}
    return {**alone, **sizes(config, dataset), "lambdas": {mode: list(grid) for mode, grid in config.LAMBDAS.items()}}


def dataset_name(text: str) -> str:
    """A dataset's name, as an option."""
    if text in ("", "..") or Path(text).name != text or "@" in text:
        raise argparse.ArgumentTypeError(f"a dataset's name is part of file names, without @, got {text!r}")
    return text


def map_kind(text: str) -> str:
    """A kind of maps, as an option."""
    from shortcut.linear import KINDS  # noqa: PLC0415  (loads torch)

    if text not in KINDS:
        raise argparse.ArgumentTypeError(f"expected {', '.join(KINDS)}, got {text!r}")
    return text


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


OPTIONS: dict[str, tuple[str, Any, str, str]] = {  # setting that is its default, type, metavar, help
    "source": ("SOURCE", str, "hub|docstrings|PATH",
               "where sentences come from; PATH: parquet, jsonl or txt, file or folder"),
    "model": ("", str, "NAME_OR_FOLDER", "name or folder of the model"),
    "device": ("DEVICE", str, "DEVICE", "cpu, cuda, cuda:1, auto, or spread: over all there are"),
    "batch-size": ("BATCH_SIZE", _positive, "TOKENS", "tokens that run together"),
    "seed": ("SEED", int, "N", "of the draws of sentences and positions"),
    "map": ("MAP", map_kind, "KIND", "kinds of maps: least-squares, affine, ridge, low-rank, jacobian, tuned"),
    "matrices-from": ("", dataset_name, "DATASET",
                      "judge the matrices fitted on another dataset; files are then named <d>_maps_of_DATASET"),
    "words": ("", str, "FILE", "write the surprisal of every word of the text in --sentence, at every layer, as CSV"),
    "sentence": ("", str, "TEXT_OR_FILE", "show what every layer would predict in it; FILE: one a line"),
}  # fmt: skip


def options(script: str, doc: str, config: ModuleType, wanted: Iterable[str], model: str) -> argparse.ArgumentParser:
    """The options `wanted` by a script, with their defaults from the configuration, and those of all scripts."""
    parser = argparse.ArgumentParser(prog=script, description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    for name in wanted:
        setting, kind, metavar, told = OPTIONS[name]
        default = model if name == "model" else getattr(config, setting, None)
        of = "" if default is None else f" (default: {default})"
        several = "+" if isinstance(default, tuple) else None
        of = f" (default: {', '.join(default)})" if several else of
        add(f"--{name}", type=kind, metavar=metavar, default=default, nargs=several, help=told + of)
    add("--dataset", metavar="NAME", type=dataset_name, help=f"names the files (default: {config.DATASET})")
    add("--out", metavar="FOLDER", type=Path, default=config.OUT, help="holds experiment/ and linreg/ (default: here)")
    add("--force", action="store_true", help="make anew what is there already")
    return parser


def read(parser: argparse.ArgumentParser, argv: list[str] | None, config: ModuleType) -> argparse.Namespace:
    """The options as given, checked; raises Problem for a source of other sentences without a name of its own."""
    check(config)
    args = parser.parse_args(argv)
    source = getattr(args, "source", config.SOURCE)
    if source != config.SOURCE and args.dataset is None:
        name = "docstrings" if source == "docstrings" else "NAME"
        why = f"--source {source} needs a name for its files, which are not those of {config.DATASET}"
        raise Problem(f"{why}: add --dataset {name}")
    if getattr(args, "words", None) and args.sentence is None:
        raise Problem("--words needs a text: add --sentence TEXT_OR_FILE")
    args.dataset = args.dataset or config.DATASET
    for kind in getattr(args, "map", ()):
        try:
            map_kind(kind)
        except argparse.ArgumentTypeError as error:
            raise Problem(f"MAP in config.py: {error}") from None
    if "model" in args:
        args.model = find_model(args.model)
    return args


def device(name: str) -> str:
    """The device that --device names, as torch has it; "spread" is of the model alone. Raises Problem: not there."""
    import torch  # noqa: PLC0415

    if name in ("auto", "spread"):
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and torch.cuda.is_available():  # a launcher gives every process of a machine its number
        name = f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0][:100]
        raise Problem(f"no device {name!r} here ({why}): use --device cpu") from error
    return name


def shell(main: Callable[[], Any], script: str = "") -> None:
    """Run a script's main; a problem is one line and exit code 1, Ctrl-C one line and 130."""
    script = script or Path(sys.argv[0]).name
    replace_unprintable()
    try:
        main()
    except (Exception, KeyboardInterrupt) as error:
        cause: BaseException | None = error  # which libraries wrap, where they load others when these are needed
        while cause is not None and not isinstance(cause, KeyboardInterrupt):
            cause = cause.__cause__ or cause.__context__
        if cause is not None:
            kept = "the files that were finished are kept: run it again to go on"
            print(f"\n{script}: interrupted; {kept}", file=sys.stderr)
            sys.exit(130)  # as shells have it
        if isinstance(error, Problem):
            sys.exit(f"{script}: {error}")
        raise


def replace_unprintable() -> None:
    """Print ? for what the terminal's encoding does not have, such as ± in Latin scripts' older ones."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")


def say(line: str) -> None:
    """One line for the person at the terminal."""
    from tqdm import tqdm  # noqa: PLC0415

    try:
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()
    except OSError as error:  # the files matter more than what is said of them
        if not isinstance(error, BrokenPipeError):
            sys.stderr.write(f"cannot print ({error.strerror}): going on without\n")
        drop_output()


def drop_output() -> None:
    """From now on print to nowhere: who read our output has gone (`| head`), or its disk is full."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def bar(title: str, total: int | None, unit: str, *, shown: bool = True) -> Iterator[Callable[[int], object]]:
    """A progress bar with rate and time left; yields what is to be told of progress made."""
    from tqdm import tqdm  # noqa: PLC0415

    with tqdm(
        total=total, desc=f"  {title}", unit=f" {unit}", file=sys.stderr, smoothing=0.05,
        mininterval=0.2 if sys.stderr.isatty() else 30,  # a log file wants few lines
        leave=None if sys.stderr.isatty() else False, disable=not shown,
    ) as counting:  # fmt: skip
        yield counting.update


def progress(title: str, items: Iterable[Item], total: int, unit: str) -> Iterator[Item]:
    """The items, with a bar that advances as each has been dealt with."""
    with bar(title, total, unit) as advance:
        for item in items:
            yield item
            advance(1)
