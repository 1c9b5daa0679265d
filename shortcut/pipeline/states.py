"""Tokenize the sentences of a stage, run its model on them, and collect hidden states at the chosen token positions."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from zlib import crc32

import torch

from shortcut import Problem, representations, tokens
from shortcut.files import formats
from shortcut.loading import checkpoint, pretrained
from shortcut.models import Model, Point
from shortcut.pipeline.partial import Compute, Done, Points, Tensors
from shortcut.pipeline.script import Work
from shortcut.representations import Batch
from shortcut.tokens import Tokenized


def load_model(work: Work, *, head: bool = True) -> Model:
    """Load and check the model (see `pretrained.load`). Raises Problem if `head` is True and the model has none."""
    if not work.loaded:
        device = work.args.device if work.args.device == "spread" else work.device
        how = {"device": device, "dtype": work.config.DTYPE, "safetensors_only": work.config.SAFETENSORS_ONLY}
        work.loaded.append(pretrained.load(work.args.model, masked=work.masked, **how, notice=work.say))
    model = work.loaded[0]
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
    path = work.files.split(split)
    return formats.load_states(path, work.L)[0] if work.masked else formats.load_tokenized(path)


def states(work: Work, model: Model, tokenized: Tokenized, points: list[Point], name: str) -> Points:
    """Hidden states at k points of the model, at the chosen positions: [k, n, d]. `name` is for the partial results."""

    def compute(batch: Batch) -> Tensors:
        return {"states": representations.run(model, batch, points).h.cpu()}

    batches = representations.batches(model, tokenized, work.args.batch_size)
    return gather(work, batches, compute, name, shared=True)["states"]


def states_of_splits(work: Work, model: Model, tokenized: dict[str, Tokenized]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield h_0 ... h_L at the chosen positions, [L + 1, n, d], for each split without a file; only in the leader."""
    for (split,) in work.missing(work.files.split, [(split,) for split in tokenized]):
        with suppress(Done):  # the other processes only compute their share of each split
            yield split, states(work, model, tokenized[split], model.layer_points(), split).tensor()


def gather(
    work: Work, batches: list[Batch], compute: Compute, name: str, *, shared: bool = False, everyone: bool = False
) -> dict[str, Points]:
    """Compute tensors for all sentences, batch by batch, and store them as partial results called `name`.

    `shared`: they are the same for every map kind, so that a run for several kinds computes them once. `everyone` is
    for `PartialResults.gather`.
    """
    results, rows = work.partial, torch.cat([batch.rows for batch in batches])
    if shared and work.shared:
        results = replace(work.shared, folder=work.shared.folder / name)
    how = f"{name} {work.args.batch_size} {crc32(rows.numpy().tobytes())} {batches[0].ids.device.type}"
    what = "positions" if work.config.POSITIONS > 1 else "sentences"
    with work.progress(f"{what} ({name})", total=len(rows), unit=what) as bar:
        return replace(results, key=f"{results.key} {how}").gather(batches, compute, bar.update, everyone=everyone)
