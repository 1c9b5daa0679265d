"""Files: the only place that writes them, and the layouts they are read by.

Writing: to a temporary name in the same folder, flushed to the disk, renamed; a killed run leaves
the old file or none. The same values give the same bytes: a view of a larger storage is written as
its own values, and a storage as a zip-format `torch.save`, which holds no memory address and is
still read by a bare `pickle.load`.

Reading: through `unpickle`, which never runs code, and `contents`, which checks every layout.
"""

import glob
import io
import json
import os
import pickle
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import torch

from shortcut import Problem, contents
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
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*"):
        leftover.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def dump(file: BinaryIO, *values: Any) -> None:
    """Pickle the values into `file`, one after another."""
    for value in values:
        _Pickler(file, PROTOCOL).dump(value)


def save_json(path: Path, value: Any, record: Callable[[Path], None] | None = None) -> None:
    """Write `value` as indented JSON; `record` as in `replacing`."""
    with replacing(path, record) as file:
        file.write(json.dumps(value, indent=1).encode() + b"\n")


def load_json(path: Path) -> dict[str, Any]:
    """The dict of `save_json`. Raises Problem if it is damaged, or holds something else."""
    try:
        value = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise Problem(f"{path} is damaged ({error}): remove it, and use --force") from error
    if not isinstance(value, dict):
        raise Problem(f"{path} holds a {type(value).__name__}, expected an object: remove it, and use --force")
    return value


def load(path: Path) -> Any:
    """The single value in `path`. Raises as `load_all`, and if there is not exactly one."""
    values = [*islice(load_all(path), 2)]
    if len(values) != 1:
        raise Problem(f"{path} holds {'more than one value' if values else 'no value'}, expected one")
    return values[0]


@contextmanager
def _in(path: Path) -> Iterator[None]:
    """Puts the file's name before what is wrong with its contents."""
    try:
        yield
    except Problem as problem:
        raise Problem(f"{path}: {problem}") from problem


def load_sentences(path: Path) -> list[str]:
    """The sentences of get_wikipedia_sentences.py. Raises Problem if something else is among them."""
    sentences = []
    for k, value in enumerate(load_all(path)):
        with _in(path):
            sentences.append(contents.sentence(value, k))
    return sentences


def tokenized_dict(tokenized: Tokenized) -> dict[str, Any]:
    """The dict that add_tokenization.py writes: `tokenized_sentences`, `token_positions`."""
    return {"tokenized_sentences": tokenized.sentences, "token_positions": tokenized.positions}


def load_tokenized(path: Path) -> Tokenized:
    """Read a file of `tokenized_dict`. Raises Problem if it is not of that layout."""
    value = load(path)
    with _in(path):
        return contents.tokenized(value)


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
    room = path.stat().st_size  # a pickle may name one tensor for all its layers
    for k, value in enumerate(load_all(path)):
        with _in(path):
            tokenized, h = contents.batch(value, k, n_layers, states[0][0].shape[1] if states else None)
            room -= sum(of_a_layer.nbytes for of_a_layer in h)
            if room < 0:
                raise Problem("refused: its states are larger than the file")
        sentences += tokenized.sentences
        positions.append(tokenized.positions)
        states.append(h)
    if not states:
        raise Problem(f"{path} holds no batch")
    h = torch.stack([torch.cat([batch[layer] for batch in states]) for layer in range(n_layers + 1)])
    return Tokenized(sentences, torch.cat(positions)), h


def load_matrix(path: Path, d: int | None) -> torch.Tensor:
    """A fitted matrix A, float32 [d, d], of any d if that is None.

    Raises:
        Problem: another shape or type, or values that are not finite.
    """
    value = load(path)
    with _in(path):
        return contents.matrix(value, d)


def load_r2(path: Path) -> dict[str, dict[tuple[int, int], float]]:
    """The scores of add_plot_r2.py: `score_mat` and `score_id`, each {(i, j): r2}.

    Raises:
        Problem: not of that layout, or a score that is not finite.
    """
    value = load(path)
    with _in(path):
        return contents.scores(value)


def load_results(path: Path) -> list[dict[str, Any]]:
    """The records of add_results.py (see `contents.record`), of one number of sentences all of them.

    Raises:
        Problem: something of another layout.
    """
    records: list[dict[str, Any]] = []
    for k, value in enumerate(load_all(path)):
        with _in(path):
            records.append(contents.record(value, k, len(records[0]["topk"]) if records else None))
    highest = max((record["info"].get("layer", 0) for record in records), default=0)
    if highest > len(records):
        raise Problem(f"{path} has a jump from layer {highest} among {len(records)} records, expected one a layer")
    return records


if __name__ == "__main__":  # python -m shortcut.store fetch|export
    from shortcut import cli, exchange

    cli.run(exchange.main, "shortcut.store")
