"""Tokenize the sentences of a stage, run its model on them, and collect hidden states at the chosen token positions."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from zlib import crc32

import torch

from shortcut import Problem, representations, tokens
from shortcut.files import formats
from shortcut.loading import checkpoint, pretrained
from shortcut.models import Model, Point
from shortcut.pipeline.partial import Done, Points, Tensors
from shortcut.pipeline.script import Work
from shortcut.representations import Batch
from shortcut.tokens import Tokenized


def load_model(work: Work, *, head: bool = True) -> Model:
    """Load and check the model (see `pretrained.load`). Raises Problem if `head` is True and the model has none."""
    device = work.args.device if work.args.device == "spread" else work.device
    how = {"device": device, "dtype": work.config.DTYPE, "safetensors_only": work.config.SAFETENSORS_ONLY}
    model = pretrained.load(work.args.model, masked=work.masked, **how, notice=work.say)
    if model.headless and head:
        lacks = f"{work.args.model} is an encoder without a masked-LM head, so it predicts nothing"
        raise Problem(f"{lacks}: only its states, maps and r2 can be computed")
    return model


def tokenize(work: Work, sentences: list[str]) -> dict[str, Tokenized]:
    """Tokenize the sentences of each split and sample positions; for a masked model, replace their tokens by [MASK]."""
    tokenizer = pretrained.load_tokenizer(work.args.model, masked=work.masked)
    _, context, vocabulary = checkpoint.dimensions(work.args.model, masked=work.masked)
    longest, several = min(context, tokenizer.model_max_length), work.config.POSITIONS
    drawing = tokens.Drawing(longest, work.args.seed, added=work.masked, positions=several)
    tokenized = tokens.tokenize(sentences, work.sizes, tokenizer, drawing, work.say)
    tokens.check([ids for found in tokenized.values() for ids in found.sentences], vocabulary)
    if work.masked:
        tokenized = {split: tokens.mask(found, tokenizer.mask_token_id) for split, found in tokenized.items()}
    return tokenized


def load_split(work: Work, split: str) -> Tokenized:
    """Tokens and chosen positions of a split; for a masked model they are in the file of states."""
    if work.masked:
        return formats.load_states(work.files.states(split), work.L)[0]
    return formats.load_tokenized(work.files.tokenized(split))


def states(work: Work, model: Model, tokenized: Tokenized, points: list[Point], name: str) -> Points:
    """Hidden states at k points of the model, at the chosen positions: [k, n, d]. `name` is for the partial results."""

    def compute(batch: Batch) -> Tensors:
        return {"states": representations.run(model, batch, points).h.cpu()}

    return gather(work, model, tokenized, compute, name)["states"]


def states_of_splits(work: Work, model: Model, tokenized: dict[str, Tokenized]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield h_0 ... h_L at the chosen positions, [L + 1, n, d], for each split without a file; only in the leader."""
    for (split,) in work.missing(work.files.states, [(split,) for split in tokenized]):
        with suppress(Done):  # the other processes only compute their share of each split
            yield split, states(work, model, tokenized[split], model.layer_points(), split).tensor()


def gather(
    work: Work, model: Model, tokenized: Tokenized, compute: Callable[[Batch], Tensors], name: str, **how: bool
) -> dict[str, Points]:
    """Compute tensors for all sentences, batch by batch, and store them as partial results called `name`.

    `how` is for `representations.batches`.
    """
    batches = representations.batches(model, tokenized, work.args.batch_size, **how)
    order = crc32(torch.cat([batch.rows for batch in batches]).numpy().tobytes())
    key = f"{work.partial.key} {name} {work.args.batch_size} {order} {model.device.type}"
    results = replace(work.partial, key=key)
    with work.bar(f"sentences ({name})", len(tokenized)) as advance:
        return results.gather(batches, compute, advance)
