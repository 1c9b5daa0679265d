"""`shortcut.Lens` against the states that it is made of, and the notebook that uses it."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from conftest import LAYERS, D, matrix
from pipeline import SIZES

import config
import shortcut
from shortcut import Problem

ROOT = Path(__file__).resolve().parent.parent


def test_a_text_longer_than_the_tokenizer_allows_is_refused(fitted, tmp_path):
    """By Lens and by the grid of a sentence, though the model would take it."""
    lens = shortcut.Lens.load(fitted[1], "words", out=tmp_path)
    lens.tokenizer.model_max_length = 3
    with pytest.raises(Problem, match="tokens, expected 1 to 3"):
        lens.states("the model reads layers")
    with pytest.raises(Problem, match="tokens, expected at most 3"):
        lens.predict("the model reads layers")
    lens.tokenizer.model_max_length = 10**30
    assert len(lens.states("the model reads layers")[0]) > 3


def test_a_lens_transports_and_reads_out(fitted, gpt2, tmp_path):
    lens = shortcut.Lens.load(fitted[1], "words", out=tmp_path)
    h = lens.states("the model reads")
    assert h.shape == (LAYERS + 1, len(lens.tokenizer("the model reads")["input_ids"]), D)
    with torch.no_grad():
        logits = gpt2.net(input_ids=lens.tokenizer("the model reads", return_tensors="pt")["input_ids"]).logits[0]
    torch.testing.assert_close(lens.read_out(h[-1]), logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(lens.transport(h[1], 1, 2), h[1] @ matrix(12).T)
    torch.testing.assert_close(lens.transport(h[1], 1), h[1] @ matrix(10 + LAYERS).T)
    assert lens.transport(h[2], 2, 2).equal(h[2])
    grid = lens.predict("the model reads")
    best = lens.read_out(lens.transport(h[1], 1)).argmax(-1)
    assert grid.predicted["mat"][1] == [lens.tokenizer.decode([token]) for token in best.tolist()]
    other = shortcut.Lens.load(fitted[1], "words", "ridge", out=tmp_path)
    assert [*other.predict("the model reads").predicted] == ["id", "ridge"]
    torch.testing.assert_close(other.transport(h[1], 1, 2), h[1] @ matrix(112).T)


def test_what_a_lens_lacks_is_said_in_one_line(fitted, bert_folder, tmp_path):
    with pytest.raises(Problem, match="tuned/0_3.pickle not found: run .* -m shortcut import .* first"):
        shortcut.Lens.load(fitted[1], "words", "tuned", out=tmp_path)
    for kind in ("jacobian", "tuned"):  # no command would make a map of theirs into a layer before the last
        folder = tmp_path / "linreg" / "tiny-gpt2" / f"words@{kind}"
        folder.mkdir()
        (folder / f"0_{LAYERS}.pickle").touch()
        with pytest.raises(Problem, match=f"^{kind} maps lead only to layer {LAYERS}: take {LAYERS}, or"):
            shortcut.Lens.load(fitted[1], "words", kind, out=tmp_path).transport(torch.ones(D), 0, 2)
    lens = shortcut.Lens.load(fitted[1], "words", "jacobian", out=tmp_path)
    with pytest.raises(
        Problem, match=r"words@jacobian/1_3.pickle not found: run .* add_linreg.py .* --map jacobian .* first"
    ):
        lens.transport(torch.ones(D), 1)
    with pytest.raises(Problem, match="not found: run .* bert_add_linreg.py .* first"):
        shortcut.Lens.load(bert_folder, "words", out=tmp_path)
    with pytest.raises(Problem, match="no map kind is called best: expected least-squares"):
        shortcut.Lens.load(fitted[1], "words", "best")
    with pytest.raises(Problem, match="nothing/here: no folder here"):
        shortcut.Lens.load("nothing/here", "words")
    with pytest.raises(ValueError, match="from layer 2 to 1"):
        lens.transport(torch.ones(D), 2, 1)
    with pytest.raises(Problem, match="the text has 0 tokens"):
        lens.states("")


def test_the_notebook_runs(tmp_path, monkeypatch, capsys):
    """Its cells, in order, on the embedded model, with few sentences."""
    for name, value in {**SIZES, "SENTENCES": 200, "TRAIN": 150, "PROBES": 1, "OUT": tmp_path}.items():
        monkeypatch.setattr(config, name, value)
    monkeypatch.chdir(ROOT / "examples")
    monkeypatch.setattr(sys, "path", [*sys.path])
    cells = json.loads((ROOT / "examples" / "lenses.ipynb").read_text(encoding="utf-8"))["cells"]
    there: dict = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), there)
    told = capsys.readouterr().out
    assert "After the last token, \u201celements\u201d, the model predicts" in told
    curves = there["curves"]
    assert [*curves] == ["id", "least-squares", "ridge", "jacobian"]
    assert all(curve[-1] == 1 and len(curve) == 13 for curve in curves.values())
    assert sum(curves["ridge"]) > sum(curves["id"])
    assert len(there["ax"].get_lines()) == 4


def test_the_notebook_is_stored_with_its_outputs():
    cells = json.loads((ROOT / "examples" / "lenses.ipynb").read_text(encoding="utf-8"))["cells"]
    stored = [output for cell in cells for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", {}) for output in stored)
    assert "the model predicts" in json.dumps(stored)
    assert not re.search(r"out /", json.dumps(stored))
