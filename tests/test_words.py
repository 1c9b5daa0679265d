"""Surprisal of words against the library's own forward pass and literal loops."""

import math
import re
from pathlib import Path

import pytest
import tokenizers
import torch
import transformers
from conftest import CONTEXT, LAYERS, as_map, make_gpt2, matrix
from tokenizers.processors import TemplateProcessing

from shortcut import Problem, blocks, words
from shortcut.loading import pretrained

TEXT = "the model  reads\tlayers, and writes n1 tokens. "
MAPS = [as_map(matrix(l), l, LAYERS) for l in range(LAYERS)]
BLANK = (*range(9, 14), *range(28, 33))  # bytes of white space
STORIES = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "stories260K"


def log_q(model, ids):
    """ln q of every token after each token, by the library's own forward pass."""
    with torch.no_grad():
        return model.net(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)


def own_surprisal(model, ids):
    """-ln p of every token but the first."""
    found = log_q(model, ids)
    return torch.tensor([-found[t, token] for t, token in enumerate(ids[1:])])


def read(model, tokenizer, texts, lenses=None, **how):
    reader = words.Reader(model, tokenizer, lenses or {"id": []}, **how)
    return reader, [*reader.along([texts] if isinstance(texts, str) else texts)]


def test_the_model_is_its_own_and_layers_are_read_out_with_and_without_maps(gpt2, tokenizer):
    reader, [(_, values)] = read(gpt2, tokenizer, TEXT, {"id": [], "mat": MAPS})
    layers = range(LAYERS)
    assert reader.columns == ["model", *(f"id_{l}" for l in layers), *(f"mat_{l}" for l in layers)]
    ids = [tokenizer.bos_token_id, *tokenizer(TEXT.rstrip())["input_ids"]]
    assert values.shape == (len(ids), 1, len(reader.columns))  # the last row is read for the correction alone
    torch.testing.assert_close(values[:-1, 0, 0], own_surprisal(gpt2, ids), rtol=0, atol=1e-5)
    with torch.no_grad():
        states = []
        with gpt2.watch(gpt2.layer_points(), lambda _, h: states.append(h[0])):
            gpt2.run(torch.tensor([ids]), None)
        for name, state in (("id_1", states[1]), ("mat_1", states[1] @ matrix(1).T)):
            found = -gpt2.read_out(state[:-1]).log_softmax(-1)[torch.arange(len(ids) - 1), ids[1:]]
            torch.testing.assert_close(values[:-1, 0, reader.columns.index(name)], found, rtol=1e-4, atol=1e-4)


def test_lines_together_are_lines_alone(gpt2, tokenizer, monkeypatch):
    texts = [" ".join(["the model reads layers"] * n) + "  " * n for n in (1, 9, 3, 30, 2, 1)]
    for name, few in (("LINES", 4), ("BATCH", 64), ("ROWS", 7)):
        monkeypatch.setattr(words, name, few)
    _, together = read(gpt2, tokenizer, texts, corrected=True)
    for text, (line, values) in zip(texts, together, strict=True):
        assert line.text == text.rstrip()
        torch.testing.assert_close(values, read(gpt2, tokenizer, text, corrected=True)[1][0][1], rtol=1e-4, atol=1e-4)


def test_blanks_at_the_end_of_a_line_change_nothing(gpt2, tokenizer):
    (short, a), (long, b) = (read(gpt2, tokenizer, f"the model reads{end}")[1][0] for end in ("", " \t  "))
    assert short == long
    assert a[:-1].equal(b[:-1])


@pytest.mark.parametrize(
    ("text", "spans", "blank", "owners", "groups"),
    [
        ("ab  cd", [(0, 2), (2, 3), (3, 6)], "011", [0, None, 1], [0, 1]),  # the word has white space of its own
        ("ab 7", [(0, 2), (2, 3), (3, 4)], "010", [0, 1, 1], [0, 1]),  # it has none: the token before is its own
        ("ab  7", [(0, 2), (2, 3), (3, 4), (4, 5)], "0110", [0, None, 1, 1], [0, 1]),
        ("10\u00a0km", [(0, 2), (2, 3), (2, 3), (3, 5)], "0110", [0, 1, 1, 1], [0, 1]),  # a blank of two tokens
        ("7", [(0, 0), (0, 1)], "10", [0, 0], [0]),  # white space that the tokenizer puts there
        ("  ab", [(0, 1), (1, 4)], "11", [None, 0], [0]),
        (" ab cd", [(0, 1), (1, 3), (4, 6)], "111", [None, 0, 1], [0, 1]),  # offsets without the blank, as RoBERTa's
        ("a bc d", [(0, 3), (3, 4), (4, 6)], "001", [0, 0, 2], [0, 0, 2]),  # a token of two words
        ("a b c", [(0, 5)], "0", [0], [0, 0, 0]),
        ("a b c", [(0, 1), (3, 5)], "01", [0, 2], [0, None, 2]),  # dropped characters
        ("\u00e9 \u00e8", [(0, 1), (0, 1), (1, 3), (2, 3)], "0010", [0, 0, 1, 1], [0, 1]),  # halves of a character
    ],
)  # fmt: skip
def test_tokens_belong_to_words(text, spans, blank, owners, groups):
    found = [word.span() for word in re.finditer(r"\S+", text)]
    assert words.assign(found, spans, [c == "1" for c in blank]) == (owners, groups)


