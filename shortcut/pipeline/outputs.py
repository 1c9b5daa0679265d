"""Output files of a stage: find the missing and the stale ones, and lock the folders against a second run.

    output exists, with the current key          nothing to do
    output exists, with another key, or changed  refused; the message names what differs
    output exists, without an entry              refused: this project did not write it
    input changed while the stage runs           stopped before another output is renamed

An entry is written before its file is renamed, so a killed run can leave an entry without a file, never the reverse.
"""

import errno
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import KW_ONLY, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from shortcut import Problem
from shortcut.files import store
from shortcut.pipeline import manifest
from shortcut.pipeline.manifest import Provenance, version

PACKAGES = ("torch", "transformers", "scikit-learn", "datasets", "spacy", "matplotlib", "numpy")


@dataclass
class Outputs:
    """Outputs of one run of a script; their folders are locked within the `with` block.

    `todo` lists the missing outputs; `key` is a hash of everything that they depend on (see `manifest`), and
    `states_key` a hash of what the hidden states depend on: the model, DTYPE, and the first input, the sentences.
    """

    provenance: Provenance
    script: str
    _: KW_ONLY
    reads: list[Path]
    writes: list[Path]
    settings: Mapping[str, Any]  # settings of the script
    notice: Callable[[str], None]  # called with lines to print
    force: bool = False  # make all outputs again
    renew: bool = False  # make outputs with another key again, and no others

    def __enter__(self) -> "Outputs":
        """Lock the folders, check the inputs and find the missing outputs. Raises Problem as in the table above."""
        self._started, self._files = time.monotonic(), self.provenance.files
        self.settings = manifest.plain(self.settings)
        with ExitStack() as locks:
            for folder in sorted({path.parent for path in self.writes}):
                locks.enter_context(locked(folder, self.script))
                store.remove_leftovers(folder / manifest.NAME)
            self.provenance.entries.cache_clear()  # another process may have written some before
            self.provenance.check(self.reads, self.notice)
            self._reads = {self._files.relative(path): self.provenance.recorded(path) for path in self.reads}
            self.key = manifest.key(self.script, self.settings, self._reads)
            of_states = {name: self.settings.get(name) for name in ("layout", "model", "weights", "dtype")}
            self.states_key = manifest.key(self.script, of_states, dict([*self._reads.items()][:1]))
            self.add(self.writes)
            self._locks = locks.pop_all()
        if not self.todo:
            self.notice(f"already made, skipped: {self._files.describe(self.writes)}")
        return self

    def __exit__(self, *error: object) -> None:
        """Unlock the folders and print which files were written."""
        self._locks.close()
        if error[0] is None and self.todo:
            self.notice(f"wrote {self._files.describe(self.todo)} in {time.monotonic() - self._started:.1f} s")

    def add(self, writes: list[Path]) -> list[Path]:
        """Return the missing outputs, now that all outputs are known; the first ones were known at the start."""
        self.todo = [path for path in writes if not self._is_made(path)]
        for path in writes:
            store.remove_leftovers(path)
        return self.todo

    def begin(self) -> None:
        """Remove the old outputs if `force`. Call this once everything that the stage needs has been checked."""
        for path in self.todo if self.force else ():
            path.unlink(missing_ok=True)
        self.force = False

    @contextmanager
    def writing(self, path: Path, **numbers: Any) -> Iterator[BinaryIO]:
        """File that becomes output `path` if the block ends without an error; `numbers` are added to its entry."""
        self.begin()
        with store.replacing(path) as file:
            yield file
            file.flush()
            self.provenance.check_unchanged(self.reads)
            entries = self.provenance.entries(path.parent)
            entries[path.name] = {
                "script": self.script,
                "made": datetime.now(UTC).isoformat(timespec="seconds"),
                "seconds": round(time.monotonic() - self._started, 1),
                "sha256": manifest.sha256(Path(file.name)),
                "key": self.key,
                **numbers,
                "settings": self.settings,
                "reads": self._reads,
                "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
            }
            manifest.save(path.parent, entries)

    def _is_made(self, path: Path) -> bool:
        entry = self.provenance.entry(path)  # raises Problem if the manifest is damaged, before anything is computed
        if self.force or not path.exists():
            return False
        if not entry:
            how = "exists without a manifest entry (made by hand or by other code): use --force to replace it"
            raise Problem(f"{self._files.relative(path)} {how}")
        if self.renew and entry["key"] != self.key:
            return False
        if why := self.provenance.compare(path, self.settings, self._reads, "use --force to make it again"):
            raise Problem(f"{self._files.relative(path)} {': '.join(why)}")
        return True


def forget(path: Path) -> None:
    """Remove a file and its entry, so that a file made elsewhere can replace it. The folder must be locked."""
    path.unlink(missing_ok=True)  # first, so that no entry describes a file from another run
    entries = manifest.load(path.parent)
    if entries.pop(path.name, None):
        manifest.save(path.parent, entries)


@contextmanager
def locked(folder: Path, script: str) -> Iterator[None]:
    """Lock the folder for this process. The system releases the lock when the process ends, even if it is killed."""
    from filelock import FileLock, Timeout  # noqa: PLC0415  (not needed to list outputs)

    path = folder / ".lock"
    lock = FileLock(path, blocking=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        holder = path.read_bytes()[:200].decode(errors="replace").strip()
        raise Problem(f"{folder} is in use by {holder or 'another run'}: wait for it, or stop it") from None
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):  # in a read-only folder, all may be made
            raise Problem(f"cannot write to {folder}: {error.strerror}") from error
    try:
        with suppress(OSError):  # the name is only for messages; a full disk is reported elsewhere
            path.write_text(f"{script} (process {os.getpid()})\n", encoding="utf-8")
        yield
    finally:
        lock.release()
