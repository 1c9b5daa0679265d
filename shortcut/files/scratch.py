"""Unfinished work: one folder a stage, a safetensors file a finished unit, which the next run need not do again.

A unit is what some seconds of work gave. Its name holds the hash of the stage's settings and inputs, of what
the unit is, and of its content, so that one of another stage, damaged or out of its place is made anew.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from shortcut.files import store

KEPT = "; what was read so far is kept: run it again to go on from there"  # the end of a problem's line


@dataclass(frozen=True)
class Scratch:
    """The units of one stage."""

    folder: Path  # where they lie
    key: str  # says all that the stage's work depends on
    notice: Callable[[str], None] = lambda _: None  # told of a unit that is dropped because it is damaged

    def tidy(self, *, everything: bool = False) -> None:
        """Remove what is of no use to this stage: units of other settings, and files never finished; or all."""
        for path in [self.folder] if everything else self.folder.glob("*"):
            if everything or not path.name.startswith(_hash(self.key.encode(), 16)):
                _remove(path)

    def units(self, **what: Any) -> list[Path]:
        """The units of this kind."""
        return sorted(self.folder.glob(f"{self._name(what)}.*.safetensors"))

    def whole_units(self, **what: Any) -> list[Path]:
        """The units of this kind, as a stopped run may have left them; one that is damaged goes, with a notice."""
        found = []
        for path in self.units(**what):
            with suppress(OSError):
                if path.is_file() and path.name == self._name(what, path.read_bytes()):
                    found.append(path)
                    continue
            self.notice(f"unfinished work is damaged, so it is done again: {path}")
            _remove(path)
        return found

    def put(self, tensors: dict[str, torch.Tensor], **what: Any) -> None:
        """Keep a new unit of this kind. Raises Problem if it cannot be written."""
        content = safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})
        with store.replacing(self.folder / self._name(what, content)) as file:
            file.write(content)

    def keep(self, make: Callable[[], bytes], **what: Any) -> bytes:
        """What `make` returns, or returned to an earlier run: the only unit of its kind."""
        for path in self.whole_units(**what):
            return safetensors.torch.load_file(path)["bytes"].numpy().tobytes()
        content = make()
        self.put({"bytes": torch.tensor(bytearray(content), dtype=torch.uint8)}, **what)
        return content

    def _name(self, what: dict[str, Any], content: bytes | None = None) -> str:
        kind = json.dumps(what, sort_keys=True).encode()
        name = f"{_hash(self.key.encode(), 16)}.{_hash(kind, 16)}"
        return name if content is None else f"{name}.{_hash(kind + content, 32)}.safetensors"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _hash(content: bytes, digits: int) -> str:
    return hashlib.sha256(content).hexdigest()[:digits]
