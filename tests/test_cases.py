"""Every script on a dozen inputs as the world has them: it ends well or with one line, never with a traceback."""

import json
import pickle
import shutil
from pathlib import Path

import cases
import pyarrow
import pyarrow.parquet
import pytest
import torch
from conftest import make_bert, make_gpt2, make_sentences

import config

ARTICLES = [f"Title\n\n{sentence}\nLast." for sentence in make_sentences(130)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A dozen inputs: models that are whole and that are not, texts, and results of other code."""
    root = tmp_path_factory.mktemp("cases")
    make_gpt2(root / "one layer" / "a_mask", n_layer=1)
    make_bert(root / "chunks" / "small", chunk_size_feed_forward=3)
    for name, settings in (
        ("positions", {"position_embedding_type": "relative_key"}),
        ("activation", {"hidden_act": "x"}),
    ):
        edit(make_bert(root / "bert" / name), "config.json", **settings)
    edit(make_gpt2(root / "heads"), "config.json", n_head=0)
    edit(make_gpt2(root / "null"), "config.json", n_positions=None)
    edit(make_gpt2(root / "lower"), "tokenizer.json", normalizer={"type": "Lowercase"})
    shutil.copytree(root / "null", root / "no-vocabulary")
    (root / "no-vocabulary" / "tokenizer.json").unlink()
    (root / "not-json").mkdir()
    (root / "not-json" / "config.json").write_text("<html>", encoding="utf-8")
    texts = [*ARTICLES[:60], ARTICLES[0].replace("the", "\ud83d"), None, ["a list"], *ARTICLES[60:]]
    (root / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")
    (root / "lines.txt").write_bytes("\ufeff".encode() + "\r".join(make_sentences(125)).encode() + b"caf\xe9\n")
    pyarrow.parquet.write_table(pyarrow.table({"meta": [{"id": 1}] * 130, "text": ARTICLES}), root / "b.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"text": [[text] for text in ARTICLES]}), root / "lists.parquet")
    topk = torch.arange(300).view(30, 10)
    records = [{"info": {"type": "jump", "mode": "id", "layer": l}, "topk": topk, "surprisal": torch.ones(30)}
               for l in range(3)] + [{"info": {"type": "early_exit", "mode": "id", "lambda": 0.5}, "topk": topk,
                                      "layers_processed": 1.5}]  # fmt: skip
    (root / "t_results.pickle").write_bytes(b"".join(map(pickle.dumps, records)))
    return root


def edit(folder, file, **settings):
    path = Path(folder, file)
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | settings), encoding="utf-8")


def test_every_script_ends_well_or_with_one_line(folder, monkeypatch, capsys):
    for name in cases.SIZES:
        monkeypatch.setattr(config, name, getattr(config, name))  # put back at the end
    found = {}
    for path, script, outcome in cases.try_all(folder):
        assert not outcome.startswith("Traceback"), (path, script, outcome)
        found.setdefault(str(path.relative_to(folder)), {})[script] = outcome
    whole = {"one layer/a_mask", "chunks/small", "lower", "a.jsonl", "lines.txt", "b.parquet", "t_results.pickle"}
    assert {name for name, of in found.items() if {*of.values()} == {cases.OK}} == whole
    told = {
        "bert/positions": "position_embedding_type", "bert/activation": "KeyError: 'x'", "heads": "ZeroDivisionError",
        "null": "n_positions", "no-vocabulary": "n_positions", "not-json": "not a valid JSON file",
        "lists.parquet": "list<",
    }  # fmt: skip
    for name, words in told.items():
        assert any(words in outcome for outcome in found[name].values()), (name, found[name])
    assert found.keys() == whole | told.keys()
