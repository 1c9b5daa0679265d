"""Surprisal of the words of a text, layer by layer: -ln q_l(token | what stands before it), in nats.

q_l is what is read out of the state before the token at layer l, as it stands (id) or after a map into layer L; at
layer L it is the model's own. A word is what white space surrounds, and its surprisal the sum of its tokens'. Before
a text stands what its tokenizer puts there, else the token that begins a text, if it has one; without either the
first token has no surprisal. What is longer than the context, the model's or its tokenizer's, runs in windows that
overlap by half, so that a token has half a context before it at least; without a limit windows are of `WINDOW` tokens.
Rotary embeddings that depend on the length of what runs ("longrope") have that of the window.

Shapes: K lenses, L + 1 layers, T tokens.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice

import torch

from shortcut import Problem, representations, tokens
from shortcut.blocks import UNLIMITED
from shortcut.linear import Map
from shortcut.models import Model

Lenses = Mapping[str, list[Map]]  # by name, the maps A_0L ... A_(L-1)L; [] for id
ROWS = 256  # states that are read out together
WINDOW = 2_048  # tokens that run together where nothing limits them: attention takes the square of it


@dataclass(frozen=True)
class Token:
    """A token of a text, and its surprisal by lens and layer."""

    text: str  # what it stands for there
    start: int  # in characters from the start of the text, 0-based, and
    end: int  # the first after it
    word: int  # which word it is of, 0-based
    surprisal: torch.Tensor  # float32 [K, L + 1], nats; nan where nothing stands before it


def words(text: str) -> list[tuple[int, int]]:
    """Where the words of a text begin and end."""
    return [found.span() for found in re.finditer(r"\S+", text)]


def along(model: Model, tokenizer, text: str, lenses: Lenses) -> Iterator[Token]:
    """The tokens of a text with their surprisal under each lens: its maps A_lL for l = 0 ... L - 1, or [] for none.

    White space goes with the word behind it, and at the end with the last.

    Raises Problem: a tokenizer that does not say where its tokens are, or a token that the model does not know.
    """
    if not tokenizer.is_fast:
        raise Problem(f"the tokenizer of {model.name} does not tell where its tokens are: one with tokenizer.json does")
    found = tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False)
    ids, own = found["input_ids"], [k for k, added in enumerate(found["special_tokens_mask"]) if not added]
    spans, ends = [found["offset_mapping"][k] for k in own], [end for _, end in words(text)]
    if not own or not ends:
        return
    head = [] if own[0] or tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    sequence = torch.tensor([*head, *ids[: own[-1] + 1]])
    tokens.check([sequence], model.vocabulary)
    before, window = len(sequence) - len(own), tokens.longest(model.context, tokenizer)
    surprisals = _surprisals(model, sequence, lenses, WINDOW if window == UNLIMITED else window)
    nothing = torch.full((len(lenses), model.n_layers + 1), torch.nan)
    surprisals = chain([] if before else [nothing], islice(surprisals, max(0, before - 1), None))
    for (start, end), surprisal in zip(spans, surprisals, strict=True):
        yield Token(text[start:end], start, end, min(bisect_right(ends, start), len(ends) - 1), surprisal)


@torch.no_grad()
def _surprisals(model: Model, ids: torch.Tensor, lenses: Lenses, window: int) -> Iterator[torch.Tensor]:
    """[K, L + 1] of every token but the first, in their order, of which a `window` of tokens runs together."""
    T, start, done = len(ids), 0, 1
    while done < T:
        end = min(start + window, T)
        states = representations.whole(model, ids[start:end])
        for chosen in torch.arange(done, end).split(ROWS):
            found = torch.empty(len(chosen), len(lenses), model.n_layers + 1)
            for l, h in enumerate(states):
                before, actual = h[chosen - 1 - start], ids[chosen, None].to(h.device)
                for k, maps in enumerate(lenses.values()):
                    state = maps[l].to(h.device)(before) if l < len(maps) else before
                    found[:, k, l] = -model.read_out(state).float().log_softmax(-1).gather(1, actual)[:, 0].cpu()
            if not found.isfinite().all():
                raise Problem(f"{model.name}: the logits for a word of the text are not finite")
            yield from found
        start, done = end - max(1, window // 2), end
