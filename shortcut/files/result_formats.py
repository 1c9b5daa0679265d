"""Readers and writers for r2 scores, results, predictions and map quality; each value is checked."""

from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shortcut import Problem
from shortcut.approximation import mode_of
from shortcut.files import store
from shortcut.files.formats import NUMBERS, expect, fields, fitting, got, inside, load
from shortcut.files.unpickle import load_all
from shortcut.metrics import LENS, TOP
from shortcut.predictions import Costs, Evaluation

SCORES = ("score_mat", "score_id", "score_mat_weighted", "score_id_weighted")  # the original code writes the first two
QUALITY = ("split_half_r2", "composition_loss", "spectrum", "effective_rank", "gain", "r2_by_rank")

Scores = dict[tuple[int, int], float]


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and isfinite(value)


def load_r2(path: Path) -> dict[str, Scores]:
    """Read the r2 scores of add_plot_r2.py: all of `SCORES` or the first two, each {(i, j): r2} for layers i < j."""
    value = load(path)
    with inside(path):
        fields(value, *SCORES[:2])
        names = SCORES if value.keys() >= {*SCORES} else SCORES[:2]
        scores = {name: _scores(value[name], name) for name in names}
        same = len({*map(frozenset, scores.values())}) == 1
        expect(same, f"{', '.join(names)} have different pairs of layers, expected the same")
        return scores


def _scores(given: Any, name: str) -> Scores:
    for (i, j), r2 in given.items():
        expect(0 <= i <= j, f"{name} has a key that is no pair of layers (i, j)")
        expect(
            _is_finite(r2), f"{name} of {(i, j)} is {r2 if type(r2) is float else got(r2)}, expected a finite number"
        )
    jumps = {(i, j): float(r2) for (i, j), r2 in given.items() if i < j}  # a pair (i, i) is no jump
    expect(bool(jumps), f"{name} has no jump, expected scores as {{(i, j): float}}")
    return jumps


def load_results(path: Path) -> list[dict[str, Any]]:
    """Read the records of add_results.py (see `results`); all records must have the same number of sentences.

    BERT files of the original code lack `surprisal` for early exits, which stays absent, and `layers_processed` for
    jumps, which is set to the layer of the jump.
    """
    records: list[dict[str, Any]] = []
    for k, value in enumerate(load_all(path)):
        with inside(f"{path}: record {k}"):
            records.append(_record(value, len(records[0]["topk"]) if records else None))
    return records


def _record(value: Any, n: int | None) -> dict[str, Any]:
    info, topk = fields(value, "info", "topk")
    info, n = _info(info), len(topk) if n is None else n
    layers = float(info["layer"] if "layer" in info else value["layers_processed"])
    expect(isfinite(layers) and layers >= 0, f"layers_processed is {layers}, expected a number of layers")
    found = {"info": info, "layers_processed": layers, "topk": fitting(topk, "topk", torch.int64, n, TOP, least=0)}
    if "surprisal" in value or info["type"] == "jump":
        found["surprisal"] = fitting(value.get("surprisal"), "surprisal", torch.float32, n)
    if NUMBERS in value:
        found[NUMBERS] = fitting(value[NUMBERS], NUMBERS, torch.int64, n, least=0)
    return found


def _info(info: Any) -> dict[str, Any]:
    """Keep the known fields of an info: `type`, `mode`, and `layer` or `lambda`. Raises Problem if one is missing."""
    mode, layer, lam = info["mode"], info.get("layer"), info.get("lambda")
    # modes that replace other sub-modules are the original's too; later steps ignore them
    if mode_of(mode) or (mode[0] == "blk_mat" and mode[1]["what_to_mat"] <= {*range(1, 7)}):
        if info["type"] == "jump" and type(layer) is int and layer >= 0:
            return {"type": "jump", "mode": mode, "layer": layer}
        if info["type"] == "early_exit" and _is_finite(lam):
            return {"type": "early_exit", "mode": mode, "lambda": lam}
    raise Problem("has an unknown info, expected type jump with layer, or early_exit with lambda, and mode")


def predictions_dict(evaluation: Evaluation) -> dict[str, Any]:
    """The dict that add_results.py writes: the fields of `Evaluation`, with the costs as a dict."""
    return vars(evaluation) | {"costs": vars(evaluation.costs)}


def load_predictions(path: Path, n: int, L: int) -> Evaluation:
    """Read a file that holds a `predictions_dict`, for n token positions and L layers."""
    value = load(path)
    with inside(path):
        x = Evaluation(**value)
        x = replace(x, costs=Costs(**x.costs))
        expect(type(x.masked) is bool and _is_finite(x.tau), "expected masked (bool) and tau (a number)")
        costs = x.costs.block, x.costs.read_out, x.costs.matrix
        expect(all(map(_is_finite, costs)) and min(costs) > 0, "costs holds numbers that are not above 0")
        fitting(x.costs.tokens, "tokens of costs", torch.int64, n, least=1)
        fitting(x.positions, "positions", torch.int64, n, least=0)
        fitting(x.actual, "actual", torch.int64, n, least=-1)
        for mode, tables in x.modes.items():
            expect(tables.keys() == {"gap", *LENS}, f"modes: expected for each mode gap, {', '.join(LENS)}")
            for name, table in tables.items():
                known = x.actual >= (0 if name == "cross-entropy" else -1)  # without a token it is nan
                fitting(table[:, known], f"{name} of {mode}", torch.float32, L + 1, int(known.sum()))
        distinct = _distinct(x.schedules, L)
        fitting(x.topk, "topk", torch.int64, distinct, n, TOP)
        fitting(x.surprisal, "surprisal", torch.float32, distinct, n)
        return x


def _distinct(schedules: Any, L: int) -> int:
    """Check each schedule and return the number of distinct schedules."""
    for (first, *_), schedule in schedules.items():
        expect(
            first in ("blocks", "jumps", "r2"), "schedules has an unknown key, expected (blocks, jumps or r2; int; int)"
        )
        ends = [0, *(layer for jump in schedule for layer in jump), L]
        fits = ends == sorted(ends) and all(i < j for i, j in schedule) and {*map(type, ends)} == {int}
        expect(fits, f"a schedule is not a sequence of jumps among {L} layers")
    return len({*schedules.values()})


def load_quality(path: Path) -> dict[str, dict[Any, Any]]:
    """Read the quality of the maps: `composition_loss` and `gain` by (i, j), the rest of `QUALITY`, for A_lL, by l.

    `composition_loss` is r2 of A_iL minus r2 of A_jL A_ij. `spectrum` is a list. `r2_by_rank`, for low-rank maps, is
    a list of pairs of rank and r2. It and `split_half_r2` exist only for maps whose fit computed them.
    """
    value, found = store.load_json(path), {}
    with inside(path):
        for name in QUALITY:
            keyed = {tuple(map(int, key.split("_"))): x for key, x in value[name].items()}
            expect(all(np.isfinite(x).all() for x in keyed.values()), f"{name} holds numbers that are not finite")
            pairs = name in ("composition_loss", "gain")
            found[name] = {(i, j): x for (i, j), x in keyed.items()} if pairs else {l: x for (l,), x in keyed.items()}
    return found
