"""Tokens in the grids of a sentence: hard to draw, of white space, or with the text of another one."""

import csv
import io

import pytest
import torch
import transformers
from conftest import LAYERS, maps, read
from tokenizers import Tokenizer, decoders, normalizers
from tokenizers.models import BPE

from shortcut import sentence_grid
from shortcut.loading import pretrained
from shortcut.sentence_grid import Grid
from shortcut.show import canvas, plots, table, tables


def grid_of(sentence, first, last):
    """A grid of two layers with these tokens, the same in both modes; the columns are the first layer's."""
    modes, C = ("id", "mat"), len(first)
    ids = [[*range(C)], [*range(1, C + 1)]]
    half = dict.fromkeys(modes, torch.full((2, C), 0.5))
    return Grid(sentence, first, dict.fromkeys(modes, ids), {m: [first, last] for m in modes}, half)


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
