"""Reading pickles without ever running code.

Only tensors, numpy arrays and scalars, sets and plain containers are rebuilt, by functions of this
file; anything else is refused by name. Nothing is allocated before it has been read.
"""

import io
import math
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from shortcut import Problem


def load_all(path: Path) -> Iterator[Any]:
    """The values pickled one after another in `path`, in order.

    Raises:
        Problem: the file is truncated, damaged, or asks for anything but data.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        while file.tell() < size:
            try:
                yield _Unpickler(_Bounded(file, size)).load()
            except Problem as problem:
                raise Problem(f"{path}: {problem}") from problem
            except Exception as error:  # a damaged pickle can raise anything
                raise Problem(f"{path} is damaged or not a pickle of this pipeline ({error})") from error


class _Bounded:
    """A file of which no read can ask for more than is left: a pickle of 9 bytes may claim gigabytes."""

    def __init__(self, file: BinaryIO, size: int):
        self.file = file
        self.size = size
        self.readline = file.readline

    def read(self, n: int) -> bytes:
        if n > self.size - self.file.tell():
            raise Problem("is truncated or damaged: it claims more bytes than it has")
        return self.file.read(n)

    def readinto(self, buffer) -> int:
        if len(buffer) > self.size - self.file.tell():
            raise Problem("is truncated or damaged: it claims more bytes than it has")
        return self.file.readinto(buffer)


class _Unpickler(pickle._Unpickler):
    """The unpickler in Python: it allocates nothing before it has read it, and reads as fast here."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise Problem(f"refused: it asks for {module}.{name}, which is not data") from None

    def persistent_load(self, pid: Any) -> Any:
        raise Problem("refused: it asks for a persistent object, which is not data")


def _storage(data: bytes) -> torch.TypedStorage:
    """In place of torch.storage._load_from_bytes, which would unpickle anything."""
    storage = torch.load(io.BytesIO(data), weights_only=True)
    if not isinstance(storage, torch.TypedStorage):
        raise Problem(f"refused: a tensor's storage is of type {type(storage).__name__}")
    return storage


def _tensor(storage, offset, size, stride, requires_grad=False, hooks=None, metadata=None) -> torch.Tensor:
    """In place of torch._utils._rebuild_tensor_v2, with the bounds checked."""
    if min((offset, *size, *stride), default=0) < 0 or len(size) != len(stride):
        raise Problem("refused: a tensor with impossible strides")
    available = storage._size()  # len() warns that typed storages will go; every pickled tensor has one
    extent = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1
    if math.prod(size) > available or (math.prod(size) and extent > available):
        raise Problem(f"refused: a tensor {list(size)} in a storage of {available} values")
    return torch._utils._rebuild_tensor_v2(storage, offset, size, stride, False, OrderedDict())


class _Dtype:
    """In place of numpy.dtype: numbers only, and a byte order for all its state."""

    def __init__(self, spec: str, align: bool = False, copy: bool = True):
        self.dtype = np.dtype(spec)
        if self.dtype.kind not in "biuf":
            raise Problem(f"refused: numpy data of type {spec!r}")

    def __setstate__(self, state: tuple) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray):
    """A numpy array whose state is checked before numpy sees it."""

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, data = state
        if not isinstance(data, bytes) or len(data) != math.prod(shape) * dtype.dtype.itemsize:
            raise Problem("refused: a numpy array whose data does not fit its shape")
        super().__setstate__((1, shape, dtype.dtype, fortran, data))


def _array(subtype: Any, shape: Any, typecode: Any) -> np.ndarray:
    return _Array((0,), dtype="b")


def _scalar(dtype: _Dtype, data: bytes) -> int | float | bool:
    return np.frombuffer(data, dtype.dtype, count=1)[0].item()


ALLOWED: dict[tuple[str, str], Callable] = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch.storage", "_load_from_bytes"): _storage,
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): None,  # only named, as the type to reconstruct; calling it could claim gigabytes
}
for _core in ("numpy.core.multiarray", "numpy._core.multiarray"):  # before and since numpy 2
    ALLOWED[_core, "_reconstruct"] = _array
    ALLOWED[_core, "scalar"] = _scalar
