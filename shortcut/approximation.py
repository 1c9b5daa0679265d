"""Modes: ways to go from layer l to an approximation of the final state h_L. Each mode is a row of `MODES`.

    id            h_l itself                                       Linear Shortcut Across Blocks
    mat           A_lL h_l                                         the same
    mat_ln1_ln2   blocks l ... L - 1 with all their norms linear   Linear Shortcut Across Sub-modules
    mat_attn      ... with attention linear                        the same
    mat_ffn       ... with the feed-forward linear                 the same

Shapes: a batch of b sentences; the approximations from layers 0 ... L - 1 are [L, b, d]. From layer L there is
nothing left to approximate.

Linear sub-modules replace the originals in every block from l on, at every token position of the prefix where maps
were fitted; the residual sums are kept. Tokens that the tokenizer adds at the head (<s>) are never chosen, and their
states are outliers. These tokens are the same in every sentence and see no other token, so each sub-module has a
constant output there. This output is computed once and kept, and after a jump (`alternate`) the true state h_j is
kept. A masked model's maps are fitted at [MASK] and, by convention, act at every position, [CLS] and [SEP] included.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from shortcut.blocks import Swap, swapped
from shortcut.linear import Map
from shortcut.models import Model
from shortcut.representations import Batch, Pass
from shortcut.submodules import ATTENTION, FEED_FORWARD, NORM

Parts = Mapping[tuple[int, int], tuple[str, int]]  # as `Model.parts`


@dataclass(frozen=True)
class Maps:
    """Fitted maps."""

    jumps: dict[tuple[int, int], Map]  # from layer i to layer j, by (i, j)
    parts: dict[
        tuple[int, int], torch.Tensor
    ]  # A [d, d] of the part that outputs state a of block i (0-based), by (i, a)


GoOn = Callable[[Pass], torch.Tensor]  # from the forward pass over a batch to the approximations [L, b, d]


@dataclass(frozen=True)
class Mode:
    """A way to approximate h_L from every layer."""

    name: str  # as in the paper
    key: Any  # its key in the records of results, as in the original code
    start: Callable[[Model, Maps], GoOn]  # from the model and its maps to the function that goes on from every layer
    others: tuple[Any, ...] = ()  # its keys in records that other code wrote
    jumps: Callable[[int], list[tuple[int, int]]] = lambda _: []  # the jumps (i, j) that it needs, given L
    replaces: str = ""  # the kind of sub-module that is linear in it; their maps are needed
    maps: int | None = None  # maps applied before a read-out in early exit and lenses; None: neither uses it


def _stay(model: Model, maps: Maps) -> GoOn:
    return lambda seen: seen.h[:-1]


def _jump(model: Model, maps: Maps) -> GoOn:
    L = model.n_layers
    A = [maps.jumps[l, L].to(model.device) for l in range(L)]
    return lambda seen: torch.stack([A[l](seen.h[l]) for l in range(L)])


def _replaced(name: str, part_kind: str, key: set[int], *, isolated: bool = False) -> Mode:
    """A mode in which the sub-modules of a kind are linear; `key` has the states that they output in GPT-2.

    With linear attention (`isolated`) no position sees another, so only the chosen position goes on, unless the
    model computes something between its blocks.
    """

    def start(model: Model, maps: Maps) -> GoOn:
        replaced = {part: A for part, A in maps.parts.items() if model.parts[part][0] == part_kind}
        swaps = model.swaps(replaced)
        if isolated and model.is_chain:
            return partial(_go_on_isolated, model, swaps)
        return lambda seen: _go_on(model, _swaps_after_head(model, replaced, seen.batch) or swaps, seen)

    return Mode(name, ("blk_mat", {"what_to_mat": key}), start, replaces=part_kind)


@torch.no_grad()
def _go_on_isolated(model: Model, swaps: list[Swap], seen: Pass) -> torch.Tensor:
    """Go on from all layers at once: the states of layer l join the batch before block l, as sequences of one token."""
    h = seen.h[:0, 0]
    with swapped(swaps):
        for call, joining in zip(model.calls, seen.h, strict=False):
            h = call(torch.cat([h.to(joining), joining])[:, None])[:, 0]
    return h.to(seen.h).unflatten(0, (model.n_layers, -1))


@torch.no_grad()
def _swaps_after_head(model: Model, maps: Mapping[tuple[int, int], torch.Tensor], batch: Batch) -> list[Swap]:
    """Swaps that make sub-modules linear except at the head of sentences; [] if the tokenizer adds nothing there."""
    if not batch.head:
        return []
    points, place = model.part_points()
    own: dict[int, torch.Tensor] = {}
    with model.watch(points, lambda k, x: own.update({k: x.reshape(-1, model.d).clone()})):
        model.run(batch.ids[:1, : batch.head], None)

    def act(part: tuple[int, int], A: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        y = x.to(A.dtype) @ A.T
        if y.shape[:-1].numel() == batch.ids.numel():  # at all positions (some blocks work on [b T, d])
            y.view(*batch.ids.shape, -1)[:, : batch.head] = own[place[part]].to(y)
        return y

    return model.swaps(maps, act)


@torch.no_grad()
def _go_on(model: Model, swaps: list[Swap], seen: Pass) -> torch.Tensor:
    batch = seen.batch
    with swapped(swaps), model.narrowed(batch.last):
        finals = (model.go_on(l, h, batch.ids, batch.mask) for l, h in enumerate(seen.entering))
        return torch.stack([batch.at_chosen(h).to(seen.h) for h in finals])


MODES = {mode.name: mode for mode in (
    Mode("id", "idln", _stay, others=("id",), maps=0),
    Mode("mat", "mat", _jump, jumps=lambda L: [(l, L) for l in range(L)], maps=1),
    _replaced("mat_ln1_ln2", NORM, {1, 4}),
    _replaced("mat_attn", ATTENTION, {2}, isolated=True),
    _replaced("mat_ffn", FEED_FORWARD, {5}),
)}  # fmt: skip


def modes_of(parts: Parts) -> list[str]:
    """Names of the modes for a model with these sub-modules; modes with nothing to replace are left out."""
    part_kinds = {part_kind for part_kind, _ in parts.values()}
    return [name for name, mode in MODES.items() if not mode.replaces or mode.replaces in part_kinds]


def mode_of(key: Any) -> str | None:
    """Name of the mode with this key in the records; None if there is none."""
    return next((mode.name for mode in MODES.values() if key in (mode.key, *mode.others)), None)


def needed(parts: Parts, L: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """The maps that the modes need, for a model with L layers and these sub-modules: jumps (i, j) and parts (i, a)."""
    modes = [MODES[name] for name in modes_of(parts)]
    jumps = sorted({pair for mode in modes for pair in mode.jumps(L)})
    return jumps, [part for part, (part_kind, _) in parts.items() if part_kind in {mode.replaces for mode in modes}]


@torch.no_grad()
def alternate(
    model: Model,
    seen: Pass,
    schedules: list[tuple[tuple[int, int], ...]],
    maps: Mapping[tuple[int, int], Map],
) -> torch.Tensor:
    """h_L at the chosen tokens by each schedule (see `alternation`), [S, b, d], after a forward pass over the batch.

    Schedules with a common beginning compute it once. Blocks before the first jump have run in the forward pass.
    """
    L, batch = model.n_layers, seen.batch
    with model.going_on(L, seen.entering[0]):  # blocks are skipped: only their other arguments are needed
        calls = model.called(batch.ids, batch.mask)
    precision = next((A.A.dtype for A in maps.values()), seen.h.dtype)  # the maps', also if the model runs in half
    finals = torch.empty(len(schedules), len(batch.rows), model.d, dtype=precision, device=seen.h.device)

    def keep(which: list[int], h: torch.Tensor) -> None:
        for s in which:
            finals[s] = h

    def go(layer: int, h: torch.Tensor, which: list[int], taken: int) -> None:
        """Go on from `layer`, which the schedules in `which` have reached after `taken` jumps."""
        here = {s: schedules[s][taken] for s in which if len(schedules[s]) > taken and schedules[s][taken][0] == layer}
        for jump in sorted({*here.values()}):
            after, A = [s for s, its in here.items() if its == jump], maps[jump].to(h.device)
            if jump[1] == L:
                keep(after, A(batch.at_chosen(h).to(precision)))
            else:
                landed = A(h.to(precision))
                landed[:, : batch.head] = seen.entering[jump[1]][:, : batch.head]  # where no map was fitted
                go(jump[1], landed, after, taken + 1)
        if not (stay := [s for s in which if s not in here]):
            return
        ends = layer + 1 == L or all(schedules[s][taken:] == ((layer + 1, L),) for s in stay)
        if not taken and layer + 1 < L:
            following = seen.entering[layer + 1]
        else:
            with model.narrowed(batch.last, layer) if ends else nullcontext():
                following = calls[layer](h.clone())
        if layer + 1 == L:
            keep(stay, batch.at_chosen(following))
        else:
            go(layer + 1, following, stay, taken)

    go(0, seen.entering[0], [*range(len(schedules))], 0)
    return finals
