"""Surprisal of the words in a text, by layer: -ln q_l(w | preceding text), in nats.

q_l is the distribution read out from the hidden state at the preceding token at layer l, without a map (id) or after a
map to layer L. Words stand between white space; the surprisal of a word is the sum over its tokens. A line is a text of
its own. It is preceded by the tokens that the tokenizer adds there, or else by its token for the beginning of a text.

A line longer than the context length of the model or tokenizer runs in windows that overlap by half and all begin with
these tokens. Without a limit, a window has `WINDOW` tokens. Rotary embeddings that depend on the length ("longrope")
use the length of the batch.

Correction for tokens that begin with white space (Pimentel and Meister 2024, Oh and Schuler 2024), for context c:

    -ln p(w | c) = surprisal of its tokens - ln P(B | c w) + ln P(class of its first token | c)

B are the tokens that begin with white space, and the end of the text. The class is B if the first token is one of them,
and otherwise all other tokens, and the end. Probabilities of all words and the end then sum to 1.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import NamedTuple

import torch

from shortcut import Problem, representations
from shortcut.blocks import UNLIMITED
from shortcut.linear import Map
from shortcut.models import Model
from shortcut.tokens import Tokenized, unknown

Lenses = Mapping[str, list[Map]]  # by name: the maps A_0L ... A_(L-1)L, or [] for id
Span = tuple[int, int]  # first character in the line, from 0, and the one after the last
BATCH = 1_024  # tokens that run together
LINES = 256  # that are sorted by length together
ROWS = 128  # states read out together: their logits stay in the cache
WINDOW = 2_048  # tokens in a window without a limit: the cost of attention is quadratic in it


@dataclass(frozen=True)
class Line:
    """A line as T tokens, and how they belong to its words."""

    text: str
    head: list[int]  # tokens in front of it
    ids: list[int]  # [T]
    spans: list[Span]  # [T]
    words: list[Span]  # between white space
    owners: list[int | None]  # [T], the number of the word that a token belongs to, from 0
    groups: list[int | None]  # by word: the first word that it shares a token with, or itself; None without a token


class Window(NamedTuple):
    """A part of a line that runs in one forward pass."""

    ids: torch.Tensor  # the line's `head` and some of its tokens
    first: int  # position in `ids` of the state that the first row of `values` is read from
    values: torch.Tensor  # rows of the line's values that are read here, to be filled in place


def assign(words: list[Span], spans: list[Span], blank: list[bool]) -> tuple[list[int | None], list[int | None]]:
    """Assign tokens to words. Returns `owners` and `groups` (see `Line`); tokens `blank` begin with white space.

    Words that share a token form a group, and its tokens belong to the first of them. One character of white space
    directly before a word belongs to it if the word's first token is not blank; other white space belongs to no word.
    """
    starts, ends = [start for start, _ in words], [end for _, end in words]
    owners: list[int | None] = []
    groups: list[int | None] = [None] * len(words)
    for k, (start, end) in enumerate(spans):
        owners.append(None)
        if covered := range(bisect_right(ends, start), bisect_left(starts, end)):
            first = groups[covered[0]]  # None: no token before this one has a part of the word
            owners[k], own = covered[0] if first is None else first, k
            while own and owners[own - 1] is None and blank[own - 1] and spans[own - 1] == spans[k - 1]:
                own -= 1
            if first is None and not blank[k]:
                owners[own:k] = [owners[k]] * (k - own)
            groups[covered.start : covered.stop] = [owners[k]] * len(covered)
    return owners, groups


def edges(tokenizer, vocabulary: int) -> torch.Tensor:
    """Tokens that begin with white space, and words that end with it, bool [2, v]; special tokens are neither.
    Each is decoded after another token, because many tokenizers drop the white space at the head of a text.
    """
    decoded = partial(tokenizer.batch_decode, clean_up_tokenization_spaces=False)
    found, special = torch.zeros(2, vocabulary, dtype=torch.bool), {*tokenizer.all_special_ids}
    known = [k for k in range(min(len(tokenizer), vocabulary)) if k not in special]
    alone = dict(zip(known, decoded([[k] for k in known]), strict=True))
    before = max(known, key=lambda k: (alone[k].isascii() and alone[k].isalpha(), -k))
    for k, text in zip(known, decoded([[before, k] for k in known]), strict=True):
        text = text[len(alone[before]) :]  # noqa: PLW2901
        found[0, k], found[1, k] = text[:1].isspace(), text[-1:].isspace() and not text.isspace()
    return found


class Reader:
    """A model, its tokenizer and lenses, to read lines with.

    Values of a line are float32 [T + 1, F, C]: in row t, from the state before token t, the surprisal of token t and,
    if `corrected`, ln P(B) and ln P(tokens that do not begin with white space, and the end); nan if no token precedes.
    C is the number of `columns`: the model, and each layer before L by lens. Raises Problem: the tokenizer gives no
    offsets of characters, or cannot be corrected.
    """

    def __init__(self, model: Model, tokenizer, lenses: Lenses, *, bos: bool = True, corrected: bool = False):
        if not tokenizer.is_fast:
            raise Problem(f"the tokenizer of {model.name} gives no character offsets: use one with tokenizer.json")
        self.model, self.tokenizer, self.bos, self.corrected = model, tokenizer, bos, corrected
        L = model.n_layers
        self.columns = ["model", *(f"{name}_{l}" for name in lenses for l in range(L))]
        self._jumps = [(L, None), *((l, maps[l] if maps else None) for maps in lenses.values() for l in range(L))]
        self._classes, (_, self.unknown) = [], unknown(tokenizer)
        blank, ending = edges(tokenizer, model.vocabulary)
        self.blank = {*blank.nonzero()[:, 0].tolist()}  # tokens that begin with white space
        limit = min(model.context, tokenizer.model_max_length)
        self._window = WINDOW if limit == UNLIMITED else limit
        if corrected:
            which, backend = f"--corrected: the tokenizer of {model.name}", tokenizer.backend_tokenizer.model
            if type(backend).__name__ == "WordPiece":
                raise Problem(f"{which} is WordPiece, which drops white space: leave out --corrected")
            if getattr(backend, "end_of_word_suffix", None) or blank.sum() <= ending.sum():
                raise Problem(f"{which} marks where words end, which needs no correction: leave out --corrected")
            end = torch.arange(model.vocabulary) == (-1 if tokenizer.eos_token_id is None else tokenizer.eos_token_id)
            self._classes = [(tokens | end).nonzero()[:, 0] for tokens in (blank, ~blank)]

    def encode(self, texts: list[str]) -> list[Line]:
        """The lines as tokens. White space at the end of a line is left out."""
        texts, lines, bos = [text.rstrip() for text in texts], [], self.tokenizer.bos_token_id
        for text, encoded in zip(texts, self.tokenizer(texts, verbose=False).encodings, strict=True):
            own = [k for k, added in enumerate(encoded.special_tokens_mask) if not added]
            head = encoded.ids[: own[0]] if own else []
            head = (head or [bos] * (bos is not None)) if self.bos else []
            ids, spans = ([column[k] for k in own] for column in (encoded.ids, encoded.offsets))
            # the text decides for a byte of a white-space character
            blank = [k in self.blank or text[a:b].isspace() for k, (a, b) in zip(ids, spans, strict=True)]
            words = [found.span() for found in re.finditer(r"\S+", text)]
            lines.append(Line(text, head, ids, spans, words, *assign(words, spans, blank)))
        return lines

    @torch.no_grad()
    def along(self, texts: list[str]) -> Iterator[tuple[Line, torch.Tensor]]:
        """Lines and their values, in order. Raises Problem: a token is not in the vocabulary, logits are not finite."""
        for start in range(0, len(texts), LINES):
            lines = self.encode(texts[start : start + LINES])
            shape = 1 + len(self._classes), len(self.columns)
            found = [(line, torch.full((len(line.ids) + 1, *shape), torch.nan)) for line in lines]
            if windows := [window for line, values in found for window in self._windows(line, values)]:
                last = torch.tensor([len(window.ids) - 1 for window in windows])
                tokenized = Tokenized([window.ids for window in windows], last)
                for batch in representations.batches(self.model, tokenized, BATCH):
                    self._fill([windows[k] for k in batch.rows.tolist()], batch.ids)
            yield from found

    def _windows(self, line: Line, values: torch.Tensor) -> Iterator[Window]:
        H, T, start, done = len(line.head), len(line.ids), 0, 0 if line.head else 1
        size = max(2, self._window - H)
        while done < T:
            end = min(start + size, T)
            rows = values[done : T + self.corrected if end == T else end]
            yield Window(torch.tensor(line.head + line.ids[start:end]), H + done - 1 - start, rows)
            start, done = end - max(1, size // 2), end

    def _fill(self, windows: list[Window], ids: torch.Tensor) -> None:
        """Fill the values of windows that run together, as rows of ids [b, T]."""
        sizes = [len(window.values) for window in windows]
        parts = [torch.arange(n) + windows[k].first + k * ids.shape[1] for k, n in enumerate(sizes)]
        at, states = torch.cat(parts), representations.whole(self.model, ids)
        actual = ids.flatten().roll(-1)[at, None]  # row T, after the last token, has none
        found = torch.empty(len(at), 1 + len(self._classes), len(self.columns))
        for chosen in torch.arange(len(at)).split(ROWS):
            for c, (l, jump) in enumerate(self._jumps):
                h = states[l][at[chosen]]
                log_q = self.model.read_out(h if jump is None else jump.to(h.device)(h)).float().log_softmax(-1)
                found[chosen, 0, c] = -log_q.gather(1, actual[chosen].to(log_q.device))[:, 0].cpu()
                for f, tokens in enumerate(self._classes, 1):
                    found[chosen, f, c] = log_q[:, tokens.to(log_q.device)].logsumexp(-1).cpu()
        if not found.isfinite().all():
            raise Problem(f"{self.model.name}: the logits for a word of the text are not finite")
        for window, values in zip(windows, found.split(sizes), strict=True):
            window.values.copy_(values)

    def by_word(self, line: Line, values: torch.Tensor) -> torch.Tensor:
        """Surprisal of the words of a line, float64 [n, C]: for a group at its first word; nan where undefined."""
        found, values = torch.full((len(line.words), values.shape[-1]), torch.nan, dtype=torch.float64), values.double()
        owned = [k for k, word in enumerate(line.owners) if word is not None]
        for word, of_word in groupby(owned, key=line.owners.__getitem__):
            parts = [*of_word]
            if self.unknown in (line.ids[k] for k in parts):  # all unknown words share its probability
                continue
            found[word] = values[parts, 0].sum(0)
            if self.corrected:
                its_class = 1 if line.ids[parts[0]] in self.blank else 2
                found[word] += values[parts[0], its_class] - values[parts[-1] + 1, 1]
        return found
