"""Hidden states at the chosen token of every sentence: [k, n, d], float32, for n sentences and k points of the model.

The points are layers 0 ... L, or the states inside every block (`SubModules.points`). A causal model runs each sentence
once, up to its last chosen token, and all chosen positions are read there. A masked model needs a pass for each [MASK].
Sequences of similar length share a batch, padded on the right. Neither the batch size nor the padding changes a state
beyond rounding. No batch has chosen positions on both sides of a limit of rotary embeddings (`blocks.rotary_limits`).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from shortcut import Problem, tokens
from shortcut.models import Model, Point
from shortcut.tokens import Tokenized


@dataclass(frozen=True)
class Batch:
    """B sequences that run together, with b chosen positions."""

    rows: torch.Tensor  # [b], the number of each chosen position in `Tokenized`
    ids: torch.Tensor  # [B, T], padded on the right
    mask: torch.Tensor | None  # [B, T], 1 at tokens and 0 at padding; None where a causal model makes it needless
    chosen: tuple[torch.Tensor, torch.Tensor]  # [b] each: the sequence and the token position
    head: int = 0  # tokens that the tokenizer puts at the head of every sentence (`tokens.Tokenized.added`)

    def at_chosen(self, h: torch.Tensor) -> torch.Tensor:
        """The states [b, d] at the chosen positions of h [B, T, d], or [B T, d] as inside some blocks."""
        return h.reshape(*self.ids.shape, -1)[self.chosen]


def batches(model: Model, tokenized: Tokenized, batch_tokens: int, *, together: bool = True) -> list[Batch]:
    """Batches of at most `batch_tokens` tokens with padding, shortest sequences first; a longer sequence by itself.

    Each position of a sentence has a sequence of its own if `together` is False, and for masked models. Raises Problem:
    a sequence longer than the model's context, or a token that is not in its vocabulary.
    """
    runs: dict[Any, list[int]] = {}  # positions that share a sequence
    ends = [len(ids) for ids in tokenized.sentences] if model.masked else (tokenized.positions + 1).tolist()
    shared = together and not model.masked and tokenized.numbers is not None
    for k, ids in enumerate(tokenized.sentences):
        side = sum(limit < ends[k] for limit in model.rotary_limits)
        key = (int(tokenized.numbers[k]), side, *ids.tolist()) if shared else k
        runs.setdefault(key, []).append(k)
    order = sorted(runs.values(), key=lambda rows: max(ends[k] for k in rows))
    sequences = [tokenized.sentences[rows[0]][: max(ends[k] for k in rows)] for rows in order]
    tokens.check(sequences, model.vocabulary)
    if (longest := len(sequences[-1])) > model.context:
        what = f"sentence {order[-1][0]} has {longest} tokens to run, the model takes {model.context}"
        raise Problem(f"{what}: tokenize with this model's own tokenizer")
    result, start = [], 0
    for end in range(1, len(order) + 1):
        first, last = len(sequences[start]), len(sequences[min(end, len(order) - 1)])
        mixed = any(first <= limit < last for limit in model.rotary_limits)
        if end == len(order) or mixed or last * (end + 1 - start) > batch_tokens:
            parts, mask = sequences[start:end], None
            rows = torch.tensor([k for run in order[start:end] for k in run])
            number = torch.tensor([s for s, run in enumerate(order[start:end]) for _ in run])
            ids = pad_sequence(parts, batch_first=True, padding_value=model.padding).to(model.device)
            if model.masked and first < ids.shape[1]:
                mask = pad_sequence([torch.ones_like(part) for part in parts], batch_first=True).to(model.device)
            result.append(Batch(rows, ids, mask, (number, tokenized.positions[rows]), len(tokenized.added)))
            start = end
    return result


@torch.no_grad()
def whole(model: Model, ids: torch.Tensor) -> list[torch.Tensor]:
    """h_0 ... h_L at all tokens of sequences, [T] or [b, T]: L + 1 tensors [b T, d], float32, on their devices."""
    found = model.record(model.layer_points(), ids.reshape(-1, ids.shape[-1]).to(model.device), None)
    return [h.reshape(-1, model.d).float() for h in found]


@dataclass(frozen=True)
class Pass:
    """Hidden states recorded during one forward pass."""

    batch: Batch
    h: torch.Tensor  # states at the chosen tokens, [k, b, d]: h_0 ... h_L, unless other points were watched
    entering: list[torch.Tensor]  # what enters each block, L times [B, T, d]; [] where other points were watched


@torch.no_grad()
def run(model: Model, batch: Batch, points: list[Point] | None = None) -> Pass:
    """Record the states at `points`; by default at all layers, and the blocks' inputs. Raises Problem if not finite."""
    watched, entering = points or model.layer_points(), []
    h = torch.empty(len(watched), len(batch.rows), model.d, device=model.device)

    def keep(k: int, states: torch.Tensor) -> None:
        h[k] = batch.at_chosen(states)
        if points is None and k < model.n_layers:
            entering.append(states.clone())  # some work in place

    with model.narrowed(batch.chosen), model.watch(watched, keep):
        model.run(batch.ids, batch.mask)
    if len(broken := h.isfinite().all(-1).logical_not().nonzero()):
        k, row = broken[0].tolist()
        where = f"layer {k * model.n_layers / (len(h) - 1):.4g} for sentence {batch.rows[row]} (counted from 0)"
        raise Problem(f"{model.name}: the state at {where} is not finite: the checkpoint is broken")
    return Pass(batch, h, entering)
