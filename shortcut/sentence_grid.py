"""Predictions from every layer in one sentence, without a map (id) and after the jump to layer L (mat).

This is the grid of the logit lens, for h_l and for A_lL h_l. A causal model predicts the next token at each token.
A masked model predicts the token at its one [MASK]; the best few predictions are kept.
"""

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

import torch

from shortcut import Problem, representations, tokens
from shortcut.linear import Map
from shortcut.models import Model

BEST = 5  # number of predictions shown for a masked model
WIDEST = 64  # maximum number of tokens in a causal model's grid: a wider grid could not be read


@dataclass(frozen=True)
class Grid:
    """Predictions in one sentence, a grid of L + 1 layers by C columns."""

    sentence: str
    columns: list[str]  # [C], the tokens, each before its prediction; for masked models ranks from 1, at the [MASK]
    ids: dict[str, list[list[int]]]  # predicted tokens by mode ("id", "mat", other map kinds), [L + 1][C]
    predicted: dict[str, list[list[str]]]  # the same tokens as text, which several ids may share
    probabilities: dict[str, torch.Tensor]  # by mode, float32 [L + 1, C], fractions
    mask: str = ""  # the mask token in the sentence, for masked models

    def heading(self, longest: int = 90) -> str:
        """The sentence cut to one line that shows its [MASK]."""
        at = self.sentence.find(self.mask)  # 0 where there is none
        fits = at + len(self.mask) < longest
        return shown(self.sentence if fits else f"…{self.sentence[at - longest // 2 :]}", longest)

    def is_final(self, mode: str, layer: int, k: int) -> bool:
        """True if a cell has the full model's prediction: in this column, or for masked models the best one."""
        rows = self.ids[mode]
        return rows[layer][k] == rows[-1][0 if self.mask else k]

    def in_words(self) -> str:
        """A sentence with the model's last prediction (masked: its best) and the layer from which each mode agrees."""
        k, since = 0 if self.mask else -1, []
        for mode, rows in self.ids.items():
            others = [l for l, row in enumerate(rows) if row[k] != rows[-1][k]]
            since.append(f"{mode} from layer {max(others, default=-1) + 1} on")
        where = "At [MASK]" if self.mask else f"After the last token, “{shown(self.columns[-1], 40)}”,"
        return f"{where} the model predicts “{shown(self.predicted['id'][-1][k], 40)}”: {', '.join(since)}."


@torch.no_grad()
def look(
    model: Model, tokenizer, sentence: str, maps: dict[str, list[Map]], notice: Callable[[str], None] = lambda _: None
) -> Grid:
    """Run one forward pass over the sentence and read out every layer, without maps (id) and after the jumps in `maps`.

    maps: A_0L ... A_(L-1)L for each mode ("mat", or another map kind). notice: called with a line on unknown tokens.
    Raises Problem: the sentence has no token, a token outside the model's vocabulary, or more tokens than can be run or
    shown; a masked model's sentence does not have exactly one [MASK]; or logits are not finite.
    """
    encoded = tokens.encode(tokenizer, [sentence], notice)
    ids = torch.tensor(encoded["input_ids"][0], dtype=torch.int64)
    if 0 not in encoded["special_tokens_mask"][0]:
        raise Problem(f"the sentence {sentence!r} holds no token of {model.name}: choose another sentence")
    tokens.check([ids], model.vocabulary)
    context = min(model.context, tokenizer.model_max_length)
    longest = context if model.masked else min(context, WIDEST)
    if len(ids) > longest:
        raise Problem(f"the sentence {sentence!r} has {len(ids)} tokens, expected at most {longest}: shorten it")
    chosen, best, mask = torch.arange(len(ids)), 1, ""
    if model.masked:
        chosen, best, mask = (ids == tokenizer.mask_token_id).nonzero()[:, 0], BEST, tokenizer.mask_token
        if (n := len(chosen)) != 1:
            raise Problem(f"the sentence {sentence!r} holds {n} {mask}, expected one, as in 'The sky is {mask}.'")
    states = [h[chosen] for h in representations.whole(model, ids)]
    predicted, best_ids, probabilities = {}, {}, {}
    for mode, jumps in {"id": [], **maps}.items():
        finals = [*(A.to(h.device)(h) for A, h in zip(jumps, states, strict=False)), *states[len(jumps) :]]
        top = [model.read_out(h).float().softmax(-1).topk(best) for h in finals]  # a layer at a time: logits are large
        best_ids[mode] = [t.indices.flatten().tolist() for t in top]
        predicted[mode] = [[text_of(tokenizer, token) for token in row] for row in best_ids[mode]]
        probabilities[mode] = torch.stack([t.values.flatten().cpu() for t in top])
        if not (finite := probabilities[mode].isfinite().all(1)).all():
            layer = finite.tolist().index(False)
            raise Problem(f"{model.name}: the logits of {mode} at layer {layer} for this sentence are not finite")
    columns = [str(k + 1) for k in range(best)] if model.masked else [text_of(tokenizer, i) for i in ids.tolist()]
    return Grid(sentence, columns, best_ids, predicted, probabilities, mask)


def text_of(tokenizer, token: int) -> str:
    """Decode one token. Some tokenizers drop a blank at the start of a text, so blanks are decoded twice."""
    text = tokenizer.decode([token])
    return text if text.strip() else tokenizer.decode([token, token])[len(text) :]


def shown(token: str, longest: int = 10) -> str:
    """Format a token for a cell: strip, cut, and escape white space, control characters, marks and lone surrogates."""
    text = ""
    for c in token.strip(" ") or token.replace(" ", "␣"):
        is_sign = c.isprintable() and unicodedata.category(c)[0] != "M"
        text += c if is_sign else c.encode("unicode_escape").decode()
    return text if len(text) <= longest else text[: longest - 1] + "…"
