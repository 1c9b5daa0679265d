"""`python -m shortcut shorten`: its checkpoint, its card, and what it refuses."""

import json
import re

import pytest
import torch
import transformers
from architectures import D
from conftest import changed, make_sentences, make_tokenized
from pipeline import run, small_sizes

from shortcut import Problem, shorten
from shortcut.__main__ import main as command
from shortcut.files import formats, store
from shortcut.files.names import Names
from shortcut.loading import pretrained
from shortcut.pipeline import shortening
from shortcut.representations import batches


@pytest.fixture(scope="module")
def made(gpt2_folder, tmp_path_factory):
    """Folder and files of the tiny GPT-2, with tokens, and a map from layer 1 to layer 2."""
    names = Names(tmp_path_factory.mktemp("out"), "tiny-gpt2", "words")
    with store.replacing(names.sentences) as file:
        store.dump(file, *make_sentences(120))
    with store.replacing(names.matrix(1, 2)) as file:
        store.dump(file, torch.eye(D))
    with small_sizes():
        run("add_tokenization", "--model", gpt2_folder, "--dataset", "words", "--out", names.root)
    return gpt2_folder, names


def shorten_it(made, to, *options):
    folder, names = made
    command(["shorten", "--model", folder, "--dataset", "words", "--out", str(names.root), "--to", str(to), *options])


def refused(made, to, *options):
    with pytest.raises(Problem) as caught:
        shorten_it(made, to, *options)
    assert "\n" not in str(caught.value)
    assert [path.name for path in to.parent.iterdir()] == ["kept"] * to.exists()
    return str(caught.value)


def test_the_command_writes_an_ordinary_checkpoint_with_a_card(made, tmp_path, capsys):
    folder, names = made
    (tmp_path / ".to.1a2b3c4d.unfinished" / "model").mkdir(parents=True)  # left by a killed run
    (tmp_path / ".to.backup").mkdir()
    shorten_it(made, tmp_path / "to", "--drop", "1:2")
    assert [path.name for path in tmp_path.glob(".to.*")] == [".to.backup"]
    (tmp_path / ".to.backup").rmdir()
    said, card = capsys.readouterr().out, (tmp_path / "to" / "README.md").read_text(encoding="utf-8")
    assert card in said
    assert "base_model: tiny-gpt2" in card
    assert [line.split("|")[1].strip() for line in card.splitlines() if line.startswith("| ")] == [
        "model", "whole model", "blocks dropped alone", "full map A", "folded"
    ]  # fmt: skip
    net = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "to")
    assert net.config.n_layer == 2
    assert f"{net.num_parameters():,} parameters" in card
    own = {path.name: path.read_bytes() for path in (tmp_path / "to").iterdir()}
    for path in (made_path for made_path in map(names.root.joinpath, [folder]) for made_path in made_path.iterdir()):
        if path.name not in ("config.json", "model.safetensors"):
            assert own[path.name] == path.read_bytes(), path.name
    val = shorten.whole(formats.load_tokenized(names.split("val")))
    model = pretrained.load(str(tmp_path / "to"), masked=False)
    nats, _, _ = shorten.surprisals({"it": (model, [])}, batches(model, val, 500))
    shown = re.search(r"\| folded \| ([\d.]+) ", card)[1]
    assert float(shown) == pytest.approx(nats["it"].mean().exp().item(), abs=0.01)
    assert [path.name for path in tmp_path.iterdir()] == ["to"]


def test_the_range_with_the_lowest_perplexity_in_training_is_taken(made, tmp_path, capsys):
    shorten_it(made, tmp_path / "new" / "to", "--blocks", "1")
    found = re.findall(r"without (\d:\d): perplexity ([\d.]+) in training", said := capsys.readouterr().out)
    assert [drop for drop, _ in found] == ["1:2", "2:3"]
    assert f"# tiny-gpt2 without blocks {min(found, key=lambda pair: float(pair[1]))[0]}\n" in said


