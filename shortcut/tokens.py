"""Sentences as tokens, with the one position of each that is looked at; for BERT, masked there.

The paper takes one token of each sentence, uniformly; what it leaves open follows its original code.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from shortcut import Problem


@dataclass(frozen=True)
class Tokenized:
    """n sentences as tokens, with one chosen position each."""

    sentences: list[torch.Tensor]  # n int64 tensors [T], of any lengths
    positions: torch.Tensor  # int64 [n], 0-based, within each sentence

    def __len__(self) -> int:
        return len(self.sentences)


def split(sentences: list[Any], *, train: int, val: int) -> dict[str, list[Any]]:
    """The first sentences to fit the maps on, the next ones to judge them by, as "train" and "val"."""
    if len(sentences) < train + val:
        out = "take a larger source, or lower TRAIN and VAL (or its SPLITS) in config.py"
        got = f"got {len(sentences)}, expected {train} to train and {val} to validate"
        raise Problem(f"too few sentences: {got}; {out}")
    return {"train": sentences[:train], "val": sentences[train : train + val]}


def tokenize(
    sentences: list[str], sizes: dict[str, int], tokenizer, context: int, seed: int, notice: Callable[[str], None]
) -> dict[str, Tokenized]:
    """Tokens of the sentences of every split, and a position drawn from all tokens of each.

    Positions are uniform, first and last included (for BERT [CLS] and [SEP] too), drawn from one seeded
    generator, split after split. What is longer than the model's `context` is truncated, with one notice, and
    a sentence without a token is left out, with another.
    Departure: the original's GPT-2 tokenizer has '.' for padding, which splits at every period and
    swallows the white space beside it; this is the stock tokenizer, which would make the newline a
    token, so trailing white space is stripped first.

    Raises Problem: too few sentences, or more than half of the tokens unknown to the tokenizer.
    """
    stripped = [sentence.rstrip() for sentence in sentences]
    # verbose=False: the tokenizer would warn of lengths beyond the context, which are dealt with below
    encoded = tokenizer(stripped, verbose=False, return_special_tokens_mask=True)
    whole = [k for k, special in enumerate(encoded["special_tokens_mask"]) if 0 in special]
    if len(whole) < len(sentences):
        notice(f"{len(sentences) - len(whole)} of {len(sentences)} sentences hold no token: left out")
    generator, result = torch.Generator().manual_seed(seed), {}
    for name, rows in split(whole, **sizes).items():
        ids = [encoded["input_ids"][k] for k in rows]
        if long := [k for k, tokens in enumerate(ids) if len(tokens) > context]:
            notice(f"{len(long)} of {len(ids)} sentences are longer than {context} tokens: truncated")
            for k in long:
                ids[k] = tokenizer(stripped[rows[k]], truncation=True, max_length=context)["input_ids"]
        lengths = torch.tensor([len(tokens) for tokens in ids])
        draws = torch.rand(len(ids), generator=generator, dtype=torch.float64)
        result[name] = Tokenized([torch.tensor(tokens) for tokens in ids], (draws * lengths).long())
    warn_of_unknown(tokenizer, encoded, notice)
    return result


def warn_of_unknown(tokenizer, encoded, notice: Callable[[str], None]) -> None:
    """Tell of the share of unknown tokens among those that are not special, if it is above 1%.

    Raises Problem: it is above one half, so that nearly all that is predicted would be the unknown token.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)  # whose file may name another token than its settings
    token = getattr(backend.model, "unk_token", tokenizer.unk_token) if backend else tokenizer.unk_token
    unknown, n, words = tokenizer.convert_tokens_to_ids(token) if token else None, 0, 0
    for ids, special in zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True):
        n += sum(not s and i == unknown for i, s in zip(ids, special, strict=True))
        words += len(special) - sum(special)
    told = f"{n / max(words, 1):.1%} of the tokens are {token}, which stands for what the tokenizer does not know"
    if 2 * n > words:
        raise Problem(f"{told}: take text, or blanks in it, as this model was trained on")
    if 100 * n > words:
        notice(told)


def check(sentences: list[torch.Tensor], vocabulary: int) -> None:
    """Raise Problem if a sentence holds a token that a model of so many does not know."""
    largest = max(int(ids.max()) for ids in sentences)
    if largest >= vocabulary:
        raise Problem(f"a sentence holds token {largest}, the model knows {vocabulary}: its tokenizer is another one's")


def mask(tokenized: Tokenized, mask_token: int) -> Tokenized:
    """The same sentences with the token at each chosen position replaced by [MASK]."""
    sentences = [ids.clone() for ids in tokenized.sentences]
    for ids, position in zip(sentences, tokenized.positions.tolist(), strict=True):
        ids[position] = mask_token
    return Tokenized(sentences, tokenized.positions)
