"""Matrices without an entry, of other code: used as they are, refused where they do not fit, and exported."""

import importlib
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors
import stages
import torch
from conftest import LAYERS, D, make_tokenized
from published import PAIRS, matrix

import config
from shortcut import Problem
from shortcut.__main__ import main
from shortcut.files import formats, result_formats, store
from shortcut.files.names import Names
from shortcut.pipeline import exchanging

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def files(tmp_path):
    return Names(tmp_path, "tiny-gpt2", "words")


def of_others(files, d=D):
    """Everything that the scripts read of a tiny model, without an entry: plain pickles of other code."""
    parts = [files.part(i, a) for i in range(LAYERS) for a in range(1, 7)]
    files.matrices.mkdir(parents=True)
    for k, path in enumerate([*(files.matrix(i, j) for i, j in PAIRS), *parts]):
        path.write_bytes(pickle.dumps(matrix(k, d)))
    with store.replacing(files.split("val")) as file:
        store.dump(file, formats.tokenized_dict(make_tokenized(12, 320)))


def test_sub_modules_with_two_digits_are_exported_too(tmp_path):
    """A block with many norms has a map p0_9_10."""
    files = Names(tmp_path, "m", "d")
    files.matrices.mkdir(parents=True)
    for k, path in enumerate((files.part(0, 9), files.part(0, 10), files.part(12, 10))):
        path.write_bytes(pickle.dumps(matrix(k)))
    export(files)
    with safetensors.safe_open(files.matrices / exchanging.SAFETENSORS, "pt") as exported:
        assert {*exported.keys()} == {"p0_8_9", "p0_9_10", "p12_9_10"}


def export(files):
    exchanging.export(files)


def run(script, files, model):
    importlib.import_module(script).main(["--out", str(files.root), "--model", model, "--dataset", "words"])


def test_published_matrices_are_used_as_they_are_with_one_notice(files, gpt2_folder, capsys):
    of_others(files)
    run("add_plot_r2", files, gpt2_folder)
    said = capsys.readouterr().out
    assert said.count("no manifest entry (made by hand or by other code), used unchecked: 7 files in") == 1
    assert said.count("no manifest entry") == 1
    assert result_formats.load_r2(files.r2_scores)["score_mat"].keys() == {*PAIRS}


@pytest.mark.parametrize(
    ("script", "name"), [("add_plot_r2", "1_2"), ("add_results", f"1_{LAYERS}"), ("add_results", "p1_4_5")]
)
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (matrix(0, 7), rf"holds float32 \[7, 7\], expected a float32 matrix \[{D}, {D}\] for this model"),
        (matrix(0).half(), rf"holds float16 \[{D}, {D}\], expected a float32 matrix"),
        (matrix(0) / 0 * 0, "holds values that are not finite"),
        ({"A": 1}, "holds dict, expected a float32 matrix"),
    ],
)  # fmt: skip
def test_a_matrix_that_does_not_fit_is_named_by_the_scripts_that_use_it(
    files, gpt2_folder, capsys, monkeypatch, script, name, value, message
):
    monkeypatch.setattr(config, "SCHEDULES", False)  # which need the r2 of all jumps first
    of_others(files)
    (files.matrices / f"{name}.pickle").write_bytes(pickle.dumps(value))
    with pytest.raises(Problem, match=rf"/{name}\.pickle: {message}"):
        run(script, files, gpt2_folder)


@pytest.mark.parametrize(
    ("script", "name", "message"),
    [
        ("add_plot_r2", "1_2", r"/1_2\.pickle: its predictions from the states of layer 1 are not finite"),
        ("add_results", f"1_{LAYERS}", r"tiny-gpt2: the logits at layer 1 of sentence \d+ .* are not finite"),
        ("add_results", "p1_4_5", r"tiny-gpt2: the logits at layer 0 of sentence \d+ .* are not finite"),
    ],
)
def test_a_matrix_that_makes_numbers_overflow_stops_the_stage(files, gpt2_folder, monkeypatch, script, name, message):
    monkeypatch.setattr(config, "SCHEDULES", False)
    of_others(files)
    (files.matrices / f"{name}.pickle").write_bytes(pickle.dumps(torch.full((D, D), 3e38)))
    with pytest.raises(Problem, match=message):
        run(script, files, gpt2_folder)
    assert not files.r2_scores.exists()
    assert not files.results.exists()


def test_a_bit_that_changed_in_a_file_with_an_entry_is_seen_before_it_is_read(files, monkeypatch):
    path = files.matrix(0, 1)
    with stages.outputs(files, [], "add_linreg.py", [path]) as made:
        stages.save(made, path, matrix(0))
    whole = path.read_bytes()
    monkeypatch.setattr(formats, "load_all", None)  # nothing may be read
    for at in range(0, len(whole), 97):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        with pytest.raises(
            Problem, match=r"^linreg/tiny-gpt2/words/0_1.pickle has changed since it was made: run .* add_"
        ):
            export(files)


def test_every_matrix_is_exported_by_its_name_and_read_by_safetensors(files, capsys):
    of_others(files)
    main(["export", "--model", "models/tiny-gpt2", "--dataset", "words", "--out", str(files.root)])
    assert "wrote linreg/tiny-gpt2/words/matrices.safetensors" in capsys.readouterr().out
    with safetensors.safe_open(files.matrices / exchanging.SAFETENSORS, "pt") as exported:
        assert exported.metadata() == {
            "format": "pt", "model": "tiny-gpt2", "dataset": "words", "estimator": "least-squares",
        }  # fmt: skip
        names = [path.stem for path in files.matrices.glob("*.pickle")]
        assert sorted(exported.keys()) == sorted(names)
        for name in names:
            assert exported.get_tensor(name).equal(formats.load_matrix(files.matrices / f"{name}.pickle", D))


def test_an_export_with_a_wrong_matrix_leaves_the_old_one(files, capsys):
    of_others(files)
    export(files)
    before = (files.matrices / exchanging.SAFETENSORS).read_bytes()
    files.matrix(1, 2).write_bytes(pickle.dumps(matrix(0, D + 1)))
    with pytest.raises(Problem, match=rf"1_2\.pickle: holds float32 \[{D + 1}, {D + 1}\]"):
        export(files)
    assert (files.matrices / exchanging.SAFETENSORS).read_bytes() == before


def test_the_command_says_what_it_can_do_and_what_is_missing(tmp_path):
    def command(*arguments):
        return subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)

    done = command("shortcut", "export", "--model", "m", "--dataset", "d", "--out", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "shortcut: linreg/m/d holds no matrix: run .venv/bin/python add_linreg.py --model m --dataset d"
        f" --map least-squares --out {tmp_path} first, or fetch published ones\n"
    )


@pytest.mark.parametrize("arguments", [["feed"], [], ["export"], ["fetch", "--dataset", "../up"]])
def test_a_command_that_makes_no_sense_is_answered_with_the_usage(arguments, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert "usage: python -m shortcut " in capsys.readouterr().err


def test_help_names_both_commands(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert {"fetch", "export"} <= {*capsys.readouterr().out.split()}
