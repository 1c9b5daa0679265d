"""Sentences as tokens: what the tokenizer does not know, and the positions drawn."""

from dataclasses import replace

import pytest
import torch
import transformers
from conftest import make_sentences
from tokenizers import Tokenizer
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import Whitespace, WhitespaceSplit
from tokenizers.processors import TemplateProcessing

from shortcut import Problem, tokens


@pytest.fixture(scope="module")
def tokenizer(gpt2_folder):
    return transformers.AutoTokenizer.from_pretrained(gpt2_folder)


def tokenize(sentences, tokenizer, context=48, seed=0):
    lines = []
    sizes = {"train": len(sentences) - 1, "val": 1}
    return tokens.tokenize(sentences, sizes, tokenizer, tokens.Drawing(context, seed, added=True), lines.append)[
        "train"
    ], lines


def test_tokens_are_the_stock_tokenizers_without_trailing_white_space(tokenizer):
    tokenized, lines = tokenize(["the model reads.  \n", "a\n"], tokenizer)
    assert tokenized.sentences[0].tolist() == tokenizer("the model reads.")["input_ids"]
    assert tokenized.sentences[0].dtype == tokenized.positions.dtype == torch.int64
    assert lines == []


def test_positions_are_uniform_first_and_last_included(tokenizer):
    tokenized, _ = tokenize(["the model reads.\n"] * 4000, tokenizer)
    counts = torch.bincount(tokenized.positions, minlength=len(tokenized.sentences[0])).double() / 4000
    assert len(counts) == len(tokenized.sentences[0])
    torch.testing.assert_close(counts, torch.full_like(counts, 1 / len(counts)), rtol=0, atol=0.03)


def test_long_sentences_are_truncated_with_one_notice(tokenizer):
    tokenized, lines = tokenize(["the model reads. " * 40 + "\n", "the\n"], tokenizer)
    assert len(tokenized.sentences[0]) == 48
    assert int(tokenized.positions[0]) < 48
    assert lines == ["1 of 1 sentences are longer than 48 tokens: truncated"]


@pytest.mark.parametrize("empty", [" \n", "\n", "\u200b\n"])
def test_a_sentence_of_no_token_is_left_out_before_any_is_drawn(empty):
    """Of a tokenizer that drops marks of no width, and for BERT's, whose [CLS] and [SEP] are no tokens of it."""
    marked = transformers.BertTokenizerFast(
        vocab={w: k for k, w in enumerate("[UNK] [CLS] [SEP] [PAD] [MASK] the a".split())}
    )
    for special in (True, False):
        told = []

        def encode(texts, special=special, **options):
            return marked([t.replace("\u200b", "") for t in texts], **{"add_special_tokens": special} | options)

        encode.unk_token, encode.convert_tokens_to_ids = "[UNK]", marked.convert_tokens_to_ids
        given = ["the\n", empty, "a\n", "a the\n"]
        found = tokens.tokenize(given, {"train": 2, "val": 1}, encode, tokens.Drawing(48, 0, added=True), told.append)
        with_none = tokens.tokenize(
            [given[0], *given[2:]], {"train": 2, "val": 1}, encode, tokens.Drawing(48, 0, added=True), told.append
        )
        assert "1 of 4 sentences hold no token: left out" in told
        for split in ("train", "val"):
            assert found[split].positions.equal(with_none[split].positions)
            assert all(map(torch.equal, found[split].sentences, with_none[split].sentences))


@pytest.mark.parametrize(("known", "told"), [(200, None), (98, "2.0% of the tokens are [UNK]"), (49, Problem)])
def test_unknown_tokens_are_told_of_above_1_percent_and_refused_above_one_half(known, told):
    tokenizer = transformers.BertTokenizerFast(
        vocab={w: k for k, w in enumerate("[UNK] [CLS] [SEP] [PAD] [MASK] the".split())}
    )
    unknown = {200: 2, 98: 2, 49: 51}[known]
    sentences, lines = [" ".join(["the"] * known + ["acgt"] * unknown)] * 2, []
    if told is Problem:
        with pytest.raises(Problem, match=r"^51.0% of the tokens are \[UNK\].*: take text, or blanks in it"):
            tokens.tokenize(
                sentences, {"train": 1, "val": 1}, tokenizer, tokens.Drawing(512, 0, added=True), lines.append
            )
    else:
        tokens.tokenize(sentences, {"train": 1, "val": 1}, tokenizer, tokens.Drawing(512, 0, added=True), lines.append)
        assert [line.split(",")[0] for line in lines] == ([told] if told else [])


