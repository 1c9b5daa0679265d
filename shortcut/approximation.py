"""The ways to go on from layer l to an approximation of the final state h_L, a row of `MODES` each.

    id            h_l itself                                       Linear Shortcut Across Blocks
    mat           A_lL h_l                                         the same
    mat_ln1_ln2   blocks l ... L - 1 with all their norms linear   Linear Shortcut Across Sub-modules
    mat_attn      ... with attention linear                        the same
    mat_ffn       ... with the feed-forward linear                 the same

Shapes: b sentences that have run together; the approximations from layers 0 ... L - 1 are [L, b, d].
From layer L there is nothing left to approximate. Where a sub-module is linear the residual sums are
kept, and it is replaced in every block from l on, at every position of the prefix where maps were fitted: tokens that
the tokenizer puts at the head (<s>) are never chosen, and their states are outliers. They are the same in every
sentence and see only themselves, so what each sub-module makes of them is constant. It is computed once and kept
there, as are their true states h_j after a jump (`alternate`). A masked model's maps are fitted at [MASK] and act at
every position, [CLS] and [SEP] included, by convention.
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
    ]  # A [d, d] of the part that makes state a of block i (0-based), by (i, a)


GoOn = Callable[[Pass], torch.Tensor]  # from what a batch left to its approximations [L, b, d]


@dataclass(frozen=True)
class Mode:
    """A way to go on."""

    name: str  # what it is called in the paper
    key: Any  # what stands for it in the records of results, as in the original code
    start: Callable[[Model, Maps], GoOn]  # from the model and its maps to what goes on from every layer of a batch
    others: tuple[Any, ...] = ()  # keys that stand for it in records of other code
    jumps: Callable[[int], list[tuple[int, int]]] = lambda _: []  # the (i, j) that it needs, of L layers
    replaces: str = ""  # the kind of sub-module that is linear in it, whose maps it needs
    maps: int | None = None  # maps applied to a state before it is read out, as early exit and lenses do; or None


def _stay(model: Model, maps: Maps) -> GoOn:
    return lambda seen: seen.h[:-1]


def _jump(model: Model, maps: Maps) -> GoOn:
    L = model.n_layers
    A = [maps.jumps[l, L].to(model.device) for l in range(L)]
    return lambda seen: torch.stack([A[l](seen.h[l]) for l in range(L)])


def _replaced(name: str, kind: str, key: set[int], *, alone: bool = False) -> Mode:
    """A mode in which the sub-modules of a kind are linear; `key`: the states that GPT-2's make.

    Without attention (`alone`) no position sees another, so that the chosen one goes on by itself, unless the
    model works between its blocks.
    """

    def start(model: Model, maps: Maps) -> GoOn:
        replaced = {part: A for part, A in maps.parts.items() if model.parts[part][0] == kind}
        swaps = model.swaps(replaced)
        if alone and model.is_chain:
            return partial(_go_on_alone, model, swaps)
        return lambda seen: _go_on(model, _but_for_head(model, replaced, seen.batch) or swaps, seen)

    return Mode(name, ("blk_mat", {"what_to_mat": key}), start, replaces=kind)


@torch.no_grad()
def _go_on_alone(model: Model, swaps: list[Swap], seen: Pass) -> torch.Tensor:
    """From every layer at once: before block l those that go on from there join the others, as sequences of one."""
    h = seen.h[:0, 0]
    with swapped(swaps):
        for call, joining in zip(model.calls, seen.h, strict=False):
            h = call(torch.cat([h.to(joining), joining])[:, None])[:, 0]
    return h.to(seen.h).unflatten(0, (model.n_layers, -1))


@torch.no_grad()
def _but_for_head(model: Model, maps: Mapping[tuple[int, int], torch.Tensor], batch: Batch) -> list[Swap]:
    """What makes sub-modules linear but at the head of the sentences; [] where the tokenizer adds nothing there."""
    if not batch.head:
        return []
    points, place = model.part_points()
    own: dict[int, torch.Tensor] = {}
    with model.watch(points, lambda k, x: own.update({k: x.reshape(-1, model.d).clone()})):
        model.run(batch.ids[:1, : batch.head], None)

    def act(part: tuple[int, int], A: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        y = x.to(A.dtype) @ A.T
        if y.shape[:-1].numel() == batch.ids.numel():  # of all positions (some work on [b T, d]), not the chosen ones
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
    _replaced("mat_attn", ATTENTION, {2}, alone=True),
    _replaced("mat_ffn", FEED_FORWARD, {5}),
)}  # fmt: skip


def modes_of(parts: Parts) -> list[str]:
    """The modes that a model has whose sub-modules are these; one with nothing to replace is left out."""
    kinds = {kind for kind, _ in parts.values()}
    return [name for name, mode in MODES.items() if not mode.replaces or mode.replaces in kinds]


def mode_of(key: Any) -> str | None:
    """The mode that a key in the records stands for; None if none does."""
    return next((mode.name for mode in MODES.values() if key in (mode.key, *mode.others)), None)


def needed(parts: Parts, L: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """The maps that the modes need in a model of L layers with these sub-modules: jumps by (i, j), parts by (i, a)."""
    modes = [MODES[name] for name in modes_of(parts)]
    jumps = sorted({pair for mode in modes for pair in mode.jumps(L)})
    return jumps, [part for part, (kind, _) in parts.items() if kind in {mode.replaces for mode in modes}]


@torch.no_grad()
def alternate(
    model: Model,
    seen: Pass,
    schedules: list[tuple[tuple[int, int], ...]],
    maps: Mapping[tuple[int, int], Map],
) -> torch.Tensor:
    """h_L at the chosen tokens [S, b, d] by each schedule (see `alternation`), of a batch that has run.

    Schedules that begin alike share the work of their beginning, and blocks before any jump have run already.
    """
    L, batch = model.n_layers, seen.batch
    with model.going_on(L, seen.entering[0]):  # the blocks passed over: what they are called with beside h is all
        calls = model.called(batch.ids, batch.mask)
    precision = next((A.A.dtype for A in maps.values()), seen.h.dtype)  # of the maps, if the model runs in half
    finals = torch.empty(len(schedules), len(batch.rows), model.d, dtype=precision, device=seen.h.device)

    def keep(which: list[int], h: torch.Tensor) -> None:
        for s in which:
            finals[s] = h

    def go(layer: int, h: torch.Tensor, which: list[int], taken: int) -> None:
        """From `layer`, which these have reached after `taken` jumps."""
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
