"""The surprisal of words against the model's own loss, and `shortcut.Lens` against the states it is made of."""

import csv
import json
import math
import sys
from pathlib import Path

import pytest
import torch
from conftest import LAYERS, D, as_map
from pipeline import SIZES, problem, run
from tokenizers.processors import TemplateProcessing

import config
import shortcut
from shortcut import Problem, blocks, words
from shortcut.files import store
from shortcut.files.names import Names
from shortcut.loading import pretrained

ROOT = Path(__file__).resolve().parent.parent
TEXT = "the model  reads\tlayers, and writes n1 tokens. "


def matrix(k):
    return torch.eye(D) + 0.3 * torch.randn(D, D, generator=torch.Generator().manual_seed(k))


MAPS = [as_map(matrix(l), l, LAYERS) for l in range(LAYERS)]


@pytest.fixture
def tokenizer(gpt2_folder):
    return pretrained.load_tokenizer(gpt2_folder, masked=False)


def own_surprisal(model, ids):
    """-ln p of every token but the first, by the library's own forward pass."""
    with torch.no_grad():
        logits = model.net(input_ids=ids[None]).logits[0, :-1]
    return torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")


def test_at_the_last_layer_it_is_the_models_own(gpt2, tokenizer):
    found = [*words.along(gpt2, tokenizer, TEXT, {"id": [], "mat": MAPS})]
    ids = torch.tensor([tokenizer.bos_token_id, *tokenizer(TEXT)["input_ids"]])
    surprisal = torch.stack([token.surprisal for token in found])  # [T, K, L + 1]
    assert surprisal.shape == (len(ids) - 1, 2, LAYERS + 1)
    for k in range(2):
        torch.testing.assert_close(surprisal[:, k, LAYERS], own_surprisal(gpt2, ids), rtol=0, atol=1e-5)
    with torch.no_grad():
        states = []
        with gpt2.watch(gpt2.layer_points(), lambda _, h: states.append(h[0])):
            gpt2.run(ids[None], None)
        log_q = gpt2.read_out(states[1][:-1] @ matrix(1).T).log_softmax(-1)
    torch.testing.assert_close(surprisal[:, 1, 1], -log_q[torch.arange(len(ids) - 1), ids[1:]], rtol=1e-4, atol=1e-4)


def test_tokens_tile_the_text_and_belong_to_the_word_that_they_are_in(gpt2, tokenizer):
    found = [*words.along(gpt2, tokenizer, TEXT, {"id": []})]
    assert "".join(token.text for token in found) == TEXT
    spans = words.words(TEXT)
    assert [TEXT[start:end] for start, end in spans] == TEXT.split()
    for token in found:
        if token.text.strip():
            start, end = spans[token.word]
            assert start <= token.end - len(token.text.lstrip())
            assert token.end <= end
    assert [token.word for token in found] == sorted(token.word for token in found)
    assert {token.word for token in found} == {*range(len(spans))}


def test_a_long_text_runs_in_windows_that_overlap_by_half(gpt2, tokenizer):
    text = "the model reads layers " * 40
    found = [*words.along(gpt2, tokenizer, text, {"id": []})]
    ids = torch.tensor([tokenizer.bos_token_id, *tokenizer(text, verbose=False)["input_ids"]])
    C = gpt2.context
    assert len(ids) > 3 * C
    expected, done, start = [], 1, 0
    while done < len(ids):
        end = min(start + C, len(ids))
        expected.append(own_surprisal(gpt2, ids[start:end])[done - start - 1 :])
        start, done = end - C // 2, end
    surprisal = torch.stack([token.surprisal[0, LAYERS] for token in found])
    torch.testing.assert_close(surprisal, torch.cat(expected), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("context", "limit", "window"),
    [
        (10, 10**30, 10),
        (48, 12, 12),
        (blocks.UNLIMITED, 12, 12),
        (blocks.UNLIMITED, 10**30, words.WINDOW),
    ],
)
def test_windows_of_words_are_the_shorter_of_both_contexts_else_2_048_tokens(
    gpt2, tokenizer, monkeypatch, context, limit, window
):
    """Without a limit a line of 45,000 tokens would run at once, and attention takes the square of it."""
    ran = []

    def whole(model, ids):
        ran.append(len(ids))
        return [torch.zeros(len(ids), D)] * (LAYERS + 1)

    monkeypatch.setattr(gpt2, "context", context)
    monkeypatch.setattr(tokenizer, "model_max_length", limit)
    monkeypatch.setattr(words.representations, "whole", whole)
    text = "the model reads layers " * (40 if window < 100 else 600)
    n = len(tokenizer(text, verbose=False)["input_ids"])
    assert len([*words.along(gpt2, tokenizer, text, {"id": []})]) == n
    assert max(ran) == window < n
    assert words.WINDOW == 2_048


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


