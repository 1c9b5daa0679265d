"""The grid of a sentence against the models' own predictions, and the sentences asked for."""

import argparse
import importlib

import pytest
import torch
from conftest import LAYERS, D, as_map, maps, read

from shortcut import Problem, sentence_grid
from shortcut.files import store
from shortcut.files.names import Names
from shortcut.loading import pretrained
from shortcut.pipeline import options, showing

SENTENCE = "the model reads early state"


def test_grid_of_a_causal_model_is_what_its_own_states_predict(gpt2, gpt2_folder):
    tokenizer = pretrained.load_tokenizer(gpt2_folder, masked=False)
    grid, jumps = sentence_grid.look(gpt2, tokenizer, SENTENCE, {"mat": maps()}), maps()
    ids = torch.tensor(tokenizer(SENTENCE)["input_ids"])
    out = gpt2.net(ids[None], output_hidden_states=True)  # its last state has been normed already
    assert grid.columns == [tokenizer.decode([i]) for i in ids.tolist()]
    assert "".join(grid.columns) == SENTENCE
    for l in range(LAYERS + 1):
        h = out.hidden_states[l][0]
        for mode, logits in {
            "id": gpt2.read_out(h) if l < LAYERS else out.logits[0],
            "mat": gpt2.read_out(h @ jumps[l].A.T) if l < LAYERS else out.logits[0],
        }.items():
            p, best = logits.softmax(-1).max(-1)
            assert grid.predicted[mode][l] == [tokenizer.decode([i]) for i in best.tolist()]
            torch.testing.assert_close(grid.probabilities[mode][l], p, rtol=1e-4, atol=1e-5)


def test_grid_of_a_masked_model_is_the_best_at_the_mask(bert, bert_folder):
    tokenizer = pretrained.load_tokenizer(bert_folder, masked=True)
    grid = sentence_grid.look(bert, tokenizer, "the model [MASK] early", {"mat": maps()})
    ids = torch.tensor(tokenizer("the model [MASK] early")["input_ids"])
    logits = bert.net(ids[None]).logits[0, ids.tolist().index(tokenizer.mask_token_id)]
    p, best = logits.softmax(-1).topk(sentence_grid.BEST)
    assert grid.columns == ["1", "2", "3", "4", "5"]
    assert grid.predicted["id"][-1] == grid.predicted["mat"][-1] == [tokenizer.decode([i]) for i in best.tolist()]
    torch.testing.assert_close(grid.probabilities["mat"][-1], p, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("sentence", "count"), [("the model", 0), ("[MASK] the [MASK]", 2)])
def test_a_masked_model_wants_one_mask(bert, bert_folder, sentence, count):
    tokenizer = pretrained.load_tokenizer(bert_folder, masked=True)
    with pytest.raises(Problem, match=rf"holds {count} \[MASK\], expected one, as in 'The sky is \[MASK\]\.'"):
        sentence_grid.look(bert, tokenizer, sentence, {"mat": maps()})


def test_a_map_that_overflows_is_named_by_its_layer(gpt2, gpt2_folder):
    tokenizer = pretrained.load_tokenizer(gpt2_folder, masked=False)
    jumps = maps()
    jumps[1] = as_map(torch.full((D, D), 3e38), 1, LAYERS)
    with pytest.raises(Problem, match=r"tiny-gpt2: the logits of mat at layer 1 for this sentence are not finite"):
        sentence_grid.look(gpt2, tokenizer, SENTENCE, {"mat": jumps})


def test_a_sentence_too_long_to_run_or_to_show_is_refused(gpt2, gpt2_folder, monkeypatch):
    tokenizer = pretrained.load_tokenizer(gpt2_folder, masked=False)
    with pytest.raises(Problem, match="tokens, expected at most 48: shorten it"):
        sentence_grid.look(gpt2, tokenizer, SENTENCE * 20, {"mat": maps()})
    monkeypatch.setattr(sentence_grid, "WIDEST", 3)
    with pytest.raises(Problem, match="tokens, expected at most 3: shorten it"):
        sentence_grid.look(gpt2, tokenizer, SENTENCE, {"mat": maps()})


