"""The scripts as the tests run them: in this process, at sizes of seconds."""

import importlib
from dataclasses import replace

import pytest
from conftest import make_sentences

from shortcut import Problem
from shortcut.__main__ import main
from shortcut.files.names import Names

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
OF_KINDS = {"RANK": 3, "PROBES": 2}


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


def fit_kinds(request, family, out, kinds):
    """Sentences, tokens and maps of these kinds of a tiny model ("gpt2", "bert"): its folder and files."""
    folder, masked = request.getfixturevalue(f"{family}_folder"), family == "bert"
    (out / "words.txt").write_text("".join(make_sentences(SIZES["SENTENCES"])))
    on = ("--out", out, "--dataset", "words")
    run("get_wikipedia_sentences", "--source", out / "words.txt", *on)
    run("bert_add_reps" if masked else "add_tokenization", "--model", folder, *on)
    run(f"{'bert_' * masked}add_linreg", "--map", *kinds, "--model", folder, *on)
    return folder, Names(out, f"tiny-{family}" + "_mask" * masked, "words", masked=masked)


def exported(made, kind, to):
    """The folder of the maps of a kind, in another tool's format; `made` as `fit_kinds` has it."""
    folder, names = made
    main(["export", "--to", to, "--map", kind, "--model", folder, "--dataset", "words", "--out", str(names.root)])
    return replace(names, map_kind=kind).matrices / to
