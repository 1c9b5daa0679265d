"""Partial results of a loop over batches of sentences: memory-mapped arrays, one folder a stage.

A stopped run resumes from the stored rows. The results need not fit into memory: hidden states inside all blocks of
gpt2-xl for 9,000 sentences are 16.6 GB, and a fit reads two points at a time.

    <name>.<r>.npy   results of process r, [K, rows, ...], batch after batch
    done.<r>.npy     int64 [1], number of rows that are on the disk
    files.json       the key, a hash of everything that the results depend on, and the size of each .npy file

Disk space is reserved before the loop, since a full disk under a memory-mapped file kills the process. Each process
has its own files, since two machines that write to one page of a shared folder lose rows; the leader reads all files.
A later run resumes from the same files with any number of processes.
"""

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import torch

from shortcut import Problem
from shortcut.files import store
from shortcut.pipeline import processes
from shortcut.representations import Batch

SECONDS = 5.0  # largest amount of work that a killed run loses

Tensors = dict[str, torch.Tensor]  # by name, [K, b, ...] for a batch of b sentences
Compute = Callable[[Batch], Tensors]
Advance = Callable[[int], object]  # called with the number of sentences done


class Done(Exception):  # noqa: N818  (no error)
    """This process has finished its share; only the leader continues."""


class Points:
    """Results [K, n, ...] on the disk; `points[k]`: [n, ...] is read into memory, in the order of the sentences."""

    def __init__(self, arrays: list[np.memmap], order: torch.Tensor):
        """Args: arrays: [K, rows, ...] for each process; order: int64 [n], the sentence in each row of all arrays."""
        self._arrays, self._places = [*map(torch.from_numpy, arrays)], order.argsort()

    def __getitem__(self, k: int) -> torch.Tensor:
        """Copy point k, since BLAS rounds differently on memory-mapped pages."""
        return torch.cat([array[k] for array in self._arrays])[self._places]

    def tensor(self) -> torch.Tensor:
        """Read all points into memory."""
        return torch.stack([*self])


@dataclass(frozen=True)
class PartialResults:
    """Partial results of one stage."""

    folder: Path
    key: str  # hash of everything that the results depend on
    notice: Callable[[str], None]  # called with one line if a file is damaged

    def discard(self) -> None:
        """Remove all partial results."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def gather(
        self, batches: Sequence[Batch], compute: Compute, advance: Advance, begin: Callable[[], None] = lambda: None
    ) -> dict[str, Points]:
        """Compute the batches that no earlier run computed; the leader returns the results of all batches by name.

        `begin` is called once disk space for all results has been reserved.

        Raises Done if this process is not the leader. Raises Problem if disk space is missing, and empties the folder.
        """
        rank, count = processes.place()
        if processes.leads():
            if not self._exist():
                self._create(batches, compute, min(count, len(batches)))
            begin()
        processes.agree([0])  # the leader has created all files
        arrays = self._open()
        shares = [batches[r :: len(arrays)] for r in range(len(arrays))]
        for r in range(rank, len(arrays), count):
            _fill(arrays[r], shares[r], compute, advance)
        processes.agree([0])  # all processes have finished their shares
        if not processes.leads():
            raise Done
        order, arrays = torch.cat([batch.rows for share in shares for batch in share]), self._open()
        for r in range(len(arrays)):
            if r % count:  # done by another process: only the progress bar advances
                _fill(arrays[r], shares[r], compute, advance)
        return {name: Points([array[name] for array in arrays], order) for name in arrays[0].keys() - {"done"}}

    def _exist(self) -> bool:
        """True if an earlier run created the files with this key, and no file size has changed since."""
        path = self.folder / "files.json"
        found = store.load_json(path) if path.exists() else {}
        same = found.get("key") == self.key
        if same and found["sizes"] != self._sizes():
            self.notice(f"partial results are damaged and will be computed again: {self.folder}")
            return False
        return same

    def _create(self, batches: Sequence[Batch], compute: Compute, count: int) -> None:
        """Compute the first batch, which gives the shapes, and reserve disk space in files for `count` processes."""
        self.discard()
        first = compute(batches[0])
        try:
            self.folder.mkdir(parents=True)
            for r in range(count):
                rows = sum(len(batch.rows) for batch in batches[r::count])
                _reserve(self.folder / f"done.{r}.npy", np.dtype("int64"), (1,))
                for name, x in first.items():
                    _reserve(self.folder / f"{name}.{r}.npy", x.numpy().dtype, (len(x), rows, *x.shape[2:]))
        except OSError as error:
            self.discard()
            n = sum(len(batch.rows) for batch in batches)
            size = f"{sum(x.nbytes for x in first.values()) / len(batches[0].rows) * n / 1e6:,.1f} MB"
            raise Problem(f"cannot reserve {size} for partial results in {self.folder}: {error.strerror}") from error
        with store.replacing(self.folder / "files.json") as file:
            file.write(store.dump_json({"key": self.key, "sizes": self._sizes()}))
        _fill(self._open()[0], batches[:1], lambda _: first, lambda _: None)

    def _sizes(self) -> dict[str, int]:
        return {path.name: path.stat().st_size for path in self.folder.glob("*.npy")}

    def _open(self) -> list[dict[str, np.memmap]]:
        """Memory-mapped arrays of each process, by name."""
        names, found = store.load_json(self.folder / "files.json")["sizes"], []
        while own := [name for name in names if name.endswith(f".{len(found)}.npy")]:
            found.append({name.split(".")[0]: np.lib.format.open_memmap(self.folder / name, "r+") for name in own})
        return found


def _reserve(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """Create an array of zeros, with all its disk blocks allocated."""
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": dtype.str, "fortran_order": False, "shape": shape})
        size = dtype.itemsize * prod(shape)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), file.tell(), size)
            return
        for start in range(0, size, 2**20):
            file.write(bytes(min(2**20, size - start)))


def _fill(arrays: dict[str, np.memmap], batches: Sequence[Batch], compute: Compute, advance: Advance) -> None:
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
