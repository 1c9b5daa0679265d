"""The models in the tree have the size promised and are language models; the sentences they know."""

import random
from pathlib import Path

import pytest
import torch
from conftest import make_sentences

import config
from models import docstrings
from shortcut.corpus.sentences import Wanted, splitter
from shortcut.loading import pretrained

FOLDERS = sorted(path.parent for path in (Path(__file__).resolve().parent.parent / "models").glob("*/config.json"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_at_most_ten_megabytes_and_twelve_layers(folder):
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 10_000_000
    model = pretrained.load(str(folder), masked="bert" in folder.name)
    assert model.n_layers == 12
    assert model.d >= 96
    assert model.vocabulary >= 2000


@pytest.fixture(scope="module")
def sentences():
    """Of one package, by whether they are held out."""
    found = docstrings.sentences(docstrings.source_files(["sklearn"]), splitter())
    return {kind: [s for s in found if docstrings.is_held_out(s) == kind] for kind in (True, False)}


def test_both_families_are_there():
    assert [folder.name for folder in FOLDERS] == ["bert-docstrings", "gpt2-docstrings"]


def load(family):
    folder = str(next(folder for folder in FOLDERS if folder.name.startswith(family)))
    masked = family == "bert"
    return pretrained.load(folder, masked=masked), pretrained.load_tokenizer(folder, masked=masked)


def counts(model, tokenizer, sentences):
    ids = torch.tensor([token for tokens in tokenizer(sentences)["input_ids"] for token in tokens])
    return torch.bincount(ids, minlength=model.vocabulary) + 1


@torch.no_grad()
def test_gpt2_predicts_held_out_sentences_far_better_than_the_unigram_distribution(sentences):
    """By 2.5 nats a token at least; the unigram counts come from sentences that are not held out."""
    model, tokenizer = load("gpt2")
    unigram = counts(model, tokenizer, sentences[False]).double()
    unigram = (unigram / unigram.sum()).log()
    gain = n = 0.0
    for sentence in sentences[True][:100]:
        ids = torch.tensor(tokenizer(sentence)["input_ids"])
        predicted = model.net(input_ids=ids[None]).logits[0, :-1].log_softmax(-1)
        gain += (predicted.gather(1, ids[1:, None])[:, 0] - unigram[ids[1:]]).sum().item()
        n += len(ids) - 1
    assert gain / n > 2.5


@torch.no_grad()
def test_bert_finds_masked_tokens_three_times_as_often_as_the_most_frequent_one_is_right(sentences):
    """One token of a held-out sentence masked, as in the pipeline; [CLS] and [SEP] left out here."""
    model, tokenizer = load("bert")
    frequent = counts(model, tokenizer, sentences[False])
    frequent[tokenizer.all_special_ids] = 0
    rng = random.Random(0)
    hits = baseline = 0
    for sentence in sentences[True][:200]:
        ids = torch.tensor(tokenizer(sentence)["input_ids"])
        t = rng.randrange(1, len(ids) - 1)
        masked = ids.clone()
        masked[t] = tokenizer.mask_token_id
        hits += int(model.net(input_ids=masked[None]).logits[0, t].argmax() == ids[t])
        baseline += int(frequent.argmax() == ids[t])
    assert baseline > 0
    assert hits >= 3 * baseline


def test_docstrings_give_plain_english_without_code_and_markup(sentences):
    found = sentences[True] + sentences[False]
    assert len(found) == len(set(found)) > 1_000
    for sentence in found:
        assert 5 <= len(sentence.split()) <= 60
        assert not set(sentence) & set("`|\\<>{}=@~\n")
        assert sentence[0].isupper()
        assert sentence[-1] in ".?!"


def test_held_out_is_a_quarter_by_the_sentence_alone():
    sentences = make_sentences(4000)
    share = sum(map(docstrings.is_held_out, sentences)) / len(sentences)
    assert share == pytest.approx(docstrings.HELD_OUT, abs=0.03)
    assert all(docstrings.is_held_out(s) == docstrings.is_held_out(s + "\n") for s in sentences[:100])


def test_validation_sentences_are_held_out_and_training_ones_are_not():
    files = docstrings.source_files(["sklearn"])[::4]
    found = docstrings.draw(files, Wanted(1_000, 0, 0, splitter()), 600)
    held_out = [docstrings.is_held_out(s) for s in found]
    assert not any(held_out[:600])
    assert all(held_out[600:800])
    assert len(set(found)) == 1_000


def test_packages_of_the_default_hold_enough_sentences():
    """Every other file of them does."""
    wanted, files = Wanted(config.SENTENCES, 0, 0, splitter()), docstrings.source_files(config.DOCSTRING_PACKAGES)
    drawn = docstrings.draw(files[::2], wanted, config.TRAIN)
    assert len(drawn) >= 12_000
    val = drawn[config.TRAIN : config.TRAIN + config.VAL]
    assert len(val) == config.VAL
    assert all(map(docstrings.is_held_out, val))
