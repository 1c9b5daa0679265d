"""Sentences as token ids, with the token positions whose states are used; for BERT, masked there.

The paper samples one token of each sentence uniformly. Where it is silent, this follows the original code.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from shortcut import Problem, one_line


@dataclass(frozen=True)
class Tokenized:
    """n sentences as token ids, with one chosen position each."""

    sentences: list[torch.Tensor]  # n int64 tensors [T], of any lengths
    positions: torch.Tensor  # int64 [n], 0-based, within each sentence
    numbers: torch.Tensor | None = None  # int64 [n], the number of the sentence, where sentences have several positions
    masked: torch.Tensor | None = None  # int64 [n], the tokens under [MASK]; -1 for tokens that the tokenizer adds
    added: tuple[int, ...] = ()  # ids that the tokenizer puts at the head of every sentence (causal models)

    def __len__(self) -> int:
        return len(self.sentences)


@dataclass(frozen=True)
class Drawing:
    """Settings for sampling token positions."""

    context: int  # context length of the model, in tokens
    seed: int  # random seed
    added: bool  # True if tokens that the tokenizer adds, such as [CLS], may be chosen
    positions: int = 1  # distinct positions in a sentence; a shorter sentence gives all its positions


def tokenize(
    sentences: list[str], sizes: dict[str, int], tokenizer, drawing: Drawing, notice: Callable[[str], None]
) -> dict[str, Tokenized]:
    """Tokenize the first sentences as "train", the next as "val", and sample positions uniform over their tokens.

    A sentence with several positions is repeated, once for each. For causal models, tokens that the tokenizer adds are
    never chosen: the token at the head is an attention sink, whose state would dominate the fit. Longer sentences than
    the context are truncated and sentences without a token are left out, each with one notice.
    Departure: the original's GPT-2 tokenizer uses '.' for padding, so it splits at every period and drops the white
    space next to it. This is the stock tokenizer. It would make a token of the newline, so trailing white space is
    stripped first. Raises Problem: too few sentences, and as `encode`.
    """
    stripped, context = [sentence.rstrip() for sentence in sentences], drawing.context
    lengths = [*map(len, encode(tokenizer, stripped, notice)["input_ids"])]
    cut = tokenizer(stripped, truncation=True, max_length=context, return_special_tokens_mask=True)
    whole = [k for k, special in enumerate(cut["special_tokens_mask"]) if 0 in special]
    if len(whole) < len(sentences):
        notice(f"{len(sentences) - len(whole)} of {len(sentences)} sentences hold no token: left out")
    heads = [cut["input_ids"][k][: cut["special_tokens_mask"][k].index(0)] for k in whole]
    head = () if drawing.added else tuple(min(heads, key=len, default=()))
    train, val = sizes["train"], sizes["val"]
    if len(whole) < train + val:
        few = f"too few sentences: got {len(whole)}, expected {train} to train and {val} to validate"
        raise Problem(f"{few}; take a larger source, or lower TRAIN and VAL (or its SPLITS) in config.py")
    generator, result = torch.Generator().manual_seed(drawing.seed), {}
    for name, rows in (("train", whole[:train]), ("val", whole[train : train + val])):
        ids, special = ([cut[key][k] for k in rows] for key in ("input_ids", "special_tokens_mask"))
        if long := sum(lengths[k] > context for k in rows):
            notice(f"{long} of {len(ids)} sentences are longer than {context} tokens: truncated")
        if not drawing.added:  # tokens added at the end are never a prediction target
            ids = [row[: len(added) - added[::-1].index(0)] for row, added in zip(ids, special, strict=True)]
        free = [[t for t, added in enumerate(row) if drawing.added or not added] for row in special]
        draws = torch.rand(len(ids), drawing.positions, generator=generator, dtype=torch.float64).tolist()
        chosen = [(k, left.pop(int(draw * len(left)))) for k, left in enumerate(free) for draw in draws[k][: len(left)]]
        numbers, positions = torch.tensor(chosen).T.contiguous()
        several = numbers if drawing.positions > 1 else None
        hidden = torch.tensor([-1 if special[k][t] else ids[k][t] for k, t in chosen]) if drawing.added else None
        result[name] = Tokenized([torch.tensor(ids[k]) for k in numbers.tolist()], positions, several, hidden, head)
    return result


def encode(tokenizer, texts: list[str], notice: Callable[[str], None]) -> Mapping[str, list[list[int]]]:
    """The `input_ids` of texts, and the `special_tokens_mask` of tokens that the tokenizer adds.

    A notice gives the share of unknown tokens, and of characters that the tokenizer drops, if it is above 1%. Raises
    Problem: such a share is above one half, or the tokenizer cannot encode a text.
    """
    counts = Counter(character for text in texts for character in text if not character.isspace())
    try:
        # verbose=False: the tokenizer would warn of lengths beyond the context, which are dealt with elsewhere
        encoded = tokenizer(texts, verbose=False, return_special_tokens_mask=True)
        alone = tokenizer([*counts], add_special_tokens=False)["input_ids"] if counts else []
    except Exception as error:  # the tokenizers' own has no other type
        lacks = f"the tokenizer cannot encode this text ({one_line(error)})"
        raise Problem(f"{lacks}: expected one that knows every character, or has a token for the unknown") from error
    rows = zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True)
    ids = [i for row, special in rows for i, added in zip(row, special, strict=True) if not added]
    dropped = sum(n for n, tokens in zip(counts.values(), alone, strict=True) if not tokens)
    token, k = unknown(tokenizer)
    unknown_are = f"tokens are {token}, the token for characters that the tokenizer does not know"
    dropped_are = "characters are dropped by the tokenizer, which does not know them"
    for n, total, what in ((ids.count(k), len(ids), unknown_are), (dropped, counts.total(), dropped_are)):
        if ids and 100 * n > total:
            warning = f"{n / total:.1%} of the {what}"
            if 2 * n > total:
                raise Problem(f"{warning}: take text, or blanks in it, as this model was trained on")
            notice(warning)
    return encoded


def unknown(tokenizer) -> tuple[str, int] | tuple[None, None]:
    """The token for characters that the tokenizer does not know, and its id; None if there is no such token."""
    backend = getattr(tokenizer, "backend_tokenizer", None)  # whose file may name another token than its settings
    token = getattr(backend.model, "unk_token", tokenizer.unk_token) if backend else tokenizer.unk_token
    return (token, tokenizer.convert_tokens_to_ids(token)) if token else (None, None)


def check(sentences: list[torch.Tensor], vocabulary: int) -> None:
    """Raise Problem if a sentence holds a token outside a vocabulary of this size."""
    largest = max(int(ids.max()) for ids in sentences)
    if largest >= vocabulary:
        raise Problem(f"a sentence holds token {largest}, the model knows {vocabulary}: take its own tokenizer")


def mask(tokenized: Tokenized, mask_token: int) -> Tokenized:
    """The same sentences with the token at each chosen position replaced by [MASK]."""
    pairs = zip(tokenized.sentences, tokenized.positions, strict=True)
    return replace(tokenized, sentences=[ids.index_fill(0, position, mask_token) for ids, position in pairs])


def actual(tokenized: Tokenized, *, masked: bool) -> torch.Tensor:
    """The token that a model should predict at each position, int64 [n]: the next token, or the one under [MASK].
    -1 where there is no such token, where the tokenizer added it ([CLS] and [SEP]), and where it is unknown.
    """
    if masked:
        return torch.full((len(tokenized),), -1) if tokenized.masked is None else tokenized.masked
    pairs = zip(tokenized.sentences, tokenized.positions.tolist(), strict=True)
    return torch.tensor([int(ids[t + 1]) if t + 1 < len(ids) else -1 for ids, t in pairs])
