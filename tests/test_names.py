"""Names of models and datasets: known ones, mistaken ones, and commands with them that can be pasted."""

from pathlib import Path

import pytest
from pipeline import problem

import config
from shortcut import Problem
from shortcut.files import names, store
from shortcut.files.names import Names
from shortcut.loading import checkpoint
from shortcut.pipeline import stages

PYTHON = ".venv/bin/python"
ROOT = Path(__file__).resolve().parent.parent


def test_a_mistaken_dataset_is_answered_with_those_that_are_there(tmp_path, gpt2_folder, capsys):
    for dataset in ("news", "words"):
        with store.replacing(Names(tmp_path, "m", dataset).sentences) as file:
            store.dump(file, "A sentence.\n")
    on = ("--out", tmp_path, "--model", gpt2_folder, "--dataset")
    assert problem(capsys, "add_linreg", *on, "wrods").endswith(" first; datasets here: news, words")
    assert problem(capsys, "add_linreg", *on, "words").endswith(f" --dataset words --out {tmp_path} first")


def test_commands_for_missing_files_can_be_pasted(tmp_path):
    """With a folder's path that a shell would take apart, another dataset's maps, and sub-modules."""
    files = Names(tmp_path, "m", "news", matrices_from="words", map_kind="ridge", given="my models/m")
    on = f"{PYTHON} add_linreg.py --model 'my models/m' --dataset words --map ridge --out {tmp_path}"
    assert files.fitted_by(files.matrix(0, 1)) == on
    assert files.command("add_results.py", files.results, "--force") == (
        f"{PYTHON} add_results.py --model 'my models/m' --dataset news --map ridge --matrices-from words "
        f"--out {tmp_path} --force"
    )
    for path in (files.submodules, files.part(0, 1)):
        assert files.fitted_by(path).startswith(f"{PYTHON} add_linreg_submodules.py --model 'my models/m' --dataset w")
    assert Names(names.PROJECT, "m", "words").command("add_tokenization.py", tmp_path / "x") == (
        f"{PYTHON} add_tokenization.py --model m --dataset words"
    )


def test_an_embedded_model_goes_by_its_bare_name_and_from_any_folder(tmp_path, monkeypatch):
    embedded = ROOT / "models" / "gpt2-docstrings"
    monkeypatch.chdir(tmp_path)
    assert names.find_model("gpt2-docstrings") == names.find_model("models/gpt2-docstrings") == str(embedded)
    assert names.find_model("gpt2") == "gpt2"
    monkeypatch.chdir(ROOT)
    assert names.find_model("gpt2-docstrings") == "models/gpt2-docstrings"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("gtp2", "gpt2"), ("bert-docstring", None), ("gpt2-docstring", "gpt2-docstrings"),
        ("models/gpt2-docstring", "models/gpt2-docstrings"),
    ],
)  # fmt: skip
def test_a_mistaken_name_of_a_model_is_answered_with_a_similar_one(tmp_path, capsys, monkeypatch, name, meant):
    """One that config.py knows, that is embedded or that is a folder beside it."""
    monkeypatch.chdir(ROOT)
    on = ("--out", tmp_path, "--model", name, "--dataset", "words")
    assert problem(capsys, "add_linreg", *on).endswith(f"; did you mean {meant or 'bert-docstrings'}?")
    with pytest.raises(Problem, match=rf"; did you mean {meant or 'bert-docstrings'}\?$"):
        checkpoint.files_of(name, "words", tmp_path) if name != "gtp2" else stages.n_layers(config, name, masked=False)


def test_a_mistaken_name_of_a_model_is_answered_with_the_known_ones(tmp_path, capsys):
    message = problem(capsys, "add_linreg", "--out", tmp_path, "--model", "unlike", "--dataset", "words")
    assert "known names: gpt2, gpt2-medium, gpt2-large, gpt2-xl, EleutherAI/pythia-160m" in message
    assert "bert" not in message.split("known names")[1]
