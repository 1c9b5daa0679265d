"""Maps act on the model that they were fitted on, and on no other whose folder has the same name."""

import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import hub
import pytest
import torch
from conftest import LAYERS, D, changed, make_gpt2
from pipeline import exported, fit_kinds, run, small_sizes

import shortcut
from shortcut import Problem
from shortcut.__main__ import main as command
from shortcut.files import formats
from shortcut.files.names import Names
from shortcut.loading import checkpoint
from shortcut.pipeline import exchanging

REFUSED = r"^linreg/tiny-gpt2/words[^/]*/0_[13]\.pickle was made with another model's weights: "


@pytest.fixture(scope="module")
def made(request, tmp_path_factory):
    """Tokens and maps of a tiny GPT-2."""
    with small_sizes():
        yield fit_kinds(request, "gpt2", tmp_path_factory.mktemp("out"), ("least-squares", "affine"))


@pytest.fixture(scope="module")
def other(gpt2_folder, tmp_path_factory):
    """A model of the same name, shapes and tokenizer, with other weights."""
    folder = changed(gpt2_folder, tmp_path_factory.mktemp("b"), lambda w: {name: 1.01 * x for name, x in w.items()})
    return str(Path(folder).rename(Path(folder).parent / "tiny-gpt2"))


def on(names, model):
    return ["--model", str(model), "--dataset", "words", "--out", str(names.root)]


def words(names, model):
    (names.root / "text.txt").write_text("the model")
    command(["words", str(names.root / "text.txt"), str(names.root / "w.csv"), *on(names, model)])


def sentence(names, model):
    run("plot_results", "--sentence", "the model", *on(names, model))


def results(names, model):
    run("add_plot_r2", *on(names, model))


def whole(names, model):
    command(["export", *on(names, model)])


def tuned(names, model):
    command(["export", "--to", "tuned-lens", "--map", "affine", *on(names, model)])


def transport(names, model):
    shortcut.Lens.load(str(model), "words", out=names.root).transport(torch.ones(D), 0, 1)


def predict(names, model):
    shortcut.Lens.load(str(model), "words", "affine", out=names.root).predict("the model")


@pytest.mark.parametrize("use", [words, sentence, results, whole, tuned, transport, predict])
def test_maps_of_a_model_of_the_same_name_are_refused(made, other, use, capsys):
    _, names = made
    with pytest.raises(Problem, match=REFUSED):
        use(names, other)
    assert not (names.root / "w.csv").exists()


@pytest.mark.parametrize("use", [words, sentence])
def test_so_are_those_of_a_model_on_the_hub(made, other, use, capsys, monkeypatch):
    monkeypatch.setattr(checkpoint, "is_model_folder", lambda name: False)
    with pytest.raises(Problem, match=REFUSED):
        use(made[1], other)


def test_imported_maps_are_of_the_model_that_they_were_imported_for(made, other, tmp_path, capsys):
    folder, names = made
    there = exported(made, "affine", "tuned-lens")
    taken = replace(names, root=tmp_path)
    command(["import", str(there), "--from", "tuned-lens", *on(taken, folder)])
    shortcut.Lens.load(folder, "words", "tuned", out=tmp_path).transport(torch.ones(D), 1)
    with pytest.raises(Problem, match="was made with another model's weights: import it again"):
        shortcut.Lens.load(other, "words", "tuned", out=tmp_path).transport(torch.ones(D), 0)
    with pytest.raises(Problem, match="use another --out for another model of that name"):
        command(["import", str(there), "--from", "tuned-lens", *on(taken, other)])


def test_published_matrices_are_not_fetched_beside_those_of_another_model(made, other, tmp_path, monkeypatch, capsys):
    folder, names = made
    shutil.copytree(names.root, tmp_path, dirs_exist_ok=True)
    there = [path.relative_to(names.root / "linreg").as_posix() for path in names.matrices.glob("*.pickle")]
    found = SimpleNamespace(sha=hub.COMMIT, siblings=[SimpleNamespace(rfilename=name) for name in there])
    monkeypatch.setattr(exchanging.huggingface_hub, "model_info", lambda _: found)
    command(["fetch", *on(replace(names, root=tmp_path), folder)])
    assert f"kept {len(there)} existing matrices" in capsys.readouterr().out
    with pytest.raises(Problem, match="was made with another model's weights"):
        command(["fetch", *on(replace(names, root=tmp_path), other)])


@pytest.mark.parametrize("use", [words, results, transport])
def test_maps_without_an_entry_of_another_width_are_of_another_model(made, use, tmp_path, capsys):
    """All that is known of them is their shape; of the same width they are taken as they are."""
    _, names = made
    wide = make_gpt2(tmp_path / "tiny-gpt2", n_embd=2 * D)
    files = replace(names, root=tmp_path / "out")
    shutil.copytree(names.experiment, files.experiment)
    files.matrices.mkdir(parents=True)
    for path in names.matrices.glob("*.pickle"):
        (files.matrices / path.name).write_bytes(pickle.dumps(formats.load_matrix(path, D)))
    (files.experiment / "manifest.json").unlink()
    with pytest.raises(
        Problem, match=rf"holds float32 \[{D}, {D}\], expected .* for this model: was it fitted for another one"
    ):
        use(files, wide)


def test_maps_without_an_entry_are_taken_as_they_are(made, other, tmp_path, capsys):
    _, names = made
    files = Names(tmp_path, "tiny-gpt2", "words")
    files.matrices.mkdir(parents=True)
    for path in names.matrices.glob("*.pickle"):
        shutil.copy(path, files.matrices)
    for use in (words, sentence, whole, transport):
        use(files, other)
    assert len([*files.matrices.glob(f"*_{LAYERS}.pickle")]) == LAYERS
