"""Sentences as tokens, with the one position of each that is looked at; for BERT, masked there.

The paper takes one token of each sentence, uniformly; what it leaves open follows its original code.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from shortcut import Problem


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


def split(sentences: list[str], *, train: int, val: int) -> dict[str, list[str]]:
    """The first sentences to fit the maps on, the next ones to judge them by, as "train" and "val".

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
    splits: dict[str, list[str]], tokenizer, context: int, seed: int, notice: Callable[[str], None]
) -> dict[str, Tokenized]:
    """Tokens of every sentence, trailing white space stripped, and a position drawn from all of them.

    Positions are uniform over the tokens, first and last included (for BERT [CLS] and [SEP] too), drawn
    from one seeded generator, split after split.
    Departure: the original's GPT-2 tokenizer has '.' for padding, which splits at every period and
    swallows the white space beside it; this is the stock tokenizer, which would make the newline a
    token, so it is stripped first.

    Args:
        splits: the sentences of each split, with their newlines.
        tokenizer: a tokenizer of transformers.
        context: the longest sequence the model takes; what is longer is truncated, with one notice.
        seed: of the generator.
        notice: is told of truncated sentences.

    Raises:
        Problem: a sentence is empty; its number is named.
    """
    generator = torch.Generator().manual_seed(seed)
    return {
        name: _tokenize(sentences, tokenizer, context, generator, notice, name) for name, sentences in splits.items()
    }


def _tokenize(
    sentences: list[str], tokenizer, context: int, generator: torch.Generator, notice: Callable[[str], None], name: str
) -> Tokenized:
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


def mask(tokenized: Tokenized, mask_token: int) -> Tokenized:
    """The same sentences with the token at each chosen position replaced by [MASK]."""
    sentences = [ids.clone() for ids in tokenized.sentences]
    for ids, position in zip(sentences, tokenized.positions.tolist(), strict=True):
        ids[position] = mask_token
    return Tokenized(sentences, tokenized.positions)
