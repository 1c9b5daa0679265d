"""Lenses in the formats of other tools: there and back, and refused where they do not fit."""

import importlib.metadata
import shutil
from dataclasses import replace

import pytest
import torch
from conftest import LAYERS, D, changed
from pipeline import SIZES, exported, files, fit_kinds, put, small_sizes

from shortcut import Problem
from shortcut.__main__ import main as command
from shortcut.exchange import lenses
from shortcut.files import formats, store
from shortcut.loading import pretrained
from shortcut.pipeline import manifest


@pytest.fixture(scope="module", params=["gpt2", "bert"])
def made(request, tmp_path_factory):
    """Tokens and maps of a tiny model."""
    with small_sizes():
        kinds = ["least-squares", "affine", "jacobian", *["jacobian-later"] * (request.param == "gpt2")]
        return fit_kinds(request, request.param, tmp_path_factory.mktemp("out"), kinds)


@pytest.mark.parametrize(
    ("kind", "to"),
    [("affine", "tuned-lens"), ("least-squares", "tuned-lens"), ("jacobian", "jlens"), ("jacobian-later", "jlens")],
)
def test_lenses_come_back_as_they_went(made, kind, to, tmp_path, capsys):
    folder, names = made
    if names.masked and kind == "jacobian-later":
        return
    if names.masked and to == "tuned-lens":
        with pytest.raises(Problem, match="tuned-lens supports no masked models"):
            exported(made, kind, to)
        return
    there = exported(made, kind, to)
    on = ["--from", to, "--model", folder, "--dataset", "words", "--out", str(tmp_path)]
    command(["import", str(there), *on])
    taken = replace(names, root=tmp_path, map_kind="tuned" if to == "tuned-lens" else kind)
    own = replace(names, map_kind=kind)
    for l in range(to == "jlens", LAYERS):
        A, B = (formats.load_map(files, l, LAYERS, D) for files in (own, taken))
        x = torch.randn(5, D)
        torch.testing.assert_close(A(x), B(x), rtol=2e-3, atol=2e-3)
    if to == "jlens":
        assert formats.load_matrix(taken.matrix(0, LAYERS), D).equal(torch.eye(D))
        lens = torch.load(there / "lens.pt", weights_only=True)
        assert (lens["d_model"], lens["n_prompts"], lens["source_layers"]) == (D, 80, [*range(LAYERS - 1)])
        assert lens["J"][0].dtype == torch.float16
        metadata, more = lens["metadata"], {"model_name": names.model_name, "target_layer": LAYERS - 1}
    else:
        metadata, more = store.load_json(there / "config.json")["metadata"], {}
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    of_fit = {"estimator": kind, "dataset": "words", "sentences": SIZES["TRAIN"], "positions": 1}
    assert metadata == {**of_fit, **versions, **more}
    card = (there / "README.md").read_text()
    assert f"base_model: {names.model_name}" in card
    assert "Licence: not chosen yet" in card
    assert f"| {LAYERS - 1} | " in card
    assert f"- train: {SIZES['TRAIN']}\n" in card
    assert "- sentences: " not in card  # not those that trained the maps
    (entry,) = [manifest.load(taken.matrices)[f"1_{LAYERS}.pickle"]]
    assert entry["script"] == "shortcut import"
    assert entry["settings"]["map"] == taken.map_kind
    told = capsys.readouterr().out
    for key, value in (of_fit | versions).items():
        assert f"the file has metadata.{key} {value}" in told
        assert entry["settings"]["imported"][f"metadata.{key}"] == str(value)
    assert "now named after" not in told


@pytest.mark.parametrize("made", ["gpt2"], indirect=True)  # tuned-lens knows no masked model
def test_tuned_lens_loads_what_was_exported(made):
    """Where that package is installed: its logits are those of our maps."""
    tuned_lens = pytest.importorskip("tuned_lens")
    folder, names = made
    there = exported(made, "least-squares", "tuned-lens")
    model = pretrained.load(folder, masked=False)
    lens = tuned_lens.TunedLens.from_model_and_pretrained(model.net, str(there))
    h = torch.randn(4, D)
    with torch.no_grad():
        for l in range(LAYERS):
            own = model.read_out(formats.load_map(names, l, LAYERS, D)(h))
            torch.testing.assert_close(lens(h, l), own, rtol=1e-4, atol=1e-4)


