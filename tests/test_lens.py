"""What the grids hold, against the models' own predictions, and the files and lines they come in."""

import argparse
import contextlib
import csv
import importlib
import io

import pytest
import torch
import transformers
from conftest import LAYERS, D, as_map
from tokenizers import Tokenizer, decoders, normalizers
from tokenizers.models import BPE

import shortcut
from shortcut import Problem, sentence_grid
from shortcut.files import store
from shortcut.files.names import Names
from shortcut.loading import pretrained
from shortcut.pipeline import options, showing
from shortcut.sentence_grid import Grid
from shortcut.show import canvas, plots, table, tables

SENTENCE = "the model reads early state"


def maps():
    g = torch.Generator().manual_seed(0)
    return [as_map(torch.randn(D, D, generator=g), l, LAYERS) for l in range(LAYERS)]


def read(path):
    return list(csv.DictReader(io.StringIO(path.read_bytes().decode())))


def grid_of(sentence, first, last):
    """A grid of two layers with these tokens, the same in both modes; the columns are the first layer's."""
    modes, C = ("id", "mat"), len(first)
    ids = [[*range(C)], [*range(1, C + 1)]]
    half = dict.fromkeys(modes, torch.full((2, C), 0.5))
    return Grid(sentence, first, dict.fromkeys(modes, ids), {m: [first, last] for m in modes}, half)


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