def test_without_a_token_to_begin_with_the_first_has_no_surprisal(gpt2, tokenizer):
    tokenizer.bos_token = None
    found = [*words.along(gpt2, tokenizer, TEXT, {"id": []})]
    assert found[0].surprisal.isnan().all()
    ids = torch.tensor(tokenizer(TEXT)["input_ids"])
    surprisal = torch.stack([token.surprisal[0, LAYERS] for token in found[1:]])
    torch.testing.assert_close(surprisal, own_surprisal(gpt2, ids), rtol=0, atol=1e-5)
    (alone,) = words.along(gpt2, tokenizer, "a", {"id": []})
    assert alone.surprisal.isnan().all()
    assert [*words.along(gpt2, tokenizer, "   ", {"id": []})] == []


@pytest.mark.parametrize("template", ["E $A", "E E $A", "$A E", "E $A E", "E E E $A E E"])
def test_tokens_that_the_tokenizer_adds_are_context_in_front_and_left_out_behind(gpt2, tokenizer, template):
    """The tokenizer's own head replaces the token that begins a text; only tokens of the text have a surprisal."""
    plain, end = tokenizer(TEXT)["input_ids"], tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        template.replace("E", end), None, [(end, tokenizer.eos_token_id)]
    )
    head = template.split("$A")[0].count("E")
    found = [*words.along(gpt2, tokenizer, TEXT, {"id": []})]
    assert [token.text for token in found] == [tokenizer.decode([token]) for token in plain]
    ids = torch.tensor([tokenizer.eos_token_id] * max(head, 1) + plain)  # GPT-2 has one token for both ends of a text
    surprisal = torch.stack([token.surprisal[0, LAYERS] for token in found])
    torch.testing.assert_close(surprisal, own_surprisal(gpt2, ids)[max(head, 1) - 1 :], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "spans", "expected"),
    [
        ("ab  cd", [(0, 2), (2, 4), (4, 6)], [0, 1, 1]),  # a token of blanks alone
        ("ab  cd", [(0, 1), (1, 2), (2, 6)], [0, 0, 1]),
        (" ab cd ", [(0, 1), (1, 3), (4, 6), (6, 7)], [0, 0, 1, 1]),  # offsets without the blank, as RoBERTa's
        ("ab cd", [(0, 2), (2, 2), (3, 5)], [0, 1, 1]),  # a token of no character, behind a word
        ("\u00e9 \u00e8", [(0, 1), (0, 1), (1, 3), (2, 3)], [0, 0, 1, 1]),  # halves of a character
    ],
)
def test_white_space_goes_with_the_word_behind_it_whatever_the_tokens(gpt2, text, spans, expected):
    class Stub:
        is_fast, bos_token_id, model_max_length = True, 0, 48

        def __call__(self, text, **_):
            n = len(spans)
            return {"input_ids": [5] * n, "special_tokens_mask": [0] * n, "offset_mapping": spans}

    assert [token.word for token in words.along(gpt2, Stub(), text, {"id": []})] == expected


