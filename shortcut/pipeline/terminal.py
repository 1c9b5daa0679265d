"""Output at the terminal: progress bars, lines, and one line for a problem. No library is imported at the head."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from shortcut import Problem

Item = TypeVar("Item")


def device(name: str) -> str:
    """The torch device for --device; with "spread", for everything but the model. Raises Problem if there is none."""
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
    """Run a script's main. A problem prints one line and exits with 1, Ctrl-C prints one line and exits with 130."""
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
    """Print "?" for characters that the terminal cannot encode."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")


def say(line: str) -> None:
    """Print a line, without breaking a progress bar."""
    from tqdm import tqdm  # noqa: PLC0415

    try:
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()
    except OSError as error:  # the files matter more than what is said of them
        if not isinstance(error, BrokenPipeError):
            sys.stderr.write(f"cannot print ({error.strerror}): going on without\n")
        drop_output()


def drop_output() -> None:
    """Discard all further output: its reader has gone (`| head`), or its disk is full."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def bar(title: str, total: int | None, unit: str, *, shown: bool = True) -> Iterator[Callable[[int], object]]:
    """A progress bar with rate and time left; yields a function to call with the number of items done."""
    from tqdm import tqdm  # noqa: PLC0415

    with tqdm(
        total=total, desc=f"  {title}", unit=f" {unit}", file=sys.stderr, smoothing=0.05,
        mininterval=0.2 if sys.stderr.isatty() else 30,  # a log file wants few lines
        leave=None if sys.stderr.isatty() else False, disable=not shown,
    ) as counting:  # fmt: skip
        yield counting.update


def progress(title: str, items: Iterable[Item], total: int, unit: str) -> Iterator[Item]:
    """Iterate over the items with a progress bar."""
    with bar(title, total, unit) as advance:
        for item in items:
            yield item
            advance(1)
