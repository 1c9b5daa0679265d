"""Output at the terminal: progress bars, lines, and one line for a problem. No library is imported at the top."""

import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from shortcut import Problem


def device(name: str) -> str:
    """Torch device for --device ("spread": for everything but the model). Raises Problem if it is unavailable."""
    import torch  # noqa: PLC0415

    if name in ("auto", "spread"):
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and torch.cuda.is_available():  # a launcher sets LOCAL_RANK for each process
        name = f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise Problem(f"no device {name!r} here ({str(error).splitlines()[0][:100]}): use --device cpu") from error
    return name


def shell(main: Callable[[], Any], script: str = "") -> None:
    """Run a script's main. A problem prints one line and exits with 1, Ctrl-C prints one line and exits with 130."""
    script = script or Path(sys.argv[0]).name
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # prints "?" for characters that the terminal cannot encode
    try:
        main()
    except (Exception, KeyboardInterrupt) as error:
        cause: BaseException | None = error  # libraries that import on demand wrap a Ctrl-C
        while cause is not None and not isinstance(cause, KeyboardInterrupt):
            cause = cause.__cause__ or cause.__context__
        if cause is not None:
            print(f"\n{script}: interrupted; finished files are kept: run it again", file=sys.stderr)
            sys.exit(130)  # 128 + SIGINT, as in shells
        if isinstance(error, Problem):
            sys.exit(f"{script}: {error}")
        raise


def leads() -> bool:
    """True in the first of several processes, which speaks for all; launchers number them in RANK."""
    return int(os.environ.get("RANK", "0")) == 0


def say(line: str) -> None:
    """Print a line above any progress bar, in the leading process; once printing fails (`| head`), print no more."""
    from tqdm import tqdm  # noqa: PLC0415

    try:
        if leads():
            tqdm.write(line, file=sys.stdout)
            sys.stdout.flush()
    except OSError as error:  # writing the files matters more than messages
        if not isinstance(error, BrokenPipeError):
            sys.stderr.write(f"cannot print ({error.strerror}): continuing without output\n")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def progress(title: str, items: Iterable | None = None, total: int | None = None, unit: str = "sentences") -> Any:
    """Progress bar with rate and time left. Iterate over it, or call its `update(n)` in a `with` block."""
    from tqdm import tqdm  # noqa: PLC0415

    return tqdm(
        items, f"  {title}", total, unit=f" {unit}", file=sys.stderr, smoothing=0.05, disable=not leads(),
        mininterval=0.2 if sys.stderr.isatty() else 30,  # few lines in a log file
        leave=None if sys.stderr.isatty() else False,
    )  # fmt: skip
