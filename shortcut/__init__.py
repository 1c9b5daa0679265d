"""What the scripts share: states, linear maps between them, read-outs, metrics, files and plots."""

import _thread
import os
import sys
import threading
from pathlib import Path


class Problem(Exception):  # noqa: N818  (it is the person's problem before it is an error)
    """Something the person at the terminal can mend; the message says what was got and what to do.

    Scripts print it as one line and end with exit code 1. Any other exception is a defect of ours.
    """


def drop_output() -> None:
    """From now on print to nowhere: who read our output has gone (`| head`), or its disk is full."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def is_interruption(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error: libraries that load others when these are needed wrap what comes meanwhile."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _end_in_one_line(kind, error, trace) -> None:
    if is_interruption(error):
        sys.stderr.write(f"\n{Path(sys.argv[0]).name}: interrupted before it began\n")
    else:
        sys.__excepthook__(kind, error, trace)


def _interrupt_again(unraisable) -> None:
    """Python cannot raise what comes while it frees an object, prints it and goes on: Ctrl-C would be lost."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        threading.Timer(0.01, _thread.interrupt_main).start()
    else:
        sys.__unraisablehook__(unraisable)


# The libraries take seconds to load: Ctrl-C comes then before a script's own code can answer it.
_script = getattr(sys.modules["__main__"], "__file__", None)
_ours = _script and Path(_script).resolve().parent == Path(__file__).resolve().parent.parent
if _ours or f"{__name__}.store" in sys.orig_argv:  # python -m shortcut.store
    sys.excepthook, sys.unraisablehook = _end_in_one_line, _interrupt_again
