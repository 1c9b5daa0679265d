"""All stages with other architectures, and in half precision."""

import pytest
import torch
import transformers
from architectures import GEMMA4, MASKED, half, make
from conftest import make_sentences, make_tokenized
from pipeline import problem, run

import config
from shortcut import representations, results, submodules
from shortcut.approximation import MODES
from shortcut.files import formats, result_formats
from shortcut.files.names import Names
from shortcut.loading import pretrained


@pytest.mark.parametrize("kind", "llama gpt2 gpt_neox gemma2 mixtral opt qwen3 bert modernbert".split())
def test_a_checkpoint_in_half_precision_runs_as_it_is(kind, tmp_path):
    """Read-outs of its own states are its logits, its best tokens mostly those of the same weights in float32."""
    folder, masked = half(kind, tmp_path / kind), kind in MASKED
    model, full = (pretrained.load(folder, masked=masked, dtype=dtype) for dtype in ("auto", "float32"))
    assert {w.dtype for w in model.net.parameters()} == {torch.bfloat16}
    assert submodules.find(model).parts == submodules.find(full).parts
    tokenized, best, expected = make_tokenized(200, 320, longest=9), [], []
    for batch in representations.batches(model, tokenized, 500):
        h = representations.run(model, batch).h
        assert h.dtype == torch.float32
        with torch.no_grad():
            own = batch.at_chosen(model.net(input_ids=batch.ids, attention_mask=batch.mask).logits)
        assert model.read_out(h[-1]).equal(own)
        best.append(own.argmax(-1))
        expected.append(full.read_out(representations.run(full, batch).h[-1]).argmax(-1))
    assert (torch.cat(best) == torch.cat(expected)).double().mean() >= 0.95


def test_all_stages_in_half_precision_with_several_positions(tmp_path, gpt2_folder, monkeypatch, capsys):
    """Two positions a sentence, and weights as they are; then the first setting again, which refuses both."""
    settings = {"SENTENCES": 60, "TRAIN": 30, "VAL": 20, "SPLITS": {}, "DTYPE": "auto", "POSITIONS": 2}
    for name, value in settings.items():
        monkeypatch.setattr(config, name, value)
    folder = half("llama", tmp_path / "llama")
    transformers.AutoTokenizer.from_pretrained(gpt2_folder).save_pretrained(folder)
    source = tmp_path / "words.txt"
    source.write_text("".join(make_sentences(60)), encoding="utf-8")
    there = ("--out", tmp_path, "--dataset", "words")
    run("get_wikipedia_sentences", *there, "--source", source)
    for script in "add_tokenization add_linreg add_plot_r2 add_linreg_submodules add_results plot_results".split():
        run(script, *there, "--model", folder)
    (said, bars), files = capsys.readouterr(), Names(tmp_path, "llama", "words")
    assert "positions (train)" in bars
    assert "sentences (" not in bars
    assert "40 positions of 20 sentences" in said
    assert torch.bincount(formats.load_tokenized(files.split("train")).numbers).tolist() == [2] * 30
    found = results.summarize(result_formats.load_results(files.results))
    assert [*found.fixed] == [*MODES]
    assert found.sample == "40 positions of 20 sentences"
    modes = result_formats.load_predictions(files.predictions, 40, found.n_layers).modes
    ties = max(tables["gap"].eq(0).double().mean(1).max().item() for tables in modes.values())
    assert 0 < ties <= float(said.split("tie in up to ")[1].split("%")[0]) / 100  # logits are rounded to eight bits
    for name, value, script, what in [
        ("DTYPE", "float32", "add_results", 'dtype was "auto", is "float32"'),
        ("POSITIONS", 1, "add_tokenization", "positions was 2, is 1"),
    ]:
        monkeypatch.setattr(config, name, value)
        assert what in problem(capsys, script, *there, "--model", folder)
        monkeypatch.setattr(config, name, settings[name])


@pytest.mark.parametrize(
    "kind",
    ["llama", "gemma2", "gpt_neox", "opt", "qwen3", "olmo2", "gemma4_text", "roberta", "distilbert", "modernbert"],
)
def test_all_stages_of_other_architectures(kind, tmp_path, gpt2_folder, bert_folder, monkeypatch):
    """With the tokenizer of a GPT-2 or a BERT; without modes of sub-modules where these cannot be replaced.

    plot_results.py runs no model: it shows the results of a causal and a masked model, and those without sub-modules.
    """
    for name, value in {"SENTENCES": 60, "TRAIN": 30, "VAL": 20, "SPLITS": {}}.items():
        monkeypatch.setattr(config, name, value)
    masked = kind in MASKED
    folder = make(kind, masked, tmp_path / kind, **GEMMA4 if kind == "gemma4_text" else {})
    tokenizer = transformers.AutoTokenizer.from_pretrained(bert_folder if masked else gpt2_folder)
    tokenizer.save_pretrained(folder)
    source = tmp_path / "words.txt"
    source.write_text("".join(make_sentences(60)), encoding="utf-8")
    there = ("--out", tmp_path, "--dataset", "words")
    run("get_wikipedia_sentences", *there, "--source", source)
    causal = "add_tokenization add_linreg add_plot_r2 add_linreg_submodules add_results".split()
    bert = "bert_add_reps bert_add_linreg bert_add_plot_r2 add_linreg_submodules bert_add_results".split()
    shown = kind in ("llama", "roberta", "gemma4_text")
    for script in [*(bert if masked else causal), *["plot_results"] * shown]:
        run(script, *there, "--model", folder)
    files = Names(tmp_path, f"{kind}_mask" if masked else kind, "words", masked=masked)
    found = results.summarize(result_formats.load_results(files.results))
    assert [*found.fixed] == (["id", "mat"] if kind == "gemma4_text" else [*MODES])
    assert files.report.exists() is shown
