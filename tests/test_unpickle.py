"""Pickles are read without running code, whatever wrote them and whatever was changed in them."""

import collections
import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write

from shortcut import Problem
from shortcut.files import formats, store, unpickle


class Evil:
    def __init__(self, function, *args, **state):
        self.call = (function, args, *state.values())

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("value", "asks"),
    [
        (Evil(os.system, "touch pwned"), "posix.system"),
        (Evil(eval, "1"), "builtins.eval"),
        (Evil(torch.load, "x"), "torch.serialization.load"),
        (Path("x"), "pathlib"),
        (collections.Counter("aab"), "collections.Counter"),
    ],
)
def test_code_is_refused_by_name_and_not_run(tmp_path, monkeypatch, value, asks):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.pickle").write_bytes(pickle.dumps(value))
    with pytest.raises(Problem, match=rf"x\.pickle: refused: it asks for {asks}"):
        formats.load(tmp_path / "x.pickle")
    assert not (tmp_path / "pwned").exists()


def test_code_inside_a_tensors_storage_is_refused_too(tmp_path):
    buffer = io.BytesIO()
    torch.save(Evil(os.system, "true"), buffer)
    (tmp_path / "x.pickle").write_bytes(pickle.dumps(Evil(torch.storage._load_from_bytes, buffer.getvalue())))
    with pytest.raises(Problem, match=r"x\.pickle"):
        formats.load(tmp_path / "x.pickle")


def test_numpys_array_type_is_named_but_never_called(tmp_path):
    (tmp_path / "x.pickle").write_bytes(b"\x80\x04cnumpy\nndarray\nJ\x00\x00\x00\x10\x85R.")
    with pytest.raises(Problem, match=r"x\.pickle: is damaged or has another layout"):
        formats.load(tmp_path / "x.pickle")


def test_a_pickle_cannot_change_a_function(tmp_path):
    """The instruction BUILD would set its defaults, for the whole process."""
    path, before = tmp_path / "x.pickle", unpickle._tensor.__defaults__
    state = pickle.dumps((None, {"__defaults__": (1, 2)}), 2)[2:-1]
    path.write_bytes(b"\x80\x04ctorch._utils\n_rebuild_tensor_v2\n" + state + b"b.")
    with pytest.raises(Problem, match=r"x\.pickle: refused: it sets the state of something that has none"):
        formats.load(path)
    assert unpickle._tensor.__defaults__ is before
    assert torch._utils._rebuild_tensor_v2.__defaults__ == (None,)


def test_a_pickle_cannot_change_a_tensor_once_its_size_is_checked(tmp_path):
    """The instruction BUILD would give it another storage and size."""
    make, arguments, *_ = torch.zeros(2).__reduce_ex__(4)
    path = tmp_path / "x.pickle"
    path.write_bytes(pickle.dumps(Evil(make, *arguments, state=(torch.zeros(9), 0, (9,), (1,)))))
    with pytest.raises(Problem, match=r"x\.pickle: refused: it sets the state of something that has none"):
        formats.load(path)


def test_a_tensor_larger_than_its_storage_is_refused(tmp_path):
    storage = torch.zeros(2)._typed_storage()
    huge = (torch._utils._rebuild_tensor_v2, (storage, 0, (10**6,), (0,), False, collections.OrderedDict()))

    class Huge:
        def __reduce__(self):
            return huge

    with store.replacing(tmp_path / "x.pickle") as file:
        store.dump(file, Huge())
    with pytest.raises(Problem, match="in a storage of 2 values"):
        formats.load(tmp_path / "x.pickle")


def test_both_forms_of_a_storage_are_read_on_whatever_device_it_was(tmp_path):
    A = torch.randn(3, 4)
    path = tmp_path / "x.pickle"
    for older in (True, False):
        buffer = io.BytesIO()
        torch.save(A._typed_storage(), buffer, _use_new_zipfile_serialization=not older)
        content = Evil(torch.storage._load_from_bytes, buffer.getvalue())
        tensor = Evil(torch._utils._rebuild_tensor_v2, content, 4, (2, 4), (4, 1), False, collections.OrderedDict())
        path.write_bytes(pickle.dumps(tensor))
        assert formats.load(path).equal(A[1:])
    older = pickle.dumps(A)
    cuda = older.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
    start = older.index(b"\x80\x02\x8a\x0a")
    for at, n in ((3, 8), (start - 4, 4)):  # the frame and the bytes of the storage are longer by 3
        length = int.from_bytes(cuda[at : at + n], "little") + 3
        cuda = cuda[:at] + length.to_bytes(n, "little") + cuda[at + n :]
    path.write_bytes(cuda)
    assert formats.load(path).equal(A)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32, torch.uint8])
def test_tensors_of_other_types_are_read_too(tmp_path, dtype):
    tensor = torch.arange(6).reshape(2, 3).to(dtype)
    path = tmp_path / "x.pickle"
    path.write_bytes(pickle.dumps([tensor, tensor.T, tensor[:, :0]]))
    for got, expected in zip(formats.load(path), (tensor, tensor.T, tensor[:, :0]), strict=True):
        assert got.dtype == dtype
        assert got.equal(expected)


def test_every_way_that_numpy_writes_an_array_is_read(tmp_path):
    path = tmp_path / "x.pickle"
    for protocol in range(3, 6):
        for array in (np.arange(6.0).reshape(2, 3), np.asfortranarray(np.arange(600).reshape(20, 30)), np.arange(0)):
            path.write_bytes(pickle.dumps({"a": array, "s": np.float32(0.5)}, protocol))
            value = formats.load(path)
            assert np.array_equal(value["a"], array)
            assert value["s"] == 0.5


@pytest.mark.parametrize("older", [True, False])
def test_a_storage_that_is_not_what_it_says_is_refused(tmp_path, older):
    """Every byte of a short tensor's pickle, changed: an error, or the same values, or others of the same shape."""
    A = torch.arange(3.0)
    path = tmp_path / "x.pickle"
    whole = pickle.dumps(A) if older else write(path, A).read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            value = formats.load(path)
        except Problem:
            continue
        assert isinstance(value, torch.Tensor)
        assert value.numel() == 3
        assert older or value.equal(A)  # the newer form has checksums


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-3], lambda b: b[: len(b) // 2], lambda b: b"\x80\x04\x8e" + b"\xff" * 8]
)
def test_truncated_and_lying_files_are_refused(tmp_path, damage):
    path = write(tmp_path / "x.pickle", torch.randn(30, 30))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(Problem, match=r"x\.pickle.*(truncated|damaged)"):
        formats.load(path)
