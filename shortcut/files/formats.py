"""Readers and writers for sentences, tokens, hidden states and matrices.

A reader takes files of this project and of the original code, and never runs code (see `unpickle`). It raises Problem
if a file is damaged or has another layout: one line with the file's name, the value got and the value expected.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from shortcut import Problem
from shortcut.files.names import Names
from shortcut.files.store import inside
from shortcut.files.unpickle import load_all
from shortcut.linear import KINDS, LEAST_SQUARES, Map
from shortcut.tokens import Tokenized

STATES_BATCH = 16  # sentences in a batch of state files, as in the original code
NUMBERS = "sentence_numbers"
MORE = {NUMBERS: "numbers", "masked_tokens": "masked"}  # int64 [n]: keys that the original lacks, fields of `Tokenized`
ADDED = "added_tokens"  # list of ids, `Tokenized.added`; the original lacks it too


def expect(fits: bool, otherwise: str) -> None:
    """Raise Problem with the message `otherwise` unless `fits`."""
    if not fits:
        raise Problem(otherwise)


def got(value: Any) -> str:
    """Short description of a value: dtype and shape of a tensor, or the name of the type."""
    return f"{str(value.dtype)[6:]} {[*value.shape]}" if isinstance(value, torch.Tensor) else type(value).__name__


def fitting(value: Any, name: str, dtype: torch.dtype, *shape: int, least: int | None = None) -> torch.Tensor:
    """The value. Raises Problem unless it is a finite tensor of this dtype and shape, without numbers below `least`."""
    fits = isinstance(value, torch.Tensor) and (value.dtype, value.shape) == (dtype, shape)
    fits = fits and bool(value.isfinite().all()) and (least is None or int(value.min()) >= least)
    limit = "all of it finite" if least is None else f"none below {least}"
    expect(fits, f"{name} is {got(value)}, expected {str(dtype)[6:]} {[*shape]}, {limit}")
    return value


def load(path: Path) -> Any:
    """The single value in `path`."""
    values = [*islice(load_all(path), 2)]
    expect(len(values) == 1, f"{path} holds {'more than one value' if values else 'no value'}, expected one")
    return values[0]


def load_sentences(path: Path) -> list[str]:
    """Read the sentences that get_wikipedia_sentences.py wrote."""
    sentences = [*load_all(path)]
    if others := [value for value in sentences if type(value) is not str]:
        raise Problem(f"{path} holds {got(others[0])}, expected sentences (str)")
    return sentences


def tokenized_dict(tokenized: Tokenized) -> dict[str, Any]:
    """The dict that add_tokenization.py writes; keys that the original lacks are in it only if `tokenized` has them."""
    found = {"tokenized_sentences": tokenized.sentences, "token_positions": tokenized.positions}
    more = {name: getattr(tokenized, field) for name, field in MORE.items()} | {ADDED: [*tokenized.added] or None}
    return found | {name: x for name, x in more.items() if x is not None}


def load_tokenized(path: Path) -> Tokenized:
    """Read a file that holds a `tokenized_dict`."""
    value = load(path)
    with inside(path):
        return _tokenized(value)


def _tokenized(value: Any) -> Tokenized:
    sentences, positions = value["tokenized_sentences"], value["token_positions"]
    positions = torch.tensor(positions) if isinstance(positions, list) else positions
    n, added = len(sentences), [*map(int, value.get(ADDED, ()))]
    fitting(positions, "token_positions", torch.int64, n, least=0)
    for k, (ids, position) in enumerate(zip(sentences, positions.tolist(), strict=True)):
        expect(position < len(ids), f"sentence {k} has {len(ids)} tokens, its token position is {position}")
        fitting(ids, f"sentence {k}", torch.int64, len(ids), least=0)
        begins = position >= len(added) and ids[: len(added)].tolist() == added
        expect(begins, f"sentence {k} does not begin with the {ADDED} {added}, or its token position is one of them")
    more = {  # -1 among the masked tokens: a token that the tokenizer adds
        field: fitting(value[name], name, torch.int64, n, least=0 if name == NUMBERS else -1)
        for name, field in MORE.items()
        if name in value
    }
    return Tokenized([*sentences], positions, **more, added=tuple(added))


def state_batches(tokenized: Tokenized, h: torch.Tensor) -> Iterator[dict[str | int, Any]]:
    """The batches that bert_add_reps.py writes: a `tokenized_dict` with hidden states [b, d] for each layer 0 ... L."""
    columns = tokenized_dict(tokenized) | dict(enumerate(h))
    for start in range(0, len(tokenized), STATES_BATCH):
        yield {key: column[start : start + STATES_BATCH] for key, column in columns.items()}


def load_states(path: Path, n_layers: int) -> tuple[Tokenized, torch.Tensor]:
    """Read a file of `state_batches`: the sentences, and their hidden states [L + 1, n, d]."""
    batches, states = [], []  # for each batch, its sentences and its states [L + 1, b, d]
    for k, value in enumerate(load_all(path)):
        with inside(f"{path}: batch {k}"):
            batches.append(_tokenized(value))
            layers = sum(type(key) is int for key in value)
            expect(layers == n_layers + 1, f"has {layers - 1} layers above the embeddings, expected {n_layers}")
            shape = len(batches[-1]), (states or [value[0]])[0].shape[-1]
            h = [fitting(value.get(l), f"layer {l}", torch.float32, *shape) for l in range(n_layers + 1)]
            states.append(torch.stack(h))
    with inside(path):
        columns = {field: [getattr(batch, field) for batch in batches] for field in ("positions", *MORE.values())}
        known = {field: torch.cat(x) for field, x in columns.items() if any(part is not None for part in x)}
        return Tokenized([ids for batch in batches for ids in batch.sentences], **known), torch.cat(states, 1)


def load_map(files: Names, i: int, j: int, d: int) -> Map:
    """The fitted map from layer i to layer j of a model of width d."""
    return Map(load_matrix(files.matrix(i, j), d, files.map_kind), files.map_kind, i, j)


def load_matrix(path: Path, d: int | None, map_kind: str = LEAST_SQUARES) -> torch.Tensor:
    """The matrix A of a map, float32 [d, columns of the map kind], finite; of any width if d is None."""
    value = load(path)
    with inside(path):
        rows = d or len(value)
        shape, model = (rows, KINDS[map_kind].columns(rows)), " for this model: was it fitted for another one?"
        fits = isinstance(value, torch.Tensor) and (value.dtype, value.shape) == (torch.float32, shape)
        expect(fits, f"holds {got(value)}, expected a float32 matrix {[*shape]}{model if d else ''}")
        expect(bool(value.isfinite().all()), "holds values that are not finite: fit it again with --force")
    return value
