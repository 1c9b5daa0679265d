"""Run the model over the sentences of a stage: load it, and collect hidden states at the chosen tokens."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

import torch

from shortcut import Problem, representations
from shortcut.files import formats
from shortcut.loading import pretrained
from shortcut.models import Model, Point
from shortcut.pipeline.partial import Done, Points, Tensors
from shortcut.pipeline.script import Work
from shortcut.representations import Batch
from shortcut.tokens import Tokenized


def load_model(work: Work, *, head: bool = True) -> Model:
    """Load and check the model (see `loading.load`). Raises Problem if it lacks the `head` that predictions need."""
    args, only = work.args, work.config.SAFETENSORS_ONLY
    device = args.device if args.device == "spread" else work.device
    how = {"device": device, "dtype": work.config.DTYPE, "safetensors_only": only}
    model = pretrained.load(args.model, masked=work.masked, **how, notice=work.say)
    if model.headless and head:
        lacks = f"{args.model} is an encoder without a masked-LM head, so nothing can be predicted with it"
        raise Problem(f"{lacks}: its states, maps and r2 are all there is")
    return model


def load_split(work: Work, split: str) -> Tokenized:
    """The tokens and chosen positions of a split; for a masked model they are in the file of its states."""
    if work.masked:
        return formats.load_states(work.files.states(split), work.L)[0]
    return formats.load_tokenized(work.files.tokenized(split))


def states(work: Work, model: Model, tokenized: Tokenized, points: list[Point], of: str) -> Points:
    """Hidden states at k points of the model and the chosen tokens, [k, n, d]; `of` names the sentences."""

    def see(batch: Batch) -> Tensors:
        return {"states": representations.run(model, batch, points).h.cpu()}

    return gather(work, model, tokenized, see, of)["states"]


def states_of_splits(work: Work, model: Model, tokenized: dict[str, Tokenized]) -> Iterator[tuple[str, torch.Tensor]]:
    """h_0 ... h_L at the chosen tokens, [L + 1, n, d], for each split whose file is missing; in the leader only."""
    for (split,) in work.missing(work.files.states, [(split,) for split in tokenized]):
        with suppress(Done):  # another process does its share of every split
            yield split, states(work, model, tokenized[split], model.layer_points(), split).tensor()


def gather(
    work: Work, model: Model, tokenized: Tokenized, compute: Callable[[Batch], Tensors], of: str
) -> dict[str, Points]:
    """Compute tensors for all sentences, batch by batch, and keep them as partial results, called `of`."""
    batches = representations.batches(model, tokenized, work.args.batch_size)
    results = replace(work.partial, key=f"{work.partial.key} {of} {work.args.batch_size} {model.device.type}")
    with work.bar(f"sentences ({of})", len(tokenized)) as advance:
        return results.gather(batches, compute, advance, work.begin)
