"""Linear shortcuts through transformers. The letters of the paper, and the modules that define them:

    h_l              hidden state of a token after l blocks; h_0 enters the first block    representations, models
    A_ij             fitted map from h_i to h_j, and the other map kinds                   linear, jacobian
    id, mat, ...     ways to go on from layer l without its blocks                         approximation, alternation
    Precision@k, Surprisal, r2                                                             metrics
    predictions from approximations, judged by the model                                   predictions
    lambda           threshold of the confidence rule of early exit                        early_exit
    curves with confidence intervals; map kinds side by side                               results, intervals
    quality of the maps                                                                    map_quality
    one sentence, layer by layer; surprisal of words                                       sentence_grid, words
    blocks dropped, and a map for them folded into the block before                        shorten

`tokens` samples token positions, `blocks` and `submodules` find a model's parts. These modules open no file and read no
setting. `lens` is the Python interface, `shortcut.Lens`. The folders: `pipeline` runs the stages, `loading` checks
models, `files` reads and writes, `exchange` knows other tools' formats, `show` draws, `corpus` finds sentences.
"""

import os
from importlib import import_module

# Threads that wait by spinning are ten times slower next to a busy process. torch reads this when it is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

LEAST_SQUARES = "least-squares"  # the paper's map kind (see `linear.KINDS`)


class Problem(Exception):  # noqa: N818  (the name in all messages and docstrings)
    """An error that the user can fix. The message says what was got, what was expected and what to do.

    Scripts print it as one line and exit with code 1. Any other exception is a defect of this project.
    """


def __getattr__(name: str) -> object:
    if name == "Lens":  # imported on demand, since it loads torch
        return import_module("shortcut.lens").Lens
    raise AttributeError(f"module shortcut has no attribute {name}")


def __dir__() -> list[str]:
    return [*globals(), "Lens"]


def one_line(error: Exception, longest: int = 250) -> str:
    """An error as text for one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:longest]
