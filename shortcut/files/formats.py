"""Readers and writers for sentences, tokens, hidden states and matrices; each value is checked before it is used.

Files are read by `unpickle`, which never runs code. A reader converts files of this project and of the original code
to the same types, or raises Problem with the file's name, the value got and the value expected.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from shortcut import Problem
from shortcut.files.checks import expect, got, inside, is_tensor, rows, tensor
from shortcut.files.names import Names
from shortcut.files.unpickle import load_all
from shortcut.linear import KINDS, LEAST_SQUARES, Map
from shortcut.tokens import Tokenized

TOO_FEW = "holds {} sentence, expected at least {}: raise VAL in config.py"
STATES_BATCH = 16  # sentences in a batch of state files, as in the original code

# Keys that the original code does not have.
NUMBERS = "sentence_numbers"  # written if POSITIONS is more than 1
ADDED = "added_tokens"  # list of token ids, `Tokenized.added`, if there are any
MORE = {NUMBERS: "numbers", "masked_tokens": "masked"}  # int64 [n] each; field of `Tokenized`


def load(path: Path) -> Any:
    """The single value in `path`. Raises Problem as `load_all` does, or if the file holds no value or several."""
    values = [*islice(load_all(path), 2)]
    if len(values) != 1:
        raise Problem(f"{path} holds {'more than one value' if values else 'no value'}, expected one")
    return values[0]


def load_sentences(path: Path) -> list[str]:
    """Read the sentences that get_wikipedia_sentences.py wrote."""
    sentences = [*load_all(path)]
    for k, value in enumerate(sentences):
        expect(type(value) is str, f"{path}: value {k} is {got(value)}, expected sentences (str)")
    return sentences


def tokenized_dict(tokenized: Tokenized) -> dict[str, Any]:
    """The dict that add_tokenization.py writes: `tokenized_sentences`, `token_positions`.

    A sentence with several token positions is repeated, once for each position, and `sentence_numbers` holds the
    number of the sentence. `masked_tokens` holds the tokens that [MASK] replaces (-1: a token that the tokenizer adds),
    `added_tokens` the tokens that the tokenizer adds at the start.
    """
    found = {"tokenized_sentences": tokenized.sentences, "token_positions": tokenized.positions}
    more = {name: getattr(tokenized, field) for name, field in MORE.items()}
    more |= {ADDED: [*tokenized.added] or None}
    return found | {name: x for name, x in more.items() if x is not None}


def load_tokenized(path: Path, least: int = 1) -> Tokenized:
    """Read a file that holds a `tokenized_dict`. Raises Problem if it has fewer than `least` sentences."""
    value = load(path)
    with inside(path):
        return _tokenized(value, least)


def _tokenized(value: Any, least: int = 1) -> Tokenized:
    whole = isinstance(value, dict) and {"tokenized_sentences", "token_positions"} <= value.keys()
    expect(whole, f"holds {got(value)}, expected a dict with tokenized_sentences and token_positions")
    sentences, positions = value["tokenized_sentences"], value["token_positions"]
    if type(positions) is list and all(type(position) is int and abs(position) < 2**31 for position in positions):
        positions = torch.tensor(positions, dtype=torch.int64)
    positions = tensor(positions)
    whole_numbers = isinstance(positions, torch.Tensor) and positions.dtype in (torch.int64, torch.int32)
    expect(whole_numbers, f"token_positions is {got(positions)}, expected an int64 tensor")
    as_many = type(sentences) is list and sentences and positions.shape == (len(sentences),)
    expect(as_many, "expected as many token_positions as tokenized_sentences, at least one")
    expect(len(positions) >= least, TOO_FEW.format(len(positions), least))
    added = value.get(ADDED, [])
    head = type(added) is list and all(type(i) is int for i in added)
    expect(head, f"{ADDED} is {got(added)}, expected a list of ids (int)")
    for k, (ids, position) in enumerate(zip(sentences, positions.tolist(), strict=True)):
        row = is_tensor(ids, torch.int64, (rows(ids),)) and len(ids)
        expect(row, f"sentence {k} is not an int64 tensor of one dimension with at least one token")
        within = 0 <= position < len(ids) and int(ids.min()) >= 0
        expect(within, f"sentence {k} has {len(ids)} tokens, its token position is {position}")
        begins = position >= len(added) and ids[: len(added)].tolist() == added
        expect(begins, f"sentence {k} does not begin with the {ADDED} {added}, or its token position is one of them")
    more = {field: read_more(value, name, len(sentences)) for name, field in MORE.items() if name in value}
    return Tokenized(sentences, positions.long(), **more, added=tuple(added))


def read_more(value: dict[str, Any], name: str, n: int) -> torch.Tensor:
    numbers, least = tensor(value[name]), 0 if name == NUMBERS else -1  # -1: a token that the tokenizer adds
    fits = is_tensor(numbers, torch.int64, (n,)) and int(numbers.min()) >= least
    expect(fits, f"{name} is {got(numbers)}, expected int64 [{n}], none below {least}")
    return numbers


def state_batches(tokenized: Tokenized, h: torch.Tensor) -> Iterator[dict[str | int, Any]]:
    """The batches that bert_add_reps.py writes, with `STATES_BATCH` sentences each.

    A batch is a dict with `tokenized_sentences`, `token_positions` and, for each layer 0 ... L, hidden states [b, d].
    """
    for start in range(0, len(tokenized), STATES_BATCH):
        rows = slice(start, start + STATES_BATCH)
        columns = (getattr(tokenized, field) for field in MORE.values())
        more = (None if column is None else column[rows] for column in columns)
        sentences = Tokenized(tokenized.sentences[rows], tokenized.positions[rows], *more)
        yield {**tokenized_dict(sentences), **{layer: h[layer, rows] for layer in range(len(h))}}


def load_states(path: Path, n_layers: int, least: int = 1) -> tuple[Tokenized, torch.Tensor]:
    """Read a file of `state_batches`: at least `least` sentences, and their hidden states [L + 1, n, d]."""
    batches: list[Tokenized] = []
    states: list[torch.Tensor] = []  # [L + 1, b, d] for each batch
    with inside(path):
        for k, value in enumerate(load_all(path)):
            tokenized, h = _batch(value, k, n_layers)
            batches.append(tokenized)
            states.append(h)
        widths = [*dict.fromkeys(h.shape[2] for h in states)]
        expect(len(widths) > 0, "holds no batch")
        expect(len(widths) == 1, f"holds states of widths {widths[0]} and {widths[-1]}, expected one width")
        sentences = [ids for batch in batches for ids in batch.sentences]
        expect(len(sentences) >= least, TOO_FEW.format(len(sentences), least))
        more = {}
        for name, field in MORE.items():
            known = [numbers for batch in batches if (numbers := getattr(batch, field)) is not None]
            expect(len(known) in (0, len(batches)), f"has {name} in some of its batches, expected all or none")
            more |= {field: torch.cat(known)} if known else {}
    return Tokenized(sentences, torch.cat([batch.positions for batch in batches]), **more), torch.cat(states, 1)


def _batch(value: Any, k: int, n_layers: int) -> tuple[Tokenized, torch.Tensor]:
    whole = isinstance(value, dict) and {"tokenized_sentences", "token_positions", 0} <= value.keys()
    expect(whole, f"batch {k} is not a dict of tokenized_sentences, token_positions and layers")
    with inside(f"batch {k}"):
        sentences, above = _tokenized(value), len(value) - 3 - sum(name in value for name in MORE)
    expect(above == n_layers, f"batch {k} has {above} layers above the embeddings, expected {n_layers}")
    n, first = len(sentences), value[0]
    d = first.shape[1] if isinstance(first, torch.Tensor) and first.ndim == 2 else "d"
    for layer in range(n_layers + 1):
        h, holds = value.get(layer), f"layer {layer} of batch {k} holds"
        expect(is_tensor(h, torch.float32, (n, d)), f"{holds} {got(h)}, expected float32 states [{n}, {d}]")
        expect(bool(h.isfinite().all()), f"{holds} states that are not finite")
    return sentences, torch.stack([value[layer] for layer in range(n_layers + 1)])


def load_map(files: Names, i: int, j: int, d: int) -> Map:
    """The fitted map from layer i to layer j of a model of width d."""
    return Map(load_matrix(files.matrix(i, j), d, files.map_kind), files.map_kind, i, j)


def load_matrix(path: Path, d: int | None, map_kind: str = LEAST_SQUARES) -> torch.Tensor:
    """The matrix A of a map, float32 [d, columns of the map kind], finite; of any width if d is None."""
    value, columns = load(path), KINDS[map_kind].columns
    size = rows(value)
    with inside(path):
        expect(size > 0, f"holds {got(value)}, expected a float32 matrix")
        fits, width = is_tensor(value, torch.float32, (size, columns(size))), d or size
        other = ": it was fitted for another model" if fits else ""
        expected = f"expected a float32 matrix {[width, columns(width)]}{' for this model' if d else ''}{other}"
        expect(fits and size == width, f"holds {got(value)}, {expected}")
        expect(bool(value.isfinite().all()), "holds values that are not finite: fit it again with --force")
    return value