@pytest.mark.parametrize(
    ("words", "text", "message"),
    [
        ("theof", "model the wild", r"^58.3% of the characters are dropped by the tokenizer"),
        (None, "the model", r"^the tokenizer cannot encode this text \(Exception: WordLevel error"),
    ],
)
def test_a_tokenizer_that_loses_the_text_is_refused(words, text, message):
    """One of letters without a token for the unknown, and one of words likewise, which raises."""
    if words:
        vocabulary = {letter: k for k, letter in enumerate(sorted({*words}))}
        made = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    else:
        made = Tokenizer(WordLevel({"the": 0}))
        made.pre_tokenizer = Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=made)
    with pytest.raises(Problem, match=message):
        tokens.encode(tokenizer, [text], lambda _: None)


def test_the_first_sentences_train_the_next_validate_and_too_few_are_refused(tokenizer):
    sentences = make_sentences(7)

    def split(n):
        drawing = tokens.Drawing(48, 0, added=True)
        return tokens.tokenize(sentences[:n], {"train": 4, "val": 2}, tokenizer, drawing, pytest.fail)

    ids = [tokenizer(sentence.rstrip())["input_ids"] for sentence in sentences]
    found = {name: [row.tolist() for row in tokenized.sentences] for name, tokenized in split(7).items()}
    assert found == {"train": ids[:4], "val": ids[4:6]}
    with pytest.raises(Problem, match="got 5, expected 4 to train and 2 to validate"):
        split(5)


