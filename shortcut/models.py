"""Everything known about model architectures: where their blocks are, how to read out, what to exchange.

Nothing of it is a name, for most of them. The blocks are the first list of as many modules as the config has
layers that all run once, in order. The read-out is the library's own forward pass with its blocks passed over:
every block's `forward` is exchanged for a stub that hands its input on, the last one's for one that returns h.
So final norms, projections, scalings and whole heads are the library's business. `loading` proves of every
model that both hold. What structure does not tell is a row of `ROWS`, keyed by Hugging Face's `config.model_type`.

States are seen by hooks (`Model.watch`), sub-modules are made linear by exchanging their `forward` too
(`Model.swaps`, see `submodules`), and the last block is spared what nobody reads (`Model.narrowed`), all undone
when their `with` block ends.

Layers are numbered as in the paper: h_0 is what enters the first block, h_l what enters block l (0-based; some
models work between blocks), h_L what leaves the last one, before any final norm.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import nn

from shortcut.blocks import Form, Swap, context, depth, entering, find_blocks, hooked, rotary_limits, swapped
from shortcut.submodules import SUM, Call, Numbering, Part, numbered


@dataclass(frozen=True)
class Row:
    """What structure does not tell of an architecture; every name is a dotted path from a block."""

    pointwise: tuple[str, ...] = ()  # children that work position by position and bear most of a block's cost
    followers: Mapping[int, str] = field(default_factory=dict)  # the linear layer that alone reads state a, by a
    sums: bool = False  # whether residual sums are mapped from the state before too, which no mode uses


ROWS = {
    "gpt2": Row(
        pointwise=("attn.c_proj", "mlp"),
        followers={1: "attn.c_attn", 4: "mlp.c_fc"},
        sums=True,  # the original's files have them
    ),
    "bert": Row(pointwise=("attention.output.dense", "intermediate", "output.dense")),
}

Point = tuple[nn.Module | Part, str]  # a module or a part of a block, and whether its input or output is meant


class Model:
    """A loaded transformer, in evaluation mode.

    Raises Problem: no list of its modules runs as blocks do.
    """

    def __init__(self, net: nn.Module, masked: bool):
        self.net, self.masked = net, masked  # masked: predicts masked tokens from both sides, not the next one
        self.name = net.config.name_or_path  # what it was loaded by
        self.headless = False  # whether there is an encoder alone, and nothing to read out with
        config = net.config.get_text_config(decoder=True)
        self.row = ROWS.get(net.config.model_type, Row())
        self.vocabulary = config.vocab_size
        # Any token will do behind a causal prefix or a mask, but transformers warns about the one called padding.
        self._token = int(getattr(config, "pad_token_id", None) == 0)
        self.padding = 0 if masked else self._token
        self.blocks, self._forms = find_blocks(net, depth(config), self.dummy(2))  # L of them
        self.n_layers = len(self.blocks)
        self.context, self.rotary_limits = context(config), rotary_limits(config)  # lengths, in tokens
        self.d = self._forms[0].width  # of the states

    def sample(self) -> torch.Tensor:
        """Two sentences of four tokens (fewer if the context is) that differ in the last, [2, T]."""
        T = min(4, self.context)
        first = (torch.arange(T + 1, device=self.device) + self.vocabulary // 2) % self.vocabulary
        return torch.stack([first[:T], torch.cat([first[: T - 1], first[T:]])])

    def dummy(self, n: int) -> torch.Tensor:
        """n sequences of one token, none of them the one called padding."""
        return torch.full((n, 1), self._token, device=self.device)

    @property
    def device(self) -> torch.device:
        """Where the first of its weights lie, of those that are not read from the disk each time."""
        first = next(self.net.parameters()).device
        return next((w.device for w in self.net.parameters() if w.device.type != "meta"), first)

    def run(self, ids: torch.Tensor, mask: torch.Tensor | None) -> None:
        """The library's own forward pass up to the head, which would cost most and is not needed."""
        self.net.base_model(input_ids=ids, attention_mask=mask)

    def read_out(self, h: torch.Tensor) -> torch.Tensor:
        """Logits [..., v] of states [..., d], read like h_L in the model's own precision, each as a sequence of one."""
        rows = h.reshape(-1, 1, h.shape[-1])
        with self.going_on(self.n_layers, rows):
            logits = self.net(input_ids=self.dummy(len(rows))).logits
        return logits.reshape(*h.shape[:-1], -1)

    def going_on(self, layer: int, h: torch.Tensor) -> AbstractContextManager[None]:
        """Within, a forward pass goes on from `layer` with h [b, T, d]: the blocks before it are passed over."""
        pairs = [*zip(self.blocks, self._forms, strict=True)]
        swaps = [(block, form.stub(h if block is self.blocks[-1] else None)) for block, form in pairs[:layer]]
        swaps += [(block, form.entered(block.forward, h)) for block, form in pairs[layer : layer + 1]]
        return swapped(swaps)

    def go_on(self, layer: int, h: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """h_L at all positions [b, T, d], going on from `layer` with h [b, T, d]."""
        found: list[torch.Tensor] = []
        with self.going_on(layer, h), self.watch([(self.blocks[-1], "out")], lambda _, x: found.append(x)):
            self.run(ids, mask)
        return found[0]

    def layer_points(self) -> list[Point]:
        """Where h_0 ... h_L can be seen."""
        return [*((block, "in") for block in self.blocks), (self.blocks[-1], "out")]

    @cached_property
    def calls(self) -> list[Call]:
        """How each block is called on `sample`."""
        return self.called(self.sample(), None)

    @torch.no_grad()
    def called(self, ids: torch.Tensor, mask: torch.Tensor | None) -> list[Call]:
        """How each block is called on a batch."""
        calls: list[Call] = []

        def keep(block: nn.Module, form: Form, args: tuple, named: dict[str, Any]) -> None:
            calls.append(Call(block, form, args, named))

        pairs = zip(self.blocks, self._forms, strict=True)
        with hooked((block, "in", partial(keep, block, form)) for block, form in pairs):
            self.run(ids, mask)
        return calls

    @cached_property
    @torch.no_grad()
    def is_chain(self) -> bool:
        """Whether what leaves a block is what enters the next."""
        inputs = [entering(call.args, call.named) for call in self.calls]
        made = [call(h.clone()) for call, h in zip(self.calls, inputs, strict=True)]
        return all(torch.allclose(a.to(b), b, atol=1e-3, rtol=1e-3) for a, b in zip(made, inputs[1:], strict=False))

    @cached_property
    @torch.no_grad()
    def _numbered(self) -> tuple[list[Numbering], str | None]:
        """The states inside all blocks, or why there are none (see `submodules.numbered`)."""
        return numbered(self.calls)

    @property
    def why_no_parts(self) -> str | None:
        """Why the sub-modules of its blocks are not mapped, if they are not."""
        return self._numbered[1]

    @cached_property
    def parts(self) -> dict[tuple[int, int], tuple[str, int]]:
        """The maps that the sub-modules of its blocks have: {(i, a): kind, s}.

        In block i (0-based) a part of that kind makes state a from state s; states are numbered as in `submodules`.
        """
        found = {}
        for i, numbering in enumerate(self._numbered[0]):
            made = {a: (part.part_kind, s) for a, (part, s) in numbering.made.items()}
            sums = {a: (SUM, a - 1) for a in range(1, len(numbering.points)) if a not in made and self.row.sums}
            found |= {(i, a): of for a, of in sorted((made | sums).items())}
        return found

    def part_points(self) -> tuple[list[Point], dict[tuple[int, int], int]]:
        """Where the states can be seen that the maps of `parts` go from and to, and by (i, a) which of them it is."""
        wanted = {(i, state) for (i, a), (_, s) in self.parts.items() for state in (s, a)}
        places = {(i, a): self._numbered[0][i].points[a] for i, a in sorted(wanted)}
        points = [*dict.fromkeys(places.values())]
        return points, {state: points.index(place) for state, place in places.items()}

    def watch(self, points: list[Point], keep: Callable[[int, torch.Tensor], None]) -> AbstractContextManager[None]:
        """Within, `keep(k, tensor)` is called with what passes point k, [b, T, d], as the model runs."""
        hooks: list[tuple[nn.Module, str, Callable]] = []
        for k, (place, side) in enumerate(points):
            part = place if isinstance(place, Part) else Part("", place, place)
            if side == "in":
                hooks.append((part.first, "in", lambda *passed, k=k: keep(k, entering(*passed))))
            else:
                hooks.append((part.last, "out", lambda *passed, k=k, part=part: keep(k, part.made(*passed))))
        return hooked(hooks)

    def narrowed(self, last: torch.Tensor, block: int = -1) -> AbstractContextManager[None]:
        """Within, a block computes for the chosen positions [b] alone what it computes position by position.

        The other positions of what leaves it, which nothing reads of h_L, come out wrong.
        """
        shapes: dict[nn.Module, torch.Size] = {}

        def chosen(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.arange(len(x), device=x.device), last.to(x.device)

        def narrow(module, args, named):
            shapes[module] = args[0].shape[:2]
            return (args[0][chosen(args[0])],), named

        def widen(module, args, named, out):
            whole = out.new_zeros(*shapes[module], out.shape[-1])
            whole[chosen(whole)] = out
            return whole

        modules = [self.blocks[block].get_submodule(name) for name in self.row.pointwise]
        acts = (("in", narrow), ("out", widen))
        return hooked([(module, side, partial(act, module)) for module in modules for side, act in acts])

    def swaps(self, maps: Mapping[tuple[int, int], torch.Tensor], act: Callable | None = None) -> list[Swap]:
        """What makes the part of block i that makes state a into x -> A x, for every {(i, a): A}.

        Where a linear layer alone reads state a, and is not replaced itself, the map goes into its weights, W A for W,
        which saves the product. With `act` the part does x -> act((i, a), A, x) instead, and no map goes into weights.
        """
        swaps = []
        for (i, a), A in maps.items():
            part = self._numbered[0][i].made[a][0]
            A = A.to(part.forms[part.last].device)  # noqa: PLW2901
            follower = self.blocks[i].get_submodule(self.row.followers.get(a, ""))
            own = next(follower.parameters())  # of another precision, or on the disk, it is left as it is
            alike = (own.dtype, own.device) == (A.dtype, A.device)
            if a in self.row.followers and (i, a + 1) not in maps and alike and not act:
                swaps += [*part.acting(lambda x: x), (follower, _folded(follower, A).forward)]
            else:
                swaps += part.acting(partial(act, (i, a), A) if act else lambda x, A=A: x.to(A.dtype) @ A.T)
        return swaps


def _folded(layer: nn.Module, A: torch.Tensor) -> nn.Module:
    """The layer x -> layer(A x); its weight is stored transposed, [in, out], as GPT-2's are."""
    from transformers.pytorch_utils import Conv1D  # noqa: PLC0415  (takes a second; who only reads states does without)

    whole = Conv1D(layer.nf, layer.nx).to(A.device)
    whole.weight = nn.Parameter((A.T.double() @ layer.weight.double()).float(), requires_grad=False)
    whole.bias = layer.bias
    return whole
