"""Read pickles without running code from them: tensors, numpy arrays (as tensors) and scalars, and plain containers.

The reader is Python's unpickler with a `find_class` that returns functions of this module for a short list of names.
Tensors and arrays stay wrapped while a file is read, so that no pickle instruction can change one after its size has
been checked. There is no defence against files made to waste time or memory.
"""

import io
import math
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shortcut import Problem
from shortcut.files.store import inside, shown


def load_all(path: Path) -> Iterator[Any]:
    """Yield the values pickled in `path`. Raises Problem if the file is damaged or asks for anything but data."""
    with inside(path), open(path, "rb") as file:
        while file.peek(1):
            yield _plain(_Unpickler(file).load())  # no reference is kept: a batch of states is large


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> "_Fixed":
        if (asked := f"{module}.{name}") not in FUNCTIONS:
            raise Problem(f"refused: it asks for {shown(asked)}, which is not data")
        return _Fixed(FUNCTIONS[asked])

    def persistent_load(self, key: tuple) -> torch.dtype:  # key of the storage in a torch archive
        return key[1].value


class _Fixed:
    """A value or function whose state a pickle can set (instruction BUILD) only through `build`."""

    def __init__(self, value: Any, build: Callable[[tuple], Any] | None = None):
        self.value, self.build = value, build

    def __call__(self, *arguments: Any) -> Any:
        return self.value(*arguments)

    def __setstate__(self, state: tuple) -> None:
        if self.build is None:
            raise Problem("refused: it sets the state of something that has none")
        self.value = self.build(state)


def _array(content: bytes, dtype: _Fixed, shape: tuple[int, ...] = (), order: str = "C") -> _Fixed:
    return _Fixed(np.frombuffer(content, dtype.value).reshape(shape, order=order).astype(dtype.value.newbyteorder("=")))


def _array_of_state(state: tuple) -> np.ndarray:  # version, shape, dtype, Fortran order, bytes
    return _array(state[4], state[2], state[1], "F" if state[3] else "C").value


def _storage(content: bytes) -> _Fixed:
    """Replace torch.storage._load_from_bytes: read a storage that `torch.save` wrote, also before torch 1.6."""
    if content[:2] != b"PK":
        storage = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        return _Fixed(torch.tensor([], dtype=storage.dtype).set_(storage._untyped_storage))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:  # three times as fast as torch, and checks checksums
        dtype, data = _Unpickler(archive.open("archive/data.pkl")).load(), archive.read("archive/data/0")
    return _Fixed(torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype))


def _tensor(storage: _Fixed, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> _Fixed:
    """Replace torch._utils._rebuild_tensor_v2: check that the tensor lies within its storage, and copy a view."""
    values, n = storage.value, math.prod(size)
    last = offset + sum((k - 1) * step for k, step in zip(size, stride, strict=True)) if n else -1
    if min(offset, *size, *stride) < 0 or max(n - 1, last) >= len(values):
        raise Problem(f"refused: a tensor {shown(str([*size]))} in a storage of {len(values)} values")
    view = values.as_strided(size, stride, offset) if n else values[:0].reshape(size)
    return _Fixed(view if n == len(values) else view.clone())


FUNCTIONS: dict[str, Any] = {
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch.storage._load_from_bytes": _storage,
    **{f"torch.{name}Storage": getattr(torch, name.lower()) for name in ("Half", "BFloat16", "Float", "Double")},
    **{"torch.IntStorage": torch.int32, "torch.LongStorage": torch.int64, "torch.ByteStorage": torch.uint8},
    "collections.OrderedDict": dict,  # hooks of a tensor, always empty
    "numpy.dtype": lambda spec, *_: _Fixed(np.dtype(spec), lambda state: np.dtype(spec).newbyteorder(state[1])),
    "numpy.ndarray": None,  # named as the type of an array, never called
    "numpy._core.numeric._frombuffer": _array,
}
for _core in ("numpy.core", "numpy._core"):  # before and since numpy 2
    FUNCTIONS[f"{_core}.multiarray._reconstruct"] = lambda *_: _Fixed(None, _array_of_state)
    FUNCTIONS[f"{_core}.multiarray.scalar"] = lambda dtype, content: _array(content, dtype).value.item()


def _plain(value: Any) -> Any:
    """The value with tensors unwrapped and arrays as tensors. Raises Problem if it holds anything but data."""
    if isinstance(value, dict):
        return {key: _plain(x) for key, x in value.items()}
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(map(_plain, value))
    data = value.value if isinstance(value, _Fixed) else value
    if data is not None and not isinstance(data, (bool, int, float, str, torch.Tensor, np.ndarray)):
        raise Problem(f"refused: it holds {shown(str(data))}, which is not data")
    return torch.from_numpy(data) if isinstance(data, np.ndarray) else data
