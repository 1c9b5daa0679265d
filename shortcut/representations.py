"""Hidden states at the chosen token of every sentence.

Shapes: n sentences; states [k, n, d], float32, k the points watched (layers 0 ... L, or the states
0 ... 6 of every block, see `models.Model.part_points`), in the order the sentences were given.

A causal model sees only the prefix that ends in the chosen token: what follows cannot change the
state there. Sentences of like length share a batch, padded on the right; neither the size of a
batch nor its padding changes a state beyond rounding.
"""

from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence

from shortcut import Problem
from shortcut.models import Model, Point
from shortcut.tokens import Tokenized


@dataclass(frozen=True)
class Batch:
    """Sentences that run together.

    Attributes:
        rows: [b], which sentences these are.
        ids: [b, T], padded on the right.
        mask: [b, T], 1 at tokens and 0 at padding; None where a causal model makes it needless.
        last: [b], the chosen position of each.
    """

    rows: torch.Tensor
    ids: torch.Tensor
    mask: torch.Tensor | None
    last: torch.Tensor

    def at_chosen(self, h: torch.Tensor) -> torch.Tensor:
        """The states [..., b, d] at the chosen positions of h [..., b, T, d]."""
        return h[..., torch.arange(len(self.last), device=h.device), self.last.to(h.device), :]


def batches(model: Model, tokenized: Tokenized, batch_tokens: int) -> list[Batch]:
    """The sentences, shortest first, in batches of at most `batch_tokens` tokens, padding included.

    Raises:
        Problem: a sentence longer than the model's context, or a token that is not in its vocabulary.
    """
    if model.family.masked:
        sequences = tokenized.sentences
    else:
        positions = tokenized.positions.tolist()
        sequences = [ids[: t + 1] for ids, t in zip(tokenized.sentences, positions, strict=True)]
    lengths = [len(ids) for ids in sequences]
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    if lengths[order[-1]] > model.context:
        raise Problem(
            f"sentence {order[-1]} has {lengths[order[-1]]} tokens to run, the model takes {model.context}:"
            " tokenize with this model's own tokenizer"
        )
    if (largest := max(int(ids.max()) for ids in sequences)) >= model.vocabulary:
        raise Problem(
            f"a sentence holds token {largest}, the model knows {model.vocabulary}:"
            " tokenize with this model's own tokenizer"
        )
    result, start = [], 0
    for end in range(1, len(order) + 1):
        if end == len(order) or lengths[order[end]] * (end + 1 - start) > batch_tokens:
            rows = torch.tensor(order[start:end])
            result.append(_batch(model, [sequences[k] for k in order[start:end]], rows, tokenized))
            start = end
    return result


def _batch(model: Model, sequences: list[torch.Tensor], rows: torch.Tensor, tokenized: Tokenized) -> Batch:
    ids = pad_sequence(sequences, batch_first=True, padding_value=model.padding).to(model.device)
    mask = None
    if model.family.masked and any(len(s) < ids.shape[1] for s in sequences):
        mask = pad_sequence([torch.ones_like(s) for s in sequences], batch_first=True).to(model.device)
    return Batch(rows, ids, mask, tokenized.positions[rows])


@torch.no_grad()
def states(model: Model, points: list[Point], batch: Batch) -> torch.Tensor:
    """States [k, b, d] at the chosen tokens of one batch, one pass for all points, on the CPU.

    Raises:
        Problem: a state that is not finite; it names the model, the layer and the sentence.
    """
    seen = torch.empty(len(points), len(batch.rows), model.d, device=model.device)

    def keep(k: int, h: torch.Tensor) -> None:
        seen[k] = batch.at_chosen(h)

    with model.narrowed(batch.last), model.watch(points, keep):
        model.run(batch.ids, batch.mask)
    _check_finite(model, seen, batch)
    return seen.cpu()


@dataclass(frozen=True)
class Pass:
    """What is left of one pass of the model over a batch.

    Attributes:
        batch: the batch.
        h: h_0 ... h_L at the chosen tokens, [L + 1, b, d].
        entering: what enters each block at every position, L times [b, T, d].
    """

    batch: Batch
    h: torch.Tensor
    entering: list[torch.Tensor]


@torch.no_grad()
def run(model: Model, batch: Batch) -> Pass:
    """One pass of the model over a batch, on its device. Raises as `states`."""
    entering: list[torch.Tensor] = []
    h = torch.empty(model.n_layers + 1, len(batch.rows), model.d, device=model.device)

    def keep(layer: int, states: torch.Tensor) -> None:
        h[layer] = batch.at_chosen(states)
        if layer < model.n_layers:
            entering.append(states)

    with model.narrowed(batch.last), model.watch(model.layer_points(), keep):
        model.run(batch.ids, batch.mask)
    _check_finite(model, h, batch)
    return Pass(batch, h, entering)


def _check_finite(model: Model, states: torch.Tensor, batch: Batch) -> None:
    finite = states.isfinite().all(-1).cpu()
    if not finite.all():
        k, row = (~finite).nonzero()[0].tolist()
        where = f"layer {k * model.n_layers / (len(states) - 1):.4g}"
        raise Problem(
            f"{model.name}: the state at {where} for sentence {batch.rows[row]} (counted from 0) is not finite:"
            " the checkpoint is broken"
        )
