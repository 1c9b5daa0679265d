"""A device played on the CPU: its tensors say they lie there, and refuse to meet tensors that do not.

As on the real one, an operation over tensors of two devices is an error, but for numbers (tensors
without dimensions) and for index tensors from the CPU; only an explicit copy goes from one to the other.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

PLAYED = "meta"  # a device that torch knows on every machine; real "meta" tensors would have no values
aten = torch.ops.aten
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
COPIES = {aten._to_copy.default, aten.copy_.default}


class Played(torch.Tensor):
    """A tensor that says it lies on the device; its values lie in `inner`, on the CPU."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=PLAYED, requires_grad=False,
        )  # fmt: skip

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


class Device(TorchDispatchMode):
    """While active, tensors can be made on, and copied to, the played device."""

    def __init__(self):
        super().__init__()
        self.done = 0  # operations run on the device

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        asked = kwargs.get("device")
        if asked is not None and torch.device(asked).type == PLAYED:
            self.done += 1
            return wrap(func(*tree_map(unwrap, args), **{**tree_map(unwrap, kwargs), "device": "cpu"}))
        self.done += any(isinstance(x, Played) for x in tree_flatten((args, kwargs))[0])
        return run(func, args, kwargs)


def run(func, args, kwargs):
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
    played = [x for x in tensors if isinstance(x, Played)]
    if not played:
        return func(*args, **kwargs)
    if func in COPIES:
        out = func(*tree_map(unwrap, args), **tree_map(unwrap, kwargs))
        if func is aten.copy_.default:
            return args[0]
        return out if torch.device(kwargs.get("device") or PLAYED).type == "cpu" else wrap(out)
    free = {id(x) for x in tree_flatten(args[1])[0]} if func in INDEXING else set()
    strangers = [x for x in tensors if not isinstance(x, Played) and x.ndim and id(x) not in free]
    if strangers or (func in INDEXING and not isinstance(args[0], Played)):
        raise RuntimeError(f"{func}: expected all tensors on one device, found {PLAYED} and cpu")
    out = func(*tree_map(unwrap, args), **tree_map(unwrap, kwargs))
    if func._schema.is_mutable and played and out is not None:
        same = [x for x in played if x.inner is out]
        return same[0] if same else tree_map(wrap, out)
    return tree_map(wrap, out)


def unwrap(x):
    return x.inner if isinstance(x, Played) else x


def wrap(x):
    return Played(x) if isinstance(x, torch.Tensor) and not isinstance(x, Played) else x
