"""Files: whole or not there, the same bytes for the same values, and never code."""

import collections
import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from shortcut import Problem, store
from shortcut.text import Tokenized


def write(path, *values):
    with store.replacing(path) as file:
        store.dump(file, *values)
    return path


def test_tensors_come_back_here_and_from_a_bare_pickle_load(tmp_path):
    values = [torch.randn(3, 4), torch.arange(5), {"a": [torch.ones(2)], "b": {1, 4}}, "text", 1.5]
    path = write(tmp_path / "x.pickle", *values)
    with open(path, "rb") as file:
        bare = [pickle.load(file) for _ in values]
    for loaded in (list(store.load_all(path)), bare):
        assert loaded[0].equal(values[0])
        assert loaded[1].equal(values[1])
        assert loaded[2]["a"][0].equal(values[2]["a"][0])
        assert loaded[2]["b"] == {1, 4}
        assert loaded[3:] == values[3:]


def test_a_view_is_written_without_the_rest_of_its_storage(tmp_path):
    whole = torch.randn(1000, 20)
    view, own = write(tmp_path / "view", whole[3:5]), write(tmp_path / "own", whole[3:5].clone())
    assert view.read_bytes() == own.read_bytes()
    assert store.load(view).equal(whole[3:5])


def test_two_processes_write_the_same_bytes(tmp_path):
    code = (
        "import sys, torch; from pathlib import Path; from shortcut import store\n"
        "with store.replacing(Path(sys.argv[1])) as f: store.dump(f, [torch.arange(9.).reshape(3, 3), {'x': {1, 4}}])"
    )
    for name in "ab":
        subprocess.run([sys.executable, "-c", code, tmp_path / name], check=True)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_plain_pickle_of_other_code_is_read(tmp_path):
    path = tmp_path / "x.pickle"
    path.write_bytes(pickle.dumps({"s": np.float64(0.5), "m": torch.eye(3)[1:], "a": np.arange(4.0), "i": {1: None}}))
    value = store.load(path)
    assert value["s"] == 0.5
    assert value["m"].equal(torch.eye(3)[1:])
    assert np.array_equal(value["a"], np.arange(4.0))


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = write(tmp_path / "x.pickle", 1)
    with pytest.raises(RuntimeError, match="stop"), store.replacing(path) as file:
        file.write(b"half")
        raise RuntimeError("stop")
    assert store.load(path) == 1
    assert os.listdir(tmp_path) == ["x.pickle"]


def test_a_full_disk_is_one_line(tmp_path):
    message = "No space left on device; nothing was left half-written"
    with pytest.raises(Problem, match=message), store.replacing(tmp_path / "x.pickle"):
        raise OSError(28, "No space left on device")
    assert os.listdir(tmp_path) == []


class Evil:
    def __init__(self, function, *args):
        self.call = (function, args)

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
        store.load(tmp_path / "x.pickle")
    assert not (tmp_path / "pwned").exists()


def test_code_inside_a_tensors_storage_is_refused_too(tmp_path):
    buffer = io.BytesIO()
    torch.save(Evil(os.system, "true"), buffer)
    (tmp_path / "x.pickle").write_bytes(pickle.dumps(Evil(torch.storage._load_from_bytes, buffer.getvalue())))
    with pytest.raises(Problem, match=r"x\.pickle"):
        store.load(tmp_path / "x.pickle")


def test_numpys_array_type_is_named_but_never_called(tmp_path):
    (tmp_path / "x.pickle").write_bytes(b"\x80\x04cnumpy\nndarray\nJ\x00\x00\x00\x10\x85R.")
    with pytest.raises(Problem, match=r"x\.pickle: refused: it calls numpy\.ndarray"):
        store.load(tmp_path / "x.pickle")


@pytest.mark.parametrize(
    "record",
    [
        "text", {"topk": 1}, {"info": 3, "topk": torch.zeros(2, 10)},
        {"info": {"type": "early_exit", "mode": "mat", "lambda": 0.0}, "topk": torch.zeros(2, 10)},
        {"info": {"type": "jump", "mode": "mat", "layer": 1}, "topk": "abc"},
    ],
)  # fmt: skip
def test_records_of_another_layout_are_named(tmp_path, record):
    path = write(tmp_path / "x.pickle", record)
    with pytest.raises(Problem, match="record 0 is not one of info, layers_processed"):
        store.load_results(path)


def test_scores_of_another_layout_are_named(tmp_path):
    with pytest.raises(Problem, match="expected scores as"):
        store.load_r2(write(tmp_path / "x.pickle", {"score_mat": [], "score_id": {}}))


def test_a_tensor_larger_than_its_storage_is_refused(tmp_path):
    storage = torch.zeros(2)._typed_storage()
    huge = (torch._utils._rebuild_tensor_v2, (storage, 0, (10**6,), (0,), False, collections.OrderedDict()))

    class Huge:
        def __reduce__(self):
            return huge

    with store.replacing(tmp_path / "x.pickle") as file:
        store.dump(file, Huge())
    with pytest.raises(Problem, match="in a storage of 2 values"):
        store.load(tmp_path / "x.pickle")


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-3], lambda b: b[: len(b) // 2], lambda b: b"\x80\x04\x8e" + b"\xff" * 8]
)
def test_truncated_and_lying_files_are_refused(tmp_path, damage):
    path = write(tmp_path / "x.pickle", torch.randn(30, 30))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(Problem, match=r"x\.pickle.*(truncated|damaged)"):
        store.load(path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(3, 4), r"float32 \[3, 4\], expected a float32 matrix \[4, 4\]"),
        (torch.zeros(4, 4, dtype=torch.int64), "int64"),
        ("A", "holds str"),
        (torch.full((4, 4), float("nan")), "not finite"),
    ],
)
def test_matrices_that_do_not_fit_are_named(tmp_path, value, message):
    with pytest.raises(Problem, match=message):
        store.load_matrix(write(tmp_path / "0_1.pickle", value), 4)


@pytest.mark.parametrize(
    ("ids", "positions", "message"),
    [
        ([torch.arange(3)], torch.tensor([3]), "chosen position is 3"),
        ([torch.arange(3.0)], torch.tensor([0]), "not an int64 tensor"),
        ([torch.arange(0)], torch.tensor([0]), "at least one token"),
        ([torch.arange(3)], torch.tensor([0, 1]), "as many token_positions"),
        ([], torch.tensor([]), "at least one"),
        ([torch.arange(3)], torch.tensor([1.5]), "expected int64"),
        ([torch.arange(3)], "0", "token_positions is of type str"),
    ],
)
def test_tokenized_files_that_make_no_sense_are_named(tmp_path, ids, positions, message):
    path = write(tmp_path / "x.pickle", store.tokenized_dict(Tokenized(ids, positions)))
    with pytest.raises(Problem, match=message):
        store.load_tokenized(path)
