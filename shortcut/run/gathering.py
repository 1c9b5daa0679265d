"""What is computed batch by batch, shared out among the processes and kept on the disk until the stage is done.

The states inside all blocks of gpt2-xl at 9,000 sentences are 16.6 GB; what is fitted at one time is two
points of them.
"""

import time
from collections.abc import Callable, Iterator, Sequence

import torch

from shortcut.files.scratch import Points, Scratch
from shortcut.representations import Batch
from shortcut.run import processes

SECONDS = 5.0  # of work in a unit that is kept,
BYTES = 2**27  # or so many, if they come sooner

Tensors = dict[str, torch.Tensor]  # by name, [K, b, ...] of a batch of b sentences


class Done(Exception):  # noqa: N818  (no error)
    """This process has done its share; the leader goes on alone."""


def gather(
    batches: Sequence[Batch],
    compute: Callable[[Batch], Tensors],
    scratch: Scratch,
    advance: Callable[[int], object],
    begin: Callable[[], None] = lambda: None,
    **key: str | int,
) -> dict[str, Points]:
    """`compute` of every batch, by the names of what it gives, for the leader.

    What a stopped run has kept in `scratch` under `key` is not computed again. `begin` is called once there is
    known to be room for all; `advance` is told of sentences done.

    Raises Done: this process is not the leader.
    """
    n = sum(len(batch.rows) for batch in batches)
    kept = Points.rows(scratch.whole_units(**key)) if processes.leads() else set()
    done = processes.agree([int(batch.rows[0]) in kept for batch in batches])
    todo = [batch for batch, before in zip(batches, done, strict=True) if not before]
    advance(n - sum(len(batch.rows) for batch in todo))
    rank, count = processes.place()
    mine = todo[rank::count]
    for k, unit in enumerate(_units(mine, compute, advance)):
        if not k and processes.leads():
            scratch.check_room(_size(unit) // len(unit["rows"]) * n)
            begin()
        scratch.put(unit, **key)
    processes.agree([0])  # all have put what they did
    if not processes.leads():
        raise Done
    advance(sum(len(batch.rows) for batch in todo) - sum(len(batch.rows) for batch in mine))
    return Points.of(scratch.units(**key))


def _units(
    batches: Sequence[Batch], compute: Callable[[Batch], Tensors], advance: Callable[[int], object]
) -> Iterator[Tensors]:
    """What batches give, some seconds of work at a time; the first batch is a unit, so that its size is known."""
    begun, parts = time.monotonic(), []
    for batch in batches:
        parts.append({"rows": batch.rows, **compute(batch)})
        advance(len(batch.rows))
        full = time.monotonic() - begun > SECONDS or sum(map(_size, parts)) > BYTES
        if full or batch is batches[0] or batch is batches[-1]:
            yield {name: torch.cat([part[name] for part in parts], int(name != "rows")) for name in parts[0]}
            begun, parts = time.monotonic(), []


def _size(tensors: Tensors) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())
