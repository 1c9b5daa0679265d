"""What was made with other settings, by another model or beside other files is refused; what is whole is kept."""

import json
import re
import shutil
from itertools import chain
from pathlib import Path

import pytest
import torch
from conftest import D, make_gpt2, make_sentences
from pipeline import SCRIPTS, files, problem, run, run_all

import config
from shortcut import representations
from shortcut.files import formats
from shortcut.files.names import Names
from shortcut.pipeline import partial
from shortcut.show import report

pytestmark = pytest.mark.usefixtures("small")


def test_another_model_of_the_same_name_is_refused_until_it_has_an_out_of_its_own(tmp_path, made, gpt2_folder, capsys):
    shutil.copytree(made.root, tmp_path, dirs_exist_ok=True)
    other = make_gpt2(tmp_path / "other" / "tiny-gpt2", initializer_range=0.1)
    here = ("--out", tmp_path, "--model", other, "--dataset", "words")
    message = problem(capsys, "add_linreg", *here)
    assert "linreg/tiny-gpt2/words/0_1.pickle was made with another model's weights: use --force" in message
    assert "use another --out for another model of that name" in message
    message = problem(capsys, "add_plot_r2", *here)
    assert re.search(
        "made with another model's weights: run .* add_linreg.py .* --force, or use another --out", message
    )


def test_a_second_run_makes_nothing_and_loads_nothing(made, gpt2_folder, source, capsys, monkeypatch):
    monkeypatch.setattr("shortcut.loading.pretrained.load", lambda *a, **k: pytest.fail("loaded a model"))
    before = {name: path.stat().st_mtime_ns for name, path in files(made.root).items() if ".lock" not in name}
    run_all(made.root, gpt2_folder, source)
    assert capsys.readouterr().out.count("already made, skipped") == len(SCRIPTS)
    assert {name: path.stat().st_mtime_ns for name, path in files(made.root).items() if ".lock" not in name} == before


def test_what_is_read_must_be_of_the_seed_split_tokenizer_and_model_in_force(
    made, tmp_path, gpt2_folder, capsys, monkeypatch
):
    def message(script, folder, *more):
        return problem(capsys, script, "--out", made.root, "--model", folder, "--dataset", "words", *more)

    other = shutil.copytree(gpt2_folder, tmp_path / "tiny-gpt2")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    (other / "tokenizer.json").write_text(json.dumps(tokenizer, indent=1))
    for script in SCRIPTS[2:6]:
        tokens = f"tokenized_{'train' if 'linreg' in script else 'val'}.pickle was made with"
        remake = f"run .venv/bin/python add_tokenization.py --model {gpt2_folder} --dataset words"
        said = message(script, gpt2_folder, "--seed", 7)
        assert f"{tokens} other settings (seed was 0, is 7): restore those settings, or {remake}" in said
        assert said.endswith(" --force")
        with monkeypatch.context() as patch:
            patch.setattr(config, "TRAIN", 81)
            assert f"{tokens} other settings (train was 80, is 81)" in message(script, gpt2_folder)
        assert f"{tokens} another model's tokenizer: run .venv/bin/python add_tokenization.py" in message(script, other)
    assert "words_tokenized_val.pickle was made with another model's tokenizer" in message("plot_results", other)
    shutil.copy(Path(gpt2_folder) / "tokenizer.json", other)
    settings = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**settings, "n_positions": 47}))
    assert "context was 48, is 47" in message("add_tokenization", other)
    first = "words_tokenized_val.pickle was made with other settings (context was 48, is 47)"  # and results of another
    assert first in message("plot_results", other)


def test_results_made_anew_while_they_are_drawn_stop_the_drawing(made, tmp_path, capsys, monkeypatch):
    shutil.copytree(made.root, tmp_path, dirs_exist_ok=True)
    there = Names(tmp_path, "tiny-gpt2", "words")
    there.report.unlink()
    text = report.page

    def late(*args):
        there.results.rename(tmp_path / "moved")
        shutil.copy(tmp_path / "moved", there.results)
        return text(*args)

    monkeypatch.setattr(report, "page", late)
    message = problem(capsys, "plot_results", "--out", tmp_path, "--model", "tiny-gpt2", "--dataset", "words")
    assert message == f"{there.results} was changed while it was in use: run the script again"
    assert not there.report.exists()


def test_a_lost_matrix_alone_is_made_again(made, gpt2_folder, source, capsys):
    path = made.matrix(1, 2)
    content = path.read_bytes()
    path.unlink()
    run_all(made.root, gpt2_folder, source, ["add_linreg"])
    assert "wrote linreg/tiny-gpt2/words/1_2.pickle" in capsys.readouterr().out
    assert path.read_bytes() == content


