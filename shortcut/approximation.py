"""Five ways to go on from layer l to an approximation of the final state h_L.

    id            h_l itself                                                section 3.2
    mat           A_lL h_l                                                  section 3.1
    mat_ln1_ln2   blocks l ... L - 1 run with both layer norms linear       section 5
    mat_attn      ... with attention linear                                 section 5
    mat_ffn       ... with the feed-forward linear                          section 5

Shapes: states h [L + 1, n, d]; the result is [L + 1, n, d], row l starting from layer l. Row L is
h_L in every mode. In section 5 the residual sums are kept, and a sub-module is replaced at every
position of the prefix, in every block from l on.
"""

from collections.abc import Mapping

import torch

from shortcut import linear
from shortcut.models import Model
from shortcut.representations import Progress, batches
from shortcut.text import Tokenized

REPLACED = {"mat_ln1_ln2": (1, 4), "mat_attn": (2,), "mat_ffn": (5,)}  # by the states their maps make
REPLACED_STATES = tuple(sorted(a for states in REPLACED.values() for a in states))
MODES = ("id", "mat", *REPLACED)

Maps = Mapping[tuple[int, int], torch.Tensor]  # {(block i, state a): the map of i from state a - 1 to a}


def approximate(
    mode: str,
    model: Model,
    tokenized: Tokenized,
    h: torch.Tensor,
    jumps: list[torch.Tensor],
    parts: Maps,
    batch_tokens: int,
    progress: Progress,
) -> torch.Tensor:
    """Approximations of h_L from every layer, [L + 1, n, d].

    Args:
        mode: one of `MODES`.
        model: the model.
        tokenized: the sentences.
        h: their layer states, [L + 1, n, d].
        jumps: A_lL for l = 0 ... L - 1.
        parts: the maps of the sub-modules; those the mode does not replace are passed over.
        batch_tokens: tokens that run together.
        progress: told of sentences done.
    """
    if mode in REPLACED:
        maps = {(i, a): A for (i, a), A in parts.items() if a in REPLACED[mode]}
        go_on = _pointwise if mode == "mat_attn" else _whole_prefix
        return go_on(model, tokenized, h, maps, batch_tokens, progress)
    progress(len(tokenized))
    if mode == "id":
        return h
    return torch.stack([*(linear.apply(A, states) for A, states in zip(jumps, h[:-1], strict=True)), h[-1]])


@torch.inference_mode()
def _whole_prefix(
    model: Model, tokenized: Tokenized, h: torch.Tensor, maps: Maps, batch_tokens: int, progress: Progress
) -> torch.Tensor:
    """Each batch runs once as it is, to see what enters every block, then with the parts replaced."""
    final = h[-1].expand_as(h).clone()
    entries = model.layer_points()[:-1]
    for batch in batches(model, tokenized, batch_tokens):
        entering: list[torch.Tensor] = []
        with model.watch(entries, lambda _, states, entering=entering: entering.append(states)):
            model.run(batch.ids, batch.mask)
        with model.replace(maps):
            final[:-1, batch.rows] = batch.at_chosen(_continue(model, entering)).cpu()
        progress(len(batch.rows))
    return final


@torch.inference_mode()
def _pointwise(
    model: Model, tokenized: Tokenized, h: torch.Tensor, maps: Maps, batch_tokens: int, progress: Progress
) -> torch.Tensor:
    """Without attention no position sees another: the chosen one goes on alone, from the states at hand."""
    final = h.clone()
    with model.replace(maps):
        for rows in torch.arange(len(tokenized)).split(batch_tokens):
            entering = h[:-1, rows, None].to(model.device)  # sequences of one token
            final[:-1, rows] = _continue(model, list(entering))[..., 0, :].cpu()
            progress(len(rows))
    return final


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
