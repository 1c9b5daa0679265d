"""Atomic writes, so that a killed run leaves the old file or none; errors in reading.

Equal values give equal bytes: a view is pickled without the rest of its storage, and a storage in the zip format of
`torch.save`, which holds no memory address. Plain `pickle.load` reads such files.
"""

import glob
import io
import json
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any, BinaryIO

from shortcut import Problem

PROTOCOL = 4


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: Any):
        import torch  # noqa: PLC0415  (not needed to write JSON)

        if isinstance(obj, torch.Tensor) and obj.untyped_storage().nbytes() > obj.nbytes:
            return obj.clone().__reduce_ex__(PROTOCOL)  # a pickled view would carry its whole storage
        if isinstance(obj, torch.TypedStorage):
            buffer = io.BytesIO()
            torch.save(obj, buffer)
            return torch.storage._load_from_bytes, (buffer.getvalue(),)
        return NotImplemented


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Temporary file that is renamed to `path` if the `with` block ends without an error, and removed otherwise."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{token_hex(4)}")
        try:
            with open(temporary, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise Problem(f"cannot write {path}: {error.strerror}; nothing was left half-written") from error


def remove_leftovers(path: Path) -> None:
    """Remove temporary files for `path` that a killed run left."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 8}"):  # no other program's, as .swp
        leftover.unlink(missing_ok=True)


def dump(file: BinaryIO, *values: Any) -> None:
    """Pickle the values into `file`, one after another."""
    for value in values:
        _Pickler(file, PROTOCOL).dump(value)


def dump_json(value: Any) -> bytes:
    """Encode a value as indented JSON. Raises ValueError for a number that is not finite, which JSON cannot hold."""
    return json.dumps(value, indent=1, allow_nan=False).encode() + b"\n"


def load_json(path: Path) -> Any:
    """Read a JSON file. Raises Problem if the file cannot be read or is damaged."""
    with inside(path):
        return json.loads(path.read_bytes())


@contextmanager
def inside(place: object) -> Iterator[None]:
    """Turn any error in the `with` block, which reads a file, into a Problem that names the file or a place in it."""
    try:
        yield
    except Problem as problem:
        raise Problem(f"{place}: {problem}") from problem
    except OSError as error:
        raise Problem(f"cannot read {place}: {error.strerror}") from error
    except Exception as error:  # a damaged file, or one with another layout, can raise anything
        why = shown(f"{type(error).__name__}: {error}")
        raise Problem(f"{place}: is damaged or has another layout ({why}): remove it, and use --force") from error


def shown(text: str) -> str:
    """Text from a file, made safe to print on one line."""
    return ascii(" ".join(text.split()))[1:-1][:90]


def rounded(value: Any) -> Any:
    """A value as JSON gives it back, with all fractions rounded to six significant digits."""
    return json.loads(json.dumps(value), parse_float=lambda x: float(f"{float(x):.6g}"))
