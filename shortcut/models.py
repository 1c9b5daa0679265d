"""Everything known about model architectures: where to look in, what to exchange, how to read out.

A family of models is a row of `FAMILIES`, keyed by Hugging Face's `config.model_type`. The library's own
forward pass runs: states are seen by hooks (`Model.watch`), sub-modules are exchanged for linear maps by
swapping the child (`Model.swapped`), and the last block is spared what nobody reads (`Model.narrowed`), all
undone when their `with` block ends.

Layers are numbered as in the paper: h_0 is what enters the first block, h_l what leaves block l - 1
(0-based), h_L what leaves the last one, before any final norm.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from shortcut import Problem


@dataclass(frozen=True)
class Family:
    """Where things are in one architecture; every name is a dotted path."""

    auto: str  # name of the class of transformers that loads it with its head
    blocks: str  # from the model to its list of blocks
    read_out: tuple[str, ...]  # modules that turn h_L into logits, in order
    masked: bool  # predicts masked tokens from both sides (BERT) rather than the next one (GPT-2)
    pointwise: tuple[str, ...]  # children of a block that work position by position and bear most of its cost
    points: tuple[tuple[str, str], ...] = ()  # states 0 ... 6 inside a block, as (child of it, "in" or "out")
    parts: Mapping[int, str] = field(default_factory=dict)  # the child that makes state a from state a - 1, by a
    followers: Mapping[int, str] = field(default_factory=dict)  # the linear layer that alone reads state a, by a


FAMILIES = {
    "gpt2": Family(
        "AutoModelForCausalLM", "transformer.h", ("transformer.ln_f", "lm_head"), masked=False,
        pointwise=("attn.c_proj", "mlp"),
        points=(("", "in"), ("ln_1", "out"), ("attn", "out"), ("ln_2", "in"), ("ln_2", "out"), ("mlp", "out"),
                ("", "out")),
        parts={1: "ln_1", 2: "attn", 4: "ln_2", 5: "mlp"},
        followers={1: "attn.c_attn", 4: "mlp.c_fc"},
    ),
    "bert": Family(
        "AutoModelForMaskedLM", "bert.encoder.layer", ("cls.predictions",), masked=True,
        pointwise=("attention.output.dense", "intermediate", "output.dense"),
    ),
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
    """A loaded transformer, in float32 and evaluation mode."""

    def __init__(self, net: nn.Module, family: Family):
        self.net, self.family = net, family
        self.name = net.config.name_or_path  # what it was loaded by
        self.blocks = net.get_submodule(family.blocks)  # L of them
        self.n_layers = len(self.blocks)
        self.read_outs = [net.get_submodule(path) for path in family.read_out]
        self.d = net.config.hidden_size  # width of the states
        self.context = net.config.max_position_embeddings  # the longest sequence it takes, in tokens
        self.vocabulary = net.config.vocab_size
        # Any token will do behind a causal prefix or a mask, but transformers warns about the one called padding.
        self.padding = int(not family.masked and net.config.pad_token_id == 0)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.net.parameters()).device

    def run(self, ids: torch.Tensor, mask: torch.Tensor | None) -> None:
        """The library's own forward pass up to the head, which would cost most and is not needed."""
        self.net.base_model(input_ids=ids, attention_mask=mask, use_cache=False)

    def read_out(self, h: torch.Tensor) -> torch.Tensor:
        """Logits [..., v] of states [..., d], read like h_L: final norm and unembedding, or BERT's whole head."""
        for module in self.read_outs:
            h = module(h)
        return h

    def layer_points(self) -> list[Point]:
        """Where h_0 ... h_L can be seen."""
        return [(self.blocks[0], "in"), *((block, "out") for block in self.blocks)]

    def part_points(self) -> list[Point]:
        """Where the states 0 ... 6 of every block can be seen; state 6 of a block is state 0 of the next.

        So there are 6 L + 1 points, and state a of block i is number 6 i + a.
        """
        if not self.family.points:
            raise Problem(f"the sub-modules of {self.net.config.model_type} models are not mapped: use a GPT-2 model")
        inner = [(block.get_submodule(name), side) for block in self.blocks for name, side in self.family.points[:-1]]
        return [*inner, (self.blocks[-1], "out")]

    @contextmanager
    def watch(self, points: list[Point], keep: Callable[[int, torch.Tensor], None]) -> Iterator[None]:
        """Within, `keep(k, tensor)` is called with what passes point k, [b, T, d], as the model runs."""
        with ExitStack() as hooks:
            for k, (module, side) in enumerate(points):
                if side == "in":
                    hook = module.register_forward_pre_hook(lambda _, args, k=k: keep(k, args[0]))
                else:
                    hook = module.register_forward_hook(lambda _, args, out, k=k: keep(k, _tensor(out)))
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
            for name in self.family.pointwise:
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
            block, name = self.blocks[i], self.family.parts[a]
            if a in self.family.followers and (i, a + 1) not in maps:
                path, _, follower = self.family.followers[a].rpartition(".")
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


def _tensor(output) -> torch.Tensor:
    """What a module put out: attention returns its weights beside it."""
    return output[0] if isinstance(output, tuple) else output
