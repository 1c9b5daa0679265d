"""Several processes on one job, as `torchrun` and `accelerate launch` start them; one where nobody did.

All see the same folders. Process 0 leads: it checks, fits and writes. Of the batches of sentences, which do
not depend on each other, process r of W takes r, r + W, r + 2 W, ..., so that no file depends on W.
"""

import os
from collections.abc import Sequence
from datetime import timedelta

import torch
from torch import distributed

from shortcut import Problem

PATIENCE = timedelta(days=7)  # the others wait while the leader checks


def join() -> None:
    """Meet the other processes, if a launcher started several; raises Problem if it does not say where they meet."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        try:
            distributed.init_process_group("gloo", timeout=PATIENCE)  # what is agreed on lies on the CPU
        except ValueError as error:
            raise Problem(f"WORLD_SIZE is set, but {error}: start the script with torchrun, or unset it") from error


def is_superfluous() -> bool:
    """Whether a launcher started this process beside a first one, which does work that is not shared alone."""
    return int(os.environ.get("RANK", "0")) > 0


def leave() -> None:
    """Part from the other processes."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def place() -> tuple[int, int]:
    """The number of this process, 0 for the leader, and how many there are."""
    return (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)


def leads() -> bool:
    """Whether this process is the leader, as it is where it is alone."""
    return place()[0] == 0


def agree(numbers: Sequence[int]) -> list[int]:
    """The leader's numbers, in every process, once all are here; raises Problem if one has stopped."""
    shared = torch.tensor(numbers, dtype=torch.int64)
    if distributed.is_initialized():
        try:
            distributed.barrier()
            distributed.broadcast(shared, 0)
        except RuntimeError as error:
            raise Problem(f"process {place()[0]} stops, since another one has: its own line says why") from error
    return shared.tolist()
