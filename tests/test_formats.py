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

from shortcut import Problem
from shortcut.files import formats, result_formats, store, unpickle
from shortcut.tokens import Tokenized


def write(path, *values):
    with store.replacing(path) as file:
        store.dump(file, *values)
    return path


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


def record(info=None, **changes):
    """A record of the results as add_results.py writes it, changed; a change to None leaves the key out."""
    whole = {
        "info": {"type": "jump", "mode": "mat", "layer": 1, **(info or {})}, "layers_processed": 1.0,
        "topk": torch.arange(20).reshape(2, 10), "surprisal": torch.tensor([0.5, 1.0]), **changes,
    }  # fmt: skip
    return {key: value for key, value in whole.items() if value is not None}


NAN = float("nan")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("text", "record 0: is damaged or has another layout .*TypeError"),
        ({"topk": 1}, "record 0: is damaged or has another layout .*KeyError: 'info'"),
        (record(info={"type": "leap"}), "has an unknown info"),
        (record(info={"layer": -1}), "has an unknown info"),
        (record(info={"layer": 1.0}), "has an unknown info"),
        (record(info={"type": "early_exit"}), "has another layout"),
        (record(info={"type": "early_exit", "lambda": NAN}), "has an unknown info"),
        (record(info={"mode": "matt"}), "has an unknown info"),
        (record(info={"mode": ("blk_mat", {"what_to_mat": {7}})}), "has an unknown info"),
        (
            record(info={"mode": ("blk_mat", {"what_to_mat": [2]})}),
            r"has another layout .*TypeError.*: remove it, and use --force",
        ),
        (record(info={"type": "early_exit", "lambda": 0.5}, layers_processed=None), "KeyError: 'layers_processed'"),
        (
            record(info={"type": "early_exit", "layer": None, "lambda": 1}, layers_processed=NAN),
            "layers_processed is nan",
        ),
        (record(topk="abc"), r"topk is str, expected int64 \[3, 10\]"),
        (record(topk=torch.zeros(2, 10)), r"topk is float32 \[2, 10\], expected int64"),
        (record(topk=torch.zeros(2, 9, dtype=torch.int64)), r"topk is int64 \[2, 9\]"),
        (record(topk=-torch.ones(2, 10, dtype=torch.int64)), "none below 0"),
        (record(surprisal=None), "surprisal is NoneType"),
        (record(surprisal=torch.zeros(3)), r"surprisal is float32 \[3\], expected float32 \[2\]"),
        (record(surprisal=torch.zeros(2, dtype=torch.float64)), "surprisal is float64"),
        (record(surprisal=torch.tensor([0.0, NAN])), "all of it finite"),
    ],
)
def test_records_of_another_layout_are_named(tmp_path, value, message):
    path = write(tmp_path / "x.pickle", value)
    with pytest.raises(Problem, match=rf"x\.pickle.*{message}"):
        result_formats.load_results(path)


def test_records_of_different_numbers_of_sentences_are_named(tmp_path):
    path = write(tmp_path / "x.pickle", record(), record(topk=torch.arange(30).reshape(3, 10)))
    with pytest.raises(Problem, match=r"record 1: topk is int64 \[3, 10\], expected int64 \[2, 10\]"):
        result_formats.load_results(path)


def test_what_the_originals_bert_records_lack_is_not_asked_for(tmp_path):
    early = {"type": "early_exit", "mode": "id", "lambda": np.float64(0.5)}
    jump, stopped = record(layers_processed=None), record(layers_processed=np.float64(1.5), surprisal=None)
    stopped["info"] = early
    path = tmp_path / "x.pickle"
    path.write_bytes(pickle.dumps(jump) + pickle.dumps(stopped))
    first, second = result_formats.load_results(path)
    assert first["layers_processed"] == 1.0
    assert second["layers_processed"] == 1.5
    assert "surprisal" not in second
    assert second["info"] == early


SCORES = {(0, 1): 0.5, (0, 2): 0.25, (1, 2): -3.0}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([SCORES], "has another layout"),
        ({"score_mat": [], "score_id": SCORES}, "has another layout"),
        ({"score_mat": SCORES, "score_id": {}}, "score_id has no jump, expected scores as"),
        ({"score_mat": SCORES, "score_id": {"a": 1.0}}, "has another layout"),
        ({"score_mat": SCORES, "score_id": {(1, 0): 1.0}}, "no pair of layers"),
        ({"score_mat": SCORES, "score_id": {(1, 1): 1.0}}, "score_id has no jump"),
        ({"score_mat": SCORES, "score_id": {(0, 1): 1.0}}, "score_mat, score_id have different pairs of layers"),
        ({"score_mat": SCORES, "score_id": {(0, 1): "1.0"}}, "has another layout .*TypeError"),
        ({"score_mat": SCORES, "score_id": {(0, 1): NAN}}, r"score_id of \(0, 1\) is not a finite number"),
    ],
)
def test_scores_of_another_layout_are_named(tmp_path, value, message):
    with pytest.raises(Problem, match=rf"x\.pickle.*{message}"):
        result_formats.load_r2(write(tmp_path / "x.pickle", value))


def test_the_originals_scores_are_numpy_scalars(tmp_path):
    path = tmp_path / "x.pickle"
    path.write_bytes(pickle.dumps({name: {(0, 1): np.float64(0.5)} for name in ("score_mat", "score_id")}))
    assert result_formats.load_r2(path) == {"score_mat": {(0, 1): 0.5}, "score_id": {(0, 1): 0.5}}


def test_the_originals_scores_are_read_without_those_by_variance_and_without_a_layers_own(tmp_path):
    both = {"score_mat": SCORES, "score_id": {**SCORES, (1, 1): 1.0}}
    assert result_formats.load_r2(write(tmp_path / "x.pickle", both)) == dict.fromkeys(both, SCORES)
    three = both | {"score_mat_weighted": SCORES}
    assert result_formats.load_r2(write(tmp_path / "x.pickle", three)) == dict.fromkeys(both, SCORES)
    four = dict.fromkeys(result_formats.SCORES, SCORES)
    assert result_formats.load_r2(write(tmp_path / "x.pickle", four)) == four


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