def test_a_long_text_runs_in_windows_that_overlap_by_half_and_begin_alike(gpt2, tokenizer):
    ids, bos = tokenizer("the model reads layers " * 40, verbose=False)["input_ids"][:-1], tokenizer.bos_token_id
    _, [(line, values)] = read(gpt2, tokenizer, "the model reads layers " * 40)
    assert line.ids == ids
    assert len(ids) > 3 * CONTEXT
    size, expected, done, start = CONTEXT - 1, [], 0, 0
    while done < len(ids):
        end = min(start + size, len(ids))
        expected.append(own_surprisal(gpt2, [bos, *ids[start:end]])[done - start :])
        start, done = end - size // 2, end
    torch.testing.assert_close(values[:-1, 0, 0], torch.cat(expected), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("context", "limit", "window"),
    [(10, 10**30, 10), (48, 12, 12), (blocks.UNLIMITED, 12, 12), (blocks.UNLIMITED, 10**30, words.WINDOW)],
)
def test_windows_are_the_shorter_of_both_contexts_else_2_048_tokens(
    gpt2, tokenizer, monkeypatch, context, limit, window
):
    """Without a limit a line of 45,000 tokens would run at once, and attention takes the square of it."""
    ran, whole = [], words.representations.whole

    def shorter(model, ids):
        ran.append(ids.shape[1])
        return [state.new_zeros(ids.numel(), model.d) for state in whole(model, ids[:, :2])]

    monkeypatch.setattr(gpt2, "context", context)
    monkeypatch.setattr(tokenizer, "model_max_length", limit)
    monkeypatch.setattr(words.representations, "whole", shorter)
    read(gpt2, tokenizer, "the model reads layers " * (40 if window < 100 else 600))
    assert max(ran) == window
    assert words.WINDOW == 2_048


@pytest.mark.parametrize("none", ["bos=False", "no token"])
def test_with_nothing_in_front_the_first_token_has_no_surprisal(gpt2, tokenizer, none):
    tokenizer.bos_token = tokenizer.bos_token if none == "bos=False" else None
    reader, found = read(gpt2, tokenizer, [TEXT, "a"], bos=none != "bos=False", corrected=True)
    (line, values), (alone, nothing) = found
    assert line.head == alone.head == []
    torch.testing.assert_close(values[1:-1, 0, 0], own_surprisal(gpt2, line.ids), rtol=0, atol=1e-5)
    assert reader.by_word(line, values)[0].isnan().all()
    assert reader.by_word(line, values)[1:].isfinite().all()
    assert reader.by_word(alone, nothing).isnan().all()


@pytest.mark.parametrize("template", ["E $A", "E E $A", "$A E", "E $A E", "E E E $A E E"])
def test_tokens_that_the_tokenizer_adds_are_context_in_front_and_left_out_behind(gpt2, tokenizer, template):
    """The tokenizer's own head replaces the token that begins a text; only tokens of the text have a surprisal."""
    plain, end = tokenizer(TEXT.rstrip())["input_ids"], tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        template.replace("E", end), None, [(end, tokenizer.eos_token_id)]
    )
    head = [tokenizer.eos_token_id] * max(template.split("$A")[0].count("E"), 1)
    _, [(line, values)] = read(gpt2, tokenizer, TEXT)
    assert (line.head, line.ids) == (head, plain)
    torch.testing.assert_close(values[:-1, 0, 0], own_surprisal(gpt2, head + plain)[len(head) - 1 :], rtol=0, atol=1e-5)


