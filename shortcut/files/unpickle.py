"""Reading pickles without ever running code: tensors, numpy arrays and scalars, sets and plain containers.

Python's own unpickler, with the instructions that data needs and no others, and functions of this file in
place of those that a file may call; anything else is refused by name. What a file may cost is a small
multiple of its size.
"""

import io
import math
import mmap
import os
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from shortcut import Problem

INSTRUCTIONS = """
PROTO FRAME STOP NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT SHORT_BINUNICODE BINUNICODE BINUNICODE8
SHORT_BINBYTES BINBYTES BINBYTES8 MARK POP POP_MARK EMPTY_LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
EMPTY_DICT SETITEM SETITEMS EMPTY_SET ADDITEMS FROZENSET BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET GLOBAL
STACK_GLOBAL REDUCE BUILD"""
CODES = {info.name: ord(info.code) for info in pickletools.opcodes}
NUMBERS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")  # of numpy
STORAGES = {
    "HalfStorage": torch.float16, "BFloat16Storage": torch.bfloat16, "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64, "IntStorage": torch.int32, "LongStorage": torch.int64, "ByteStorage": torch.uint8,
}  # fmt: skip


def load_all(path: Path) -> Iterator[Any]:
    """The values pickled one after another in `path`; raises Problem if it is damaged or asks for more than data."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not size:
                return
            mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    except OSError as error:
        raise Problem(f"cannot read {path}: {error.strerror}") from error
    budget = _Budget(4 * size)
    while mapped.tell() < size:
        yield _next(mapped, budget, path)  # not kept here: a batch of states is large


def _next(mapped: mmap.mmap, budget: "_Budget", path: Path) -> Any:
    try:
        return _Unpickler(mapped, budget).load()
    except Problem as problem:
        raise Problem(f"{path}: {problem}") from problem
    except Exception as error:  # a damaged pickle can raise anything
        why = _shown(f"{type(error).__name__}: {error}")
        raise Problem(f"{path}: is truncated, damaged or not a pickle of this pipeline ({why})") from error


class _Budget:
    """Bytes of values that a file may still make: one of 30 bytes may name another 2^30 times."""

    def __init__(self, left: int):
        self.left = left

    def take(self, n: int) -> None:
        self.left -= n
        if self.left < 0:
            raise Problem("refused: its values are larger than the file")


class _Dispatch(dict):
    def __missing__(self, code: int) -> Any:
        name = next((name for name, known in CODES.items() if known == code), f"instruction {code:#04x}")
        raise Problem(f"refused: it uses {name}, which data does not need, or is damaged")


class _Function(NamedTuple):
    """What a pickle may call, by its name there; `does` stands in for it, nothing where it is only named."""

    name: str
    does: Any


class _Unpickler(pickle._Unpickler):
    dispatch = _Dispatch({CODES[name]: pickle._Unpickler.dispatch[CODES[name]] for name in INSTRUCTIONS.split()})

    def __init__(self, file: Any, budget: _Budget):
        super().__init__(file)
        self.budget = budget

    def find_class(self, module: str, name: str) -> Any:
        if (asked := f"{module}.{name}") not in STANDING_IN:
            raise Problem(f"refused: it asks for {_shown(asked)}, which is not data")
        return _Function(asked, STANDING_IN[asked])

    def load_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack[-1]
        if type(function) is not _Function or function.does is None or type(arguments) is not tuple:
            raise Problem(f"refused: it calls {getattr(function, 'name', 'something that is no function')}")
        self.stack[-1] = function.does(self.budget, *arguments)

    def load_setitem(self) -> None:
        _check_items(self.stack[-3], self.stack[-2:-1])  # a tensor would take items too
        super().load_setitem()

    def load_setitems(self) -> None:
        _check_items(self.metastack[-1][-1], self.stack[::2])
        super().load_setitems()

    def load_build(self) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], (_Dtype, _Array)):
            raise Problem("refused: it sets the state of something that has none")
        self.stack[-1].restore(self.budget, state)


def _checking(code: int) -> Any:
    """The instruction, once what it takes from the stack is checked as keys are."""
    return lambda unpickler: (_check_keys(unpickler.stack), pickle._Unpickler.dispatch[code](unpickler))


_Unpickler.dispatch |= {
    CODES["REDUCE"]: _Unpickler.load_reduce,
    CODES["BUILD"]: _Unpickler.load_build,
    CODES["BYTEARRAY8"]: pickle._Unpickler.load_binbytes8,  # the same, in a protocol later
    CODES["SETITEM"]: _Unpickler.load_setitem,
    CODES["SETITEMS"]: _Unpickler.load_setitems,
    **{CODES[name]: _checking(CODES[name]) for name in ("ADDITEMS", "FROZENSET")},
}


class _Declaration(_Unpickler):
    """What the pickle within a tensor's storage says of it: type, key and length."""

    dispatch = _Dispatch({**_Unpickler.dispatch, CODES["BINPERSID"]: pickle._Unpickler.dispatch[CODES["BINPERSID"]]})

    def find_class(self, module: str, name: str) -> torch.dtype:
        if module != "torch" or name not in STORAGES:
            raise Problem(f"refused: it asks for {_shown(f'{module}.{name}')}, which is no storage")
        return STORAGES[name]

    def persistent_load(self, key: Any) -> tuple[torch.dtype, str, int]:
        kinds = [str, torch.dtype, str, str, int]  # "storage", its type, its key, the device it was on, its length
        if type(key) is not tuple or [*map(type, key[:5])] != kinds or key[5:] not in ((), (None,)):
            raise Problem("refused: a tensor's storage of another kind")
        return key[1], key[2], key[4]


