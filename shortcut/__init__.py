"""Linear shortcuts through transformers. The paper's letters, and where they are:

    h_l            the state of a token after l blocks; h_0 enters the first    representations, models
    A_ij           the least-squares map from h_i to h_j                         linear
    how good it is beyond its r2                                                 quality
    the Jacobian lens, and all kinds of maps side by side                        jacobian, comparison
    id, mat, ...   the ways to go on from layer l without its blocks             approximation
    Precision@k, Surprisal, r2                                                   metrics
    what is read out of an approximation, and judged by the model                predictions
    lambda         of the threshold at which a sentence leaves early             early_exit
    the curves, with their intervals                                             results
    one sentence, layer by layer; the surprisal of words                         lens, words

`tokens` has sentences as ids, `structure` what is found in a model by its structure alone; `shortcut.Lens` is what
the scripts have made, in Python. These modules open no file and read no setting; `corpus` finds sentences, `files`
keeps what was made, `show` shows it, `run` is what the scripts share.
"""

import os
from importlib import import_module

# Threads that wait by spinning are ten times slower beside a busy process. torch reads this when it is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

LEAST_SQUARES = "least-squares"  # the paper's map kind (see `linear.KINDS`)


class Problem(Exception):  # noqa: N818  (the name in all messages and docstrings)
    """An error that the user can fix. The message says what was got, what was expected and what to do.

    Scripts print it as one line and exit with code 1. Any other exception is a defect of this project.
    """


def __getattr__(name: str) -> object:
    if name == "Lens":  # imported on demand, since it loads torch
        return import_module("shortcut.run.face").Lens
    raise AttributeError(f"module shortcut has no attribute {name}")


def one_line(error: Exception, longest: int = 250) -> str:
    """An error as text for one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:longest]
