"""Files: the only place that writes them, and the layouts they are read by.

Writing: to a temporary name in the same folder, flushed to the disk, renamed; a killed run leaves
the old file or none. The same values give the same bytes: a view of a larger storage is written as
its own values, and a storage as a zip-format `torch.save`, which holds no memory address and is
still read by a bare `pickle.load`.

Reading: through `unpickle`, which never runs code; every layout is checked here.
"""

import io
import json
import os
import pickle
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from shortcut import Problem
from shortcut.text import Tokenized
from shortcut.unpickle import load_all

PROTOCOL = 4
STATES_BATCH = 16  # sentences in a batch of state files, as in the original code


class _Pickler(pickle.Pickler):
    """Pickles tensors so that equal tensors give equal bytes, in any process."""

    def reducer_override(self, obj: Any):
        if isinstance(obj, torch.Tensor) and obj.untyped_storage().nbytes() > obj.nbytes:
            return obj.clone().__reduce_ex__(PROTOCOL)  # a pickled view would carry its whole storage
        if isinstance(obj, torch.TypedStorage):
            buffer = io.BytesIO()
            torch.save(obj, buffer)
            return torch.storage._load_from_bytes, (buffer.getvalue(),)
        return NotImplemented


@contextmanager
def replacing(path: Path, record: Callable[[Path], None] | None = None) -> Iterator[BinaryIO]:
    """A file that takes the name `path` when its `with` block ends well, and is gone when it does not.

    Args:
        path: the name it takes.
        record: called with the temporary name of the whole file, just before it is renamed.

    Raises:
        Problem: the disk is full, or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o666 & ~_umask())
            if record is not None:
                record(Path(name))
            os.replace(name, path)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(name)
            raise
    except OSError as error:
        if error.errno is None:
            raise
        raise Problem(f"cannot write {path}: {error.strerror}; nothing was left half-written") from error


def remove_leftovers(path: Path) -> None:
    """Remove what a killed run left of `path`: temporary files that never took its name."""
    for leftover in path.parent.glob(f".{path.name}.*"):
        leftover.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def dump(file: BinaryIO, *values: Any) -> None:
    """Pickle the values into `file`, one after another."""
    for value in values:
        _Pickler(file, PROTOCOL).dump(value)


def save_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON."""
    with replacing(path) as file:
        file.write(json.dumps(value, indent=1).encode() + b"\n")


