"""What the scripts share: states, linear maps between them, read-outs, metrics, files and plots."""

import os
import sys
from pathlib import Path

from shortcut import interruptions


class Problem(Exception):  # noqa: N818  (it is the person's problem before it is an error)
    """Something the person at the terminal can mend; the message says what was got and what to do.

    Scripts print it as one line and end with exit code 1. Any other exception is a defect of ours.
    """


def drop_output() -> None:
    """From now on print to nowhere: who read our output has gone (`| head`), or its disk is full."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


_script = Path(getattr(sys.modules["__main__"], "__file__", None) or "").resolve()
_ours = _script.parent == Path(__file__).resolve().parent.parent and _script.name in interruptions.SCRIPTS
if _ours or f"{__name__}.store" in sys.orig_argv:  # python -m shortcut.store
    interruptions.wait_for_begin()
