"""Surprisal of the words in a text, by layer: -ln q_l(token | preceding tokens), in nats.

q_l is the distribution read out from the hidden state at the preceding token at layer l, without a map (id) or after a
map to layer L. The surprisal of a word, between white space, is the sum over its tokens. The text is preceded by the
tokens that the tokenizer adds there, or else by the beginning-of-sequence token; if there is neither, the first token
has no surprisal.

A text longer than the context length of the model or tokenizer runs in windows that overlap by half: after the first
window, at least half a context precedes each token. Without a limit, a window has `WINDOW` tokens. Rotary embeddings
that depend on the length ("longrope") use the length of the window.
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

Lenses = Mapping[str, list[Map]]  # by name: the maps A_0L ... A_(L-1)L, or [] for id
ROWS = 256  # states read out together
WINDOW = 2_048  # tokens in a window without a limit: the cost of attention is quadratic in it


@dataclass(frozen=True)
class Token:
    """A token in a text, and its surprisal by lens and layer."""

    text: str  # its characters in the text
    start: int  # index of its first character in the text, 0-based
    end: int  # index after its last character
    word: int  # number of its word, 0-based
    surprisal: torch.Tensor  # float32 [K, L + 1] for K lenses, nats; nan if no token precedes it


def words(text: str) -> list[tuple[int, int]]:
    """The words of a text, as (start, end) character indices."""
    return [found.span() for found in re.finditer(r"\S+", text)]


def along(model: Model, tokenizer, text: str, lenses: Lenses) -> Iterator[Token]:
    """The tokens of a text, with their surprisal by lens.

    White space belongs to the next word, and at the end of the text to the last word.

    Raises Problem: the tokenizer gives no character offsets, or a token is not in the model's vocabulary.
    """
    if not tokenizer.is_fast:
        raise Problem(f"the tokenizer of {model.name} gives no character offsets: use one with tokenizer.json")
    found = tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False)
    ids, own = found["input_ids"], [k for k, added in enumerate(found["special_tokens_mask"]) if not added]
    ends = [end for _, end in words(text)]
    if not own or not ends:
        return
    head = [] if own[0] or tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    sequence = torch.tensor([*head, *ids[: own[-1] + 1]])
    tokens.check([sequence], model.vocabulary)
    before, window = len(sequence) - len(own), min(model.context, tokenizer.model_max_length)
    surprisals = _surprisals(model, sequence, lenses, WINDOW if window == UNLIMITED else window)
    nothing = torch.full((len(lenses), model.n_layers + 1), torch.nan)
    surprisals = chain([] if before else [nothing], islice(surprisals, max(0, before - 1), None))
    for k, surprisal in zip(own, surprisals, strict=True):
        start, end = found["offset_mapping"][k]
        yield Token(text[start:end], start, end, min(bisect_right(ends, start), len(ends) - 1), surprisal)


@torch.no_grad()
def _surprisals(model: Model, ids: torch.Tensor, lenses: Lenses, window: int) -> Iterator[torch.Tensor]:
    """Surprisals [K, L + 1] of every token but the first, in order; a `window` of tokens runs in one forward pass."""
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
