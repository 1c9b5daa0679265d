"""The scripts as the tests run them: in this process, at sizes of seconds."""

import importlib

import pytest

from shortcut import Problem

SCRIPTS = (
    "get_wikipedia_sentences", "add_tokenization", "add_linreg", "add_plot_r2", "add_linreg_submodules",
    "add_results", "plot_results",
)  # fmt: skip
SIZES = {"SENTENCES": 150, "TRAIN": 80, "VAL": 40}


def run(script, *options):
    importlib.import_module(script).main([str(option) for option in options])


def problem(capsys, script, *options):
    with pytest.raises(Problem) as caught:
        run(script, *options)
    capsys.readouterr()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def files(root):
    return {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if path.is_file()}
