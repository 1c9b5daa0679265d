"""Reading pickles without ever running code: tensors, numpy arrays and scalars, sets and plain containers.

A file is a program for `machine.Machine`; what it may call is the table at the end of this file,
functions of this file that stand for those of torch and numpy. Anything else is refused by name.
Neither `pickle` nor `torch.load` has a part in it.
"""

import math
import mmap
import os
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shortcut import Problem, storages
from shortcut.machine import Budget, Machine, hashable
from shortcut.storages import Storage

RELEASE = 2**22  # bytes of a file after which what has been read may leave the memory
DIMENSIONS = 8  # more than any tensor here has
NUMBERS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")  # of numpy


def load_all(path: Path) -> Iterator[Any]:
    """The values pickled one after another in `path`, in order.

    The file is mapped into memory, and what it holds copied once, into the tensor that it becomes.

    Raises:
        Problem: the file is truncated, damaged, too costly to read, or asks for anything but data.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not size:
                return
            mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    except OSError as error:
        raise Problem(f"cannot read {path}: {error.strerror}") from error
    machine = Machine(memoryview(mapped), ALLOWED, Budget(size))
    released = 0
    while machine.position < size:
        yield _next(machine, path)  # not kept here: a batch of states is large
        if machine.position - released > RELEASE:
            mapped.madvise(mmap.MADV_DONTNEED, 0, machine.position)
            released = machine.position


def _next(machine: Machine, path: Path) -> Any:
    try:
        return machine.load()
    except Problem as problem:
        raise Problem(f"{path}: {problem}") from problem
    except Exception as error:  # a damaged pickle can raise anything
        why = " ".join(f"{type(error).__name__}: {error}".split())[:80]
        raise Problem(f"{path} is damaged or not a pickle of this pipeline ({why})") from error


def _tensor(budget: Budget, storage, offset, size, stride, requires_grad=False, hooks=None, metadata=None):
    """In place of torch._utils._rebuild_tensor_v2: within its storage, and with no more of it than it shows."""
    if type(storage) is not Storage or not _are_sizes((offset,)) or not _are_sizes(size) or not _are_sizes(stride):
        raise Problem("refused: a tensor with impossible strides")
    if len(size) != len(stride):
        raise Problem("refused: a tensor with impossible strides")
    n = math.prod(size)
    extent = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1
    if n > len(storage) or (n and extent > len(storage)):
        raise Problem(f"refused: a tensor {_short(size)} in a storage of {len(storage)} values")
    if not n:
        return torch.empty(size, dtype=storage.dtype)
    itemsize = storage.dtype.itemsize
    seen = storage.data[offset * itemsize : extent * itemsize]
    budget.copy(2 * len(seen))
    content = torch.empty(len(seen), dtype=torch.uint8)
    content.numpy()[:] = np.frombuffer(seen, np.uint8)
    view = content.view(storage.dtype).as_strided(size, stride)
    return view.clone() if view.nbytes < len(seen) else view


def _are_sizes(numbers: Any) -> bool:
    return (
        type(numbers) is tuple
        and len(numbers) <= DIMENSIONS
        and all(type(n) is int and 0 <= n < 2**63 for n in numbers)
    )


def _short(size: tuple[int, ...]) -> str:
    return f"[{', '.join(f'{n:.6g}' for n in size)}]"


class _Dtype:
    """In place of numpy.dtype: numbers only, and a byte order for all its state."""

    def __init__(self, spec: str):
        if spec not in NUMBERS:
            raise Problem("refused: numpy data that is not numbers")
        self.dtype = np.dtype(spec).newbyteorder("<")

    def restore(self, budget: Budget, state: Any) -> None:
        """Accept the state that numpy gives to numbers. Raises Problem for another byte order."""
        if type(state) is not tuple or len(state) < 2 or state[1] not in ("<", "|", "="):
            raise Problem("refused: numpy data that is not little-endian")


class _Array(np.ndarray):
    """A numpy array whose state is checked before numpy sees it."""

    def restore(self, budget: Budget, state: Any) -> None:
        """Take shape and values. Raises Problem if they do not fit."""
        _, shape, dtype, fortran, data = state
        _check_array(budget, shape, dtype, data)
        self.__setstate__((1, shape, dtype.dtype, bool(fortran), bytes(data)))


def _check_array(budget: Budget, shape: Any, dtype: Any, data: Any) -> None:
    fits = type(dtype) is _Dtype and isinstance(data, memoryview) and _are_sizes(shape)
    if not fits or len(data) != math.prod(shape) * dtype.dtype.itemsize:
        raise Problem("refused: a numpy array whose data does not fit its shape")
    budget.copy(2 * len(data))


def _dtype(budget: Budget, spec: Any, align: Any = False, copy: Any = True) -> _Dtype:
    return _Dtype(spec)


def _array(budget: Budget, subtype: Any, shape: Any, typecode: Any) -> np.ndarray:
    return _Array((0,), dtype="b")


def _from_buffer(budget: Budget, data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    _check_array(budget, shape, dtype, data)
    return np.frombuffer(data, dtype.dtype).reshape(shape, order="F" if order == "F" else "C").copy()


def _scalar(budget: Budget, dtype: Any, data: Any) -> int | float | bool:
    _check_array(budget, (), dtype, data)
    return np.frombuffer(data, dtype.dtype)[0].item()


def _set(kind: type) -> Any:
    def make(budget: Budget, members: Any = ()) -> Any:
        if type(members) not in (list, tuple):
            raise Problem("refused: a set that is not made of a list")
        budget.step(len(members))
        return kind(map(hashable, members))

    return make


def _ordered_dict(budget: Budget) -> OrderedDict:
    return OrderedDict()


ALLOWED: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch.storage", "_load_from_bytes"): storages.read,
    ("collections", "OrderedDict"): _ordered_dict,
    ("numpy", "dtype"): _dtype,
    ("numpy", "ndarray"): None,  # only named, as the type to reconstruct
}
for _module in ("builtins", "__builtin__"):  # before protocol 4 sets have no instruction of their own
    ALLOWED |= {(_module, "set"): _set(set), (_module, "frozenset"): _set(frozenset)}
for _core in ("numpy.core", "numpy._core"):  # before and since numpy 2
    ALLOWED |= {
        (f"{_core}.multiarray", "_reconstruct"): _array,
        (f"{_core}.multiarray", "scalar"): _scalar,
        (f"{_core}.numeric", "_frombuffer"): _from_buffer,
    }
