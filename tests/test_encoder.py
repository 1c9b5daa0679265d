"""An encoder without a masked-LM head: it has states, maps and r2, and predicts nothing."""

import shutil

import in_memory
import transformers
from conftest import LAYERS, make_sentences
from pipeline import problem, run

import config
from shortcut.files import formats, store
from shortcut.files.names import Names
from shortcut.loading import pretrained


def test_an_encoder_without_a_head_has_states_maps_and_r2(tmp_path, bert_folder, monkeypatch, capsys):
    for name, value in {"SENTENCES": 60, "TRAIN": 30, "VAL": 20, "SPLITS": {}}.items():
        monkeypatch.setattr(config, name, value)
    folder = shutil.copytree(bert_folder, tmp_path / "encoder")
    transformers.BertModel.from_pretrained(bert_folder).save_pretrained(folder)
    files = Names(tmp_path, "encoder_mask", "words", masked=True)
    with store.replacing(files.sentences) as file:
        store.dump(file, *make_sentences(60))
    there = ("--out", tmp_path, "--dataset", "words", "--model", folder)
    for script in ("bert_add_reps", "bert_add_linreg", "bert_add_plot_r2"):
        run(script, *there)
    assert files.r2_scores.exists()
    said = problem(capsys, "bert_add_results", *there)
    assert said.endswith("is an encoder without a masked-LM head, so it predicts nothing: only its states, maps"
                         " and r2 can be computed")  # fmt: skip
    whole, own = (pretrained.load(str(f), masked=True) for f in (bert_folder, folder))
    tokenized = formats.load_states(files.split("train"), LAYERS)[0]
    states = [in_memory.layer_states(model, tokenized, 100) for model in (whole, own)]
    assert states[0].equal(states[1])
