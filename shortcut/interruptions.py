"""Ctrl-C: one line, whenever it comes.

While a script works it is KeyboardInterrupt, as everywhere in Python, so that files are closed and locks
let go. Before, while the libraries load for a second or two, it ends the process at once: they would
wrap it into errors of their own, or go on. Afterwards, when all is done and said, it is ignored.
"""

import _thread
import os
import signal
import sys
import threading
from pathlib import Path

SCRIPTS = (
    "get_wikipedia_sentences.py", "add_tokenization.py", "add_linreg.py", "add_plot_r2.py", "add_linreg_submodules.py",
    "add_results.py", "plot_results.py", "bert_add_reps.py", "bert_add_linreg.py", "bert_add_plot_r2.py",
    "bert_add_results.py", "config.py",
)  # fmt: skip
INTERRUPTED = 130  # exit code, as shells have it


def is_interruption(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error: libraries that load others when these are needed wrap what comes meanwhile."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def wait_for_begin() -> None:
    """Until `begin`, Ctrl-C ends the process at once, with one line; where it is ignored, it stays so."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave_before_it_began)
    sys.unraisablehook = _interrupt_again


def begin() -> None:
    """From now on Ctrl-C is KeyboardInterrupt."""
    if signal.getsignal(signal.SIGINT) is _leave_before_it_began:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def end() -> None:
    """From now on Ctrl-C is ignored: a last line and Python's shutdown take a moment, and end well."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _leave_before_it_began(*_: object) -> None:
    script = "shortcut.store" if sys.argv[0] == "-m" else Path(sys.argv[0]).name
    os.write(2, f"\n{script}: interrupted before it began\n".encode())
    os._exit(INTERRUPTED)


def _interrupt_again(unraisable) -> None:
    """Python cannot raise what comes while it frees an object, prints it and goes on: Ctrl-C would be lost."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        threading.Timer(0.01, _thread.interrupt_main).start()
    else:
        sys.__unraisablehook__(unraisable)