def test_numbers_beyond_half_precision_are_told_of_by_layer(made, tmp_path, capsys):
    folder, names = made
    shutil.copytree(names.root, tmp_path, dirs_exist_ok=True)
    path = replace(names, root=tmp_path).matrix(1, LAYERS)
    with store.replacing(path) as file:
        store.dump(file, torch.full((D, D), 1e5))
    manifest.save(path.parent, {})
    with pytest.raises(
        Problem, match=r"not exported: the maps of layers \[1\] hold numbers too large for half precision"
    ):
        command(["export", "--to", "jlens", "--model", folder, "--dataset", "words", "--out", str(tmp_path)])
    capsys.readouterr()
    assert not (path.parent / "jlens").exists()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda lens: lens | {"d_model": 2 * D}, f"has d_model {2 * D}, expected {D}: a lens for another model"),
        (
            lambda lens: lens | {"J": {0: lens["J"][0]}},
            f"has layers [0], expected 0 to {LAYERS - 2}: a lens for another",
        ),
        (lambda lens: lens | {"J": {**lens["J"], 9: lens["J"][0]}}, "a lens for another model"),
        (lambda lens: lens | {"J": {l: J[:2] for l, J in lens["J"].items()}}, f"expected finite numbers [{D}, {D}]"),
        (lambda lens: lens | {"J": {l: J / 0 for l, J in lens["J"].items()}}, "expected finite numbers"),
        (lambda lens: [lens], "expected a dict with J"),
        (
            lambda lens: lens | {"target_layer": 1},
            f"has target_layer 1, expected {LAYERS - 1}: a lens for another model or target layer",
        ),
        (lambda lens: lens | {"metadata": {"target_layer": 0}}, "has metadata.target_layer 0, expected"),
        (
            lambda lens: lens | {"metadata": {"estimator": "ridge"}},
            "ridge maps are no Jacobian lens",
        ),
        (lambda lens: lens | {"metadata": {"sentences": 0}}, "has metadata.sentences 0, expected a number of at least"),
        (lambda lens: lens | {"model_name": "a/b"}, "has model_name 'a/b', expected tiny-"),
        (lambda lens: lens | {"metadata": {"model_name": "gpt2"}}, "has metadata.model_name 'gpt2', expected tiny-"),
        (lambda lens: {"run": print}, "lens.pt as a file of tensors"),
    ],
)
def test_a_lens_that_does_not_fit_is_one_line(made, change, why, tmp_path, capsys):
    folder, _ = made
    there = exported(made, "jacobian", "jlens")
    torch.save(change(torch.load(there / "lens.pt", weights_only=True)), tmp_path / "lens.pt")
    with pytest.raises(Problem) as caught:
        command(
            ["import", str(tmp_path), "--from", "jlens", "--model", folder, "--dataset", "w", "--out", str(tmp_path)]
        )
    capsys.readouterr()
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not [*(tmp_path / "linreg").rglob("*.pickle")]


@pytest.mark.parametrize("made", ["gpt2"], indirect=True)  # tuned-lens knows no masked model
def test_a_tuned_lens_of_another_model_is_one_line(made, tmp_path, capsys):
    folder, _ = made
    there = exported(made, "affine", "tuned-lens")
    with pytest.raises(
        Problem, match="has base_model_name_or_path 'tiny-gpt2', expected changed: a lens for another model"
    ):
        command(["import", str(there), "--from", "tuned-lens", "--model", changed(folder, tmp_path), "--dataset", "w",
                 "--out", str(tmp_path)])  # fmt: skip
    with pytest.raises(Problem, match=r"holds 0 .pt files \[\], expected one lens: name its file"):
        command(["import", str(tmp_path), "--from", "tuned-lens", "--model", folder, "--dataset", "w"])
    capsys.readouterr()
    assert files(tmp_path / "linreg") == {} if (tmp_path / "linreg").exists() else True


def take(made, source, to, root):
    """Maps from a layer into the last, as they are imported from a lens; and the manifest's `imported`."""
    folder, names = made
    command(["import", str(source), "--from", to, "--model", folder, "--dataset", "words", "--out", str(root)])
    (there,) = (root / "linreg" / names.model).glob("words@*")
    taken = replace(names, root=root, map_kind=there.name.partition("@")[2])
    assert taken.map_kind in lenses.FORMATS[to].map_kinds
    imported = manifest.load(taken.matrices)[f"0_{LAYERS}.pickle"]["settings"]["imported"]
    return [formats.load_map(taken, l, LAYERS, D).A for l in range(LAYERS)], imported


