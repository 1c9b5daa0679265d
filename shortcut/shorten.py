"""Shorten a model: drop blocks I ... J - 1, and fold a linear map in their place into block I - 1.

Blocks read the residual stream through norms, so no block can hold a map of the whole state h_I. What block I - 1 adds
to the stream can be changed. With m the output of its feed-forward and a = h_I - m,

    h_J  ~  a + T m + c        T, c = argmin  sum over training positions of || T m + c - (m + h_J - h_I) ||^2

with a ridge penalty on T - I (see `linear.ridge`). T and c go into the weight and bias of the last linear layer in the
feed-forward; without a bias there is no c. Shapes: n token positions; m, h_I, h_J [n, d]; T [d, d]; c [d].
"""

import copy
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from shortcut import Problem, linear, representations
from shortcut.blocks import Call, Swap, entering, hooked, swapped
from shortcut.linear import Map
from shortcut.models import Model
from shortcut.representations import Batch
from shortcut.submodules import FEED_FORWARD, find_parts
from shortcut.tokens import Tokenized

STRIDE = 5  # T is fitted on every fifth token of each training sentence


def last_layer(model: Model, drop: range) -> nn.Module:
    """The linear layer whose output is m. Raises Problem if a map for these blocks cannot be folded into it.

    The proof: a random delta, added to the output of the layer, moves the output of block I - 1 by exactly delta.
    """
    weights = [id(weight) for block in model.blocks for weight in block.parameters()]
    numbered = getattr(model.net.config, "scale_attn_by_inverse_layer_idx", False)
    reasons = {
        f"expected I:J with 1 <= I < J <= {model.n_layers}": not 1 <= drop.start < drop.stop <= model.n_layers,
        "it is a mixture of experts": any("expert" in name for name, _ in model.net.named_modules()),
        "its blocks share weights": len({*weights}) < len(weights),
        "it computes something between its blocks": not model.is_chain,
        "it has scale_attn_by_inverse_layer_idx, so that attention depends on the number of the block": numbered,
    }
    if found := [reason for reason, holds in reasons.items() if holds]:
        raise Problem(f"{model.name} cannot be shortened by blocks {drop.start}:{drop.stop}: {found[0]}")
    call = model.calls[drop.start - 1]
    h = entering(*call.given)
    plain = call(h.clone())
    delta = plain.abs().max() * torch.randn(h.shape, generator=torch.Generator().manual_seed(0)).to(h)

    def add(args, named, out):
        return out + delta.reshape(out.shape) if out.numel() == delta.numel() else out

    parts = [part for part in find_parts(call.block) if part.part_kind == FEED_FORWARD]
    for layer in reversed([module for part in parts for module in part.last.modules()]):
        if getattr(layer, "weight", None) is not None and layer.weight.ndim == 2:
            with hooked([(layer, "out", add)]):
                moved = call(h.clone()) - plain
            if torch.allclose(moved, delta, rtol=0, atol=1e-4 * delta.abs().max().item()):
                return layer
    why = "its feed-forward has no last linear layer whose output is added unchanged, without a norm or a factor"
    raise Problem(f"{model.name} cannot be shortened: block {drop.start - 1}: {why}")


def whole(tokenized: Tokenized) -> Tokenized:
    """Each sentence once and up to its last token; without the sentences that have no token to predict."""
    numbers = range(len(tokenized)) if tokenized.numbers is None else tokenized.numbers.tolist()
    once = dict(zip(numbers, tokenized.sentences, strict=True)).values()
    sentences = [ids for ids in once if len(ids) > max(1, len(tokenized.added))]
    return Tokenized(sentences, torch.tensor([len(ids) - 1 for ids in sentences]), added=tokenized.added)


def _positions(batch: Batch, first: int, stride: int = 1) -> torch.Tensor:
    """True at every `stride`-th position from `first` to the last of each sentence, bool [b, T]."""
    t = torch.arange(batch.ids.shape[1])
    return (t >= first) & (t <= batch.chosen[1][:, None]) & ((t + batch.rows[:, None]) % stride == 0)


