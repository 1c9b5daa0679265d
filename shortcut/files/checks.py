"""What the readers of formats ask of a value: each a line that says what was got, where it does not hold."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from shortcut import Problem


@contextmanager
def inside(place: object) -> Iterator[None]:
    """Puts the file's name, or the place in it, before what is wrong with its contents."""
    try:
        yield
    except Problem as problem:
        raise Problem(f"{place}: {problem}") from problem


def expect(fits: bool, otherwise: str) -> None:
    """Raise Problem with what is wrong otherwise."""
    if not fits:
        raise Problem(otherwise)


def tensor(value: Any) -> Any:
    """A tensor of what may be an array of numpy's, as some files of other code hold; else the value."""
    known = isinstance(value, np.ndarray) and value.dtype in (np.int32, np.int64, np.float32, np.float64)
    return torch.from_numpy(np.array(value)) if known else value


def is_tensor(value: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> bool:
    """Whether it is a tensor of that type and shape."""
    return isinstance(value, torch.Tensor) and value.dtype == dtype and value.shape == shape


def is_finite(value: Any) -> bool:
    """Whether it is a finite number."""
    return type(value) in (int, float) and math.isfinite(value)


def rows(value: Any) -> int:
    """The rows of a tensor; 0 of anything else."""
    return len(value) if isinstance(value, torch.Tensor) and value.ndim else 0


def got(value: Any) -> str:
    """What a value is, in a few words."""
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {list(value.shape)}".removeprefix("torch.")
    return f"{value:.6g}" if type(value) in (int, float) else type(value).__name__
