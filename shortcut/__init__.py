"""What the scripts share: states, linear maps between them, read-outs, metrics, files and plots."""

import os
import sys
from pathlib import Path


class Problem(Exception):  # noqa: N818  (it is the person's problem before it is an error)
    """Something the person at the terminal can mend; the message says what was got and what to do.

    Scripts print it as one line and end with exit code 1. Any other exception is a defect of ours.
    """


def drop_output() -> None:
    """From now on print to nowhere: who read our output has gone (`| head`), or its disk is full."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end_in_one_line(kind, error, trace) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write(f"\n{Path(sys.argv[0]).name}: interrupted before it began\n")
    else:
        sys.__excepthook__(kind, error, trace)


# The libraries take seconds to load: Ctrl-C comes then before a script's own code can answer it.
_script = getattr(sys.modules["__main__"], "__file__", None)
if _script and Path(_script).resolve().parent == Path(__file__).resolve().parent.parent:
    sys.excepthook = _end_in_one_line
