"""Sentences and tokens: which sentence of an article, which token of a sentence.

The paper takes one sentence of each article and one token of each sentence (appendix A); what it
leaves open follows its original code, see the functions.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import spacy
import torch

from shortcut import Problem

Split = Callable[[str], list[str]]


@dataclass(frozen=True)
class Tokenized:
    """n sentences as tokens, with one chosen position each.

    Attributes:
        sentences: n int64 tensors [T], of any lengths.
        positions: int64 [n], 0-based, within each sentence.
    """

    sentences: list[torch.Tensor]
    positions: torch.Tensor

    def __len__(self) -> int:
        return len(self.sentences)


def splitter(pipeline: str | None = None) -> Split:
    """A function that splits a paragraph into sentences, stripped, empty ones left out.

    Args:
        pipeline: a trained spaCy pipeline such as en_core_web_sm; None for the rule-based sentencizer.

    Raises:
        Problem: the pipeline is not installed.
    """
    if pipeline is None:
        nlp = spacy.blank("en")
        nlp.add_pipe("sentencizer")
    else:
        try:
            nlp = spacy.load(pipeline, exclude=["tagger", "attribute_ruler", "lemmatizer", "ner"])
        except OSError as error:
            raise Problem(
                f"spaCy's pipeline {pipeline!r} is not installed: run `.venv/bin/python -m spacy download {pipeline}`,"
                " or set SPACY = None in config.py for the rule-based sentencizer"
            ) from error
    return lambda paragraph: [s for span in nlp(paragraph).sents if (s := span.text.strip())]


def draw_sentence(article: str, split: Split, rng: random.Random) -> str | None:
    """The last sentence of a paragraph drawn from the article, newline appended; None if there is none.

    Paragraphs are the non-empty lines, headings included; the last one is left out, as in the original
    code. The sentencizer sees one paragraph only: it puts a newline at the head of the next sentence.
    """
    paragraphs = [line for line in article.split("\n") if line.strip()][:-1]
    if not paragraphs:
        return None
    sentences = split(rng.choice(paragraphs))
    return sentences[-1] + "\n" if sentences else None


def draw_sentences(articles: Iterable[str], split: Split, rng: random.Random) -> Iterator[str]:
    """One sentence of each article that has one (`draw_sentence`)."""
    for article in articles:
        sentence = draw_sentence(article, split, rng)
        if sentence is not None:
            yield sentence


def split(sentences: list[str], *, train: int, val: int) -> dict[str, list[str]]:
    """The first sentences to fit the maps on, the next ones to judge them by.

    Raises:
        Problem: there are too few.
    """
    if len(sentences) < train + val:
        raise Problem(
            f"too few sentences: got {len(sentences)}, expected {train} to train and {val} to validate;"
            " take a larger source, or lower TRAIN and VAL (or its SPLITS) in config.py"
        )
    return {"train": sentences[:train], "val": sentences[train : train + val]}


def tokenize(
    sentences: list[str],
    tokenizer,
    context: int,
    generator: torch.Generator,
    notice: Callable[[str], None],
    name: str = "the sentences",
) -> Tokenized:
    """Tokens of every sentence, trailing white space stripped, and a position drawn from all of them.

    Positions are uniform over the tokens, first and last included (for BERT [CLS] and [SEP] too).
    Departure: the original's GPT-2 tokenizer has '.' for padding, which splits at every period and
    swallows the white space beside it; this is the stock tokenizer, which would make the newline a
    token, so it is stripped first.

    Args:
        sentences: the sentences, with their newlines.
        tokenizer: a tokenizer of transformers.
        context: the longest sequence the model takes; what is longer is truncated, with one notice.
        generator: where the positions come from.
        notice: is told of truncated sentences.
        name: what the sentences are called in a problem or notice.

    Raises:
        Problem: a sentence is empty; its number is named.
    """
    stripped = [sentence.rstrip() for sentence in sentences]
    if "" in stripped:
        raise Problem(
            f"sentence {stripped.index('')} of {name} (counted from 0) is empty: make the sentences without it"
        )
    # verbose=False: the tokenizer would warn of lengths beyond the context, which are dealt with below
    ids = tokenizer(stripped, verbose=False)["input_ids"]
    if long := [k for k, tokens in enumerate(ids) if len(tokens) > context]:
        notice(f"{len(long)} of {len(ids)} sentences are longer than {context} tokens: truncated")
        for k in long:
            ids[k] = tokenizer(stripped[k], truncation=True, max_length=context)["input_ids"]
    lengths = torch.tensor([len(tokens) for tokens in ids])
    draws = torch.rand(len(ids), generator=generator, dtype=torch.float64)
    return Tokenized([torch.tensor(tokens) for tokens in ids], (draws * lengths).long())


def tokenize_splits(
    splits: dict[str, list[str]], tokenizer, context: int, seed: int, notice: Callable[[str], None]
) -> dict[str, Tokenized]:
    """`tokenize` for every split, positions drawn from one seeded generator, split after split."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: tokenize(sentences, tokenizer, context, generator, notice, name) for name, sentences in splits.items()
    }


def mask(tokenized: Tokenized, mask_token: int) -> Tokenized:
    """The same sentences with the token at each chosen position replaced by [MASK]."""
    sentences = [ids.clone() for ids in tokenized.sentences]
    for ids, position in zip(sentences, tokenized.positions.tolist(), strict=True):
        ids[position] = mask_token
    return Tokenized(sentences, tokenized.positions)
