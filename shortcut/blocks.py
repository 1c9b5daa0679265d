"""What is found in a model by its structure alone: its blocks, how they hand on states, its depth and context."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from shortcut import Problem

# Position tables that begin behind the padding token: of so many positions, the first ones are not for text.
OFFSET = {"roberta", "xlm-roberta", "xlm-roberta-xl", "roberta-prelayernorm", "camembert", "data2vec-text", "esm",
          "ibert", "xmod", "luke", "longformer", "mpnet", "mra"}  # fmt: skip

# The context length by the names that configs have for it, the first that is there.
CONTEXT = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "max_seq_length",
           "seq_length", "seq_len", "n_ctx", "context_length", "model_max_length")  # fmt: skip
UNLIMITED = 2**31 - 1
Swap = tuple[nn.Module, Callable[..., Any]]  # a module, and the forward that replaces its own


def tensor_of(output) -> torch.Tensor:
    """What a module put out: attention returns its weights beside it."""
    return output[0] if isinstance(output, (tuple, list)) else output


def entering(args: tuple, named: dict[str, Any]) -> torch.Tensor:
    """The states that enter a module, which some forward passes hand over by name."""
    return args[0] if args else named["hidden_states"]


def depth(config) -> int:
    """The number of blocks that a config has, of the decoder where it has both."""
    layers = getattr(config, "decoder_layers", None)
    return config.num_hidden_layers if layers is None else layers


def context(config) -> int:
    """The longest sequence that a config allows, in tokens; `UNLIMITED` where it has no limit."""
    longest = next((n for name in CONTEXT if (n := getattr(config, name, None)) not in (None, -1)), UNLIMITED)
    tabled = getattr(config, "position_embedding_type", "absolute") == "absolute"
    return (
        longest - (getattr(config, "pad_token_id", None) or 0) - 1
        if tabled and config.model_type in OFFSET
        else longest
    )


def rotary_limits(config) -> set[int]:
    """Lengths in tokens above which a whole batch has other rotary frequencies ("longrope"; most models: none).

    The longest sequence of a batch decides. "dynamic" ones change only above the context, where nothing runs.
    """
    whole = getattr(config, "rope_parameters", None) or {}
    rows = [row for row in (whole, *whole.values()) if isinstance(row, dict)]  # some have a row for each type of block
    return {row["original_max_position_embeddings"] for row in rows if row.get("rope_type") == "longrope"}


@dataclass
class Form:
    """How a module hands on states: alone, or in a tuple or list with others."""

    width: int  # d
    dtype: torch.dtype  # of the states
    device: torch.device  # where they lie
    made: Any  # of what it returns: a type
    length: int  # and of how many, if it is a tuple or list

    @classmethod
    def of(cls, out: Any) -> "Form":
        """The form of what a module returned."""
        h = tensor_of(out)
        together = isinstance(out, (tuple, list))
        made, length = (type(out), len(out)) if together else (torch.Tensor, 1)
        return cls(h.shape[-1], h.dtype, h.device, made, length)

    def returned(self, h: torch.Tensor) -> Any:
        """h as the module would return it."""
        return h if self.made is torch.Tensor else self.made((h, *[None] * (self.length - 1)))

    def stub(self, h: torch.Tensor | None) -> Callable[..., Any]:
        """A forward that returns h, or what enters it."""
        given = None if h is None else h.to(self.device, self.dtype)
        return lambda *args, **named: self.returned(entering(args, named) if given is None else given)

    def entered(self, forward: Callable[..., Any], h: torch.Tensor) -> Callable[..., Any]:
        """The forward with h in place of what enters it."""
        h = h.to(self.device, self.dtype)
        return lambda *args, **named: (
            forward(h, *args[1:], **named) if args else forward(**named | {"hidden_states": h})
        )


@contextmanager
def swapped(swaps: Iterable[Swap]) -> Iterator[None]:
    """Within, the modules run the forwards in `swaps`; then again what each ran before, which others may have set."""
    undo: list[tuple[nn.Module, Any]] = []
    try:
        for module, forward in swaps:
            undo.append((module, module.__dict__.get("forward")))
            module.forward = forward
        yield
    finally:
        for module, before in reversed(undo):
            if before is None:
                del module.forward
            else:
                module.forward = before


@contextmanager
def hooked(hooks: Iterable[tuple[nn.Module, str, Callable[..., Any]]]) -> Iterator[None]:
    """Within, each (module, "in", act) calls act(args, named) before the module runs, and (module, "out", act) calls
    act(args, named, out) after it; a result other than None replaces (args, named), or out.
    """
    with ExitStack() as undo:
        for module, side, act in hooks:
            register = module.register_forward_pre_hook if side == "in" else module.register_forward_hook
            undo.callback(register(lambda _, *passed, act=act: act(*passed), with_kwargs=True).remove)
        yield


def find_blocks(net: nn.Module, L: int, ids: torch.Tensor) -> tuple[nn.ModuleList, list[Form]]:
    """The first list of L modules that all run once, in order, on text, and the form of what each returns."""
    lists = [m for m in net.modules() if isinstance(m, nn.ModuleList) and len(m) == L]
    ran: list[list[int]] = [[] for _ in lists]
    forms: list[list[Form]] = [[] for _ in lists]

    def keep(which: int, k: int, args: tuple, named: dict[str, Any], out: Any) -> None:
        ran[which].append(k)
        if isinstance(tensor_of(out), torch.Tensor):
            forms[which].append(Form.of(out))

    found = [(module, "out", partial(keep, which, k)) for which, of in enumerate(lists) for k, module in enumerate(of)]
    with hooked(found), torch.no_grad():
        net(input_ids=ids)
    for modules, order, form in zip(lists, ran, forms, strict=True):
        if order == list(range(L)) == list(range(len(form))):
            return modules, form
    kind = net.config.model_type
    raise Problem(f"{net.config.name_or_path}: no list of {L} modules of this {kind} model runs once and in order")