@pytest.mark.parametrize(("gain", "verdict"), [(0.1, "This model is better than"), (0.0, "Do not use this model: ")])
def test_the_card_says_whether_to_use_the_model(made, tmp_path, capsys, monkeypatch, gain, verdict):
    noise = torch.randn(100, generator=torch.Generator().manual_seed(4)).double() * 0.1

    def surprisals(runs, batches):
        nats = dict.fromkeys(runs, 3 + 0 * noise) | {"blocks dropped alone": 3 + gain + noise - noise.mean()}
        return nats, dict.fromkeys(runs, 1.0), torch.arange(100)

    monkeypatch.setattr(shorten, "surprisals", surprisals)
    shorten_it(made, tmp_path / "to", "--drop", "1:3")
    assert f"\n{verdict}" in (tmp_path / "to" / "README.md").read_text()
    assert f"| blocks dropped alone | {torch.tensor(3 + gain).exp():.2f} [" in capsys.readouterr().out


def test_a_checkpoint_in_half_precision_stays_in_it(made, tmp_path, monkeypatch):
    """The weights of the fold are rounded as those in the file are, so that the logits agree to the last digits."""
    folder = tmp_path / "half"
    transformers.AutoModelForCausalLM.from_pretrained(made[0], dtype=torch.bfloat16).save_pretrained(folder)
    (folder / "generation_config.json").unlink()
    model, seen = pretrained.load(str(folder), masked=False), shorten.whole(make_tokenized(30, 320))
    (found,) = shorten.shorten(model, [range(1, 2)], batches(model, seen, 500))
    shortening.save(model, found, tmp_path / "to")
    net = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "to", dtype="auto")
    assert {weight.dtype for weight in net.parameters()} == {torch.bfloat16}
    assert found.folded.weight.to(torch.bfloat16).float().equal(found.folded.weight)
    assert {path.name for path in (tmp_path / "to").iterdir()} == {
        "config.json",
        "model.safetensors",
    }  # as in the model
    assert json.loads((tmp_path / "to" / "config.json").read_text())["dtype"] == "bfloat16"


def test_a_checkpoint_that_is_another_model_when_loaded_again_is_not_left(made, tmp_path, monkeypatch):
    own = shortening.settings
    monkeypatch.setattr(shortening, "settings", lambda *given: own(*given) | {"scale_attn_weights": False})
    message = refused(made, tmp_path / "to", "--drop", "1:2")
    assert re.fullmatch(r"not saved: loaded again, the logits differ by [\d.]+ of their scale from .*", message)


def test_wrong_inputs_are_refused_in_one_line(made, bert_folder, tmp_path, capsys):
    folder, names = made
    assert "I:J, such as 4:5, got '4'" in refused(made, tmp_path / "to", "--drop", "4")
    for K in ("0", "3"):
        assert "expected I:J with 1 <= I < J <= 3" in refused(made, tmp_path / "to", "--blocks", K)
    (tmp_path / "kept").mkdir()
    assert "exists already: give --to another name" in refused(made, tmp_path / "kept", "--drop", "1:2")
    (tmp_path / "kept").rmdir()
    (tmp_path / "kept").symlink_to(tmp_path / "nowhere")
    with pytest.raises(Problem, match="exists already: give --to another name"):
        shorten_it(made, tmp_path / "kept", "--drop", "1:2")
    (tmp_path / "kept").unlink()
    assert "is a masked model" in refused((bert_folder, names), tmp_path / "to", "--drop", "1:2")
    with pytest.raises(Problem, match=r"other_tokenized_train.pickle not found: run .* add_tokenization.py"):
        command(
            ["shorten", "--model", folder, "--dataset", "other", "--out", str(names.root), "--to", "x", "--drop", "1:2"]
        )
    for options in ([], ["--drop", "1:2", "--blocks", "1"]):
        with pytest.raises(SystemExit):
            shorten_it(made, tmp_path / "to", *options)
    other = changed(folder, tmp_path, lambda w: {name: 2 * tensor for name, tensor in w.items()})
    with pytest.raises(Problem, match="another model's weights|not found"):
        shorten_it((other, names), tmp_path / "to", "--drop", "1:2")
    capsys.readouterr()
