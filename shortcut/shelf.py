"""Hidden states kept on the disk while a stage works: gathered batch by batch, read point by point.

Shapes: K points, n sentences, d coordinates; float32. The states of gpt2-xl inside all its blocks at
9,000 sentences are 16.6 GB; what is fitted at one time is two points of them.

A killed run leaves what it had gathered, and the next one with the same key goes on from there. The
file holds the sentences in the order in which they were gathered.
"""

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from shortcut import Problem, store

SAVE_EVERY = 5.0  # seconds between two notes of what has been gathered


class Shelf:
    """States [K, n, d] in a folder, used like the tensor: `shelf[k]` is [n, d], read from the disk.

    Attributes:
        shape: (K, n, d).
    """

    def __init__(self, folder: Path, key: str, shape: tuple[int, int, int], order: torch.Tensor):
        """Open the folder's states, or make room for them.

        Args:
            folder: where they lie.
            key: says all that they depend on; states gathered under another key are dropped.
            shape: (K, n, d).
            order: the numbers of the sentences [n], in the order in which they are gathered.

        Raises:
            Problem: no room on the disk, or the folder cannot be written.
        """
        self.shape = shape
        self._folder, self._key = folder, key
        self._places = torch.empty_like(order)
        self._places[order] = torch.arange(len(order))
        self._data, self._note = folder / "states", folder / "gathered.json"
        self._gathered = self._known()
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
                        file.seek(4 * d * (k * n + self._gathered))
                        file.write(states[k].contiguous().numpy())
                    self._gathered += states.shape[1]
                    progress(states.shape[1])
                    if time.monotonic() - noted > SAVE_EVERY or self._gathered == n:
                        file.flush()
                        os.fsync(file.fileno())
                        store.save_json(self._note, {"key": self._key, "sentences": self._gathered})
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

    def _known(self) -> int:
        """How many sentences an earlier run with this key has gathered."""
        note = store.load_json(self._note) if self._note.exists() and self._data.exists() else {}
        whole = note.get("key") == self._key and self._data.stat().st_size == 4 * torch.Size(self.shape).numel()
        n = note.get("sentences")
        return n if whole and type(n) is int and 0 <= n <= self.shape[1] else 0

    def _make_room(self) -> None:
        self._drop()
        size = 4 * torch.Size(self.shape).numel()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with open(self._data, "wb") as file:
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            self._drop()
            raise Problem(f"no room for {size / 1e9:.1f} GB of states in {self._folder}: {error.strerror}") from error

    def _drop(self) -> None:
        """Remove what is ours in the folder; what says whose work it is stays."""
        for path in (self._note, self._data):
            path.unlink(missing_ok=True)
