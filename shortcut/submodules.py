"""Sub-modules of a block: find them by structure, number their states, check that each can be replaced, replace them.

    attention      its input -> its output, before the residual sum
    feed-forward   its input -> the output of its last linear layer, before residual sum and norm
    norm           its input -> its output, unless the norm is inside one of the two above

The states of a block are numbered in the order of computation; in GPT-2 they are 0 block input, 1 after ln_1, 2 after
attention, 3 first residual sum, 4 after ln_2, 5 after the feed-forward, 6 block output. A part is identified by its
output state. Its input need not be the previous state: some blocks run attention and feed-forward in parallel.

"Linear Shortcut Across Sub-modules" in the paper, for GPT-2 only.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache, partial
from inspect import signature
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from shortcut import Problem, one_line
from shortcut.blocks import Call, Form, Swap, entering, hooked, tensor_of
from shortcut.models import Model, Point

ATTENTION, FEED_FORWARD, NORM, SUM = "attention", "feed-forward", "norm", "sum"
CALLED = {ATTENTION: re.compile("attention|attn"), FEED_FORWARD: re.compile("mlp|ffn|feed_?forward|experts|moe")}

Act = Callable[[torch.Tensor], torch.Tensor]  # replaces a part, at every position


@dataclass(eq=False)
class Part:
    """A sub-module, which may begin in one module of the block and end in another."""

    part_kind: str
    first: nn.Module  # its input is the input of the part
    last: nn.Module  # its output is the output of the part
    forms: dict[nn.Module, Form] = field(default_factory=dict)  # of the outputs of these modules, once they have run

    def made(self, args: tuple, named: dict[str, Any], out: Any) -> torch.Tensor:
        """Output of the part, without the residual that some parts add inside (BLOOM, MPT)."""
        residual = self._residual(args, named)
        return tensor_of(out) if residual is None else tensor_of(out) - residual

    def _residual(self, args: tuple, named: dict[str, Any]) -> torch.Tensor | None:
        takes = signature(type(self.last).forward)
        return takes.bind(None, *args, **named).arguments["residual"] if "residual" in takes.parameters else None

    def acting(self, act: Act) -> list[Swap]:
        """Swaps that replace the part by `act`. Modules between `first` and `last` run, but their output is unused."""
        held: list[torch.Tensor] = []

        def first(*args: Any, **named: Any) -> Any:
            held[:] = [entering(args, named)]
            return self.forms[self.first].returned(held[0])

        def last(*args: Any, **named: Any) -> Any:
            x = entering(args, named) if self.first is self.last else held.pop()
            y, residual = act(x).to(x.dtype), self._residual(args, named)
            return self.forms[self.last].returned(y if residual is None else y + residual)

        return [(self.first, first)] * (self.first is not self.last) + [(self.last, last)]


def find_parts(module: nn.Module) -> Iterator[Part]:
    """The parts in a block, or in one of its modules, by the names and classes of its children."""
    children = dict(module.named_children())
    linear = [child for child in children.values() if isinstance(child, nn.Linear)]
    if len(linear) == 2:  # with an activation between them (OPT)
        yield Part(FEED_FORWARD, *linear)
    dense = getattr(children.get("output"), "dense", None)
    begins = {"intermediate": FEED_FORWARD, "self": ATTENTION} if dense is not None else {}  # BERT and its kin
    for name, child in children.items():
        has_weights = next(child.parameters(), None) is not None
        if _is_norm(child):
            yield Part(NORM, child, child)
        elif name in begins:
            yield Part(begins[name], child, dense)
        elif has_weights and CALLED[ATTENTION].search(name) and not _holds_attention(child):
            yield Part(ATTENTION, child, child)
        elif has_weights and CALLED[FEED_FORWARD].search(name):
            yield Part(FEED_FORWARD, child, child)
        else:
            yield from find_parts(child)


def _is_norm(module: nn.Module) -> bool:
    """True if the class name ends in "Norm", or contains "Norm" ("LayerNorm1P") and the module has no children."""
    name = type(module).__name__
    return name.endswith("Norm") or ("Norm" in name and next(module.children(), None) is None)


def _holds_attention(module: nn.Module) -> bool:
    """True if attention is a child of the module, next to a residual sum or a norm."""
    named = [name for name, child in module.named_children() if not _is_norm(child)]
    return {"self", "output"} <= {*named} or any(name in ("attn", "attention") for name in named)


@dataclass
class Numbering:
    """The states of one block: the point where each is recorded, and the part and state it is computed from."""

    points: list[Point]  # by state a
    made: dict[int, tuple[Part, int]]  # by the output state a of a part: the part, and its input state


def number(call: Call) -> Numbering:
    """Number the states of a block in order; the input of a part, or the block's output, may be an earlier state."""
    h = entering(*call.given)
    passed, values, points = [], [], []  # by state: the tensor, a copy (some tensors change in place), the point
    enters, made = {}, {}

    def state(point: Point, x: torch.Tensor, *, new: bool = False) -> int:
        if x.numel() != h.numel():
            raise Problem(f"the states of its {point[0].part_kind} have another width")
        same = [] if new else [a for a, value in enumerate(values) if value.equal(x.reshape(h.shape))]
        if same:  # two norms of one input may be equal: prefer the same tensor, then the last state
            return max(same, key=lambda a: (passed[a] is x, a))
        passed.append(x)
        values.append(x.reshape(h.shape).clone())
        points.append(point)
        return len(points) - 1

    def enter(part: Part, *given: Any) -> None:
        enters[part] = state((part, "in"), entering(*given))

    def leave(part: Part, module: nn.Module, args: tuple, named: dict[str, Any], out: Any) -> None:
        part.forms[module] = Form(out)
        if module is part.last:
            made[state((part, "out"), part.made(args, named, out), new=True)] = part, enters[part]

    state((call.block, "in"), h)
    hooks = []
    for part in find_parts(call.block):
        hooks.append((part.first, "in", partial(enter, part)))
        hooks += [(module, "out", partial(leave, part, module)) for module in {part.first, part.last}]
    with hooked(hooks):
        state((call.block, "out"), call(h.clone()))
    return Numbering(points, made)


