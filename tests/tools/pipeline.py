"""The scripts as the tests run them: in this process, at sizes of seconds."""

import importlib

import pytest

from shortcut import Problem

SCRIPTS = (
    "get_wikipedia_sentences", "add_tokenization", "add_linreg", "add_plot_r2", "add_linreg_submodules",
    "add_results", "plot_results",
)  # fmt: skip
ACTS_ON = {  # the options of each script beside --dataset, --out and --force
    "get_wikipedia_sentences": "source seed",
    "add_tokenization": "model seed",
    "add_linreg": "model map device batch-size seed",
    "add_plot_r2": "model map matrices-from device batch-size seed",
    "add_linreg_submodules": "model device batch-size seed",
    "add_results": "model map matrices-from device batch-size seed",
    "plot_results": "model map matrices-from sentence words device",
    "bert_add_reps": "model device batch-size seed",
    "bert_add_linreg": "model map device batch-size seed",
    "bert_add_plot_r2": "model map matrices-from device seed",
    "bert_add_results": "model map matrices-from device batch-size seed",
}
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
