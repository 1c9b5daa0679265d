"""What a stage is to write, what of it is there, and that nobody else writes it meanwhile.

    output there, same settings and inputs    nothing to do
    output there, others, or changed since    refused, naming what differs
    output there, no entry                    refused: it is not ours to overwrite
    input changed while the stage works       stopped, before another output takes its name

`force` removes what is there once all that the stage needs is checked. An entry is written before its file
takes its name, so a killed run leaves an entry without a file (made again), never the reverse.
"""

import errno
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from shortcut import Problem
from shortcut.files import manifest, store
from shortcut.files.manifest import Provenance, version

PACKAGES = ("torch", "transformers", "scikit-learn", "datasets", "spacy", "matplotlib", "numpy")


class Outputs:
    """The outputs of one run of one script. Within its `with` block the folders are locked against a second run.

    Of these `todo` are not there yet, and the `key` says all that they depend on (see `manifest`).
    """

    def __init__(
        self, provenance: Provenance, script: str, *, reads: list[Path], writes: list[Path],
        settings: Mapping[str, Any], notice: Callable[[str], None], force: bool = False, renew: bool = False,
    ):  # fmt: skip
        """`settings` are those of the script; `notice` is told what a person should know.

        With `force` what is there is made anew; with `renew` only what was made from other files or settings.
        """
        self.reads, self.writes, self.todo = reads, writes, []
        self._files, self._provenance, self._script = provenance.files, provenance, script
        self._settings = json.loads(json.dumps(settings))
        self._notice, self._force, self._renew, self._started = notice, force, renew, time.monotonic()

    def __enter__(self) -> "Outputs":
        """Check the inputs, lock the folders, find out what is to do. Raises Problem as this module's table says."""
        folders = sorted({path.parent for path in self.writes})
        with ExitStack() as locks:
            for folder in folders:
                locks.enter_context(locked(folder, self._script))
                self._provenance.entries(folder, again=True)
            self._provenance.check(self.reads, self._notice)
            self._reads = {self._files.relative(path): self._provenance.recorded(path) for path in self.reads}
            self.key = manifest.key(self._script, self._settings, self._reads)
            self.todo = [path for path in self.writes if self._force or not self._is_made(path)]
            self._locks = locks.pop_all()
        for path in (*self.writes, *(folder / manifest.NAME for folder in folders)):
            store.remove_leftovers(path)
        if self.writes and not self.todo:
            self._notice(f"already made, skipped: {self._files.describe(self.writes)}")
        return self

    def __exit__(self, *error: object) -> None:
        """Unlock, and say what was written."""
        self._locks.close()
        if error[0] is None and self.todo:
            self._notice(f"wrote {self._files.describe(self.todo)} in {time.monotonic() - self._started:.1f} s")

    def add(self, writes: list[Path]) -> list[Path]:
        """Further outputs, found only while at work; what is to do with them."""
        more = [path for path in writes if path not in self.writes]
        for path in more:
            store.remove_leftovers(path)
        self.writes = [*self.writes, *more]
        self.todo = [*self.todo, *(path for path in more if self._force or not self._is_made(path))]
        return self.todo

    def begin(self) -> None:
        """All that the stage needs is checked: with `force`, remove what is to be made anew."""
        for path in self.todo if self._force else ():
            path.unlink(missing_ok=True)
        self._force = False

    @contextmanager
    def writing(self, path: Path, **numbers: Any) -> Iterator[BinaryIO]:
        """A file that becomes output `path` when the block ends well; `numbers` go into its entry."""
        if path not in self.todo:
            raise ValueError(f"{path} is not among the outputs to be made")

        def record(whole: Path) -> None:
            self._provenance.check_unchanged(self.reads)
            entries = self._provenance.entries(path.parent)
            entries[path.name] = {
                "script": self._script,
                "made": datetime.now(UTC).isoformat(timespec="seconds"),
                "seconds": round(time.monotonic() - self._started, 1),
                "sha256": manifest.sha256(whole),
                "key": self.key,
                **numbers,
                "settings": self._settings,
                "reads": self._reads,
                "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
            }
            manifest.save(path.parent, entries)

        self.begin()
        with store.replacing(path, record) as file:
            yield file

    def _is_made(self, path: Path) -> bool:
        if not path.exists():
            return False
        if not (entry := self._provenance.entry(path)):
            why = "is there without a manifest entry (made by hand or by other code): --force replaces it"
        elif entry["key"] != self.key:
            if self._renew:
                return False
            how = manifest.differences(entry, self._settings, self._reads)
            same = all(entry["settings"].get(kind) == self._settings.get(kind) for kind in manifest.MODEL_FILES)
            other = "" if same else "another model of that name needs an --out of its own, "
            why = f"was made with other settings ({how}): {other}--force makes it anew"
        elif entry["sha256"] != self._provenance.sha256(path):
            why = "has changed since it was made: --force makes it anew"
        else:
            return True
        raise Problem(f"{self._files.relative(path)} {why}")


def forget(path: Path) -> None:
    """Remove a file with its entry, so that one made elsewhere can take its name; its folder must be locked."""
    path.unlink(missing_ok=True)  # first: an entry must never stand beside another run's file
    entries = manifest.load(path.parent)
    if entries.pop(path.name, None):
        manifest.save(path.parent, entries)


@contextmanager
def locked(folder: Path, script: str) -> Iterator[None]:
    """Hold the folder for this process; the system lets go of it when the process ends, however it does."""
    from filelock import FileLock, Timeout  # noqa: PLC0415  (who only asks what is there does without)

    path = folder / ".lock"
    lock = FileLock(path, blocking=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        holder = path.read_bytes()[:200].decode(errors="replace").strip()
        raise Problem(f"{folder} is in use by {holder or 'another run'}: wait for it, or stop it") from None
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise Problem(f"cannot write to {folder}: {error.strerror}") from error
        yield  # there to be read only, which matters if there is something to write
        return
    try:
        with suppress(OSError):  # who holds it is for people; a full disk is told of where it matters
            path.write_text(f"{script} (process {os.getpid()})\n", encoding="utf-8")
        yield
    finally:
        lock.release()
