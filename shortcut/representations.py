"""Hidden states at the chosen token of every sentence: [k, n, d], float32, for n sentences and k points of the model.

The points are layers 0 ... L, or the states inside every block (`models.Model.part_points`). A causal model runs only
the prefix that ends in the chosen token. Sentences of similar length share a batch, padded on the right. Neither the
batch size nor the padding changes a state beyond rounding. Some rotary embeddings change their frequencies when the
longest sequence of a batch exceeds a limit ("longrope": Phi-3), and no batch has sentences on both sides of it.
"""

from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence

from shortcut import Problem, tokens
from shortcut.models import Model, Point
from shortcut.tokens import Tokenized


@dataclass(frozen=True)
class Batch:
    """Sentences that run together."""

    rows: torch.Tensor  # [b], the numbers of the sentences
    ids: torch.Tensor  # [b, T], padded on the right
    mask: torch.Tensor | None  # [b, T], 1 at tokens and 0 at padding; None where a causal model makes it needless
    last: torch.Tensor  # [b], the chosen position of each
    head: int = 0  # tokens that the tokenizer puts at the head of every sentence (`tokens.Tokenized.added`)

    def at_chosen(self, h: torch.Tensor) -> torch.Tensor:
        """The states [b, d] at the chosen positions of h [b, T, d], or [b T, d] as inside some blocks."""
        return h.reshape(*self.ids.shape, -1)[torch.arange(len(self.last)), self.last]


def batches(model: Model, tokenized: Tokenized, batch_tokens: int) -> list[Batch]:
    """Batches of at most `batch_tokens` tokens with padding, shortest sentences first; a longer sentence by itself.

    Raises Problem: a sentence longer than the model's context, or a token that is not in its vocabulary.
    """
    sequences = tokenized.sentences
    if not model.masked:
        sequences = [ids[: t + 1] for ids, t in zip(sequences, tokenized.positions.tolist(), strict=True)]
    lengths = [len(ids) for ids in sequences]
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    tokens.check(sequences, model.vocabulary)
    if (longest := lengths[order[-1]]) > model.context:
        what = f"sentence {order[-1]} has {longest} tokens to run, the model takes {model.context}"
        raise Problem(f"{what}: tokenize with this model's own tokenizer")
    result, start = [], 0
    for end in range(1, len(order) + 1):
        first, last = lengths[order[start]], lengths[order[min(end, len(order) - 1)]]
        mixed = any(first <= limit < last for limit in model.rotary_limits)
        if end == len(order) or mixed or last * (end + 1 - start) > batch_tokens:
            rows, together = torch.tensor(order[start:end]), [sequences[k] for k in order[start:end]]
            ids, mask = pad_sequence(together, batch_first=True, padding_value=model.padding).to(model.device), None
            if model.masked and first < ids.shape[1]:
                mask = pad_sequence([torch.ones_like(s) for s in together], batch_first=True).to(model.device)
            result.append(Batch(rows, ids, mask, tokenized.positions[rows], len(tokenized.added)))
            start = end
    return result


@torch.no_grad()
def whole(model: Model, ids: torch.Tensor) -> list[torch.Tensor]:
    """h_0 ... h_L at all tokens of sequences, [T] or [b, T]: L + 1 tensors [b T, d], float32, on their devices."""
    found: list[torch.Tensor] = []
    with model.watch(model.layer_points(), lambda _, h: found.append(h.reshape(-1, model.d).float())):
        model.run(ids.reshape(-1, ids.shape[-1]).to(model.device), None)
    return found


@dataclass(frozen=True)
class Pass:
    """Hidden states recorded during one forward pass."""

    batch: Batch
    h: torch.Tensor  # states at the chosen tokens, [k, b, d]: h_0 ... h_L, unless other points were watched
    entering: list[torch.Tensor]  # what enters each block, L times [b, T, d]; [] where other points were watched


@torch.no_grad()
def run(model: Model, batch: Batch, points: list[Point] | None = None) -> Pass:
    """Run the model on a batch and record the states at `points`; by default at all layers, and the blocks' inputs.

    Raises Problem: a state is not finite. The message names the model, the layer and the sentence.
    """
    watched, entering = points or model.layer_points(), []
    h = torch.empty(len(watched), len(batch.rows), model.d, device=model.device)

    def keep(k: int, states: torch.Tensor) -> None:
        h[k] = batch.at_chosen(states)
        if points is None and k < model.n_layers:
            entering.append(states.clone())  # some work in place

    with model.narrowed(batch.last), model.watch(watched, keep):
        model.run(batch.ids, batch.mask)
    if len(broken := h.isfinite().all(-1).logical_not().nonzero()):
        k, row = broken[0].tolist()
        where = f"layer {k * model.n_layers / (len(h) - 1):.4g} for sentence {batch.rows[row]} (counted from 0)"
        raise Problem(f"{model.name}: the state at {where} is not finite: the checkpoint is broken")
    return Pass(batch, h, entering)
