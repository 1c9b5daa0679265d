"""Tokenize the sentences of a stage with the model's own tokenizer."""

from shortcut import tokens
from shortcut.loading import checkpoint, pretrained
from shortcut.pipeline.script import Work
from shortcut.tokens import Tokenized


def tokenize(work: Work, sentences: list[str]) -> dict[str, Tokenized]:
    """Tokenize the sentences of each split and sample positions; for a masked model, replace their tokens by [MASK]."""
    tokenizer = pretrained.load_tokenizer(work.args.model, masked=work.masked)
    context, vocabulary = checkpoint.limits(work.args.model, masked=work.masked)
    longest, several = min(context, tokenizer.model_max_length), work.config.POSITIONS
    drawing = tokens.Drawing(longest, work.args.seed, added=work.masked, positions=several)
    tokenized = tokens.tokenize(sentences, work.sizes, tokenizer, drawing, work.say)
    for found in tokenized.values():
        tokens.check(found.sentences, vocabulary)
    if work.masked:
        tokenized = {split: tokens.mask(found, tokenizer.mask_token_id) for split, found in tokenized.items()}
    return tokenized
