"""The ways to go on from layer l to an approximation of the final state h_L, a row of `MODES` each.

    id            h_l itself                                       Linear Shortcut Across Blocks
    mat           A_lL h_l                                         the same
    mat_ln1_ln2   blocks l ... L - 1 with both layer norms linear  Linear Shortcut Across Sub-modules
    mat_attn      ... with attention linear                        the same
    mat_ffn       ... with the feed-forward linear                 the same

Shapes: b sentences that have run together; the approximations from layers 0 ... L - 1 are [L, b, d].
From layer L there is nothing left to approximate. Where a sub-module is linear the residual sums are
kept, and it is replaced at every position of the prefix, in every block from l on.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from shortcut import linear
from shortcut.models import Model, Swap
from shortcut.representations import Pass


@dataclass(frozen=True)
class Maps:
    """Fitted matrices."""

    jumps: dict[tuple[int, int], torch.Tensor]  # A_ij, by (i, j)
    parts: dict[tuple[int, int], torch.Tensor]  # of block i (0-based) from its state a - 1 to a, by (i, a)


GoOn = Callable[[Pass], torch.Tensor]  # from what a batch left to its approximations [L, b, d]


@dataclass(frozen=True)
class Mode:
    """A way to go on."""

    name: str  # what it is called in the paper
    key: Any  # what stands for it in the records of results, as in the original code
    start: Callable[[Model, Maps], GoOn]  # from the model and its maps to what goes on from every layer of a batch
    others: tuple[Any, ...] = ()  # keys that stand for it in records of other code
    jumps: Callable[[int], list[tuple[int, int]]] = lambda _: []  # the (i, j) that it needs, of L layers
    parts: tuple[int, ...] = ()  # the states a, inside every block, whose maps it needs


def _stay(model: Model, maps: Maps) -> GoOn:
    return lambda seen: seen.h[:-1]


def _jump(model: Model, maps: Maps) -> GoOn:
    L = model.n_layers
    A = [maps.jumps[l, L].to(model.device) for l in range(L)]
    return lambda seen: torch.stack([linear.apply(A[l], seen.h[l]) for l in range(L)])


def _replaced(name: str, states: tuple[int, ...], *, alone: bool = False) -> Mode:
    """A mode in which sub-modules are linear: those that make these states.

    Without attention (`alone`) no position sees another, so that the chosen one goes on by itself.
    """

    def start(model: Model, maps: Maps) -> GoOn:
        swaps = model.swaps({(i, a): A for (i, a), A in maps.parts.items() if a in states})
        return partial(_go_on_alone if alone else _go_on, model, swaps)

    return Mode(name, ("blk_mat", {"what_to_mat": set(states)}), start, parts=states)


@torch.no_grad()
def _go_on_alone(model: Model, swaps: Sequence[Swap], seen: Pass) -> torch.Tensor:
    h = seen.h[:0, 0]
    with model.swapped(swaps):
        for block, joining in zip(model.blocks, seen.h, strict=False):
            h = block(torch.cat([h, joining])[:, None])[:, 0]  # sequences of one token
    return h.unflatten(0, (model.n_layers, -1))


@torch.no_grad()
def _go_on(model: Model, swaps: Sequence[Swap], seen: Pass) -> torch.Tensor:
    with model.swapped(swaps), model.narrowed(seen.batch.last):
        return seen.batch.at_chosen(_continue(model, seen.entering))


def _continue(model: Model, inputs: list[torch.Tensor]) -> torch.Tensor:
    """Run blocks i ... L - 1 on inputs[i] [b, T, d], for every i at once: [L, b, T, d].

    The batch grows on its way: before block i the states that really enter it join those that have
    already gone through other blocks than the model's own.
    """
    h = inputs[0][:0]
    for block, joining in zip(model.blocks, inputs, strict=True):
        h = torch.cat([h, joining])
        h = torch.cat([block(part) for part in h.split(len(joining))])
    return h.unflatten(0, (len(inputs), -1))


MODES = {mode.name: mode for mode in (
    Mode("id", "idln", _stay, others=("id",)),
    Mode("mat", "mat", _jump, jumps=lambda L: [(l, L) for l in range(L)]),
    _replaced("mat_ln1_ln2", (1, 4)),
    _replaced("mat_attn", (2,), alone=True),
    _replaced("mat_ffn", (5,)),
)}  # fmt: skip
WHOLE = tuple(mode.name for mode in MODES.values() if not mode.parts)  # those for masked models too


def modes_of(model: Model) -> list[str]:
    """The modes that a model has; without maps of its sub-modules those alone that replace none."""
    return [name for name, mode in MODES.items() if model.row.parts or not mode.parts]


def mode_of(key: Any) -> str | None:
    """The mode that a key in the records stands for; None if none does."""
    return next((mode.name for mode in MODES.values() if key in (mode.key, *mode.others)), None)


def needed(modes: Collection[str], L: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """The maps that modes need in a model of L layers: jumps by (i, j), parts by (block, state)."""
    jumps = sorted({pair for mode in modes for pair in MODES[mode].jumps(L)})
    parts = sorted({a for mode in modes for a in MODES[mode].parts})
    return jumps, [(i, a) for i in range(L) for a in parts]