@dataclass(frozen=True, eq=False)
class Shortened:
    """A model without the blocks in `drop`, with the linear layer `folded` in place of `layer` in the block before."""

    drop: range
    layer: nn.Module
    folded: nn.Module

    def swaps(self, model: Model) -> list[Swap]:
        """Swaps that make the whole model run as the shortened one."""
        return [(self.layer, self.folded.forward), *passed_over(model, self.drop)]


@torch.no_grad()
def shorten(model: Model, drops: list[range], batches: list[Batch]) -> list[Shortened]:
    """The model without each range of blocks, all fitted in one pass over batches of training sentences."""
    layers = [last_layer(model, drop) for drop in drops]
    points = [*model.layer_points(), *((layer, "out") for layer in layers)]
    found: list[list[torch.Tensor]] = [[] for _ in points]
    for batch in batches:
        chosen = _positions(batch, batch.head, STRIDE)

        def keep(k: int, h: torch.Tensor, chosen: torch.Tensor = chosen) -> None:
            found[k].append(h.reshape(*chosen.shape, -1)[chosen].float().cpu())

        with model.watch(points, keep):
            model.run(batch.ids, batch.mask)
    h = [torch.cat(states) for states in found]
    made = zip(drops, layers, h[model.n_layers + 1 :], strict=True)
    return [Shortened(drop, layer, fold(layer, m, h[drop.stop] - h[drop.start])) for drop, layer, m in made]


@torch.no_grad()
def fold(layer: nn.Module, m: torch.Tensor, change: torch.Tensor) -> nn.Module:
    """The layer x -> T layer(x) + c, with T and c fitted to m and `change` = h_J - h_I."""
    X, Y = m.double(), m.double() + change.double()
    x, y = (states.mean(0) * (layer.bias is not None) for states in (X, Y))
    T, _ = linear.ridge(linear.factorize(X - x, torch.finfo(torch.float32).eps), X - x, Y - y)
    folded, W = copy.deepcopy(layer), layer.weight.double()
    folded.weight.copy_(W @ T.T if hasattr(layer, "nf") else T @ W)  # GPT-2's weights are [in, out]
    if layer.bias is not None:
        folded.bias.copy_(T @ layer.bias.double() + y - T @ x)
    return folded


def passed_over(model: Model, drop: range, A: Map | None = None, added: tuple[int, ...] = ()) -> list[Swap]:
    """Swaps that pass over the blocks in `drop`, or replace them by A_IJ; `added` tokens keep their true states h_J."""
    calls = model.calls[drop.start : drop.stop]
    head = representations.whole(model, torch.tensor(added))[drop.stop] if added else torch.empty(0, model.d)

    def act(call: Call, *args: Any, **named: Any) -> Any:
        h = entering(args, named)
        if A and call is calls[0]:
            h = A(h)
            h[:, : len(added)] = head
        return call.form.returned(h)

    return [(call.block, partial(act, call)) for call in calls]


@torch.no_grad()
def surprisals(runs: dict, batches: list[Batch]) -> tuple[dict, dict, torch.Tensor]:
    """Surprisal in nats of all tokens but the added ones, [N], and seconds, by run; the sentence of each token, [N].
    A run is a model and swaps. The runs take turns at each batch, so that a busy machine slows all of them.
    """
    nats, seconds, sentences = {name: [] for name in runs}, dict.fromkeys(runs, 0.0), []
    for batch in batches:
        predicted = _positions(batch, max(1, batch.head))[:, 1:]
        sentences.append(batch.rows[:, None].expand(predicted.shape)[predicted])
        for name, (model, swaps) in runs.items():
            start = time.perf_counter()
            with swapped(swaps):
                logits = model.net(input_ids=batch.ids, attention_mask=batch.mask).logits[:, :-1]
            seconds[name] += time.perf_counter() - start
            actual = batch.ids[:, 1:][predicted]
            nats[name].append(nn.functional.cross_entropy(logits[predicted], actual, reduction="none"))
    return {name: torch.cat(x) for name, x in nats.items()}, seconds, torch.cat(sentences)
