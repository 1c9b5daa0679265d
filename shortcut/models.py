"""Everything known about model architectures: where their blocks are, how to read out, what to exchange.

Nothing of it is a name, for most of them. The blocks are the first list of as many modules as the config has
layers that all run once, in order. The read-out is the library's own forward pass with its blocks passed over:
every block's `forward` is exchanged for a stub that hands its input on, the last one's for one that returns h.
So final norms, projections, scalings and whole heads are the library's business. `loading` proves of every
model that both hold. What structure does not tell is a row of `ROWS`, keyed by Hugging Face's `config.model_type`.

States are seen by hooks (`Model.watch`), sub-modules are exchanged for linear maps by swapping the child
(`Model.swapped`), and the last block is spared what nobody reads (`Model.narrowed`), all undone when their
`with` block ends.

Layers are numbered as in the paper: h_0 is what enters the first block, h_l what leaves block l - 1
(0-based), h_L what leaves the last one, before any final norm.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from shortcut.structure import context, depth, entering, exchanged, find_blocks, pad_of, tensor_of


@dataclass(frozen=True)
class Row:
    """What structure does not tell of an architecture; every name is a dotted path from a block."""

    pointwise: tuple[str, ...] = ()  # children that work position by position and bear most of a block's cost
    points: tuple[tuple[str, str], ...] = ()  # states 0 ... 6 inside a block, as (child of it, "in" or "out")
    parts: Mapping[int, str] = field(default_factory=dict)  # the child that makes state a from state a - 1, by a
    followers: Mapping[int, str] = field(default_factory=dict)  # the linear layer that alone reads state a, by a


ROWS = {
    "gpt2": Row(
        pointwise=("attn.c_proj", "mlp"),
        points=(("", "in"), ("ln_1", "out"), ("attn", "out"), ("ln_2", "in"), ("ln_2", "out"), ("mlp", "out"),
                ("", "out")),
        parts={1: "ln_1", 2: "attn", 4: "ln_2", 5: "mlp"},
        followers={1: "attn.c_attn", 4: "mlp.c_fc"},
    ),
    "bert": Row(pointwise=("attention.output.dense", "intermediate", "output.dense")),
}  # fmt: skip

Point = tuple[nn.Module, str]  # a module, and whether its input ("in") or its output ("out") is meant
Swap = tuple[nn.Module, str, nn.Module]  # a module, the name of its child, what stands in for the child


class LinearPart(nn.Module):
    """A sub-module replaced by its map: x -> A x, at every position."""

    def __init__(self, A: torch.Tensor, as_tuple: bool):
        super().__init__()
        self.register_buffer("A", A)
        self.as_tuple = as_tuple  # attention returns its weights beside its output

    def forward(self, x: torch.Tensor, *args, **kwargs):
        """A x, in the form the sub-module it stands for would return it."""
        y = x @ self.A.T
        return (y, None) if self.as_tuple else y


class Model:
    """A loaded transformer, in float32 and evaluation mode.

    Raises Problem: no list of its modules runs as blocks do.
    """

    def __init__(self, net: nn.Module, masked: bool):
        self.net, self.masked = net, masked  # masked: predicts masked tokens from both sides, not the next one
        self.name = net.config.name_or_path  # what it was loaded by
        config = net.config.get_text_config(decoder=True)
        self.row = ROWS.get(net.config.model_type, Row())
        self.vocabulary = config.vocab_size
        # Any token will do behind a causal prefix or a mask, but transformers warns about the one called padding.
        self.padding = int(not masked and pad_of(config) == 0)
        self.blocks, self._forms = find_blocks(net, depth(config), self._dummy(2))  # L of them
        self.n_layers = len(self.blocks)
        self.context = context(config)  # the longest sequence it takes, in tokens
        self.d = self._forms[0].width  # of the states

    def _dummy(self, n: int) -> torch.Tensor:
        """n sequences of one token, none of them the one called padding."""
        pad = pad_of(self.net.config.get_text_config(decoder=True))
        return torch.full((n, 1), int(pad == 0), device=self.device)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.net.parameters()).device

    def run(self, ids: torch.Tensor, mask: torch.Tensor | None) -> None:
        """The library's own forward pass up to the head, which would cost most and is not needed."""
        self.net.base_model(input_ids=ids, attention_mask=mask)

    def read_out(self, h: torch.Tensor) -> torch.Tensor:
        """Logits [..., v] of states [..., d], read like h_L, each as a sequence of one token."""
        rows = h.reshape(-1, 1, h.shape[-1])
        with self.going_on(self.n_layers, rows):
            logits = self.net(input_ids=self._dummy(len(rows))).logits
        return logits.reshape(*h.shape[:-1], -1)

    @contextmanager
    def going_on(self, layer: int, h: torch.Tensor) -> Iterator[None]:
        """Within, a forward pass goes on from `layer` with h [b, T, d]: the blocks before it are passed over."""
        with ExitStack() as undo:
            for k, (block, form) in enumerate(zip(self.blocks[:layer], self._forms, strict=False)):
                given = h if k == layer - 1 else None
                undo.enter_context(exchanged(block, form.stub(given)))
            if layer == 0:
                undo.enter_context(exchanged(self.blocks[0], self._forms[0].entered(self.blocks[0].forward, h)))
            yield

    def layer_points(self) -> list[Point]:
        """Where h_0 ... h_L can be seen."""
        return [(self.blocks[0], "in"), *((block, "out") for block in self.blocks)]

    def part_points(self) -> list[Point]:
        """Where the states 0 ... 6 of every block can be seen; state 6 of a block is state 0 of the next.

        So there are 6 L + 1 points, and state a of block i is number 6 i + a.
        """
        points = self.row.points[:-1]
        inner = [(block.get_submodule(name), side) for block in self.blocks for name, side in points]
        return [*inner, (self.blocks[-1], "out")]

    @contextmanager
    def watch(self, points: list[Point], keep: Callable[[int, torch.Tensor], None]) -> Iterator[None]:
        """Within, `keep(k, tensor)` is called with what passes point k, [b, T, d], as the model runs."""
        with ExitStack() as hooks:
            for k, (module, side) in enumerate(points):
                if side == "in":
                    hook = module.register_forward_pre_hook(
                        lambda _, args, named, k=k: keep(k, entering(args, named)), with_kwargs=True
                    )
                else:
                    hook = module.register_forward_hook(lambda _, args, out, k=k: keep(k, tensor_of(out)))
                hooks.callback(hook.remove)
            yield

    @contextmanager
    def narrowed(self, last: torch.Tensor) -> Iterator[None]:
        """Within, the last block computes for the chosen positions [b] alone what it computes position by position.

        Nothing reads the other positions of h_L: they come out wrong.
        """
        shapes: dict[nn.Module, torch.Size] = {}

        def chosen(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.arange(len(x), device=x.device), last.to(x.device)

        def narrow(module, args):
            shapes[module] = args[0].shape[:2]
            return (args[0][chosen(args[0])],)

        def widen(module, args, out):
            whole = out.new_zeros(*shapes[module], out.shape[-1])
            whole[chosen(whole)] = out
            return whole

        with ExitStack() as hooks:
            for name in self.row.pointwise:
                module = self.blocks[-1].get_submodule(name)
                hooks.callback(module.register_forward_pre_hook(narrow).remove)
                hooks.callback(module.register_forward_hook(widen).remove)
            yield

    def swaps(self, maps: Mapping[tuple[int, int], torch.Tensor]) -> list[Swap]:
        """What makes the sub-module of block i that makes state a into x -> A x, for every {(i, a): A}.

        Where a linear layer alone reads state a, and is not replaced itself, the map goes into its
        weights, W A for W, which saves the product.
        """
        swaps = []
        for (i, a), A in maps.items():
            block, name = self.blocks[i], self.row.parts[a]
            if a in self.row.followers and (i, a + 1) not in maps:
                path, _, follower = self.row.followers[a].rpartition(".")
                parent = block.get_submodule(path)
                folded = _folded(parent.get_submodule(follower), A.to(self.device))
                swaps += [(block, name, nn.Identity()), (parent, follower, folded)]
            else:
                swaps.append((block, name, LinearPart(A.to(self.device), as_tuple=name == "attn")))
        return swaps

    @contextmanager
    def swapped(self, swaps: Sequence[Swap]) -> Iterator[None]:
        """Within, the children named in `swaps` stand in for the model's own."""
        with ExitStack() as undo:
            for parent, name, child in swaps:
                undo.callback(setattr, parent, name, parent.get_submodule(name))
                setattr(parent, name, child)
            yield


def _folded(layer: nn.Module, A: torch.Tensor) -> nn.Module:
    """The layer x -> layer(A x); its weight is stored transposed, [in, out], as GPT-2's are."""
    from transformers.pytorch_utils import Conv1D  # noqa: PLC0415  (takes a second; who only reads states does without)

    whole = Conv1D(layer.nf, layer.nx).to(A.device)
    whole.weight = nn.Parameter((A.T.double() @ layer.weight.double()).float(), requires_grad=False)
    whole.bias = layer.bias
    return whole
