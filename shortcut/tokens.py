"""Sentences as tokens, with the one position of each that is looked at; for BERT, masked there.

The paper takes one token of each sentence, uniformly; what it leaves open follows its original code.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from shortcut import Problem


@dataclass(frozen=True)
class Tokenized:
    """n sentences as tokens, with one chosen position each."""

    sentences: list[torch.Tensor]  # n int64 tensors [T], of any lengths
    positions: torch.Tensor  # int64 [n], 0-based, within each sentence

    def __len__(self) -> int:
        return len(self.sentences)


def split(sentences: list[str], *, train: int, val: int) -> dict[str, list[str]]:
    """The first sentences to fit the maps on, the next ones to judge them by, as "train" and "val"."""
    if len(sentences) < train + val:
        out = "take a larger source, or lower TRAIN and VAL (or its SPLITS) in config.py"
        got = f"got {len(sentences)}, expected {train} to train and {val} to validate"
        raise Problem(f"too few sentences: {got}; {out}")
    return {"train": sentences[:train], "val": sentences[train : train + val]}


def tokenize(
    splits: dict[str, list[str]], tokenizer, context: int, seed: int, notice: Callable[[str], None]
) -> dict[str, Tokenized]:
    """Tokens of the sentences of every split, and a position drawn from all tokens of each.

    Positions are uniform, first and last included (for BERT [CLS] and [SEP] too), drawn from one seeded
    generator, split after split. What is longer than the model's `context` is truncated, with one notice.
    Departure: the original's GPT-2 tokenizer has '.' for padding, which splits at every period and
    swallows the white space beside it; this is the stock tokenizer, which would make the newline a
    token, so trailing white space is stripped first.

    Raises Problem: a sentence is empty; its number is named.
    """
    generator, result = torch.Generator().manual_seed(seed), {}
    for name, sentences in splits.items():
        stripped = [sentence.rstrip() for sentence in sentences]
        if "" in stripped:
            where = f"sentence {stripped.index('')} of {name} (counted from 0)"
            raise Problem(f"{where} is empty: make the sentences without it")
        # verbose=False: the tokenizer would warn of lengths beyond the context, which are dealt with below
        ids = tokenizer(stripped, verbose=False)["input_ids"]
        if long := [k for k, tokens in enumerate(ids) if len(tokens) > context]:
            notice(f"{len(long)} of {len(ids)} sentences are longer than {context} tokens: truncated")
            for k in long:
                ids[k] = tokenizer(stripped[k], truncation=True, max_length=context)["input_ids"]
        lengths = torch.tensor([len(tokens) for tokens in ids])
        draws = torch.rand(len(ids), generator=generator, dtype=torch.float64)
        result[name] = Tokenized([torch.tensor(tokens) for tokens in ids], (draws * lengths).long())
    return result


def mask(tokenized: Tokenized, mask_token: int) -> Tokenized:
    """The same sentences with the token at each chosen position replaced by [MASK]."""
    sentences = [ids.clone() for ids in tokenized.sentences]
    for ids, position in zip(sentences, tokenized.positions.tolist(), strict=True):
        ids[position] = mask_token
    return Tokenized(sentences, tokenized.positions)
