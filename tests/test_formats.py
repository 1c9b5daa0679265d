"""Files: whole or not there, the same bytes for the same values, and of the layout that their readers expect."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import NAN, write

from shortcut import Problem
from shortcut.files import formats, store, unpickle
from shortcut.tokens import Tokenized


def test_tensors_come_back_here_and_from_a_bare_pickle_load(tmp_path):
    values = [torch.randn(3, 4), torch.arange(5), {"a": [torch.ones(2)], "b": {1, 4}}, "text", 1.5]
    path = write(tmp_path / "x.pickle", *values)
    with open(path, "rb") as file:
        bare = [pickle.load(file) for _ in values]
    for loaded in (list(unpickle.load_all(path)), bare):
        assert loaded[0].equal(values[0])
        assert loaded[1].equal(values[1])
        assert loaded[2]["a"][0].equal(values[2]["a"][0])
        assert loaded[2]["b"] == {1, 4}
        assert loaded[3:] == values[3:]


def test_a_view_is_written_without_the_rest_of_its_storage(tmp_path):
    whole = torch.randn(1000, 20)
    view, own = write(tmp_path / "view", whole[3:5]), write(tmp_path / "own", whole[3:5].clone())
    assert view.read_bytes() == own.read_bytes()
    assert formats.load(view).equal(whole[3:5])


def test_two_processes_write_the_same_bytes(tmp_path):
    code = (
        "import sys, torch; from pathlib import Path; from shortcut.files import store\n"
        "with store.replacing(Path(sys.argv[1])) as f: store.dump(f, [torch.arange(9.).reshape(3, 3), {'x': {1, 4}}])"
    )
    for name in "ab":
        subprocess.run([sys.executable, "-c", code, tmp_path / name], check=True)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_plain_pickle_of_other_code_is_read(tmp_path):
    path = tmp_path / "x.pickle"
    path.write_bytes(pickle.dumps({"s": np.float64(0.5), "m": torch.eye(3)[1:], "a": np.arange(4.0), "i": {1: None}}))
    value = formats.load(path)
    assert value["s"] == 0.5
    assert value["m"].equal(torch.eye(3)[1:])
    assert np.array_equal(value["a"], np.arange(4.0))


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = write(tmp_path / "x.pickle", 1)
    with pytest.raises(RuntimeError, match="stop"), store.replacing(path) as file:
        file.write(b"half")
        raise RuntimeError("stop")
    assert formats.load(path) == 1
    assert os.listdir(tmp_path) == ["x.pickle"]


def test_a_full_disk_is_one_line(tmp_path):
    message = "No space left on device; nothing was left half-written"
    with pytest.raises(Problem, match=message), store.replacing(tmp_path / "x.pickle"):
        raise OSError(28, "No space left on device")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("content", ["{", "\xff", "[" * 100_000])
def test_damaged_json_is_one_line(tmp_path, content):
    (tmp_path / "x.json").write_text(content, encoding="latin-1")
    with pytest.raises(
        Problem, match=r"^.*x\.json: is damaged or has another layout \(.*\): remove it, and use --force$"
    ):
        store.load_json(tmp_path / "x.json")


def batch(**changes):
    states = {layer: torch.ones(2, 4) for layer in range(3)}
    ids = {"tokenized_sentences": [torch.arange(3)] * 2, "token_positions": torch.tensor([0, 2])}
    return {**ids, **states, **{int(key[1:]) if key[0] == "h" else key: value for key, value in changes.items()}}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1], "batch 1: is damaged or has another layout"),
        (batch(token_positions=torch.tensor([0, 3])), "batch 1: sentence 1 has 3 tokens, its token position is 3"),
        (batch(h3=torch.ones(2, 4)), "batch 1: has 3 layers above the embeddings, expected 2"),
        (batch(h1="x"), r"batch 1: layer 1 is str, expected float32 \[2, 4\]"),
        (batch(h1=torch.ones(2, 5)), r"layer 1 is float32 \[2, 5\], expected float32 \[2, 4\]"),
        (batch(h2=torch.ones(2, 4).half()), r"layer 2 is float16 \[2, 4\]"),
        (batch(h0=torch.full((2, 4), NAN)), r"batch 1: layer 0 is float32 \[2, 4\], .*all of it finite"),
    ],
)
def test_states_that_make_no_sense_are_named(tmp_path, value, message):
    with pytest.raises(Problem, match=message):
        formats.load_states(write(tmp_path / "x.pickle", batch(), value), 2)


def test_the_originals_states_are_views_with_large_storages(tmp_path):
    whole = torch.randn(2, 50, 4)
    path = tmp_path / "x.pickle"
    path.write_bytes(pickle.dumps(batch(h0=whole[:, 7], h1=whole[:, 0])))
    _, h = formats.load_states(path, 2)
    assert h[0].equal(whole[:, 7])
    assert h[1].equal(whole[:, 0])
    values = formats.load(path)
    assert all(values[layer].untyped_storage().nbytes() == values[layer].nbytes for layer in range(3))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(3, 4), r"float32 \[3, 4\], expected a float32 matrix \[4, 4\]"),
        (torch.zeros(4, 4, dtype=torch.int64), "int64"),
        (torch.zeros(4, 4, dtype=torch.float64), r"float64 \[4, 4\], expected a float32 matrix"),
        (torch.zeros(4, 4, dtype=torch.float16), "float16"),
        ("A", "holds str"),
        (torch.full((4, 4), float("nan")), "not finite"),
    ],
)
def test_matrices_that_do_not_fit_are_named(tmp_path, value, message):
    with pytest.raises(Problem, match=message):
        formats.load_matrix(write(tmp_path / "0_1.pickle", value), 4)


@pytest.mark.parametrize(
    ("ids", "positions", "message"),
    [
        ([torch.arange(3)], torch.tensor([3]), "token position is 3"),
        ([torch.arange(3.0)], torch.tensor([0]), r"sentence 0 is float32 \[3\], expected int64"),
        ([torch.arange(0)], torch.tensor([0]), "sentence 0 has 0 tokens"),
        ([torch.arange(3)], torch.tensor([0, 1]), r"token_positions is int64 \[2\], expected int64 \[1\]"),
        ([], torch.tensor([], dtype=torch.int64), "is damaged or has another layout"),
        ([torch.arange(3)], torch.tensor([1.5]), r"token_positions is float32 \[1\], expected int64 \[1\]"),
        ([torch.arange(3)], "0", r"token_positions is str, expected int64 \[1\]"),
        ([torch.arange(3)], [[0]], r"token_positions is int64 \[1, 1\], expected int64 \[1\]"),
        ([torch.arange(3).int()], torch.tensor([0]), "sentence 0 is int32"),
        ([torch.arange(3) - 1], torch.tensor([0]), "sentence 0"),
    ],
)
def test_tokenized_files_that_make_no_sense_are_named(tmp_path, ids, positions, message):
    path = write(tmp_path / "x.pickle", formats.tokenized_dict(Tokenized(ids, positions)))
    with pytest.raises(Problem, match=message):
        formats.load_tokenized(path)


@pytest.mark.parametrize(
    ("added", "message"),
    [
        (5, "has another layout"),
        ([6], r"sentence 0 does not begin with the added_tokens \[6\]"),
        ([5, 6], r"sentence 1 does not begin with the added_tokens \[5, 6\], or its token position is one of them"),
        ([5, 6, 7], r"sentence 0 does not begin with .*, or its token position is one of them"),
    ],
)
def test_added_tokens_are_the_head_of_every_sentence_before_its_position(tmp_path, added, message):
    sentences, positions = [torch.tensor([5, 6, 7]), torch.tensor([5, 8])], torch.tensor([2, 1])
    given = formats.tokenized_dict(Tokenized(sentences, positions, added=(5,)))
    assert given["added_tokens"] == [5]
    assert formats.load_tokenized(write(tmp_path / "x.pickle", given)).added == (5,)
    with pytest.raises(Problem, match=message):
        formats.load_tokenized(write(tmp_path / "x.pickle", given | {"added_tokens": added}))
    without = formats.tokenized_dict(Tokenized(sentences, positions))
    assert without.keys() == {"tokenized_sentences", "token_positions"}  # as the original's
    assert formats.load_tokenized(write(tmp_path / "x.pickle", without)).added == ()


def test_numbers_of_sentences_begin_at_0_and_tokens_under_a_mask_at_minus_1(tmp_path):
    given = {"tokenized_sentences": [torch.tensor([5, 6])], "token_positions": [1]}
    added = given | {"masked_tokens": torch.tensor([-1])}
    assert formats.load_tokenized(write(tmp_path / "x.pickle", added)).masked.tolist() == [-1]
    for name, least in (("sentence_numbers", 0), ("masked_tokens", -1)):
        with pytest.raises(Problem, match=f"{name} is int64 .*, none below {least}"):
            formats.load_tokenized(write(tmp_path / "x.pickle", given | {name: torch.tensor([least - 1])}))