@pytest.mark.parametrize("made", ["gpt2"], indirect=True)
@pytest.mark.parametrize(("kind", "to"), [("affine", "tuned-lens"), ("jacobian", "jlens")])
def test_the_file_named_is_the_file_read(made, kind, to, tmp_path, capsys):
    """Beside it lies another lens under the name that we write."""
    there = shutil.copytree(exported(made, kind, to), tmp_path / "lens")
    (own,) = there.glob("*.pt")
    lens = torch.load(own, weights_only=True)
    zero = {key: torch.zeros(x.shape) for key, x in (lens if to == "tuned-lens" else lens["J"]).items()}
    other = put(there, "tiny_jacobian_lens.pt", zero if to == "tuned-lens" else lens | {"J": zero})
    maps, imported = take(made, other, to, tmp_path / "a")
    assert maps[1][:, :D].equal(torch.eye(D) if to == "tuned-lens" else torch.zeros(D, D))
    assert other.name in imported
    assert not take(made, own, to, tmp_path / "b")[0][1].equal(maps[1])
    with pytest.raises(Problem, match="holds 2 .pt files"):
        take(made, there, to, tmp_path / "c")
    own.unlink()
    assert take(made, there, to, tmp_path / "d")[0][1].equal(maps[1])
    with pytest.raises(Problem, match=f"cannot read .*{own.name} as a file of tensors .*No such file"):
        take(made, own, to, tmp_path / "e")


@pytest.mark.parametrize("place", ["metadata", "top"])
@pytest.mark.parametrize("made", ["gpt2"], indirect=True)
def test_estimator_and_revision_of_a_lens_are_told_and_recorded(made, place, tmp_path, capsys):
    there = exported(made, "jacobian", "jlens")
    says = {"estimator": "relp_lens", "model_revision": "0a1b", "target_layer": LAYERS - 1, "model_name": "x/tiny-gpt2"}
    lens = torch.load(there / "lens.pt", weights_only=True)
    del lens["metadata"]  # as a lens from another tool
    lens |= {"metadata": says} if place == "metadata" else says
    _, imported = take(made, put(tmp_path / "lens", "lens.pt", lens), "jlens", tmp_path)
    told = capsys.readouterr().out
    for key in ("estimator", "model_revision"):
        (name,) = [name for name in imported if name.endswith(key)]
        assert imported[name] == says[key]
        assert f"the file has {name} {says[key]}" in told


@pytest.mark.parametrize("made", ["gpt2"], indirect=True)
def test_a_lens_fitted_on_another_dataset_is_told(made, tmp_path, capsys):
    folder, _ = made
    on = ["--from", "jlens", "--model", folder, "--dataset", "others", "--out", str(tmp_path)]
    command(["import", str(exported(made, "jacobian", "jlens")), *on])
    assert "the lens was fitted on words, and its maps are now named after others" in capsys.readouterr().out


@pytest.mark.parametrize("made", ["gpt2"], indirect=True)
def test_a_tuned_lens_without_biases_or_of_an_older_version_is_read(made, tmp_path, capsys):
    there = exported(made, "affine", "tuned-lens")
    state, config_ = torch.load(there / "params.pt", weights_only=True), store.load_json(there / "config.json")
    whole, _ = take(made, there, "tuned-lens", tmp_path / "a")
    old = put(tmp_path / "old", "params.pt", {f"layer_translators.{key}": x for key, x in state.items()})
    (old.parent / "config.json").write_bytes(store.dump_json(config_ | {"base_model_revision": "0a1b"}))
    maps, imported = take(made, old, "tuned-lens", tmp_path / "b")
    assert all(A.equal(B) for A, B in zip(maps, whole, strict=True))
    assert imported["base_model_revision"] == "0a1b"
    bare = put(tmp_path / "bare", "params.pt", {key: x for key, x in state.items() if key.endswith("weight")})
    (bare.parent / "config.json").write_bytes(store.dump_json(config_ | {"bias": False}))
    maps, _ = take(made, bare, "tuned-lens", tmp_path / "c")
    for A, B in zip(maps, whole, strict=True):
        assert A.equal(torch.cat([B[:, :D], torch.zeros(D, 1)], 1))
    (bare.parent / "config.json").write_bytes(store.dump_json(config_))
    with pytest.raises(Problem, match=rf"has NoneType, expected finite numbers \[{D}\]"):
        take(made, bare, "tuned-lens", tmp_path / "d")
