"""`python config.py`: settings, what is there, what comes next."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from stages import outputs

import config
from shortcut.files.names import Names
from shortcut.pipeline import manifest, stages, status

ROOT = Path(__file__).resolve().parent.parent


def show(capsys, monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["config.py", *map(str, options)])
    status.main(config)
    return capsys.readouterr().out


def scripts(files):
    return [stage.script for stage in stages.pipeline(masked=files.masked)]


def make(files, script, value=b"x", reads=(), **settings):
    """Write all outputs of a stage, as its script would."""
    stage = next(stage for stage in stages.STAGES if stage.script == script)
    with outputs(files, [], script, status.outputs(stage, files, 12, config), reads, force=True, **settings) as made:
        for path in made.todo:
            with made.writing(path) as file:
                file.write(b"{}" if path.suffix == ".json" else value)


@pytest.fixture
def files(tmp_path):
    return Names(tmp_path, "gpt2", "wikipedia")


def test_nothing_there_yet(files, capsys, monkeypatch):
    said = show(capsys, monkeypatch, "--out", files.root)
    for name, value in vars(config).items():
        if name.isupper() and isinstance(value, (int, float, str)):
            assert f"  {name:18} {value}\n" in said
    assert said.count("next: .venv/bin/python get_wikipedia_sentences.py") == 2
    assert not list(files.root.iterdir())


def test_stage_by_stage(files, capsys, monkeypatch):
    make(files, "get_wikipedia_sentences.py")
    make(files, "add_tokenization.py", reads=[files.sentences])
    make(files, "add_linreg.py")
    files.matrix(3, 4).unlink()
    said = show(capsys, monkeypatch, "--model", "gpt2", "--out", files.root)
    assert "settings" not in said
    on = f"--model gpt2 --dataset wikipedia --out {files.root}"
    linreg = f"add_linreg.py --model gpt2 --dataset wikipedia --map least-squares --out {files.root}"
    assert f"next: .venv/bin/python {linreg}\n" in said
    assert "77 of 78 files" in said
    make(files, "get_wikipedia_sentences.py", b"y")
    said = show(capsys, monkeypatch, "--model", "gpt2", "--out", files.root)
    assert "made with other settings (other inputs: experiment/sentences/wikipedia_20K-sentences.pickle)" in said
    assert f"next: .venv/bin/python add_tokenization.py {on} --force\n" in said


def test_files_made_with_other_settings_than_those_in_force(files, capsys, monkeypatch):
    for script in scripts(files):
        make(files, script)
    make(files, "add_results.py", tau=config.TAU, lambdas=config.LAMBDAS)
    assert "complete: open " in show(capsys, monkeypatch, "--model", "gpt2", "--out", files.root)
    monkeypatch.setattr(config, "TAU", 5.0)
    said = show(capsys, monkeypatch, "--model", "gpt2", "--out", files.root)
    assert "add_results.py              made with other settings (tau was 4.0, is 5.0)\n" in said
    on = f"--model gpt2 --dataset wikipedia --map least-squares --out {files.root}"
    assert f"next: .venv/bin/python add_results.py {on} --force\n" in said


def test_unfinished_work_and_files_made_by_hand(files, capsys, monkeypatch):
    make(files, "get_wikipedia_sentences.py")
    make(files, "add_tokenization.py")
    for path in (files.experiment / manifest.NAME, files.sentences):
        path.unlink()
    (files.sentences.parent / "wikipedia_get_wikipedia_sentences.unfinished").mkdir()
    said = show(capsys, monkeypatch, "--model", "gpt2", "--out", files.root)
    assert "partly computed: run the script again to resume" in said
    assert "made by hand or by other code" in said


def test_a_finished_pipeline(files, capsys, monkeypatch):
    masked = Names(files.root, "bert-base-uncased_mask", "wikipedia", masked=True)
    for script in scripts(masked):
        make(masked, script)
    said = show(capsys, monkeypatch, "--out", files.root)
    assert "complete: open " in said
    assert "wikipedia_report.html" in said
    said = show(capsys, monkeypatch, "--out", files.root, "--model", "bert-base-uncased_mask")
    assert "complete: open " in said
    said = show(capsys, monkeypatch, "--out", files.root, "--dataset", "news", "--model", "gpt2")
    assert "next: .venv/bin/python get_wikipedia_sentences.py --dataset news --source PATH --out" in said
    masked.results.unlink()
    masked.report.unlink()
    said = show(capsys, monkeypatch, "--out", files.root)
    on = f"--model bert-base-uncased --dataset wikipedia --map least-squares --out {files.root}"
    assert f"next: .venv/bin/python bert_add_results.py {on}\n" in said
    make(masked, "bert_add_results.py")
    said = show(capsys, monkeypatch, "--out", files.root)
    assert f"next: .venv/bin/python plot_results.py {on}\n" in said


def test_all_that_is_under_experiment_is_shown_and_a_page_is_named(files, capsys, monkeypatch):
    """Beside the models of config.py, with the names under which they are known; one alone if it is asked for."""
    others = [
        Names(files.root, "bert-docstrings_mask", "docstrings", masked=True), Names(files.root, "gpt2", "news"),
        Names(files.root, "mine", "a_b"), Names(files.root, "pythia-160m", "news"),
    ]  # fmt: skip
    for there in (files, *others):
        make(there, "bert_add_reps.py" if there.masked else "add_tokenization.py")
    said = show(capsys, monkeypatch, "--out", files.root)
    assert [line for line in said.splitlines() if " on " in line and not line.startswith(" ")] == [
        "gpt2 on wikipedia", "bert-base-uncased on wikipedia", "models/bert-docstrings on docstrings", "gpt2 on news",
        "mine on a_b", "EleutherAI/pythia-160m on news",
    ]  # fmt: skip
    said = show(capsys, monkeypatch, "--out", files.root, "--model", "gpt2")
    assert re.findall("^(.*) on (.*)$", said, re.MULTILINE) == [("gpt2", "wikipedia"), ("gpt2", "news")]
    said = show(capsys, monkeypatch, "--out", files.root, "--dataset", "news", "--model", "pythia-160m")
    assert re.findall("^(.*) on (.*)$", said, re.MULTILINE) == [("EleutherAI/pythia-160m", "news")]
    said = show(capsys, monkeypatch, "--out", files.root, "--dataset", "news", "--model", "gpt2", "--page")
    assert said == f"open {os.path.relpath(files.root)}/experiment/gpt2/news_report.html\n"


def test_a_folder_that_is_elsewhere_is_known_by_its_matrices(files, capsys, monkeypatch):
    there = Names(files.root, "mine", "docstrings")
    for script in scripts(there):
        make(there, script)
    there.results.unlink()
    said = show(capsys, monkeypatch, "--model", "mine", "--dataset", "docstrings", "--out", files.root)
    assert "next: .venv/bin/python add_results.py --model mine --dataset docstrings" in said


def test_layers_are_not_guessed_from_matrices_that_are_not_all_there(files, capsys, monkeypatch):
    there = Names(files.root, "mine", "docstrings")
    for script in scripts(there)[:3]:
        make(there, script)
    for path in {*there.matrices.glob("*.pickle")} - {there.matrix(0, j) for j in (1, 2, 3)}:
        path.unlink()
    assert "\n  cannot load 'mine'" in show(capsys, monkeypatch, "--model", "mine", "--out", files.root)


def test_a_dataset_has_a_name_that_files_can_have(capsys, monkeypatch):
    with pytest.raises(SystemExit):
        show(capsys, monkeypatch, "--dataset", "a/b")
    assert "expected a name that can be part of file names" in capsys.readouterr().err


def test_a_masked_model_in_a_folder_tells_so(files, bert_folder, capsys, monkeypatch):
    folder = files.root / "some-model"
    shutil.copytree(bert_folder, folder)
    assert "bert_add_linreg.py" in show(capsys, monkeypatch, "--model", folder, "--out", files.root)


def test_a_folder_tells_its_layers_and_a_wrong_one_is_a_line(files, gpt2_folder, capsys, monkeypatch):
    said = show(capsys, monkeypatch, "--model", gpt2_folder, "--out", files.root)
    assert (
        f"next: .venv/bin/python get_wikipedia_sentences.py --dataset wikipedia --source hub --out {files.root}" in said
    )
    shutil.copytree(gpt2_folder, files.root / "broken")
    (files.root / "broken" / "config.json").write_text("{}")
    assert "\n  cannot load" in show(capsys, monkeypatch, "--model", files.root / "broken", "--out", files.root)


def test_from_the_shell(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "config.py", "--out", tmp_path], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("settings in config.py\n  GPT2 ")
    assert not done.stderr