@pytest.mark.parametrize(("first", "last"), [("[CLS]", "[SEP]"), ("<s>", "</s>")])
@pytest.mark.parametrize("positions", [1, 9])
def test_the_token_under_the_mask_is_known_but_where_the_tokenizer_adds_it(first, last, positions):
    """In whatever style it adds tokens; one that the text itself holds is a token of the sentence."""
    words = [first, last, "[PAD]", "[MASK]", "[UNK]", "the", "model", "reads"]
    made = Tokenizer(WordLevel({word: k for k, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = WhitespaceSplit()
    made.post_processor = TemplateProcessing(single=f"{first} $A {last}", special_tokens=[(first, 0), (last, 1)])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="[UNK]", cls_token=first, sep_token=last, mask_token="[MASK]"
    )
    text, sizes = f"the model {last} reads {first}", {"train": 40, "val": 10}
    drawing = tokens.Drawing(48, 0, added=True, positions=positions)
    whole = tokenizer(text)["input_ids"]
    for found in tokens.tokenize([text] * 50, sizes, tokenizer, drawing, lambda _: None).values():
        masked = tokens.mask(found, 3)
        assert all(int(ids[t]) == 3 for ids, t in zip(masked.sentences, masked.positions, strict=True))
        expected = [-1 if t in (0, len(whole) - 1) else whole[t] for t in masked.positions.tolist()]
        assert tokens.actual(masked, masked=True).tolist() == expected
        assert {-1, 0, 1} <= {*expected}
    assert tokens.tokenize([text] * 50, sizes, tokenizer, replace(drawing, added=False), print)["val"].masked is None


def test_mask_replaces_exactly_the_chosen_token(tokenized):
    masked = tokens.mask(tokenized, 4)
    for before, after, t in zip(tokenized.sentences, masked.sentences, tokenized.positions.tolist(), strict=True):
        assert after[t] == 4
        assert (before != after).sum() == 1


def test_several_positions_of_a_sentence_are_distinct_and_a_shorter_sentence_has_all_of_its_own(tokenizer):
    sentences, sizes = ["the model reads state and token.\n", "a\n"] * 40, {"train": 60, "val": 20}

    def drawn(k, seed=0):
        drawing = tokens.Drawing(48, seed, added=True, positions=k)
        return tokens.tokenize(sentences, sizes, tokenizer, drawing, lambda _: None)["train"]

    assert drawn(1).numbers is None
    three = drawn(3)
    counts = torch.bincount(three.numbers)
    assert [len(tokenizer(s.rstrip())["input_ids"]) for s in sentences[:2]][1] == 1  # of which there is one to draw
    assert counts.tolist() == [3, 1] * 30
    pairs = [*zip(three.numbers.tolist(), three.positions.tolist(), strict=True)]
    assert len({*pairs}) == len(pairs)
    for k, (number, _) in enumerate(pairs):
        assert three.sentences[k].tolist() == tokenizer(sentences[number].rstrip())["input_ids"]
    masked = tokens.mask(three, 0)
    assert masked.numbers is three.numbers
    assert all(int((ids == 0).sum()) == 1 for ids in masked.sentences)


@pytest.mark.parametrize("template", ["E $A", "$A E", "E E $A E"])
def test_tokens_that_the_tokenizer_adds_are_drawn_only_where_they_may_be(gpt2_folder, template):
    """As at [CLS] and [SEP]; elsewhere the same draw falls on the same token of the text."""
    plain, framed = (transformers.AutoTokenizer.from_pretrained(gpt2_folder) for _ in range(2))
    end = plain.eos_token
    framed.backend_tokenizer.post_processor = TemplateProcessing(
        template.replace("E", end), None, [(end, plain.eos_token_id)]
    )
    head, sentences = template.split("$A")[0].count("E"), make_sentences(300)

    def drawn(tokenizer, added):
        drawing = tokens.Drawing(48, 0, added=added)
        return tokens.tokenize(sentences, {"train": 299, "val": 1}, tokenizer, drawing, lambda _: None)["train"]

    def chosen(tokenized):
        pairs = zip(tokenized.sentences, tokenized.positions.tolist(), strict=True)
        return torch.stack([ids[t] for ids, t in pairs])

    never, may = drawn(framed, False), drawn(framed, True)
    assert never.positions.equal(drawn(plain, True).positions + head)
    assert not (chosen(never) == plain.eos_token_id).any()
    assert (chosen(may) == plain.eos_token_id).any()


def test_no_token_that_the_tokenizer_adds_at_the_end_is_one_to_predict(gpt2_folder):
    """A causal model's sentences end with their own last token, behind which nothing follows."""
    plain, framed = (transformers.AutoTokenizer.from_pretrained(gpt2_folder) for _ in range(2))
    end = (plain.eos_token, plain.eos_token_id)
    framed.backend_tokenizer.post_processor = TemplateProcessing(f"$A {end[0]}", None, [end])
    drawing, sentences = tokens.Drawing(48, 0, added=False), make_sentences(60)
    own, found = (
        tokens.tokenize(sentences, {"train": 59, "val": 1}, tokenizer, drawing, lambda _: None)["train"]
        for tokenizer in (plain, framed)
    )
    assert all(a.equal(b) for a, b in zip(own.sentences, found.sentences, strict=True))
    actual = tokens.actual(found, masked=False)
    assert actual.equal(tokens.actual(own, masked=False))
    assert 0 < (actual == -1).sum() < 59


def test_a_causal_model_should_predict_the_token_that_follows():
    """And nothing behind the last one; a masked model the token that [MASK] replaced, where it is known."""
    sentences = [torch.tensor([7, 8, 9]), torch.tensor([7, 8, 9]), torch.tensor([7, 8, 9]), torch.tensor([5])]
    tokenized = tokens.Tokenized(sentences, torch.tensor([0, 1, 2, 0]))
    assert tokens.actual(tokenized, masked=False).tolist() == [8, 9, -1, -1]
    hidden = replace(tokenized, masked=torch.tensor([7, 8, -1, 5]))
    assert tokens.actual(tokens.mask(hidden, 4), masked=True).tolist() == [7, 8, -1, 5]
    assert tokens.actual(tokenized, masked=True).tolist() == [-1] * 4
