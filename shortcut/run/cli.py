"""The command line: options, what is said there, progress, one line for a problem."""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from shortcut import Problem
from shortcut.files.names import find_model
from shortcut.run import settings

INTERRUPTED = 130  # exit code, as shells have it

Item = TypeVar("Item")


def dataset_name(text: str) -> str:
    """A dataset's name, as an option."""
    if text in ("", "..") or Path(text).name != text:
        raise argparse.ArgumentTypeError(f"a dataset's name is part of file names, got {text!r}")
    return text


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


OPTIONS: dict[str, tuple[str, Any, str, str]] = {  # setting that is its default, type, metavar, help
    "source": ("SOURCE", str, "hub|docstrings|PATH",
               "where sentences come from; PATH: parquet, jsonl or txt, file or folder"),
    "device": ("DEVICE", str, "DEVICE", "cpu, cuda, cuda:1, auto"),
    "batch-size": ("BATCH_SIZE", _positive, "TOKENS", "tokens that run together"),
    "seed": ("SEED", int, "N", "of the draws of sentences and positions"),
    "matrices-from": ("", dataset_name, "DATASET",
                      "judge the matrices fitted on another dataset; files are then named <d>_maps_of_DATASET"),
    "sentence": ("", str, "TEXT_OR_FILE", "show what every layer would predict in it; FILE: one a line"),
}  # fmt: skip


def options(script: str, doc: str, config: ModuleType, wanted: Iterable[str], model: str) -> argparse.ArgumentParser:
    """The options that a script acts on, with their defaults from the configuration.

    Args:
        script: its name.
        doc: its docstring, shown by --help.
        config: the configuration.
        wanted: names of options, besides those that all scripts have.
        model: the model it works on by default.
    """
    parser = argparse.ArgumentParser(prog=script, description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    for name in wanted:
        setting, kind, metavar, told = OPTIONS.get(name, ("", str, "NAME_OR_FOLDER", "name or folder of the model"))
        default = model if name == "model" else getattr(config, setting, None)
        of = "" if default is None else f" (default: {default})"
        add(f"--{name}", type=kind, metavar=metavar, default=default, help=told + of)
    add("--dataset", metavar="NAME", type=dataset_name, help=f"names the files (default: {config.DATASET})")
    add("--out", metavar="FOLDER", type=Path, default=config.OUT, help="holds experiment/ and linreg/ (default: here)")
    add("--force", action="store_true", help="make anew what is there already")
    return parser


def read(parser: argparse.ArgumentParser, argv: list[str] | None, config: ModuleType) -> argparse.Namespace:
    """The options as given, checked; raises Problem for a source of other sentences without a name of its own."""
    settings.check(config)
    args = parser.parse_args(argv)
    source = getattr(args, "source", config.SOURCE)
    if source != config.SOURCE and args.dataset is None:
        raise Problem(
            f"--source {source} needs a name for its files, which are not those of {config.DATASET}:"
            f" add --dataset {'docstrings' if source == 'docstrings' else 'NAME'}"
        )
    args.dataset = args.dataset or config.DATASET
    if "model" in args:
        args.model = find_model(args.model)
    return args


def device(name: str) -> str:
    """The device that --device names, as torch has it; raises Problem if it is not there."""
    import torch  # noqa: PLC0415

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


def shell(main: Callable[[], Any], script: str = "") -> None:
    """Run a script's main; a problem is one line and exit code 1, Ctrl-C one line and 130."""
    script = script or Path(sys.argv[0]).name
    try:
        main()
    except (Exception, KeyboardInterrupt) as error:
        cause: BaseException | None = (
            error  # libraries that load others when these are needed wrap what comes meanwhile
        )
        while cause is not None and not isinstance(cause, KeyboardInterrupt):
            cause = cause.__cause__ or cause.__context__
        if cause is not None:
            line = f"\n{script}: interrupted; the files that were finished are kept: run it again to go on"
            print(line, file=sys.stderr)
            sys.exit(INTERRUPTED)
        if isinstance(error, Problem):
            sys.exit(f"{script}: {error}")
        raise


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
