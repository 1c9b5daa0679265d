"""A loop over batches of sentences that survives a stop and that several processes can share.

A stage has a folder of memory-mapped arrays. A run for several map kinds has one more, with a folder in it for each set
of arrays that all kinds need. They need not fit into memory: hidden states inside all blocks of gpt2-xl for 9,000
sentences are 16.6 GB. Disk space is reserved first, since a full disk under a mapped file kills the process.

    <name>.<r>.npy   results of process r, [K, rows, ...], batch after batch
    done.<r>.npy     int64 [1], number of rows that are on the disk
    key              hash of everything that the results depend on; written last, once all arrays exist

`torchrun` and `accelerate launch` start W processes, which see the same folders. Process 0 is the leader: it checks,
fits and writes. Process r takes batches r, r + W, r + 2 W, ... and has its own files, since two machines that write to
one page of a shared folder lose rows. No result depends on W, and a later run can resume with another W.
"""

import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed

from shortcut import Problem
from shortcut.files import store
from shortcut.representations import Batch

SECONDS = 5.0  # largest amount of work that a killed run loses

Tensors = dict[str, torch.Tensor]  # by name, [K, b, ...] for a batch of b sentences
Compute = Callable[[Batch], Tensors]
Advance = Callable[[int], object]  # called with the number of sentences done


def join() -> None:
    """Join the other processes, if a launcher started several. Raises Problem if the launcher gave no address."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        try:
            # gloo, since all shared objects are on the CPU; the other processes wait while the leader checks
            distributed.init_process_group("gloo", timeout=timedelta(days=7))
        except ValueError as error:
            raise Problem(f"WORLD_SIZE is set, but {error}: start the script with torchrun, or unset it") from error


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


def agree(value: Any = None) -> Any:
    """Wait for all processes, then return the leader's value. Raises Problem if a process has stopped."""
    values = [value] * place()[1]
    if distributed.is_initialized():
        try:
            distributed.all_gather_object(values, value)
        except RuntimeError as error:
            raise Problem(f"process {place()[0]} stops because another one stopped: see its message") from error
    return values[0]


class Done(Exception):  # noqa: N818  (no error)
    """This process has finished its share; only the leader continues."""


class Points:
    """Results [K, n, ...] on the disk: arrays [K, rows, ...] of each process, and the sentence in each of the rows."""

    def __init__(self, arrays: list[np.memmap], order: torch.Tensor):
        self._arrays, self._places = [*map(torch.from_numpy, arrays)], order.argsort()

    def __getitem__(self, k: int) -> torch.Tensor:
        """Point k, [n, ...], in the order of the sentences; a copy, since BLAS rounds differently on mapped pages."""
        return torch.cat([array[k] for array in self._arrays])[self._places]

    def tensor(self) -> torch.Tensor:
        """Read all points into memory."""
        return torch.stack([*self])


@dataclass(frozen=True)
class PartialResults:
    """Partial results of one stage."""

    folder: Path
    key: str  # hash of everything that the results depend on
    begin: Callable[[], None]  # called in the leader once disk space for all results is reserved

    def gather(self, batches: list[Batch], compute: Compute, advance: Advance, *, everyone: bool) -> dict[str, Points]:
        """Compute the batches that no earlier run computed, and return the results of all batches by name.
        Raises Done if this process is not the leader, unless `everyone` continues, and Problem if the disk is too full.
        """
        rank, count = place()
        if rank == 0:
            key = self.folder / "key"
            if not key.exists() or key.read_text(encoding="utf-8") != self.key:
                self._create(batches, compute, min(count, len(batches)))
            self.begin()
        agree()  # the leader has created all files
        arrays = self._open()
        shares = [batches[r :: len(arrays)] for r in range(len(arrays))]
        for r in range(rank, len(arrays), count):
            _fill(arrays[r], shares[r], compute, advance)
        agree()  # all processes have finished their shares
        if rank > 0 and not everyone:
            raise Done
        arrays, order = self._open(), torch.cat([batch.rows for share in shares for batch in share])
        advance(sum(len(batch.rows) for r, share in enumerate(shares) if r % count for batch in share))  # the others'
        return {name: Points([array[name] for array in arrays], order) for name in arrays[0].keys() - {"done"}}

    def _create(self, batches: list[Batch], compute: Compute, count: int) -> None:
        """Compute the first batch, which gives the shapes, and reserve disk space in files for `count` processes."""
        discard(self.folder)
        first = compute(batches[0])
        try:
            self.folder.mkdir(parents=True)
            for r in range(count):
                rows = sum(len(batch.rows) for batch in batches[r::count])
                _reserve(self.folder / f"done.{r}.npy", np.dtype("int64"), (1,))
                for name, x in first.items():
                    _reserve(self.folder / f"{name}.{r}.npy", x.numpy().dtype, (len(x), rows, *x.shape[2:]))
            (self.folder / "key").write_text(self.key, encoding="utf-8")
        except OSError as error:
            discard(self.folder)
            n = sum(len(batch.rows) for batch in batches)
            size = f"{sum(x.nbytes for x in first.values()) / len(batches[0].rows) * n / 1e6:,.1f} MB"
            raise Problem(f"cannot reserve {size} for partial results in {self.folder}: {error.strerror}") from error
        _fill(self._open()[0], batches[:1], lambda _: first, lambda _: None)

    def _open(self) -> list[dict[str, np.memmap]]:
        """Memory-mapped arrays of each process, by name."""
        found: list[dict[str, np.memmap]] = []
        with store.inside(self.folder):
            while paths := [*self.folder.glob(f"*.{len(found)}.npy")]:
                found.append({path.name.split(".")[0]: np.lib.format.open_memmap(path, "r+") for path in paths})
        return found


def discard(folder: Path) -> None:
    """Remove all partial results in a folder; the keys first, since a run can be killed here."""
    for key in folder.rglob("key"):
        key.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def _reserve(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """Create an array of zeros, with all its disk blocks allocated."""
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": dtype.str, "fortran_order": False, "shape": shape})
        size = dtype.itemsize * int(np.prod(shape))
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), file.tell(), size)
            return
        for start in range(0, size, 2**20):
            file.write(bytes(min(2**20, size - start)))


def _fill(arrays: dict[str, np.memmap], batches: list[Batch], compute: Compute, advance: Advance) -> None:
    """Compute the batches of one process, except rows that are done. A flush writes the results first, then `done`."""
    end, flushed = 0, time.monotonic()
    for batch in batches:
        rows = slice(end, end := end + len(batch.rows))
        if end > arrays["done"][0]:
            for name, x in compute(batch).items():
                arrays[name][:, rows] = x
            if batch is batches[-1] or time.monotonic() - flushed > SECONDS:
                for array in arrays.values():
                    array.flush()
                arrays["done"][0] = end
                arrays["done"].flush()
                flushed = time.monotonic()
        advance(len(batch.rows))
