"""Readers and writers for r2 scores, results, predictions and map quality; each value is checked."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from shortcut import Problem
from shortcut.approximation import mode_of
from shortcut.files import store
from shortcut.files.checks import expect, got, inside, is_finite, is_tensor, rows, tensor
from shortcut.files.formats import NUMBERS, load, read_more
from shortcut.files.unpickle import load_all
from shortcut.metrics import LENS, TOP
from shortcut.predictions import Costs, Evaluation

SCORES = ("score_mat", "score_id", "score_mat_weighted", "score_id_weighted")  # the original code writes the first two
QUALITY = ("split_half_r2", "composition_loss", "spectrum", "effective_rank", "gain", "r2_by_rank")

Scores = dict[tuple[int, int], float]


def load_r2(path: Path) -> dict[str, Scores]:
    """Read the r2 scores of add_plot_r2.py: all of `SCORES` or the first two, each {(i, j): r2} for layers i < j."""
    value = load(path)
    with inside(path):
        whole = isinstance(value, dict) and {"score_mat", "score_id"} <= value.keys()
        expect(whole, f"holds {got(value)}, expected a dict with score_mat and score_id")
        names = SCORES if value.keys() >= {*SCORES} else SCORES[:2]
        scores = {name: _scores(value[name], name) for name in names}
        same = len({*map(frozenset, scores.values())}) == 1
        expect(same, f"{', '.join(names)} have different pairs of layers, expected the same")
        return scores


def _scores(given: Any, name: str) -> Scores:
    expected = "expected scores as {(i, j): float}"
    expect(isinstance(given, dict) and bool(given), f"{name} is {got(given)}, {expected}")
    for pair, r2 in given.items():
        layers = type(pair) is tuple and [*map(type, pair)] == [int, int] and 0 <= pair[0] <= pair[1]
        expect(layers, f"{name} has a key that is no pair of layers (i, j), {expected}")
        expect(is_finite(r2), f"{name} of {pair} is {got(r2)}, expected a finite number")
    expect(any(i < j for i, j in given), f"{name} has no jump, {expected}")
    return {(i, j): float(r2) for (i, j), r2 in given.items() if i < j}  # a pair (i, i) is no jump


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
    whole = isinstance(value, dict) and {"info", "topk"} <= value.keys()
    expect(whole, f"is {got(value)}, expected a dict of info, layers_processed, topk and surprisal")
    info, topk = _info(value["info"]), tensor(value["topk"])
    layers = info.get("layer", value.get("layers_processed"))
    layers = layers.item() if isinstance(layers, torch.Tensor) and layers.numel() == 1 else layers
    number = is_finite(layers) and layers >= 0
    expect(number, f"layers_processed is {got(layers)}, expected a number of layers")
    n = rows(topk) if n is None else n
    fits = n and is_tensor(topk, torch.int64, (n, TOP)) and int(topk.min()) >= 0
    expect(fits, f"topk is {got(topk)}, expected int64 [{n or 'n'}, {TOP}], token ids")
    result = {"info": info, "layers_processed": float(layers), "topk": topk}
    if "surprisal" in value or info["type"] == "jump":
        surprisal = tensor(value.get("surprisal"))
        fits = is_tensor(surprisal, torch.float32, (n,)) and surprisal.isfinite().all()
        expect(fits, f"surprisal is {got(surprisal)}, expected float32 [{n}], all of it finite")
        result["surprisal"] = surprisal
    return result | ({NUMBERS: read_more(value, NUMBERS, n)} if NUMBERS in value else {})


def _info(info: Any) -> dict[str, Any]:
    """Keep the known fields of an info: `type`, `mode`, and `layer` or `lambda`. Raises Problem if one is missing."""
    if isinstance(info, dict) and _is_mode(mode := info.get("mode")):
        layer, lam = info.get("layer"), info.get("lambda")
        if info.get("type") == "jump" and type(layer) is int and layer >= 0:
            return {"type": "jump", "mode": mode, "layer": layer}
        if info.get("type") == "early_exit" and is_finite(lam):
            return {"type": "early_exit", "mode": mode, "lambda": lam}
    raise Problem("has an unknown info, expected type jump with layer, or early_exit with lambda, and mode")


def _is_mode(mode: Any) -> bool:
    """True if the mode is in `approximation.MODES` or replaces other sub-modules, which later steps ignore."""
    if type(mode) is not tuple:
        return type(mode) is str and mode_of(mode) is not None
    states = mode[1].get("what_to_mat") if mode[:1] == ("blk_mat",) and [*map(type, mode[1:])] == [dict] else None
    return type(states) is set and states <= {*range(1, 7)}


def predictions_dict(evaluation: Evaluation) -> dict[str, Any]:
    """The dict that add_results.py writes: the fields of `Evaluation`, with the costs as a dict."""
    return vars(evaluation) | {"costs": vars(evaluation.costs)}


def load_predictions(path: Path, n: int, L: int) -> Evaluation:
    """Read a file that holds a `predictions_dict`, for n token positions and L layers."""
    value = load(path)
    with inside(path):
        x = _fields(value, Evaluation)
        expect(type(x["masked"]) is bool and is_finite(x["tau"]), "expected masked (bool) and tau (a number)")
        for name, least in (("positions", 0), ("actual", -1)):
            x[name] = _tensor(name, x[name], torch.int64, n)
            expect(x[name].min() >= least, f"{name} holds numbers below {least}")
        costs = _fields(x["costs"], Costs, "costs: ")
        costs["tokens"] = _tensor("tokens of costs", costs["tokens"], torch.int64, n)
        fits = all(is_finite(cost) and cost > 0 for name, cost in costs.items() if name != "tokens")
        expect(fits and costs["tokens"].min() > 0, "costs holds numbers that are not above 0")
        x |= {"costs": Costs(**costs), "modes": _modes(x["modes"], x["actual"], L)}
        distinct = _distinct(x["schedules"], L)
        x["topk"] = _tensor("topk", x["topk"], torch.int64, distinct, n, TOP)
        x["surprisal"] = _tensor("surprisal", x["surprisal"], torch.float32, distinct, n)
    return Evaluation(**x)


def _fields(value: Any, dataclass: type, place: str = "") -> dict[str, Any]:
    names = [field.name for field in fields(dataclass)]
    fits = isinstance(value, dict) and value.keys() == {*names}
    expect(fits, f"{place}got {got(value)}, expected a dict with {', '.join(names)}")
    return dict(value)


def _tensor(name: str, value: Any, dtype: torch.dtype, *shape: int) -> torch.Tensor:
    value = tensor(value)
    fits = is_tensor(value, dtype, shape) and (not value.is_floating_point() or value.isfinite().all())
    expect(fits, f"{name} is {got(value)}, expected {str(dtype)[6:]} {[*shape]}, all of it finite")
    return value


def _modes(value: Any, actual: torch.Tensor, L: int) -> dict[str, dict[str, torch.Tensor]]:
    """Check the gap and the lens metrics for each mode; the cross-entropy is nan where no token is known."""
    fits = isinstance(value, dict) and all(isinstance(x, dict) and x.keys() == {"gap", *LENS} for x in value.values())
    expect(fits, f"modes is {got(value)}, expected for each mode gap, {', '.join(LENS)}")
    found = {mode: {name: tensor(x) for name, x in tables.items()} for mode, tables in value.items()}
    for mode, tables in found.items():
        for name, x in tables.items():
            expect(is_tensor(x, torch.float32, (L + 1, len(actual))), f"{name} of {mode} is {got(x)}")
            there = x[:, actual >= 0] if name == "cross-entropy" else x
            expect(there.isfinite().all(), f"{name} of {mode} holds numbers that are not finite")
    return found


def _distinct(schedules: Any, L: int) -> int:
    """Check each schedule and return the number of distinct schedules."""
    expect(isinstance(schedules, dict), f"schedules is {got(schedules)}, expected a dict")
    for key, schedule in schedules.items():
        fits = type(key) is tuple and [*map(type, key)] == [str, int, int] and key[0] in ("blocks", "jumps", "r2")
        expect(fits, "schedules has an unknown key, expected (blocks, jumps or r2; int; int)")
        layers = [0]
        for jump in schedule if type(schedule) is tuple else [None]:
            pair = type(jump) is tuple and [*map(type, jump)] == [int, int]
            expect(
                pair and layers[-1] <= jump[0] < jump[1] <= L, f"a schedule is not a sequence of jumps among {L} layers"
            )
            layers += jump
    return len({*schedules.values()})


def load_quality(path: Path) -> dict[str, dict[Any, Any]]:
    """Read the quality of the maps: `composition_loss` and `gain` by (i, j), the rest of `QUALITY`, for A_lL, by l.

    `composition_loss` is r2 of A_iL minus r2 of A_jL A_ij. `spectrum` is a list. `r2_by_rank`, for low-rank maps, is
    a list of pairs of rank and r2. It and `split_half_r2` exist only for maps whose fit computed them.
    """
    value, found = store.load_json(path), {}
    try:
        for name in QUALITY:
            keyed = {tuple(map(int, key.split("_"))): x for key, x in value[name].items()}
            pairs = name in ("composition_loss", "gain")
            fits = all(len(key) == 1 + pairs for key in keyed)
            flat = {"spectrum": list, "r2_by_rank": lambda x: [number for pair in x for number in pair]}
            fits = fits and all(all(map(is_finite, flat.get(name, lambda x: [x])(x))) for x in keyed.values())
            expect(fits, "another layout")
            found[name] = keyed if pairs else {l: x for (l,), x in keyed.items()}
    except (AttributeError, KeyError, TypeError, ValueError, Problem):
        raise Problem(f"{path} is damaged: remove it, and run {{add,bert_add}}_plot_r2.py again") from None
    return found
