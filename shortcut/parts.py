"""Small parts of an unfinished file, kept for the next run (see `manifest.Stage.parts` for their folder).

A part's name holds the hash of what it is and that of its content, so that one that was damaged or has
taken the place of another is noticed, dropped, and made again.
"""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shortcut import store


@dataclass(frozen=True)
class Parts:
    """The parts of one file that are made already.

    Attributes:
        folder: where they lie.
        notice: told of a part that is dropped.
    """

    folder: Path
    notice: Callable[[str], None] = lambda _: None

    def keep(self, make: Callable[[], bytes], **key: Any) -> Path:
        """The file of what `make` returns, or returned to an earlier run.

        Args:
            make: makes the part.
            key: what tells it from the other parts.
        """
        name = _hash(json.dumps(key, sort_keys=True).encode())
        for path in self.folder.glob(f"{name}.*.part"):
            with suppress(OSError):
                if path.is_file() and path == self._path(name, path.read_bytes()):
                    return path
            self.notice(f"a part kept before is damaged, so it is made again: {path}")
            with suppress(OSError):
                path.unlink()
        content = make()
        with store.replacing(self._path(name, content)) as file:
            file.write(content)
        return self._path(name, content)

    def _path(self, name: str, content: bytes) -> Path:
        return self.folder / f"{name}.{_hash(name.encode() + content)}.part"

    @property
    def hint(self) -> str:
        """The end of a problem's line: what is kept, if anything is."""
        kept = len([*self.folder.glob("*.part")])
        return f"; the {kept} parts read so far are kept: run it again to go on from there" if kept else ""


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]
