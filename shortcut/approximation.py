"""Five ways to go on from layer l to an approximation of the final state h_L.

    id            h_l itself                                                section 3.2
    mat           A_lL h_l                                                  section 3.1
    mat_ln1_ln2   blocks l ... L - 1 run with both layer norms linear       section 5
    mat_attn      ... with attention linear                                 section 5
    mat_ffn       ... with the feed-forward linear                          section 5

Shapes: states h [L + 1, n, d]; the approximations from layers 0 ... L - 1 are [L, n, d]. From layer L
there is nothing left to approximate. In section 5 the residual sums are kept, and a sub-module is
replaced at every position of the prefix, in every block from l on.
"""

from collections.abc import Mapping, Sequence

import torch

from shortcut import linear
from shortcut.models import Model, Swap
from shortcut.representations import Batch

REPLACED = {"mat_ln1_ln2": (1, 4), "mat_attn": (2,), "mat_ffn": (5,)}  # by the states their maps make
REPLACED_STATES = tuple(sorted(a for states in REPLACED.values() for a in states))
MODES = ("id", "mat", *REPLACED)
SEQUENCE_MODES = ("mat_ln1_ln2", "mat_ffn")  # those that keep attention, and so need the whole prefix

Maps = Mapping[tuple[int, int], torch.Tensor]  # {(block i, state a): the map of i from state a - 1 to a}


def replaced(mode: str, model: Model, parts: Maps) -> list[Swap]:
    """What to swap in the model for a mode of section 5; the maps it does not replace are passed over."""
    return model.swaps({(i, a): A for (i, a), A in parts.items() if a in REPLACED[mode]})


@torch.no_grad()
def jump(jumps: Sequence[torch.Tensor], h: torch.Tensor, device: torch.device) -> torch.Tensor:
    """mat: A_lL h_l, for the matrices A_lL of l = 0 ... L - 1."""
    finals = (linear.apply(A.to(device), states.to(device)) for A, states in zip(jumps, h[:-1], strict=True))
    return torch.stack([final.cpu() for final in finals])


@torch.no_grad()
def go_on_alone(model: Model, swaps: Sequence[Swap], h: torch.Tensor, rows: int) -> torch.Tensor:
    """mat_attn: without attention no position sees another, so the chosen one goes on alone, `rows` at a time."""
    finals = torch.empty_like(h[:-1])
    with model.swapped(swaps):
        for chunk in torch.arange(h.shape[1]).split(rows):
            entering = h[:-1, chunk, None].to(model.device)  # sequences of one token
            finals[:, chunk] = _continue(model, list(entering))[..., 0, :].cpu()
    return finals


@torch.no_grad()
def go_on(model: Model, swaps: Sequence[Sequence[Swap]], batch: Batch) -> torch.Tensor:
    """mat_ln1_ln2, mat_ffn: approximations [len(swaps) L, b, d] for a batch of whole prefixes, on the CPU.

    The batch runs once as it is, to see what enters every block, and once for each of `swaps`.
    """
    entering: list[torch.Tensor] = []
    with (
        model.narrowed(batch.last),
        model.watch(model.layer_points()[:-1], lambda _, states: entering.append(states)),
    ):
        model.run(batch.ids, batch.mask)
    finals = []
    for of_a_mode in swaps:
        with model.swapped(of_a_mode), model.narrowed(batch.last):
            finals.append(batch.at_chosen(_continue(model, entering)).cpu())
    return torch.cat(finals)


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
