"""Readers and writers of result files that the original code does not have: predictions, quality of the maps."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from shortcut import Problem
from shortcut.files import store
from shortcut.files.checks import expect, got, inside, is_finite, is_tensor, tensor
from shortcut.files.formats import load
from shortcut.metrics import LENS
from shortcut.predictions import TOP, Costs, Evaluation

QUALITY = ("split_half_r2", "composition_loss", "spectrum", "effective_rank", "gain", "r2_by_rank")


def predictions_dict(evaluation: Evaluation) -> dict[str, Any]:
    """The dict that add_results.py writes: the fields of `Evaluation`, the costs as a dict."""
    return vars(evaluation) | {"costs": vars(evaluation.costs)}


def load_predictions(path: Path, n: int, L: int) -> Evaluation:
    """Read a file of `predictions_dict`, for n sentences and L layers."""
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


def _fields(value: Any, kind: type, place: str = "") -> dict[str, Any]:
    names = [field.name for field in fields(kind)]
    fits = isinstance(value, dict) and value.keys() == {*names}
    expect(fits, f"{place}got {got(value)}, expected a dict with {', '.join(names)}")
    return dict(value)


def _tensor(name: str, value: Any, dtype: torch.dtype, *shape: int) -> torch.Tensor:
    value = tensor(value)
    fits = is_tensor(value, dtype, shape) and (not value.is_floating_point() or value.isfinite().all())
    expect(fits, f"{name} is {got(value)}, expected {str(dtype)[6:]} {[*shape]}, all of it finite")
    return value


def _modes(value: Any, actual: torch.Tensor, L: int) -> dict[str, dict[str, torch.Tensor]]:
    """By mode the gap and the metrics of lenses; a cross-entropy is nan where no token is there."""
    fits = isinstance(value, dict) and all(isinstance(x, dict) and x.keys() == {"gap", *LENS} for x in value.values())
    expect(fits, f"modes is {got(value)}, expected by mode gap, {', '.join(LENS)}")
    found = {mode: {name: tensor(x) for name, x in tables.items()} for mode, tables in value.items()}
    for mode, tables in found.items():
        for name, x in tables.items():
            expect(is_tensor(x, torch.float32, (L + 1, len(actual))), f"{name} of {mode} is {got(x)}")
            there = x[:, actual >= 0] if name == "cross-entropy" else x
            expect(there.isfinite().all(), f"{name} of {mode} holds numbers that are not finite")
    return found


def _distinct(schedules: Any, L: int) -> int:
    """The number of distinct schedules, each checked."""
    expect(isinstance(schedules, dict), f"schedules is {got(schedules)}, expected a dict")
    for key, schedule in schedules.items():
        fits = type(key) is tuple and [*map(type, key)] == [str, int, int] and key[0] in ("blocks", "jumps", "r2")
        expect(fits, "schedules has another key, expected (blocks, jumps or r2; int; int)")
        layers = [0]
        for jump in schedule if type(schedule) is tuple else [None]:
            pair = type(jump) is tuple and [*map(type, jump)] == [int, int]
            expect(pair and layers[-1] <= jump[0] < jump[1] <= L, f"a schedule is no jumps among {L} layers")
            layers += jump
    return len({*schedules.values()})


def load_quality(path: Path) -> dict[str, dict[Any, Any]]:
    """How good the maps are: of `QUALITY` composition and gain by (i, j), the others, of maps into L, by their layer.

    `composition_loss` is r2 of A_iL less that of A_jL A_ij, `spectrum` a list, and `split_half_r2`, and of
    low-rank maps `r2_by_rank`, pairs of rank and r2, only of maps whose fit told it.
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
