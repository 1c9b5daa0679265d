"""Small parts of an unfinished file, kept for the next run (see `manifest.Stage.parts` for their folder)."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shortcut import store


@dataclass(frozen=True)
class Parts:
    """The parts of one file that are made already, in their `folder`."""

    folder: Path

    def keep(self, make: Callable[[], bytes], **key: Any) -> bytes:
        """What `make` returns, or returned to an earlier run.

        Args:
            make: makes the part.
            key: what tells it from the other parts.
        """
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
        path = self.folder / f"{name}.part"
        if not path.exists():
            content = make()
            with store.replacing(path) as file:
                file.write(content)
        return path.read_bytes()

    @property
    def hint(self) -> str:
        """The end of a problem's line: what is kept, if anything is."""
        kept = len([*self.folder.glob("*.part")])
        return f"; the {kept} parts read so far are kept: run it again to go on from there" if kept else ""