def test_sentences_come_from_the_line_or_from_a_file(tmp_path):
    assert showing.read_lines("a sentence \n") == {1: "a sentence "}
    (tmp_path / "some.txt").write_text("one\n\n two \n", encoding="utf-8")
    assert showing.read_lines(str(tmp_path / "some.txt")) == {1: "one", 3: " two "}
    (tmp_path / "some.txt").write_bytes(b"\xff\xfe")
    for nothing in ("", " \n", str(tmp_path / "some.txt")):
        with pytest.raises(Problem):
            showing.read_lines(nothing)


@pytest.mark.parametrize("name", ["none.txt", "folder/none", "none.TXT", "my file.Txt", "{}/my file", "a\\\\b"])
def test_a_file_that_is_not_there_is_no_sentence(tmp_path, name):
    with pytest.raises(argparse.ArgumentTypeError, match="no such file; expected a sentence, or a file"):
        options.sentence(name.format(tmp_path))


def test_a_sentence_may_hold_a_slash_and_a_full_stop(tmp_path):
    (tmp_path / "some.txt").touch()
    for text in ("Yes.", "the sum of either/or", "It runs on Node.js", "", str(tmp_path / "some.txt")):
        assert options.sentence(text) == text


def test_slugs_tell_sentences_apart():
    assert showing.slug("The capital of France is") == "The-capital-of-France-is"
    alike = ["a b", "a-b", "a  b", "a b?", "ä b", "??", "!!", "a " * 40 + "b", "a " * 40 + "c"]
    slugs = [showing.slug(sentence) for sentence in alike]
    assert len(set(slugs)) == len(alike)
    assert all(len(slug) <= 60 and slug.isascii() and "/" not in slug for slug in slugs)


@pytest.mark.parametrize("words", [0, 5, 20, 30])
def test_a_long_sentence_keeps_its_mask_in_sight(words, bert, bert_folder):
    tokenizer = pretrained.load_tokenizer(bert_folder, masked=True)
    sentence = f"{'a ' * words}[MASK] {'the ' * (words // 5)}"
    grid = sentence_grid.look(bert, tokenizer, sentence.strip(), {"mat": maps()})
    for longest in (20, 50, 90):
        heading = grid.heading(longest)
        assert "[MASK]" in heading
        assert len(heading) <= longest
        assert heading.replace("…", "").strip() in sentence


@pytest.mark.parametrize(("family", "sentence"), [("gpt2", SENTENCE), ("bert", "the [MASK] reads")])
def test_plot_results_shows_sentences(family, sentence, tmp_path, capsys, request):
    folder = request.getfixturevalue(f"{family}_folder")
    files = Names(tmp_path, f"tiny-{family}" + "_mask" * (family == "bert"), "words", masked=family == "bert")
    main = importlib.import_module("plot_results").main
    options = ["--out", str(tmp_path), "--model", folder, "--dataset", "words", "--sentence", sentence]
    with pytest.raises(
        Problem, match=rf"0_3.pickle not found: run .* {'bert_' * (family == 'bert')}add_linreg.py .* first"
    ):
        main(options)
    for l, A in enumerate(maps()):
        with store.replacing(files.matrix(l, LAYERS)) as file:
            store.dump(file, A.A)
    main(options)
    text = capsys.readouterr().out
    name = f"sentence_{showing.slug(sentence)}"
    rows = read(files.plot(name, "csv"))
    assert all(path.stat().st_size for path in files.plots(name))
    for row in rows:
        assert f"{sentence_grid.shown(row['predicted'])} {float(row['probability']):.0%}" in text
    main(options)
    assert "already made, skipped: 3 files" in capsys.readouterr().out
