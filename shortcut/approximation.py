"""Modes: ways to go from layer l to an approximation of the final state h_L. Each mode is a row of `MODES`.

    id            h_l itself                                       Linear Shortcut Across Blocks
    mat           A_lL h_l                                         the same
    mat_ln1_ln2   blocks l ... L - 1 with all their norms linear   Linear Shortcut Across Sub-modules
    mat_attn      ... with attention linear                        the same
    mat_ffn       ... with the feed-forward linear                 the same

Linear sub-modules replace the originals in every block from l on, at every token position of the prefix where maps
were fitted; the residual sums are kept. Tokens that the tokenizer adds at the head (<s>) are never chosen, and their
states are outliers. They are the same in every sentence and see no other token, so each sub-module has a constant
output there, which is kept; after a jump (`alternate`) the true state h_j is kept. A masked model's maps are fitted at
[MASK] and, by convention, act at every position, [CLS] and [SEP] included.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn.functional import linear

from shortcut.alternation import Schedule
from shortcut.blocks import Swap, swapped
from shortcut.linear import Map
from shortcut.models import Model
from shortcut.representations import Batch, Pass
from shortcut.submodules import ATTENTION, FEED_FORWARD, NORM, find

Parts = Mapping[tuple[int, int], tuple[str, int]]  # as `SubModules.parts`
Matrices = Mapping[tuple[int, int], torch.Tensor]  # A [d, d] of the part that outputs state a of block i, by (i, a)


@dataclass(frozen=True)
class Maps:
    """Fitted maps."""

    jumps: dict[tuple[int, int], Map]  # from layer i to layer j, by (i, j)
    parts: Matrices


GoOn = Callable[[Pass], torch.Tensor]  # from the forward pass over a batch to the approximations [L, b, d]


@dataclass(frozen=True)
class Mode:
    """A way to approximate h_L from every layer."""

    name: str  # as in the paper
    key: Any  # its key in the records of results, as in the original code
    start: Callable[[Model, Maps], GoOn]  # from the model and its maps to the function that goes on from every layer
    others: tuple[Any, ...] = ()  # its keys in records that other code wrote
    replaces: str = ""  # the kind of sub-module that is linear in it; their maps are needed
    maps: int | None = None  # maps applied before a read-out in early exit and lenses; None: neither uses it


def _jump(model: Model, maps: Maps) -> GoOn:
    jumps = [maps.jumps[l, model.n_layers].to(model.device) for l in range(model.n_layers)]
    return lambda seen: torch.stack([A(h) for A, h in zip(jumps, seen.h, strict=False)])


def _replace(part_kind: str, model: Model, maps: Maps) -> GoOn:
    """Go on with all sub-modules of a kind linear."""
    replaced = {part: A for part, A in maps.parts.items() if find(model).parts[part][0] == part_kind}
    swaps = replacing(model, replaced)

    @torch.no_grad()
    def isolated(seen: Pass) -> torch.Tensor:
        """All layers at once: the states of layer l join the batch before block l, as sequences of one token."""
        h = seen.h[:0, 0]
        with swapped(swaps):
            for call, joining in zip(model.calls, seen.h, strict=False):
                h = call(torch.cat([h.to(joining), joining])[:, None])[:, 0]
        return h.to(seen.h).unflatten(0, (model.n_layers, -1))

    @torch.no_grad()
    def go_on(seen: Pass) -> torch.Tensor:
        batch = seen.batch
        with swapped(_swaps_after_head(model, replaced, batch) if batch.head else swaps), model.narrowed(batch.chosen):
            finals = (model.go_on(l, h, batch.ids, batch.mask) for l, h in enumerate(seen.entering))
            return torch.stack([batch.at_chosen(h).to(seen.h) for h in finals])

    # linear attention: no position sees another, and the chosen one goes on by itself
    return isolated if part_kind == ATTENTION and model.is_chain else go_on


def _swaps_after_head(model: Model, maps: Matrices, batch: Batch) -> list[Swap]:
    """Swaps that make sub-modules linear except at the tokens that the tokenizer adds at the head of sentences."""
    points, place = find(model).points()
    own = model.record(points, batch.ids[:1, : batch.head], None)

    def act(part: tuple[int, int], A: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        y = x.to(A.dtype) @ A.T
        if y.shape[:-1].numel() == batch.ids.numel():  # at all positions (some blocks work on [b T, d])
            y.view(*batch.ids.shape, -1)[:, : batch.head] = own[place[part]].to(y)
        return y

    return replacing(model, maps, act)


def replacing(model: Model, maps: Matrices, act: Callable | None = None) -> list[Swap]:
    """Swaps that replace the part of block i that outputs state a by x -> A x, for every {(i, a): A}.

    If one linear layer with weights W reads state a, and nothing else, it gets W A instead, which saves a product.
    With `act` the part is x -> act((i, a), A, x), and no weights change.
    """
    swaps, followers = [], model.row.followers
    for (i, a), A in maps.items():
        part = find(model).numberings[i].made[a][0]
        A = A.to(part.forms[part.last].device)  # noqa: PLW2901
        if not act and (i, a + 1) not in maps and a in followers:
            reader = model.blocks[i].get_submodule(followers[a])
            if (reader.weight.dtype, reader.weight.device) == (A.dtype, A.device):  # not half, and not on disk
                weight = (A.T.double() @ reader.weight.double()).float().T
                swaps += [*part.acting(lambda x: x), (reader, partial(linear, weight=weight, bias=reader.bias))]
                continue
        swaps += part.acting(partial(act, (i, a), A) if act else lambda x, A=A: x.to(A.dtype) @ A.T)
    return swaps


MODES = {mode.name: mode for mode in (
    Mode("id", "idln", lambda model, maps: lambda seen: seen.h[:-1], others=("id",), maps=0),
    Mode("mat", "mat", _jump, maps=1),
    Mode("mat_ln1_ln2", ("blk_mat", {"what_to_mat": {1, 4}}), partial(_replace, NORM), replaces=NORM),
    Mode("mat_attn", ("blk_mat", {"what_to_mat": {2}}), partial(_replace, ATTENTION), replaces=ATTENTION),
    Mode("mat_ffn", ("blk_mat", {"what_to_mat": {5}}), partial(_replace, FEED_FORWARD), replaces=FEED_FORWARD),
)}  # fmt: skip


def modes_of(parts: Parts) -> list[str]:
    """Names of the modes for a model with these sub-modules; modes with nothing to replace are left out."""
    part_kinds = {part_kind for part_kind, _ in parts.values()}
    return [name for name, mode in MODES.items() if not mode.replaces or mode.replaces in part_kinds]


def mode_of(key: Any) -> str | None:
    """Name of the mode with this key in the records; None if there is none."""
    return next((mode.name for mode in MODES.values() if key in (mode.key, *mode.others)), None)


def needed(parts: Parts, L: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """The maps that the modes need, for a model with L layers and these sub-modules: jumps (l, L) and parts (i, a)."""
    replaced = {mode.replaces for mode in MODES.values()}
    return [(l, L) for l in range(L)], [part for part, (part_kind, _) in parts.items() if part_kind in replaced]


@torch.no_grad()
def alternate(model: Model, seen: Pass, schedules: list[Schedule], maps: Mapping[tuple[int, int], Map]) -> torch.Tensor:
    """h_L at the chosen tokens by each schedule, [S, b, d]; schedules with a common beginning compute it once."""
    L, batch = model.n_layers, seen.batch
    with model.going_on(L, seen.entering[0]):  # blocks are skipped: only their other arguments are needed
        calls = model.called(batch.ids, batch.mask)
    finals = seen.h.new_empty(len(schedules), *seen.h.shape[1:])

    def go(layer: int, h: torch.Tensor, remaining: dict[int, Schedule]) -> None:
        """Go on from `layer` with the jumps that remain of each schedule, by its number."""
        steps: dict[tuple[int, int] | None, dict[int, Schedule]] = {}  # by the next jump; None: a block
        for s, jumps in remaining.items():
            jump = jumps[0] if jumps and jumps[0][0] == layer else None
            steps.setdefault(jump, {})[s] = jumps[1:] if jump else jumps
        for jump, after in steps.items():
            reached = jump[1] if jump else layer + 1
            if jump:
                states = h if reached < L else batch.at_chosen(h)
                following = maps[jump].to(h.device)(states.to(finals.dtype))
            elif h is seen.entering[layer] and reached < L:  # no jump so far
                following = seen.entering[reached]
            else:
                following = calls[layer](h.clone())
            if reached == L:
                for s in after:
                    finals[s] = following if jump else batch.at_chosen(following)
                continue
            if jump:  # no map was fitted at the head
                following[:, : batch.head] = seen.entering[reached][:, : batch.head]
            go(reached, following, after)

    go(0, seen.entering[0], dict(enumerate(schedules)))
    return finals