@pytest.fixture
def fitted(tmp_path, gpt2_folder):
    """A folder of maps, of two kinds."""
    for kind in ("least-squares", "ridge"):
        names = Names(tmp_path, "tiny-gpt2", "words", map_kind=kind)
        for i in range(LAYERS):
            for j in range(i + 1, LAYERS + 1):
                with store.replacing(names.matrix(i, j)) as file:
                    store.dump(file, matrix(10 * i + j + 100 * (kind == "ridge")))
    return ("--model", gpt2_folder, "--dataset", "words", "--out", tmp_path)


def test_the_words_of_a_file_as_csv(fitted, tmp_path, capsys):
    lines = ["the model reads", "", "  early  layers\u2028and n\u00e4ive \u201ctokens\u201d.", "one"]
    (tmp_path / "text.txt").write_bytes("\r\n".join(lines).encode() + b"\r\n")
    out = tmp_path / "words.csv"
    asked = ("--sentence", tmp_path / "text.txt", "--words", out, "--map", "least-squares", "ridge")
    run("plot_results", *asked, *fitted)
    with open(out, encoding="utf-8", newline="") as file:
        rows = [*csv.DictReader(file)]
    assert {row["line"] for row in rows} == {"1", "3", "4"}
    assert {row["lens"] for row in rows} == {"model", "id", "least-squares", "ridge"}
    for row in rows:
        line = lines[int(row["line"]) - 1]
        assert line[int(row["start"]) : int(row["end"])] == row["text"]
        assert float(row["bits"]) == pytest.approx(float(row["nats"]) / math.log(2), rel=1e-5)
    whole = [row for row in rows if not row["token"]]
    by_line = {
        n: [row["text"] for row in whole if row["line"] == n and row["lens"] == "model"] for n in ("1", "3", "4")
    }
    assert [by_line[str(n + 1)] for n in (0, 2, 3)] == [lines[n].split() for n in (0, 2, 3)]
    for row in whole:
        key = [row[name] for name in ("line", "word", "lens", "layer")]
        parts = [r for r in rows if r["token"] and [r[name] for name in ("line", "word", "lens", "layer")] == key]
        assert float(row["nats"]) == pytest.approx(sum(float(r["nats"]) for r in parts), rel=1e-5)
    last = {(r["line"], r["word"], r["token"], r["lens"]): r["nats"] for r in rows if r["layer"] == str(LAYERS)}
    assert all(nats == last[(*key, "model")] for (*key, _), nats in last.items())
    assert "wrote the surprisal of 9 words" in capsys.readouterr().out
    assert "exists already: give --words another name, or --force" in problem(capsys, "plot_results", *asked, *fitted)


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"\n  \n\t\n", "holds no word: give a sentence, or a file"), (b"", "holds no word"),
     (b"a\n\xff\xff\xff", "line 2: expected UTF-8"),
     ("words".encode("utf-16"), "line 1: expected UTF-8 text (with NULs, as UTF-16")],
)  # fmt: skip
def test_a_text_without_words_is_one_line(content, why, fitted, tmp_path, capsys):
    (tmp_path / "text.txt").write_bytes(content)
    asked = ("--sentence", tmp_path / "text.txt", "--words", tmp_path / "words.csv")
    assert why in problem(capsys, "plot_results", *asked, *fitted)
    assert not (tmp_path / "words.csv").exists()


def test_words_need_a_text_and_a_causal_model(fitted, bert_folder, tmp_path, capsys):
    words_to = ("--words", tmp_path / "words.csv")
    assert "--words needs a text: add --sentence" in problem(capsys, "plot_results", *words_to, *fitted)
    names = Names(tmp_path, "tiny-bert_mask", "words", masked=True)
    for l in range(LAYERS):
        with store.replacing(names.matrix(l, LAYERS)) as file:
            store.dump(file, matrix(l))
    on = ("--model", bert_folder, *fitted[2:])
    assert "needs a causal model" in problem(capsys, "plot_results", "--sentence", "a b", *words_to, *on)


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
        with pytest.raises(
            Problem, match=f"^{kind} maps have the last layer as their only target: take {LAYERS} as target, or"
        ):
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
