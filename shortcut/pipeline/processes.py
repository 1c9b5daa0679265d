"""Several processes that share a stage, as `torchrun` and `accelerate launch` start them; a single one otherwise.

All processes see the same folders. Process 0 is the leader: it checks, fits and writes. Batches of sentences
are independent: process r of W takes batches r, r + W, r + 2 W, ..., so that no file depends on W.
"""

import os
import sys
from collections.abc import Sequence
from datetime import timedelta

import torch
from torch import distributed

from shortcut import Problem

TIMEOUT = timedelta(days=7)  # the other processes wait while the leader checks


def join() -> None:
    """Join the other processes, if a launcher started several. Raises Problem if the launcher gave no address."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        try:
            distributed.init_process_group("gloo", timeout=TIMEOUT)  # the numbers to share are on the CPU
        except ValueError as error:
            raise Problem(f"WORLD_SIZE is set, but {error}: start the script with torchrun, or unset it") from error


def is_superfluous() -> bool:
    """True for all processes but the first, in a stage whose work is not shared."""
    return int(os.environ.get("RANK", "0")) > 0


def leave() -> None:
    """Leave the group of processes. One of several processes ends here, unless an exception is on its way."""
    if distributed.is_initialized():
        if sys.exc_info()[0] is None:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)  # at an ordinary end, gloo's threads abort the process now and then
        distributed.destroy_process_group()


def place() -> tuple[int, int]:
    """The rank of this process, 0 for the leader, and the number of processes."""
    return (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)


def leads() -> bool:
    """True if this process is the leader; a single process always is."""
    return place()[0] == 0


def agree(numbers: Sequence[int]) -> list[int]:
    """Wait for all processes, then return the leader's numbers. Raises Problem if a process has stopped."""
    shared = torch.tensor(numbers, dtype=torch.int64)
    if distributed.is_initialized():
        try:
            distributed.barrier()
            distributed.broadcast(shared, 0)
        except RuntimeError as error:
            raise Problem(f"process {place()[0]} stops because another one stopped: see its message") from error
    return shared.tolist()
