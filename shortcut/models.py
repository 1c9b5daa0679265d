"""Any language model of the library: hidden states, read-out, and resuming from a layer.

The blocks are found by structure (`blocks`). The read-out is the library's own forward pass with all blocks skipped:
every block's `forward` is replaced by a stub that returns h, so that the library itself applies final norms,
projections, scalings and heads. `loading` checks that all this holds for each model.

Layers are numbered as in the paper: h_0 is the input of the first block, h_l the input of block l (0-based; some
models compute something between blocks), h_L the output of the last block, before any final norm.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import nn

from shortcut.blocks import Call, context, depth, entering, find_blocks, hooked, rotary_limits, swapped, tensor_of


class Row(NamedTuple):
    """Facts about an architecture that its structure does not show; names are dotted paths from a block."""

    pointwise: tuple[str, ...] = ()  # children that work position by position and have most of a block's cost
    followers: Mapping[int, str] = {}  # by a: the Conv1D that is the only reader of state a
    sums: bool = False  # True if residual sums have maps too, from the state before: the original has them, unused


ROWS = {  # by Hugging Face's `config.model_type`
    "gpt2": Row(("attn.c_proj", "mlp"), {1: "attn.c_attn", 4: "mlp.c_fc"}, sums=True),
    "bert": Row(("attention.output.dense", "intermediate", "output.dense")),
}

Point = tuple[Any, str]  # a module, or a part of a block (`submodules.Part`), and "in" or "out"


class Model:
    """A loaded transformer in evaluation mode. Raises Problem if no list of modules runs once each and in order."""

    def __init__(self, net: nn.Module, masked: bool):
        self.net, self.masked = net, masked  # masked: predicts [MASK] from both sides, not the next token
        self.name = net.config.name_or_path  # the name or folder it was loaded from
        self.headless = False  # True if the checkpoint has an encoder and no head to read out with
        config = net.config.get_text_config(decoder=True)
        self.row = ROWS.get(net.config.model_type, Row())
        self.vocabulary = config.vocab_size
        # Any token works after a causal prefix or under an attention mask, but transformers warns about padding tokens.
        self._token = int(getattr(config, "pad_token_id", None) == 0)
        self.padding = 0 if masked else self._token
        self.blocks, self._forms = find_blocks(net, depth(config), self.dummy(2))  # L of them
        self.n_layers = len(self.blocks)
        self.context, self.rotary_limits = context(config), rotary_limits(config)  # lengths, in tokens
        self.d = self._forms[0].width  # of the states

    def sample(self) -> torch.Tensor:
        """Two sentences of four tokens (fewer if the context is shorter) that differ in the last token, [2, T]."""
        T = min(4, self.context)
        ids = (torch.arange(T, device=self.device) + self.vocabulary // 2).repeat(2, 1)
        ids[1, -1] += 1
        return ids % self.vocabulary

    def dummy(self, n: int) -> torch.Tensor:
        """n sequences of one token, [n, 1], which is not the padding token."""
        return torch.full((n, 1), self._token, device=self.device)

    @property
    def device(self) -> torch.device:
        """Device of the first weights that are in memory; other weights are read from disk at each use."""
        devices = [weights.device for weights in self.net.parameters()]
        return next((device for device in devices if device.type != "meta"), devices[0])

    def run(self, ids: torch.Tensor, mask: torch.Tensor | None) -> None:
        """Run the forward pass without the head, which is expensive."""
        self.net.base_model(input_ids=ids, attention_mask=mask)

    def read_out(self, h: torch.Tensor) -> torch.Tensor:
        """Logits [..., v] from states [..., d], each read out like h_L, in the model's precision."""
        rows = h.reshape(-1, 1, h.shape[-1])
        with self.going_on(self.n_layers, rows):
            logits = self.net(input_ids=self.dummy(len(rows))).logits
        return logits.reshape(*h.shape[:-1], -1)

    def going_on(self, layer: int, h: torch.Tensor) -> AbstractContextManager[None]:
        """Within this context, a forward pass goes on from `layer` with h [b, T, d] and skips the blocks before."""
        pairs = [*zip(self.blocks, self._forms, strict=True)]
        swaps = [(block, form.stub(h)) for block, form in pairs[:layer]]
        swaps += [(block, form.entered(block.forward, h)) for block, form in pairs[layer : layer + 1]]
        return swapped(swaps)

    def go_on(self, layer: int, h: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """h_L at all positions, [b, T, d], after going on from `layer` with h [b, T, d]."""
        with self.going_on(layer, h):
            return self.record([(self.blocks[-1], "out")], ids, mask)[0]

    def layer_points(self) -> list[Point]:
        """Points at which h_0 ... h_L are recorded."""
        return [*((block, "in") for block in self.blocks), (self.blocks[-1], "out")]

    @cached_property
    def calls(self) -> list[Call]:
        """Arguments of each block in a forward pass over `sample`."""
        return self.called(self.sample(), None)

    @torch.no_grad()
    def called(self, ids: torch.Tensor, mask: torch.Tensor | None) -> list[Call]:
        """Arguments of each block in a forward pass over a batch."""
        given: list[tuple[tuple, dict[str, Any]]] = []
        with hooked((block, "in", lambda *passed: given.append(passed)) for block in self.blocks):
            self.run(ids, mask)
        return [Call(*found) for found in zip(self.blocks, self._forms, given, strict=True)]

    @cached_property
    @torch.no_grad()
    def is_chain(self) -> bool:
        """True if the output of each block is the input of the next."""
        inputs = [entering(*call.given) for call in self.calls]
        pairs = [(call(h.clone()), after) for call, h, after in zip(self.calls, inputs, inputs[1:], strict=False)]
        return all(torch.allclose(made.to(after), after, atol=1e-3, rtol=1e-3) for made, after in pairs)

    def watch(self, points: list[Point], keep: Callable[[int, torch.Tensor], None]) -> AbstractContextManager[None]:
        """Within this context, `keep(k, h)` is called with states h [b, T, d] at point k whenever the model runs."""
        hooks = []
        for k, (place, side) in enumerate(points):
            first, last, made = place, place, lambda args, named, out: tensor_of(out)
            if not isinstance(place, nn.Module):
                first, last, made = place.first, place.last, place.made
            module, states = (first, entering) if side == "in" else (last, made)
            hooks.append((module, side, lambda *passed, k=k, states=states: keep(k, states(*passed))))
        return hooked(hooks)

    def record(self, points: list[Point], ids: torch.Tensor, mask: torch.Tensor | None) -> list[torch.Tensor]:
        """States at these points in a forward pass over a batch, copied, since some blocks work in place."""
        found: dict[int, torch.Tensor] = {}
        with self.watch(points, lambda k, h: found.update({k: h.clone()})):
            self.run(ids, mask)
        return [found[k] for k in range(len(points))]

    def narrowed(self, chosen: tuple[torch.Tensor, torch.Tensor]) -> AbstractContextManager[None]:
        """Run the last block's position-wise parts only at `chosen`; h_L is wrong elsewhere, where nothing reads it."""

        def narrow(forward: Callable, x: torch.Tensor) -> torch.Tensor:
            out = forward(x[chosen])
            return out.new_zeros(*x.shape[:2], out.shape[-1]).index_put(chosen, out)

        modules = [self.blocks[-1].get_submodule(name) for name in self.row.pointwise]
        return swapped((module, partial(narrow, module.forward)) for module in modules)
