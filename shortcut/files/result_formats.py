"""Readers and writers for r2 scores, results, predictions and map quality; each value is checked."""

from math import isfinite
from pathlib import Path
from typing import Any

import torch

from shortcut import Problem
from shortcut.approximation import mode_of
from shortcut.early_exit import Costs
from shortcut.files.formats import NUMBERS, expect, fitting, load
from shortcut.files.store import inside, load_json
from shortcut.files.unpickle import load_all
from shortcut.metrics import LENS, TOP
from shortcut.predictions import Evaluation

SCORES = ("score_mat", "score_id", "score_mat_weighted", "score_id_weighted")  # the original code writes the first two
QUALITY = ("split_half_r2", "composition_loss", "spectrum", "effective_rank", "gain", "r2_by_rank")


def load_r2(path: Path) -> dict[str, dict[tuple[int, int], float]]:
    """Read the r2 scores of add_plot_r2.py: all of `SCORES` or the first two, each {(i, j): r2} for layers i < j."""
    value, scores = load(path), {}
    with inside(path):
        for name in SCORES if value.keys() >= {*SCORES} else SCORES[:2]:
            for (i, j), r2 in value[name].items():
                expect(0 <= i <= j, f"{name} has a key that is no pair of layers (i, j)")
                expect(isfinite(r2), f"{name} of {(i, j)} is not a finite number")
            scores[name] = {(i, j): float(r2) for (i, j), r2 in value[name].items() if i < j}  # (i, i) is no jump
        pairs = {*map(frozenset, scores.values())}
        expect(len(pairs) == 1 and all(pairs), f"{', '.join(scores)} have different pairs of layers, or none")
        return scores


def load_results(path: Path) -> list[dict[str, Any]]:
    """Read the records of add_results.py (see `results`); all records must have the same number of sentences.

    BERT files of the original code lack `surprisal` for early exits, which stays absent, and `layers_processed` for
    jumps, which is set to the layer of the jump.
    """
    records: list[dict[str, Any]] = []
    for k, value in enumerate(load_all(path)):
        with inside(f"{path}: record {k}"):
            info, n = _info(value["info"]), len((records or [value])[0]["topk"])
            layers = float(info["layer"] if "layer" in info else value["layers_processed"])
            expect(isfinite(layers) and layers >= 0, f"layers_processed is {layers}, expected a number of layers")
            topk = fitting(value["topk"], "topk", torch.int64, n, TOP, least=0)
            records.append({"info": info, "layers_processed": layers, "topk": topk})
            if "surprisal" in value or info["type"] == "jump":
                records[-1]["surprisal"] = fitting(value.get("surprisal"), "surprisal", torch.float32, n)
            if NUMBERS in value:
                records[-1][NUMBERS] = fitting(value[NUMBERS], NUMBERS, torch.int64, n, least=0)
    return records


def _info(info: Any) -> dict[str, Any]:
    mode, layer, lam = info["mode"], info.get("layer"), info.get("lambda")
    # the original's records can have modes that replace other sub-modules; later steps ignore them
    if mode_of(mode) or (mode[0] == "blk_mat" and mode[1]["what_to_mat"] <= {*range(1, 7)}):
        if info["type"] == "jump" and type(layer) is int and layer >= 0:
            return {"type": "jump", "mode": mode, "layer": layer}
        if info["type"] == "early_exit" and isfinite(lam):
            return {"type": "early_exit", "mode": mode, "lambda": lam}
    raise Problem("has an unknown info, expected type jump with layer, or early_exit with lambda, and mode")


def load_predictions(path: Path, n: int, L: int) -> Evaluation:
    """Read a dict of the fields of `Evaluation`, with the costs as a dict, for n token positions and L layers."""
    value = load(path)
    with inside(path):
        x = Evaluation(**value | {"costs": Costs(**value["costs"])})
        for name, numbers in {"positions": x.positions, "actual": x.actual, "tokens of costs": x.costs.tokens}.items():
            fitting(numbers, name, torch.int64, n, least=-1)
        for mode, tables in x.modes.items():
            for name in ("gap", *LENS):
                known = x.actual >= (0 if name == "cross-entropy" else -1)  # without a token it is nan
                fitting(tables[name][:, known], f"{name} of {mode}", torch.float32, L + 1, int(known.sum()))
        distinct = len({*x.schedules.values()})
        fitting(x.topk, "topk", torch.int64, distinct, n, TOP)
        fitting(x.surprisal, "surprisal", torch.float32, distinct, n)
        return x


def load_quality(path: Path) -> dict[str, dict[Any, Any]]:
    """Read the quality of the maps: `composition_loss` and `gain` by (i, j), the rest of `QUALITY`, for A_lL, by l.

    `composition_loss` is r2 of A_iL minus r2 of A_jL A_ij; `spectrum` is a list, and `r2_by_rank` a list of pairs of
    rank and r2, for low-rank maps. It and `split_half_r2` exist only for maps whose fit computed them.
    """
    value, found = load_json(path), {}
    with inside(path):
        for name in QUALITY:
            keyed = {tuple(map(int, key.split("_"))): x for key, x in value[name].items()}
            found[name] = keyed if name in ("composition_loss", "gain") else {l: x for (l,), x in keyed.items()}
    return found