def test_sentences_know_what_they_were_taken_from(tmp_path, gpt2_folder, bert_folder, capsys, monkeypatch):
    here = ("--out", tmp_path, "--dataset", "words", "--source", tmp_path / "words.txt")
    (tmp_path / "words.txt").write_text("".join(make_sentences(150)))
    run("get_wikipedia_sentences", *here)
    (tmp_path / "words.txt").write_text("".join(make_sentences(160)))
    assert "made with other settings (content of the source" in problem(capsys, "get_wikipedia_sentences", *here)
    monkeypatch.setattr(config, "DOCSTRING_PACKAGES", ("tqdm",))
    monkeypatch.setattr(config, "SENTENCES", 20)
    docs = ("--out", tmp_path, "--dataset", "docs", "--source", "docstrings")
    run("get_wikipedia_sentences", *docs)
    monkeypatch.setattr(config, "TRAIN", 5)
    assert "train was 80, is 5" in problem(capsys, "get_wikipedia_sentences", *docs)
    for script, model in (("add_tokenization", gpt2_folder), ("bert_add_reps", bert_folder)):
        message = problem(capsys, script, "--out", tmp_path, "--dataset", "docs", "--model", model)
        assert (
            "docs_20K-sentences.pickle was made with other settings (train was 80, is 5): restore those settings, or "
            in message
        )
    monkeypatch.setattr(config, "SPLITS", {"docs": (6, 2)})
    assert "train was 80, is 6" in problem(capsys, "get_wikipedia_sentences", *docs)


def test_states_collected_before_a_stop_are_not_collected_again(made, tmp_path, gpt2_folder, capsys, monkeypatch):
    shutil.copytree(made.root / "experiment", tmp_path / "experiment")
    there = Names(tmp_path, "tiny-gpt2", "words")
    here = ("--out", tmp_path, "--model", gpt2_folder, "--dataset", "words", "--batch-size", 60)
    monkeypatch.setattr(partial, "SECONDS", 0)
    compute, seen = representations.run, []

    def stopping(model, batch, points):
        if len(seen) == 5:
            raise KeyboardInterrupt
        seen.append(batch.rows.tolist())
        return compute(model, batch, points)

    monkeypatch.setattr(representations, "run", stopping)
    with pytest.raises(KeyboardInterrupt):
        run("add_linreg", *here)
    first, seen[:] = sorted(chain(*seen)), []
    monkeypatch.setattr(representations, "run", lambda m, b, p: seen.append(b.rows.tolist()) or compute(m, b, p))
    run("add_linreg", *here)
    assert first
    assert sorted([*first, *chain(*seen)]) == list(range(80))
    A, B = (formats.load_matrix(f.matrix(0, 1), D) for f in (there, made))
    torch.testing.assert_close(A, B, rtol=1e-3, atol=1e-3)  # in other batches, so up to rounding


def test_partial_results_serve_the_next_run_of_the_same_kind_and_no_other(
    made, tmp_path, gpt2_folder, capsys, monkeypatch
):
    shutil.copytree(made.root / "experiment", tmp_path / "experiment")
    here = ("--out", tmp_path, "--model", gpt2_folder, "--dataset", "words", "--batch-size", 100)
    monkeypatch.setattr(partial, "SECONDS", 0)
    compute, seen = representations.run, []

    def stopped(*more, rcond=config.RCOND):
        """How many batches a run computes that is stopped before it writes."""
        monkeypatch.setattr(config, "RCOND", rcond)
        monkeypatch.setattr(representations, "run", lambda *args: seen.append(1) or compute(*args))
        monkeypatch.setattr("add_linreg.fits", lambda *_, **__: 1 / 0)
        seen.clear()
        with pytest.raises(ZeroDivisionError):
            run("add_linreg", *here, *more)
        return len(seen)

    every = stopped()
    assert every > 5
    assert stopped() == 0
    assert stopped("--batch-size", 50) > every
    assert stopped(rcond=1e-6) == every
    assert stopped(rcond=1e-6) == 0
    assert stopped("--force", rcond=1e-6) == every  # to make anew is to begin anew
    assert stopped(rcond=1e-6) == 0
    monkeypatch.undo()
    capsys.readouterr()


def test_predictions_of_another_run_than_the_results_are_not_shown(made, gpt2_folder, tmp_path, capsys):
    """Results of other code stand by themselves, whatever lies beside them; ours not made alike are refused."""
    shutil.copytree(made.root, tmp_path, dirs_exist_ok=True)
    files = Names(tmp_path, made.model, "words")
    options = ("--out", tmp_path, "--model", gpt2_folder, "--dataset", "words")
    manifest_file = files.experiment / "manifest.json"
    whole = json.loads(manifest_file.read_text(encoding="utf-8"))
    other = json.loads(manifest_file.read_text(encoding="utf-8"))
    other["files"][files.predictions.name]["settings"]["tau"] = 5.0
    manifest_file.write_text(json.dumps(other), encoding="utf-8")
    assert "predictions.pickle was made with other settings (tau was 5.0" in problem(capsys, "plot_results", *options)
    del whole["files"][files.results.name]
    manifest_file.write_text(json.dumps(whole), encoding="utf-8")
    run("plot_results", *options, "--force")
    said = capsys.readouterr().out
    assert "interpolated between the lambdas" in said
    assert "Alternation" not in said
