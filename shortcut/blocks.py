"""A model's blocks, depth and context length, from its structure; `hooked` and `swapped` observe and change it."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from shortcut import Problem

# Models whose position tables begin after the padding token: the first positions in the table are not for text.
OFFSET = {"roberta", "xlm-roberta", "xlm-roberta-xl", "roberta-prelayernorm", "camembert", "data2vec-text", "esm",
          "ibert", "xmod", "luke", "longformer", "mpnet", "mra"}  # fmt: skip

# Names of the context length in configs; the first one that is present counts.
CONTEXT = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "max_seq_length",
           "seq_length", "seq_len", "n_ctx", "context_length", "model_max_length")  # fmt: skip
UNLIMITED = 2**31 - 1
Swap = tuple[nn.Module, Callable[..., Any]]  # a module, and the `forward` that replaces its own


def tensor_of(output) -> torch.Tensor:
    """The states in a module's output; attention also returns its weights."""
    return output[0] if isinstance(output, (tuple, list)) else output


def entering(args: tuple, named: dict[str, Any]) -> torch.Tensor:
    """The states that enter a module; some forward passes give them as a keyword argument."""
    return args[0] if args else named["hidden_states"]


def depth(config) -> int:
    """Number of blocks in a config; for an encoder-decoder model, blocks in the decoder."""
    return getattr(config, "decoder_layers", config.num_hidden_layers)


def context(config) -> int:
    """The longest sequence that a config allows, in tokens; `UNLIMITED` if it sets no limit."""
    longest = next((n for name in CONTEXT if (n := getattr(config, name, None)) not in (None, -1)), UNLIMITED)
    if config.model_type in OFFSET and getattr(config, "position_embedding_type", "absolute") == "absolute":
        return longest - (config.pad_token_id or 0) - 1
    return longest


def rotary_limits(config) -> set[int]:
    """Lengths, in tokens: a batch whose longest sequence is above one has other rotary frequencies ("longrope": Phi-3).

    "dynamic" frequencies change only above the context length, where nothing runs.
    """
    whole = getattr(config, "rope_parameters", None) or {}
    rows = [row for row in (whole, *whole.values()) if isinstance(row, dict)]  # some configs have a row per block type
    return {row["original_max_position_embeddings"] for row in rows if row.get("rope_type") == "longrope"}


class Form:
    """The form of a module's output: states [..., d] only, or a tuple or list that begins with the states."""

    def __init__(self, out: Any):
        h = tensor_of(out)
        self.width, self.dtype, self.device = h.shape[-1], h.dtype, h.device
        self._type, self._others = (None, []) if h is out else (type(out), [None] * (len(out) - 1))

    def returned(self, h: torch.Tensor) -> Any:
        """h as the module would return it."""
        return self._type([h, *self._others]) if self._type else h

    def stub(self, h: torch.Tensor) -> Callable[..., Any]:
        """A `forward` that returns h."""
        return lambda *args, **named: self.returned(h.to(self.device, self.dtype))

    def entered(self, forward: Callable[..., Any], h: torch.Tensor) -> Callable[..., Any]:
        """The given `forward` with its input replaced by h."""
        h = h.to(self.device, self.dtype)
        return lambda *args, **named: (
            forward(h, *args[1:], **named) if args else forward(**named | {"hidden_states": h})
        )


@contextmanager
def swapped(swaps: Iterable[Swap]) -> Iterator[None]:
    """Within this context the modules run the forwards in `swaps`; afterwards each has its previous `forward` again."""
    with ExitStack() as undo:
        for module, forward in swaps:
            if "forward" in module.__dict__:
                undo.callback(setattr, module, "forward", module.forward)
            else:
                undo.callback(delattr, module, "forward")
            module.forward = forward
        yield


@contextmanager
def hooked(hooks: Iterable[tuple[nn.Module, str, Callable[..., Any]]]) -> Iterator[None]:
    """Call act(args, named) before a module runs ("in"), or act(args, named, out) after it; a result replaces them."""
    with ExitStack() as undo:
        for module, side, act in hooks:
            register = module.register_forward_pre_hook if side == "in" else module.register_forward_hook
            undo.callback(register(lambda _, *passed, act=act: act(*passed), with_kwargs=True).remove)
        yield


@dataclass
class Call:
    """A block, the form of its output, and its arguments, args and named, in a forward pass over a batch."""

    block: nn.Module
    form: Form
    given: tuple[tuple, dict[str, Any]]

    def __call__(self, h: torch.Tensor, swaps: Iterable[Swap] = ()) -> torch.Tensor:
        """Output of the block with h as its input."""
        with swapped(swaps):
            return tensor_of(self.form.entered(self.block.forward, h)(*self.given[0], **self.given[1]))


def find_blocks(net: nn.Module, L: int, ids: torch.Tensor) -> tuple[nn.ModuleList, list[Form]]:
    """The first list of L modules that all run once and in order, and the form of each module's output."""
    lists = [m for m in net.modules() if isinstance(m, nn.ModuleList) and len({*m}) == len(m) == L]
    ran: list[tuple[nn.Module, Any]] = []
    listed = {module for modules in lists for module in modules}
    hooks = ((module, "out", lambda args, named, out, module=module: ran.append((module, out))) for module in listed)
    with hooked(hooks), torch.no_grad():
        net(input_ids=ids)
    for modules in lists:
        own = [(module, out) for module, out in ran if module in modules]
        if [module for module, _ in own] == [*modules] and all(torch.is_tensor(tensor_of(out)) for _, out in own):
            return modules, [Form(out) for _, out in own]
    raise Problem(f"{net.config.name_or_path}: it has no list of {L} modules that run once and in order")
