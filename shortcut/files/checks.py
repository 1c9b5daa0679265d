"""Checks of values read from files. A failed check raises Problem with one line: the value got and the expected one."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from shortcut import Problem


@contextmanager
def inside(place: object) -> Iterator[None]:
    """Prefix the message of a Problem raised in the `with` block with a file name or a place in the file."""
    try:
        yield
    except Problem as problem:
        raise Problem(f"{place}: {problem}") from problem


def expect(fits: bool, otherwise: str) -> None:
    """Raise Problem with the message `otherwise` unless `fits`."""
    if not fits:
        raise Problem(otherwise)


def tensor(value: Any) -> Any:
    """Convert a numpy array, which some files of other code hold, to a tensor; return any other value unchanged."""
    known = isinstance(value, np.ndarray) and value.dtype in (np.int32, np.int64, np.float32, np.float64)
    return torch.from_numpy(np.array(value)) if known else value


def is_tensor(value: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> bool:
    """True if the value is a tensor of this dtype and shape."""
    return isinstance(value, torch.Tensor) and value.dtype == dtype and value.shape == shape


def is_finite(value: Any) -> bool:
    """True if the value is a finite number."""
    return type(value) in (int, float) and math.isfinite(value)


def rows(value: Any) -> int:
    """Number of rows of a tensor; 0 for any other value."""
    return len(value) if isinstance(value, torch.Tensor) and value.ndim else 0


def got(value: Any) -> str:
    """Short description of a value: dtype and shape, the number, or the name of the type."""
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {list(value.shape)}".removeprefix("torch.")
    return f"{value:.6g}" if type(value) in (int, float) else type(value).__name__