def _check_items(target: Any, keys: list[Any]) -> None:
    if not isinstance(target, dict):
        raise Problem("refused: it sets items of what is no dict")
    _check_keys(keys)


def _check_keys(keys: list[Any]) -> None:
    """Raise Problem for one that is neither str, int of 32 bits nor a pair of these: others could be slow to hash."""
    for key in keys:
        for part in key if type(key) is tuple and len(key) == 2 else (key,):
            if type(part) is not str and not (type(part) is int and abs(part) < 2**31):
                raise Problem("refused: a key or member of a set is neither str, int nor a pair of these")


def _shown(text: str) -> str:
    return ascii(" ".join(text.split()))[1:-1][:90]  # out of a file, safe to print on one line


def _storage(budget: _Budget, content: Any) -> torch.Tensor:
    """In place of torch.storage._load_from_bytes: the values that `torch.save` wrote, now or before 1.6, as a row."""
    budget.take(len(content))
    stream = io.BytesIO(content)
    if content[:2] == b"PK":
        with zipfile.ZipFile(stream) as archive:
            files = {info.filename.partition("/")[2]: info for info in archive.infolist()}
            if any(info.compress_type or info.file_size > len(content) for info in files.values()):
                raise Problem("refused: a tensor's storage in an archive that torch did not save")
            dtype, key, length = _Declaration(io.BytesIO(archive.read(files["data.pkl"])), budget).load()
            little = "byteorder" not in files or archive.read(files["byteorder"]) == b"little"
            data = archive.read(files[f"data/{key}"])  # held against its checksum
    else:
        magic, version, system, (dtype, key, length), keys = (_Declaration(stream, budget).load() for _ in range(5))
        little, told = system["little_endian"] is True, int.from_bytes(stream.read(8), "little")
        if (magic, version, keys, told) != (0x1950A86A20F9469CFC6C, 1001, [key], length):
            raise Problem("refused: a tensor's storage that is not what it declares")
        data = stream.read()
    if not little or len(data) != length * dtype.itemsize:
        raise Problem(f"refused: a tensor's storage of {len(data)} bytes declares {length:.4g} values of another kind")
    return torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)


def _tensor(budget: _Budget, storage, offset, size, stride, requires_grad=False, hooks=None, metadata=None):
    """In place of torch._utils._rebuild_tensor_v2: within its storage, and with no more of it than it shows."""
    if not _are_sizes((offset, *size, *stride)) or len(size) != len(stride):
        raise Problem("refused: a tensor with impossible strides")
    n, length = math.prod(size), len(storage)
    if n > length or (n and offset + sum((k - 1) * step for k, step in zip(size, stride, strict=True)) >= length):
        raise Problem(f"refused: a tensor [{', '.join(f'{k:.6g}' for k in size)}] in a storage of {length} values")
    budget.take(n * storage.itemsize + 64)
    view = storage.as_strided(size, stride, offset) if n else torch.empty(size, dtype=storage.dtype)
    return view if n == length else view.clone()


def _are_sizes(numbers: Any) -> bool:
    return type(numbers) is tuple and len(numbers) < 20 and all(type(n) is int and 0 <= n < 2**63 for n in numbers)


class _Dtype:
    """In place of numpy.dtype: numbers only, and a byte order for all its state."""

    def __init__(self, budget: _Budget, spec: Any, align: Any = False, copy: Any = True):
        if spec not in NUMBERS:
            raise Problem("refused: numpy data that is not numbers")
        self.dtype = np.dtype(spec).newbyteorder("<")

    def restore(self, budget: _Budget, state: Any) -> None:
        if state[1] not in ("<", "|", "="):
            raise Problem("refused: numpy data that is not little-endian")


class _Array(np.ndarray):
    """In place of an array that numpy would fill from whatever state it is given."""

    def restore(self, budget: _Budget, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        values = _from_buffer(budget, data, dtype, shape)
        self.__setstate__((1, shape, values.dtype, bool(fortran), data))


def _from_buffer(budget: _Budget, data: Any, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray:
    fits = type(dtype) is _Dtype and type(data) is bytes and _are_sizes(shape)
    if not fits or len(data) != math.prod(shape) * dtype.dtype.itemsize:
        raise Problem("refused: a numpy array whose data does not fit its shape")
    budget.take(len(data))
    return np.frombuffer(data, dtype.dtype).reshape(shape, order="F" if order == "F" else "C").copy()


STANDING_IN = {
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch.storage._load_from_bytes": _storage,
    "collections.OrderedDict": lambda budget: OrderedDict(),
    "numpy.dtype": _Dtype,
    "numpy.ndarray": None,  # only named, as the type to reconstruct
}
for _core in ("numpy.core", "numpy._core"):  # before and since numpy 2
    STANDING_IN[f"{_core}.multiarray._reconstruct"] = lambda budget, *_: _Array((0,), dtype="b")
    STANDING_IN[f"{_core}.multiarray.scalar"] = lambda budget, *of: _from_buffer(budget, of[1], of[0], ()).item()
    STANDING_IN[f"{_core}.numeric._frombuffer"] = _from_buffer
