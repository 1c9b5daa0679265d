"""The scripts as the tests run them: in this process, at sizes of seconds."""

import contextlib
import importlib
import json
from dataclasses import replace

import pytest
import torch
from conftest import LAYERS, D, make_sentences

import config
from shortcut import Problem
from shortcut.__main__ import main
from shortcut.files import formats, result_formats
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


@contextlib.contextmanager
def small_sizes():
    """Sizes of a run that take seconds, in config.py."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**SIZES, **OF_KINDS}.items():
            patch.setattr(config, name, value)
        yield


def run(script, *options):
    importlib.import_module(script).main([str(option) for option in options])


def run_all(out, model, source, scripts=SCRIPTS, *more):
    """These scripts, in order, on sentences of a file."""
    for script in scripts:
        says = ["--source", source] if script == SCRIPTS[0] else ["--model", model]
        run(script, "--out", out, "--dataset", "words", *says, *(more if accepts(script, more) else ()))


def accepts(script, options):
    """Whether a script acts on such options."""
    return not options or options[0] == "--seed" or "device" in ACTS_ON[script]


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


def put(there, name, value):
    """A file of tensors in a folder."""
    there.mkdir(parents=True, exist_ok=True)
    torch.save(value, there / name)
    return there / name


def assert_same_up_to_rounding(files, others):
    """Maps into the last layer, r2 and results of two runs of all scripts, given their layouts."""
    for i in range(LAYERS):
        A, B = (formats.load_matrix(f.matrix(i, LAYERS), D) for f in (files, others))
        torch.testing.assert_close(A, B, rtol=1e-3, atol=1e-3)
    a, b = (result_formats.load_r2(f.r2_scores) for f in (files, others))
    for name, scores in a.items():
        assert scores == pytest.approx(b[name], rel=1e-5, abs=1e-5)
    for record, other in zip(
        result_formats.load_results(files.results), result_formats.load_results(others.results), strict=True
    ):
        assert record["info"] == other["info"]
        assert record["topk"][:, 0].equal(other["topk"][:, 0])
        torch.testing.assert_close(record["surprisal"], other["surprisal"], rtol=1e-4, atol=1e-4)


def costs_of(names):
    """By map kind, what the summary has of the cost."""
    rows = json.loads(names.summary.read_bytes())["tables"]["costs_of_maps"]
    return {row["map kind"]: row["cost"] for row in rows}
