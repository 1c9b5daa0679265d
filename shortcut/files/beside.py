"""What stands beside the results, in files of its own since these keep the original's layout: schedules and gaps."""

from pathlib import Path
from typing import Any

import torch

from shortcut.files.checks import expect, got, inside, is_finite, is_tensor, tensor
from shortcut.files.formats import load
from shortcut.files.unpickle import load_all
from shortcut.predictions import TOP, Predictions


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


def gaps_dict(judged: dict[str, Predictions], positions: torch.Tensor, tau: float) -> dict[str, Any]:
    """What is kept of early exits: `tau`, `positions` int64 [n], and by mode the gaps, float32 [L + 1, n]."""
    of = {mode: judged[mode].gap for mode in ("id", "mat") if mode in judged}
    return {"tau": tau, "positions": positions, **of}


def load_gaps(path: Path, n: int, L: int) -> tuple[float, torch.Tensor, dict[str, torch.Tensor]]:
    """Read a file of `gaps_dict`: tau, positions and the gaps by mode, of n sentences and L layers."""
    value = load(path)
    with inside(path):
        expect(isinstance(value, dict) and is_finite(value.get("tau")), f"holds {got(value)}, expected tau and gaps")
        positions = tensor(value.get("positions"))
        fits = is_tensor(positions, torch.int64, (n,)) and int(positions.min()) >= 0
        expect(fits, f"positions is {got(positions)}, expected int64 [{n}]")
        of = {mode: tensor(value[mode]) for mode in ("id", "mat") if mode in value}
        for mode, gaps in of.items():
            fits = is_tensor(gaps, torch.float32, (L + 1, n)) and gaps.isfinite().all()
            expect(fits, f"{mode} is {got(gaps)}, expected float32 [{L + 1}, {n}], all of it finite")
    return float(value["tau"]), positions, of
