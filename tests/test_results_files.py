"""Records of the results and r2 scores, of our own and of the original's layout."""

import pickle

import numpy as np
import pytest
import torch
from conftest import NAN, write

from shortcut import Problem
from shortcut.files import result_formats


def record(info=None, **changes):
    """A record of the results as add_results.py writes it, changed; a change to None leaves the key out."""
    whole = {
        "info": {"type": "jump", "mode": "mat", "layer": 1, **(info or {})}, "layers_processed": 1.0,
        "topk": torch.arange(20).reshape(2, 10), "surprisal": torch.tensor([0.5, 1.0]), **changes,
    }  # fmt: skip
    return {key: value for key, value in whole.items() if value is not None}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("text", "record 0: is damaged or has another layout .*TypeError"),
        ({"topk": 1}, "record 0: is damaged or has another layout .*KeyError: 'info'"),
        (record(info={"type": "leap"}), "has an unknown info"),
        (record(info={"layer": -1}), "has an unknown info"),
        (record(info={"layer": 1.0}), "has an unknown info"),
        (record(info={"type": "early_exit"}), "has another layout"),
        (record(info={"mode": "mat_attn"}), "has an unknown info"),
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
        ({"score_mat": SCORES, "score_id": {}}, "score_mat, score_id have different pairs of layers"),
        ({"score_mat": SCORES, "score_id": {"a": 1.0}}, "has another layout"),
        ({"score_mat": SCORES, "score_id": {(1, 0): 1.0}}, "no pair of layers"),
        ({"score_mat": SCORES, "score_id": {(1, 1): 1.0}}, "score_mat, score_id have different pairs of layers"),
        ({"score_mat": SCORES, "score_id": {(0, 1): 1.0}}, "score_mat, score_id have different pairs of layers"),
        ({"score_mat": {}, "score_id": {}}, "score_mat, score_id have different pairs of layers, or none"),
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