def load_json(path: Path) -> Any:
    """The value of `save_json`. Raises Problem if it is damaged."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise Problem(f"{path} is damaged ({error}): remove it, and use --force") from error


def load(path: Path) -> Any:
    """The single value in `path`. Raises as `load_all`, and if there is not exactly one."""
    values = list(load_all(path))
    if len(values) != 1:
        raise Problem(f"{path} holds {len(values)} values, expected one")
    return values[0]


def load_sentences(path: Path) -> list[str]:
    """The sentences of get_wikipedia_sentences.py. Raises Problem if something else is among them."""
    sentences = list(load_all(path))
    for k, sentence in enumerate(sentences):
        if not isinstance(sentence, str):
            raise Problem(f"{path}: value {k} is of type {type(sentence).__name__}, expected sentences (str)")
    return sentences


def tokenized_dict(tokenized: Tokenized) -> dict[str, Any]:
    """The dict that add_tokenization.py writes: `tokenized_sentences`, `token_positions`."""
    return {"tokenized_sentences": tokenized.sentences, "token_positions": tokenized.positions}


def load_tokenized(path: Path) -> Tokenized:
    """Read a file of `tokenized_dict`. Raises Problem if it is not of that layout."""
    value = load(path)
    if not isinstance(value, dict) or not {"tokenized_sentences", "token_positions"} <= value.keys():
        raise Problem(f"{path}: expected a dict with tokenized_sentences and token_positions")
    return _checked_tokenized(path, value["tokenized_sentences"], value["token_positions"])


def _checked_tokenized(path: Path, sentences: Any, positions: Any) -> Tokenized:
    if not isinstance(positions, (torch.Tensor, np.ndarray, list)):
        raise Problem(f"{path}: token_positions is of type {type(positions).__name__}, expected an int64 tensor")
    positions = torch.as_tensor(positions)
    if positions.is_floating_point() and len(positions):
        raise Problem(f"{path}: token_positions are {positions.dtype}, expected int64")
    if not isinstance(sentences, list) or not sentences or positions.shape != (len(sentences),):
        raise Problem(f"{path}: expected as many token_positions as tokenized_sentences, at least one")
    for k, (ids, position) in enumerate(zip(sentences, positions.tolist(), strict=True)):
        if not isinstance(ids, torch.Tensor) or ids.dtype != torch.int64 or ids.ndim != 1 or not len(ids):
            raise Problem(f"{path}: sentence {k} is not an int64 tensor of one dimension with at least one token")
        if not 0 <= position < len(ids) or int(ids.min()) < 0:
            raise Problem(f"{path}: sentence {k} has {len(ids)} tokens, its chosen position is {position}")
    return Tokenized(sentences, positions.long())


def state_batches(tokenized: Tokenized, h: torch.Tensor) -> Iterator[dict[str | int, Any]]:
    """The batches that bert_add_reps.py writes, of `STATES_BATCH` sentences each.

    A batch is a dict of `tokenized_sentences`, `token_positions` and, by layer 0 ... L, states [b, d].
    """
    for start in range(0, len(tokenized), STATES_BATCH):
        rows = slice(start, start + STATES_BATCH)
        yield {
            "tokenized_sentences": tokenized.sentences[rows],
            "token_positions": tokenized.positions[rows],
            **{layer: h[layer, rows] for layer in range(len(h))},
        }


def load_states(path: Path, n_layers: int) -> tuple[Tokenized, torch.Tensor]:
    """Read a file of `state_batches`: the sentences, and their states [L + 1, n, d].

    Raises:
        Problem: not of that layout, not of L layers, batches of different width, or states not finite.
    """
    sentences, positions, states = [], [], []
    for k, batch in enumerate(load_all(path)):
        if not isinstance(batch, dict) or not {"tokenized_sentences", "token_positions", 0} <= batch.keys():
            raise Problem(f"{path}: batch {k} is not a dict of tokenized_sentences, token_positions and layers")
        checked = _checked_tokenized(path, batch["tokenized_sentences"], batch["token_positions"])
        if len(batch) != n_layers + 3:
            raise Problem(f"{path}: batch {k} has {len(batch) - 3} layers above the embeddings, the model {n_layers}")
        layers = [batch.get(layer) for layer in range(n_layers + 1)]
        for layer, h in enumerate(layers):
            first = states[0][0] if states else layers[0]
            fits = isinstance(h, torch.Tensor) and h.is_floating_point() and h.ndim == 2
            if not fits or h.shape != (len(checked), first.shape[1]):
                raise Problem(f"{path}: layer {layer} of batch {k} is not a float32 tensor of {len(checked)} states")
            if not h.isfinite().all():
                raise Problem(f"{path}: layer {layer} of batch {k} holds states that are not finite")
        sentences += checked.sentences
        positions.append(checked.positions)
        states.append([h.float() for h in layers])
    if not states:
        raise Problem(f"{path} holds no batch")
    h = torch.stack([torch.cat([batch[layer] for batch in states]) for layer in range(n_layers + 1)])
    return Tokenized(sentences, torch.cat(positions)), h


def load_matrix(path: Path, d: int) -> torch.Tensor:
    """A fitted matrix A, float32 [d, d]. Raises Problem for another shape or type, or values not finite."""
    A = load(path)
    if not isinstance(A, torch.Tensor) or not A.is_floating_point() or A.shape != (d, d):
        got = f"{A.dtype} {list(A.shape)}" if isinstance(A, torch.Tensor) else type(A).__name__
        raise Problem(f"{path} holds {got}, expected a float32 matrix [{d}, {d}] for this model")
    if not A.isfinite().all():
        raise Problem(f"{path} holds values that are not finite: fit it again with --force")
    return A.detach().float()


def load_r2(path: Path) -> dict[str, dict[tuple[int, int], float]]:
    """The scores of add_plot_r2.py: `score_mat` and `score_id`, each {(i, j): r2}."""
    value = load(path)
    if not isinstance(value, dict) or not {"score_mat", "score_id"} <= value.keys():
        raise Problem(f"{path}: expected a dict with score_mat and score_id")
    try:
        return {name: {(i, j): float(r2) for (i, j), r2 in value[name].items()} for name in ("score_mat", "score_id")}
    except (AttributeError, TypeError, ValueError) as error:
        raise Problem(f"{path}: expected scores as {{(i, j): float}} ({error})") from error


def load_results(path: Path) -> list[dict[str, Any]]:
    """The records of add_results.py: `info`, `layers_processed`, `topk`, `surprisal`.

    The original's BERT files lack `layers_processed` for jumps, which is their layer, and `surprisal`
    for early exits, which stays absent. Raises Problem for anything of another layout.
    """
    records = list(load_all(path))
    for k, record in enumerate(records):
        try:
            info = record["info"]
            if info["type"] == "jump":
                record.setdefault("layers_processed", float(info["layer"]))
            record["layers_processed"] = float(record["layers_processed"])
            record["topk"] = torch.as_tensor(record["topk"])
            if "surprisal" in record:
                record["surprisal"] = torch.as_tensor(record["surprisal"])
            known = info["type"] in ("jump", "early_exit") and record["topk"].ndim == 2 and "mode" in info
        except (TypeError, KeyError, ValueError, AttributeError):
            known = False
        if not known:
            raise Problem(f"{path}: record {k} is not one of info, layers_processed, topk [n, 10] and surprisal [n]")
    return records
