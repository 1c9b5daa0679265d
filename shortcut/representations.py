"""Hidden states at the chosen token of every sentence.

Shapes: n sentences; states [k, n, d], float32, k the points watched (layers 0 ... L, or the states
0 ... 6 of every block, see `models.Model.part_points`), in the order the sentences were given.

A causal model sees only the prefix that ends in the chosen token: what follows cannot change the
state there. Sentences of like length share a batch, padded on the right; neither the size of a
batch nor its padding changes a state beyond rounding.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence

from shortcut import Problem
from shortcut.models import Model, Point
from shortcut.text import Tokenized

Progress = Callable[[int], object]  # told how many sentences more are done


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


def batches(model: Model, tokenized: Tokenized, batch_tokens: int) -> Iterator[Batch]:
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
    start = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or lengths[order[end]] * (end + 1 - start) > batch_tokens:
            yield _batch(model, [sequences[k] for k in order[start:end]], torch.tensor(order[start:end]), tokenized)
            start = end


def _batch(model: Model, sequences: list[torch.Tensor], rows: torch.Tensor, tokenized: Tokenized) -> Batch:
    ids = pad_sequence(sequences, batch_first=True, padding_value=model.padding).to(model.device)
    mask = None
    if model.family.masked and any(len(s) < ids.shape[1] for s in sequences):
        mask = pad_sequence([torch.ones_like(s) for s in sequences], batch_first=True).to(model.device)
    return Batch(rows, ids, mask, tokenized.positions[rows])


def no_progress(_: int) -> None:
    """The progress nobody watches."""


@torch.inference_mode()
def collect(
    model: Model, tokenized: Tokenized, points: list[Point], batch_tokens: int, progress: Progress = no_progress
) -> torch.Tensor:
    """States [k, n, d] at the chosen tokens, one pass for all points, on the CPU.

    Raises:
        Problem: a state that is not finite; it names the model, the layer and the sentence.
    """
    states = torch.empty(len(points), len(tokenized), model.d)
    for batch in batches(model, tokenized, batch_tokens):

        def keep(k: int, h: torch.Tensor, batch: Batch = batch) -> None:
            states[k, batch.rows] = batch.at_chosen(h).cpu()

        with model.watch(points, keep):
            model.run(batch.ids, batch.mask)
        finite = states[:, batch.rows].isfinite().all(-1)
        if not finite.all():
            k, row = (~finite).nonzero()[0].tolist()
            where = f"layer {k * model.n_layers / (len(points) - 1):.4g}"
            raise Problem(
                f"{model.name}: the state at {where} for sentence {batch.rows[row]} (counted from 0) is not finite:"
                " the checkpoint is broken"
            )
        progress(len(batch.rows))
    return states


def layer_states(
    model: Model, tokenized: Tokenized, batch_tokens: int, progress: Progress = no_progress
) -> torch.Tensor:
    """h_0 ... h_L at the chosen tokens, [L + 1, n, d]. Raises as `collect`."""
    return collect(model, tokenized, model.layer_points(), batch_tokens, progress)


def part_states(
    model: Model, tokenized: Tokenized, batch_tokens: int, progress: Progress = no_progress
) -> torch.Tensor:
    """The states inside all blocks, [6 L + 1, n, d]; state a of block i is number 6 i + a. Raises as `collect`."""
    return collect(model, tokenized, model.part_points(), batch_tokens, progress)