def prove(call: Call, numbering: Numbering) -> None:
    """Check that the parts of a block can be replaced one by one. Raises Problem unless

    (a) with random maps in place of all parts, the block is linear, with f(0) = 0;
    (b) with zero attention and feed-forward, and identity norms, it returns its input;
    (c) with attention linear, a change at one position changes no other.
    """
    h = entering(*call.given)
    g = torch.Generator().manual_seed(0)
    A = torch.randn(h.shape[-1], h.shape[-1], generator=g).to(h) / h.shape[-1] ** 0.5
    x, y = (torch.randn(h.shape, generator=g).to(h) for _ in range(2))
    tolerance = 1e-4 if torch.finfo(h.dtype).eps < 1e-6 else 0.1

    def f(act: dict[str, Act], x: torch.Tensor) -> torch.Tensor:
        parts = [part for part, _ in numbering.made.values() if part.part_kind in act]
        return call(x.clone(), [swap for part in parts for swap in part.acting(act[part.part_kind])])

    def require(ours: torch.Tensor, own: torch.Tensor, otherwise: str) -> None:
        if not torch.allclose(ours, own, rtol=0, atol=tolerance * max(1.0, own.abs().max().item())):
            raise Problem(otherwise)

    if not numbering.made:
        raise Problem("no sub-modules are found")
    mapped = dict.fromkeys((ATTENTION, FEED_FORWARD, NORM), lambda x: x @ A.T)
    for ours, own in ((f(mapped, x + 2 * y), f(mapped, x) + 2 * f(mapped, y)), (f(mapped, 0 * x), 0 * x)):
        require(ours, own, "with all sub-modules linear, a block is not linear")
    without = {ATTENTION: torch.zeros_like, FEED_FORWARD: torch.zeros_like, NORM: lambda x: x}
    require(f(without, x), x, "without its sub-modules, a block does not return its input")
    other, middle = x.clone(), (x.shape[1] - 1) // 2
    other[:, middle] = y[:, middle]
    apart = f({ATTENTION: mapped[ATTENTION]}, other) - f({ATTENTION: mapped[ATTENTION]}, x)
    apart[:, middle] = 0
    require(apart, 0 * x, "with linear attention, a block still mixes positions")


class SubModules:
    """The sub-modules of all blocks of a model; none if those of some block cannot be replaced one by one."""

    @torch.no_grad()
    def __init__(self, model: Model):
        calls, self.numberings, self.why_none = model.calls, [], None  # the reason, if there are none
        self.parts: dict[tuple[int, int], tuple[str, int]] = {}  # (part_kind, input s) by (block i, output a)
        try:
            for call in calls:
                self.numberings.append(number(call))
                prove(call, self.numberings[-1])
        except Problem as unusual:
            self.numberings, self.why_none = [], str(unusual)
        except Exception as error:  # any error of a block with replaced parts: the check fails
            self.numberings = []
            self.why_none = f"with some sub-modules replaced, a block does not run ({one_line(error)})"
        for numbering, (call, after) in zip(self.numberings, pairwise(calls), strict=False):
            if numbering.points[-1] == (call.block, "out"):
                numbering.points[-1] = (after.block, "in")
        for i, numbering in enumerate(self.numberings):
            made = {a: (part.part_kind, s) for a, (part, s) in numbering.made.items()}
            sums = {a: (SUM, a - 1) for a in range(1, len(numbering.points)) if a not in made and model.row.sums}
            self.parts |= {(i, a): part for a, part in sorted((made | sums).items())}

    def points(self) -> tuple[list[Point], dict[tuple[int, int], int]]:
        """Points at which sources and targets of all `parts` are recorded, and the index of the point by (i, a)."""
        wanted = {(i, state) for (i, a), (_, s) in self.parts.items() for state in (s, a)}
        places = {(i, a): self.numberings[i].points[a] for i, a in sorted(wanted)}
        points = [*dict.fromkeys(places.values())]
        return points, {state: points.index(place) for state, place in places.items()}


find = lru_cache(maxsize=1)(SubModules)  # the last result is kept, since the checks of all blocks take seconds
