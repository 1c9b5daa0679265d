"""Hidden states kept on the disk while a stage works: gathered batch by batch, read point by point.

Shapes: K points, n sentences, d coordinates; float32. The states of gpt2-xl inside all its blocks at
9,000 sentences are 16.6 GB; what is fitted at one time is two points of them.

A killed run leaves what it had gathered, and the next one with the same key goes on from there, if
it is whole: a note beside the states has how many batches they are, and of each point a checksum. The
file holds the sentences in the order in which they were gathered.
"""

import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path

import torch

from shortcut import Problem, store

SAVE_EVERY = 5.0  # seconds between two notes of what has been gathered
CHUNK = 2**24  # bytes that are read at a time to be checked


class Shelf:
    """States [K, n, d] in a folder, used like the tensor: `shelf[k]` is [n, d], read from the disk.

    Attributes:
        shape: (K, n, d).
    """

    def __init__(
        self,
        folder: Path,
        key: str,
        points: int,
        d: int,
        batches: Sequence[torch.Tensor],
        notice: Callable[[str], None] = lambda _: None,
    ):
        """Open the folder's states, or make room for them.

        Args:
            folder: where they lie.
            key: says all that they depend on; states gathered under another key are dropped.
            points: K.
            d: coordinates of a state.
            batches: the numbers of the sentences [b] of every batch, in the order in which they are gathered.
            notice: told if what an earlier run left is damaged, and dropped.

        Raises:
            Problem: no room on the disk, or the folder cannot be written.
        """
        order = torch.cat([*batches])
        self.shape = (points, len(order), d)
        self._folder, self._key = folder, key
        self._ends = [0, *accumulate(len(rows) for rows in batches)]
        self._places = torch.empty_like(order)
        self._places[order] = torch.arange(len(order))
        self._data, self._note = folder / "states", folder / "gathered.json"
        self._gathered, self._checksums = 0, [0] * points
        if self._note.is_file():
            self._go_on(notice)
        if not self._gathered:
            self._make_room()

    def __len__(self) -> int:
        """K, the number of points."""
        return self.shape[0]

    @property
    def gathered(self) -> int:
        """Sentences whose states are there, in the order given."""
        return self._gathered

    def gather(self, batches: Iterable[torch.Tensor], progress: Callable[[int], object]) -> None:
        """Add the states that are still missing, [K, b, d] at a time, and note on the way how many there are."""
        K, n, d = self.shape
        noted = time.monotonic()
        try:
            with open(self._data, "r+b") as file:
                for states in batches:
                    for k in range(K):
                        values = states[k].contiguous().numpy()
                        file.seek(4 * d * (k * n + self._gathered))
                        file.write(values)
                        self._checksums[k] = zlib.crc32(values, self._checksums[k])
                    self._gathered += states.shape[1]
                    progress(states.shape[1])
                    if time.monotonic() - noted > SAVE_EVERY or self._gathered == n:
                        file.flush()
                        os.fsync(file.fileno())
                        self._save_note()
                        noted = time.monotonic()
        except OSError as error:
            raise Problem(f"cannot write {self._data}: {error.strerror}; the next run goes on from here") from error

    def __getitem__(self, k: int) -> torch.Tensor:
        """The states at point k, [n, d], in the order of the sentences."""
        K, n, d = self.shape
        states = torch.empty(n, d)
        with open(self._data, "rb") as file:
            file.seek(4 * n * d * range(K)[k])
            if file.readinto(states.numpy()) != states.nbytes:
                raise Problem(f"{self._data} is shorter than it was: remove {self._folder} and run again")
        return states[self._places]

    def tensor(self) -> torch.Tensor:
        """All of them, [K, n, d], in memory."""
        return torch.stack([self[k] for k in range(len(self))])

    def _save_note(self) -> None:
        note = {"key": self._key, "sentences": self._gathered, "checksums": self._checksums}
        store.save_json(self._note, note)

    def _go_on(self, notice: Callable[[str], None]) -> None:
        """Take up what an earlier run has gathered under this key, if it is whole; else tell of it."""
        try:
            note = store.load_json(self._note)
            if note.get("key") != self._key:
                return
            n, size = note.get("sentences"), 4 * torch.Size(self.shape).numel()
            if type(n) is int and n in self._ends and self._data.stat().st_size == size:
                checksums = [self._checksum(k, n) for k in range(len(self))]
                if checksums == note.get("checksums"):
                    self._gathered, self._checksums = n, checksums
                    return
        except (Problem, OSError):
            pass
        notice(f"states gathered before are damaged or incomplete, so they are gathered anew: {self._folder}")

    def _checksum(self, k: int, n: int) -> int:
        """The CRC-32 of the first n states gathered at point k."""
        _, N, d = self.shape
        checksum, left = 0, 4 * n * d
        with open(self._data, "rb") as file:
            file.seek(4 * k * N * d)
            while left and (content := file.read(min(left, CHUNK))):
                checksum, left = zlib.crc32(content, checksum), left - len(content)
        return checksum

    def _make_room(self) -> None:
        size = 4 * torch.Size(self.shape).numel()
        try:
            self._drop()
            self._folder.mkdir(parents=True, exist_ok=True)
            with open(self._data, "wb") as file:
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            with suppress(OSError):
                self._drop()
            raise Problem(f"no room for {_amount(size)} of states in {self._folder}: {error.strerror}") from error

    def _drop(self) -> None:
        """Remove what is ours in the folder; what says whose work it is stays."""
        for path in (self._note, self._data):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            path.unlink(missing_ok=True)


def _amount(size: int) -> str:
    scale, unit = next((x for x in ((1e9, "GB"), (1e6, "MB")) if size >= x[0]), (1e3, "kB"))
    return f"{size / scale:.1f} {unit}"
