"""What stands in files of its own, since others keep the original's layout: schedules, gaps, quality of the maps."""

from pathlib import Path
from typing import Any

import torch

from shortcut import Problem
from shortcut.files import store
from shortcut.files.checks import expect, got, inside, is_finite, is_tensor, tensor
from shortcut.files.formats import load
from shortcut.files.unpickle import load_all
from shortcut.predictions import LENS, TOP, Predictions

LENSES = ("id", "mat")  # the modes that read out a state as it is or after one map: they exit early, and are lenses
QUALITY = ("split_half_r2", "composition_loss", "spectrum", "effective_rank", "gain", "r2_by_rank")
COSTS = ("block", "read_out", "matrix", "tokens")  # as `early_exit.Costs`, `tokens` last


def load_schedules(path: Path, n: int, L: int) -> list[dict[str, Any]]:
    """The records of the schedules of add_results.py, of n sentences and L layers."""
    records = []
    for k, value in enumerate(load_all(path)):
        with inside(f"{path}: record {k}"):
            info = value.get("info") if isinstance(value, dict) else None
            fits = isinstance(info, dict) and info.get("first") in ("blocks", "jumps", "r2")
            fits = fits and all(type(info.get(name)) is int for name in ("blocks", "jumps"))
            expect(fits, "has another info, expected first (blocks, jumps or r2), blocks and jumps")
            layers, schedule = [0], info.get("schedule")
            for jump in schedule if type(schedule) is tuple else [None]:
                pair = type(jump) is tuple and [*map(type, jump)] == [int, int]
                expect(pair and layers[-1] <= jump[0] < jump[1] <= L, f"its schedule is no jumps among {L} layers")
                layers += jump
            run = L - sum(layers[2::2]) + sum(layers[1::2])
            topk, surprisal = tensor(value.get("topk")), tensor(value.get("surprisal"))
            expect(is_tensor(topk, torch.int64, (n, TOP)), f"topk is {got(topk)}, expected int64 [{n}, {TOP}]")
            fits = is_tensor(surprisal, torch.float32, (n,)) and surprisal.isfinite().all()
            expect(fits, f"surprisal is {got(surprisal)}, expected float32 [{n}], all of it finite")
            records.append({"info": info, "layers_processed": float(run), "topk": topk, "surprisal": surprisal})
    return records


def gaps_dict(
    judged: dict[str, Predictions], positions: torch.Tensor, tau: float, costs: dict[str, Any]
) -> dict[str, Any]:
    """What is kept of early exits: `tau`, `positions` int64 [n], `costs`, and by mode the gaps, float32 [L + 1, n]."""
    of = {mode: judged[mode].gap for mode in LENSES if mode in judged}
    return {"tau": tau, "positions": positions, "costs": costs, **of}


def load_gaps(path: Path, n: int, L: int) -> tuple[float, torch.Tensor, dict[str, torch.Tensor], dict[str, Any] | None]:
    """Read a file of `gaps_dict`: tau, positions, the gaps by mode, of n sentences and L layers, and the costs.

    The costs are None in files of before, which lack them or the tokens of each sentence.
    """
    value = load(path)
    with inside(path):
        expect(isinstance(value, dict) and is_finite(value.get("tau")), f"holds {got(value)}, expected tau and gaps")
        positions = tensor(value.get("positions"))
        fits = is_tensor(positions, torch.int64, (n,)) and int(positions.min()) >= 0
        expect(fits, f"positions is {got(positions)}, expected int64 [{n}]")
        of = {mode: tensor(value[mode]) for mode in LENSES if mode in value}
        for mode, gaps in of.items():
            fits = is_tensor(gaps, torch.float32, (L + 1, n)) and gaps.isfinite().all()
            expect(fits, f"{mode} is {got(gaps)}, expected float32 [{L + 1}, {n}], all of it finite")
        costs = value.get("costs")
        if costs is not None:
            fits = isinstance(costs, dict) and costs.keys() == {*COSTS}
            *numbers, tokens = (tensor(costs[name]) for name in COSTS) if fits else [None]
            fits = fits and all(is_finite(x) and x > 0 for x in numbers)
            fits = fits and (is_finite(tokens) or (is_tensor(tokens, torch.int64, (n,)) and int(tokens.min()) > 0))
            expect(fits, f"costs are not {', '.join(COSTS)}: numbers above 0 and int64 [{n}]")
            costs = None if is_finite(tokens) else costs | {"tokens": tokens}  # of before: their mean
    return float(value["tau"]), positions, of, costs


def lens_dict(judged: dict[str, Predictions], actual: torch.Tensor) -> dict[str, Any]:
    """What is kept of modes as lenses: `actual` (see `tokens.actual`), and by mode those of `LENS`, [L + 1, n]."""
    of = {mode: judged[mode].lens for mode in LENSES if mode in judged}
    return {"actual": actual, **{mode: {name: x[..., k] for k, name in enumerate(LENS)} for mode, x in of.items()}}


def load_lens(path: Path, n: int, L: int) -> tuple[torch.Tensor, dict[str, dict[str, torch.Tensor]]]:
    """Read a file of `lens_dict`: the tokens, and by mode its metrics; the cross-entropy is nan where there is none."""
    value, found = load(path), {}
    with inside(path):
        actual = tensor(value.get("actual")) if isinstance(value, dict) else None
        expect(is_tensor(actual, torch.int64, (n,)), f"actual is {got(actual)}, expected int64 [{n}]")
        for mode in LENSES:
            of = value.get(mode)
            expect(isinstance(of, dict) and of.keys() == {*LENS}, f"{mode} is {got(of)}, expected {', '.join(LENS)}")
            found[mode] = {name: tensor(x) for name, x in of.items()}
            for name, x in found[mode].items():
                fits = is_tensor(x, torch.float32, (L + 1, n))
                fits = fits and (x[:, actual >= 0] if name == LENS[-1] else x).isfinite().all()
                expect(fits, f"{name} of {mode} is {got(x)}, expected float32 [{L + 1}, {n}], all of it finite")
    return actual, found


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
