"""Several processes on one job, as `torchrun` and `accelerate launch` start them; one where nobody did.

Process 0 leads: it reads, decides, fits and writes. Work on sentences falls into batches that do not
depend on each other: process r takes batches r, r + W, r + 2 W, ... of W processes, and the leader
receives the results in the order of the batches, so that what is written does not depend on W.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed

from shortcut import Problem

PATIENCE = timedelta(days=7)  # the others wait while the leader reads out

Item = TypeVar("Item")


def join() -> None:
    """Meet the other processes, if a launcher started several.

    Raises:
        Problem: the environment names several, but not where they meet.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        try:
            distributed.init_process_group("gloo", timeout=PATIENCE)  # what is exchanged lies on the CPU
        except ValueError as error:
            raise Problem(f"WORLD_SIZE is set, but {error}: start the script with torchrun, or unset it") from error


def is_superfluous() -> bool:
    """Whether a launcher started this process beside a first one, which can do work that is not shared alone."""
    return int(os.environ.get("RANK", "0")) > 0


def leave() -> None:
    """Part from the other processes."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def rank() -> int:
    """The number of this process, 0 for the leader."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def leads() -> bool:
    """Whether this process is the leader, as it is where it is alone."""
    return rank() == 0


def agree(numbers: Sequence[int]) -> list[int]:
    """The leader's numbers, in every process; the others pass as many, of any value.

    Raises:
        Problem: a process has stopped.
    """
    shared = torch.tensor(numbers, dtype=torch.int64)
    if distributed.is_initialized():
        _exchange(distributed.broadcast, shared, 0)
    return shared.tolist()


def spread(items: Sequence[Item], compute: Callable[[Item], torch.Tensor]) -> Iterator[tuple[Item, torch.Tensor]]:
    """Every item and `compute(item)`, a tensor of three dimensions on the CPU, in order.

    In the other processes the iterator yields nothing: it does their share and sends it to the leader.

    Raises:
        Problem: a process has stopped; besides, what `compute` raises.
    """
    size = distributed.get_world_size() if distributed.is_initialized() else 1
    for number, item in enumerate(items):
        if number % size == rank():
            result = compute(item)
            if leads():
                yield item, result
            else:
                _exchange(distributed.send, torch.tensor(result.shape), 0)
                _exchange(distributed.send, result.contiguous(), 0)
        elif leads():
            shape = torch.empty(3, dtype=torch.int64)
            _exchange(distributed.recv, shape, number % size)
            result = torch.empty(*shape.tolist())
            _exchange(distributed.recv, result, number % size)
            yield item, result


def _exchange(operation: Callable, tensor: torch.Tensor, other: int) -> None:
    try:
        operation(tensor, other)
    except RuntimeError as error:
        raise Problem(f"process {rank()} stops, since another one has: its own line says why") from error