@pytest.fixture(scope="module")
def sentencepiece():
    """320 tokens in Llama's format: 256 bytes, runs of blanks, letters alone and with a blank in front."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁▁", *letters, *(f"▁{c}" for c in letters)]
    pieces += [c.upper() for c in letters[: 320 - len(pieces)]]
    made = Tokenizer(BPE({piece: k for k, piece in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")


def test_a_cell_is_final_by_its_token_not_by_its_text(gpt2, sentencepiece):
    """128 bytes all read "\ufffd", and a letter reads alike with and without a blank in front."""
    grid, jumps = sentence_grid.look(gpt2, sentencepiece, "the model reads early", {"mat": maps()}), maps()
    ids = torch.tensor(sentencepiece("the model reads early")["input_ids"])
    h = gpt2.net(ids[None], output_hidden_states=True).hidden_states
    last, alike = gpt2.net(ids[None]).logits[0].argmax(-1), 0
    for l in range(LAYERS):
        for mode, state in {"id": h[l][0], "mat": h[l][0] @ jumps[l].A.T}.items():
            best = gpt2.read_out(state).argmax(-1)
            assert grid.ids[mode][l] == best.tolist()
            assert [grid.is_final(mode, l, k) for k in range(len(ids))] == (best == last).tolist()
            same_text = [x == y for x, y in zip(grid.predicted[mode][l], grid.predicted[mode][-1], strict=True)]
            alike += sum(same_text) - int((best == last).sum())
    assert alike > 0
    rows = tables.grid_points(grid)
    assert [
        row[[column.name for column in rows.columns].index("predicted_id")] for row in rows.rows[-len(ids) :]
    ] == last.tolist()


@pytest.mark.parametrize("masked", [False, True])
def test_a_text_shared_by_several_tokens_does_not_count_as_the_prediction(masked):
    """In words too: from the layer on at which the token itself is the final one."""
    ids, text = {"id": [[7, 7], [8, 7], [9, 7]], "mat": [[9, 7], [9, 7], [9, 7]]}, [["\ufffd", "a"]] * 3
    grid = Grid("s", ["1", "2"], ids, dict.fromkeys(ids, text), dict.fromkeys(ids, torch.ones(3, 2)), "[MASK]" * masked)
    assert [grid.is_final("id", l, 0) for l in range(3)] == [False, False, True]
    assert [grid.is_final("mat", l, 0) for l in range(3)] == [True] * 3
    assert grid.is_final("id", 0, 1) is not masked
    since = "id from layer 2 on, mat from layer 0 on." if masked else "id from layer 0 on, mat from layer 0 on."
    assert grid.in_words().endswith(since)


def test_white_space_tokens_are_shown(gpt2, sentencepiece, gpt2_folder):
    """Also by tokenizers that drop a blank at the start of a text."""
    shown = {piece: sentence_grid.text_of(sentencepiece, k) for piece, k in sentencepiece.get_vocab().items()}
    assert [shown[piece] for piece in ("▁", "<0x20>", "▁▁", "<0x0A>", "<0x09>")] == [" ", " ", "  ", "\n", "\t"]
    assert (shown["a"], shown["▁a"], shown["<0xE9>"]) == ("a", "a", "\ufffd")
    byte_level = pretrained.load_tokenizer(gpt2_folder, masked=False)
    blanks = byte_level(" \n\t")["input_ids"]
    assert "".join(sentence_grid.text_of(byte_level, k) for k in blanks) == " \n\t"
    grid = sentence_grid.look(gpt2, sentencepiece, "a b ", {"mat": maps()})
    assert grid.columns == [" ", "a", " ", "b", " "]
    assert [column.name for column in tables.grids(grid)[0].columns] == ["layer", "␣", "a", "␣", "b", "␣"]
    assert grid.in_words().startswith("After the last token, “␣”, the model predicts “")


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


def test_tokens_that_are_hard_to_draw(tmp_path):
    odd = ["\n", " ", "$x$", "a\nb", "_^{", "漢字", "�", "a-very-long-token"]
    grid = grid_of("one $ sentence", odd, odd)
    plot = plots.sentence_grid(grid, "t")
    for ending in ("pdf", "png", "csv"):
        (tmp_path / ending).write_bytes(plot.render(ending))
    rows = read(tmp_path / "csv")
    assert [row["predicted"] for row in rows[: len(odd)]] == odd
    assert canvas.drawable("漢") == "□"
    assert all(len(sentence_grid.shown(token)) <= 10 and "\n" not in sentence_grid.shown(token) for token in odd)
    assert len(tables.grids(grid)) == 4


@pytest.mark.parametrize(("tokens", "stacked"), [(12, False), (13, True)])
def test_the_grids_of_a_long_sentence_are_stacked(tokens, stacked):
    first, second = plots.sentence_grid(grid_of("s", ["a"] * tokens, ["b"] * tokens), "t").draw().axes[:2]
    assert [ax.get_title() for ax in (first, second)] == ["id", "mat (least squares)"]
    assert (first.get_subplotspec().colspan == second.get_subplotspec().colspan) == stacked


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


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        (" the", "the"), ("a b", "a b"), (" ", "␣"), ("  ", "␣␣"), ("", ""), ("\n\n", r"\n\n"), ("a\r\n", r"a\r\n"),
        ("\x1b[2J", r"\x1b[2J"), ("\b\a", r"\x08\x07"), ("\t", r"\t"), ("\xa0", r"\xa0"), ("\u2028", r"\u2028"),
        ("a\u202e", r"a\u202e"), ("\u200b", r"\u200b"), ("\u0301", r"\u0301"), ("\u0378", r"\u0378"),
        ("\ud83d", r"\ud83d"), ("\U000e0041", r"\U000e0041"), ("漢字", "漢字"), ("�", "�"), ("±é", "±é"),
        ("a-very-long-token", "a-very-lo…"),
    ],
)  # fmt: skip
def test_what_is_no_sign_of_its_own_is_shown_as_an_escape(token, expected):
    assert sentence_grid.shown(token) == expected


def test_tables_and_csv_hold_what_a_model_may_predict():
    """Columns of a terminal stay aligned, and every token comes back from the CSV, but for half a pair."""
    odd = ["\r", 'a"b', "a,b\r\n", "\x1b[31m", "\u202e", "漢字", "\ud83d", "e\u0301"]
    grid = grid_of("s", odd[:7], odd[1:])
    content = plots.sentence_grid(grid, "t").render("csv").decode()
    rows = list(csv.DictReader(io.StringIO(content, newline="")))
    expected = [token.replace("\ud83d", r"\ud83d") for token in odd]
    assert [row["predicted"] for row in rows[:14]] == expected[:7] + expected[1:]
    lines = table.text(tables.grids(grid)).splitlines()
    wide = {2 * line.count("漢") + sum(map(len, [line])) for line in lines if line.startswith("   ")}
    assert len(wide) == 1
    assert all(line.isprintable() for line in lines)


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


@pytest.fixture
def names(tmp_path, gpt2_folder):
    """Maps into the last layer for the tiny GPT-2, without a manifest."""
    files = Names(tmp_path, "tiny-gpt2", "words", given=gpt2_folder)
    for l, A in enumerate(maps()):
        with store.replacing(files.matrix(l, LAYERS)) as file:
            store.dump(file, A.A)
    return files


@pytest.fixture
def tokenizer(gpt2_folder):
    return pretrained.load_tokenizer(gpt2_folder, masked=False)


def in_training(folder, **changes):
    """A model as a user has it in the middle of training, with heavy dropout."""
    more = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.5)
    return transformers.GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32, **more, **changes).train()


@pytest.mark.parametrize("changes", [{}, {"return_dict": False}, {"use_cache": False}])
def test_a_lens_of_a_model_in_memory_is_the_lens_of_its_folder(names, gpt2_folder, tokenizer, changes):
    loaded = shortcut.Lens.load(gpt2_folder, "words", out=names.root)
    lens = shortcut.Lens(in_training(gpt2_folder, **changes), tokenizer, names.matrices)
    assert repr(lens) == repr(loaded)
    h = loaded.states(SENTENCE)
    torch.testing.assert_close(lens.states(SENTENCE), h, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(lens.read_out(h[2]), loaded.read_out(h[2]), rtol=1e-4, atol=1e-4)
    assert lens.transport(h[1], 1).equal(loaded.transport(h[1], 1))
    assert lens.predict(SENTENCE).ids == loaded.predict(SENTENCE).ids


def test_a_lens_leaves_the_model_in_memory_as_it_is(names, gpt2_folder, tokenizer):
    net = in_training(gpt2_folder)
    net.transformer.h[1].eval()
    net.lm_head.requires_grad_(False)

    def look():
        own = [(name, module.training, {**vars(module)}) for name, module in net.named_modules()]
        return own, net.config.to_dict(), [weights.requires_grad for weights in net.parameters()]

    before = look()
    lens = shortcut.Lens(net, tokenizer, names.matrices)
    lens.predict(SENTENCE)
    assert look() == before
    with torch.no_grad():
        net.transformer.wte.weight.mul_(2)
    after = shortcut.Lens(net, tokenizer, names.matrices)
    assert lens.states(SENTENCE).equal(after.states(SENTENCE))  # the weights are shared, so training goes on in both


def test_a_lens_takes_maps_in_memory(gpt2_folder, tokenizer):
    jumps, b = maps(), torch.ones(D, 1)
    given = {(0, LAYERS): jumps[0].A.double().numpy(), (1, LAYERS): torch.cat([jumps[1].A, b], 1)}
    lens = shortcut.Lens(in_training(gpt2_folder), tokenizer, given)
    h = lens.states(SENTENCE)
    torch.testing.assert_close(lens.transport(h[0], 0), h[0] @ jumps[0].A.T)
    torch.testing.assert_close(lens.transport(h[1], 1), h[1] @ jumps[1].A.T + 1)
    with pytest.raises(Problem, match=f"^no map from layer 2 to {LAYERS} is among the maps given"):
        lens.predict(SENTENCE)
    assert repr(lens) == f"Lens({gpt2_folder}, 2 maps, map kind given, layers 0 to {LAYERS})"
    whole = shortcut.Lens(in_training(gpt2_folder), tokenizer, {(l, LAYERS): A.A for l, A in enumerate(jumps)})
    assert [*whole.predict(SENTENCE).predicted] == ["id", "given"]


def test_a_lens_takes_a_masked_model_in_memory(bert, bert_folder, tmp_path):
    net = transformers.BertForMaskedLM.from_pretrained(bert_folder, dtype=torch.float32).train()
    lens = shortcut.Lens(
        net, pretrained.load_tokenizer(bert_folder, masked=True), {(l, LAYERS): A.A for l, A in enumerate(maps())}
    )
    text = "the [MASK] reads"
    assert lens.predict(text).ids["id"] == sentence_grid.look(bert, lens.tokenizer, text, {"mat": maps()}).ids["id"]


def test_a_lens_refuses_a_model_without_a_head(gpt2_folder, tokenizer, names):
    for kind in (transformers.GPT2Model, transformers.GPT2ForSequenceClassification):
        net = kind(transformers.GPT2Config.from_pretrained(gpt2_folder))
        with pytest.raises(Problem, match=f"{kind.__name__} has no head: load it with AutoModelForCausalLM or"):
            shortcut.Lens(net, tokenizer, names.matrices)


def test_a_folder_without_maps_is_one_line(gpt2_folder, tokenizer, names):
    lens = shortcut.Lens(in_training(gpt2_folder), tokenizer, names.matrices.with_name("words@ridge"))
    assert repr(lens) == f"Lens({gpt2_folder}, maps of words, map kind ridge, layers 0 to {LAYERS})"
    with pytest.raises(Problem, match=rf"words@ridge/0_3.pickle not found: run .* --model {gpt2_folder} .*--map ridge"):
        lens.predict(SENTENCE)
    with pytest.raises(Problem, match="^no map kind is called best: expected least-squares"):
        shortcut.Lens(in_training(gpt2_folder), tokenizer, f"{names.matrices}@best")


def test_a_map_is_looked_for_before_the_model_is_loaded(gpt2_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "load", None)
    expected = rf"0_3.pickle not found: run .*add_linreg.py --model {gpt2_folder} --dataset words --map affine --out"
    with pytest.raises(Problem, match=expected):
        shortcut.Lens.load(gpt2_folder, "words", "affine", out=tmp_path)


def test_a_list_of_texts_gives_a_list(names, gpt2_folder):
    lens, texts = shortcut.Lens.load(gpt2_folder, "words", out=names.root), [SENTENCE, "the map"]
    assert all(h.equal(lens.states(text)) for h, text in zip(lens.states(texts), texts, strict=True))
    assert [grid.sentence for grid in lens.predict(texts)] == texts
    assert lens.states([]) == lens.predict([]) == []


@pytest.mark.parametrize("fails", [False, True])
def test_a_lens_leaves_the_messages_of_transformers_on(names, gpt2_folder, monkeypatch, fails):
    logging = transformers.utils.logging
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    if fails:
        monkeypatch.setattr(pretrained, "load_tokenizer", None)
    try:
        logging.set_verbosity_info()
        logging.enable_progress_bar()
        with pytest.raises(TypeError) if fails else contextlib.nullcontext():
            shortcut.Lens.load(gpt2_folder, "words", out=names.root)
        assert logging.get_verbosity() == logging.INFO
        assert logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        with pytest.raises(TypeError) if fails else contextlib.nullcontext():
            shortcut.Lens.load(gpt2_folder, "words", out=names.root)
        assert not logging.is_progress_bar_enabled()
    finally:
        logging.set_verbosity(before[0])
        (logging.enable_progress_bar if before[1] else logging.disable_progress_bar)()