def literal(model, tokenizer, text, starts):
    """Surprisal of words, plain and corrected, token by token; words begin with tokens that start like this."""
    names, end = tokenizer.convert_ids_to_tokens(range(len(tokenizer))), tokenizer.eos_token_id
    begin = {k for k, name in enumerate(names) if name.startswith(starts)}
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    q, at, plain, corrected = log_q(model, [tokenizer.bos_token_id, *ids]).double().exp(), 0, [], []
    inside = {*range(q.shape[1])} - begin
    for word in text.split(" "):
        first, made = at, ""
        while made != word:
            at += 1
            made = tokenizer.decode(ids[first:at]).strip()
        plain.append(-sum(math.log(q[t, ids[t]]) for t in range(first, at)))
        of_class = begin if ids[first] in begin else inside
        ends, divided = q[at, [*begin | {end}]].sum(), q[first, [*of_class | {end}]].sum()
        corrected.append(plain[-1] - math.log(ends) + math.log(divided))
    return torch.tensor([plain, corrected], dtype=torch.float64)


def check_against_literal(model, tokenizer, texts, starts):
    for corrected in (False, True):
        reader, found = read(model, tokenizer, texts, corrected=corrected)
        for text, (line, values) in zip(texts, found, strict=True):
            expected = literal(model, tokenizer, text, starts)[int(corrected)]
            torch.testing.assert_close(reader.by_word(line, values)[:, 0], expected, rtol=1e-5, atol=1e-4)


def test_words_are_a_literal_loop_plain_and_corrected(gpt2, tokenizer):
    check_against_literal(
        gpt2, tokenizer, ["the model reads n1 tokens.", "a", "early late"], tuple(chr(256 + b) for b in BLANK)
    )


@pytest.mark.skipif(not STORIES.exists(), reason="needs stories260K")
def test_words_of_a_trained_model_are_a_literal_loop():
    model, own = pretrained.load(str(STORIES), masked=False), pretrained.load_tokenizer(str(STORIES), masked=False)
    texts = ["Once upon a time there was 1 girl.", "the 7 boys don't stop"]
    check_against_literal(model, own, texts, ("▁", *(f"<0x{b:02X}>" for b in BLANK)))
    alone = own.batch_decode([[k] for k in range(model.vocabulary)])
    assert (words.edges(own, model.vocabulary)[0].sum(), sum(text[:1].isspace() for text in alone)) == (103, 11)


def make_closed(tmp_path):
    """A model of ten tokens: the end, "x" inside a word, and eight beginnings of words."""
    pieces = [("</s>", 0.0), ("x", -1.0), *((f"▁{letter}", -1.0) for letter in "abcdefgh")]
    backend = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=0))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="never")
    backend.decoder = tokenizers.decoders.Metaspace(prepend_scheme="never")
    own = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="</s>", eos_token="</s>")
    return pretrained.load(make_gpt2(tmp_path / "closed", vocab_size=10, n_positions=128), masked=False), own


@pytest.mark.parametrize(("context", "firsts"), [(" a bxx d", [f" {x}" for x in "abcdefgh"]), ("", ["x"])])
def test_corrected_probabilities_of_all_words_and_the_end_sum_to_1(tmp_path, context, firsts):
    """At every layer; the last words have a probability below 1e-8."""
    model, own = make_closed(tmp_path)
    texts = [context + first + "x" * n for n in range(80) for first in firsts]
    reader, found = read(model, own, texts, {"id": []}, corrected=True)
    total = sum((-reader.by_word(line, values)[-1]).exp() for line, values in found)
    assert (-reader.by_word(*found[-1])[-1]).exp().max() < 1e-8
    ids = torch.tensor([0, *own(context)["input_ids"]])
    with torch.no_grad():
        states = [h[-1:] for h in words.representations.whole(model, ids)]
        q = [model.read_out(h)[0].double().softmax(-1) for h in (states[-1], *states[:-1])]
    may_follow = [0, *range(2, 10)] if context else [0, 1]
    end = torch.stack([each[0] / each[may_follow].sum() for each in q])
    assert (total + end - 1).abs().max() < 1e-6


@pytest.mark.parametrize(("which", "why"), [("WordPiece", "is WordPiece"), ("suffix", "marks where words end")])
def test_what_cannot_or_need_not_be_corrected_is_one_line(gpt2, which, why):
    vocabulary = {"[UNK]": 0, "a": 1, "##b": 2, "a</w>": 3}
    kind = tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]")
    if which == "suffix":
        kind = tokenizers.models.BPE(vocabulary, [], unk_token="[UNK]", end_of_word_suffix="</w>")
    own = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer(kind), unk_token="[UNK]")
    with pytest.raises(Problem, match=f"^--corrected: the tokenizer of .* {why}.*: leave out --corrected$"):
        words.Reader(gpt2, own, {"id": []}, corrected=True)
    words.Reader(gpt2, own, {"id": []})
