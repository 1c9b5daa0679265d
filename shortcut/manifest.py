"""What made each file, and whether it must be made again.

Beside the data of every folder stands `manifest.json`: under `files` the SHA-256 of each file, when
it was made and how long that took; under `runs` what made it: script, settings, versions, the SHA-256
of every input, and under `upstream` the runs that made the inputs, with what made theirs. A stage
compares before it works:

    output there, same settings and inputs    skipped
    output there, others                      refused, naming what differs
    output there, no entry                    refused: it is not ours to overwrite
    output there, another SHA-256             refused: changed since
    input with an entry, another SHA-256      refused: changed since, or made from another input or model
    input changed while the stage works       stopped, before another output takes its name

and `--force` makes anew what is there. Unfinished work lies in `<output>.parts/` until the stage is
done; a run with the same settings and inputs goes on from it, any other drops it. With `--force` it is
that of a run with `--force` that is gone on with, whose outputs are kept as well. An entry is written
before its file takes its name, and an old file goes when the new one is whole, so a killed run leaves
an entry without a file (made again), never a file without an entry.
"""

import errno
import fcntl
import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

from shortcut import Problem, entries, processes, store
from shortcut.entries import NAME
from shortcut.layout import Layout
from shortcut.machine import shown
from shortcut.provenance import Hashes, Provenance, Run, differences, sha256

RUN = "run.json"  # in a folder of unfinished work: what it is part of
LOCK = ".lock"
FORMAT = 1  # of the files; raised when what a script writes changes meaning
PACKAGES = ("torch", "transformers", "scikit-learn", "datasets", "spacy", "matplotlib", "numpy")


class Stage:
    """One run of one script: what it reads and writes, what of that is still to do, and the record of it.

    Used as a context manager: within, the folders it writes to are locked against a second run. Where
    several processes work together (see `processes`) the leader alone checks, locks and writes.

    Attributes:
        todo: the outputs that are not there yet, in the order given.
    """

    def __init__(
        self,
        layout: Layout,
        script: str,
        *,
        reads: list[Path],
        writes: list[Path],
        settings: Mapping[str, Any],
        force: bool,
        notice: Callable[[str], None],
        expects: Mapping[str, Any] | None = None,
        hashes: Hashes | None = None,
    ):
        """Set up.

        Args:
            layout: where everything lies.
            script: its name.
            reads: its inputs.
            writes: its outputs.
            settings: what its outputs depend on besides.
            force: whether to make anew what is there.
            notice: told what a person should know.
            expects: what its inputs must have been made with (see `Provenance.check_inputs`).
            hashes: of inputs that have been read already.
        """
        self.layout = layout
        self.script = script
        self.reads = reads
        self.writes = writes
        self.settings = json.loads(json.dumps({"format": FORMAT, **settings}))
        self.force = force
        self.notice = notice
        self.expects = expects
        self.todo: list[Path] = []
        self.run: dict[str, Any] = {}
        self._provenance = Provenance(layout, hashes)
        self._forced_since: str | None = None  # when the run with --force began that this is, or goes on with
        self._locks = ExitStack()
        self._started = time.monotonic()

    @property
    def made(self) -> bool:
        """Whether every output is there already."""
        return not self.todo

    def __enter__(self) -> "Stage":
        """Check the inputs, lock the folders, find out what is to do.

        Raises:
            Problem: as the table of this module says, or another run has the folder.
        """
        if processes.leads():
            for path in self.reads:
                self.layout.require(path)
            self._begin()
        todo = processes.agree([path in self.todo for path in self.writes])
        self.todo = [path for path, missing in zip(self.writes, todo, strict=True) if missing]
        return self

    def _begin(self) -> None:
        unwritable = None
        with ExitStack() as locks:
            try:
                for folder in sorted({path.parent for path in self.writes}):
                    locks.enter_context(locked(folder, self.script))
            except Unwritable as problem:
                unwritable = problem  # which matters if there is something to write
            self._locks = locks.pop_all()
        try:
            self.run = {
                "script": self.script,
                "settings": self.settings,
                "inputs": self._provenance.check_inputs(self.reads, self.settings, self.notice, self.expects),
                "upstream": self._provenance.upstream(self.reads),
                "versions": {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
            }
            if self.force and (began := self._stopped_since()):
                self._forced_since = began
                self.notice(f"goes on with the run with --force that was stopped (begun {began[:19]} UTC)")
            elif self.force:
                self._forced_since = datetime.now(UTC).isoformat()
            self.todo = [path for path in self.writes if not self._is_made(path)]
            if not unwritable:
                self._tidy()
            elif self.todo:
                raise unwritable
            if self.force and self.todo:
                self.parts(self.writes[0])  # says whose work this is, so that it can be gone on with
        except BaseException:
            self._locks.close()
            raise
        if self.made:
            self.notice(f"already made, skipped: {self.layout.describe(self.writes)}")

    def _tidy(self) -> None:
        """Remove what killed runs left that is of no use any more."""
        for path in {path.parent / NAME: None for path in self.writes}:
            store.remove_leftovers(path)
        for path in self.writes:
            store.remove_leftovers(path)
            if self.made or not self._has_parts(path):
                shutil.rmtree(_parts(path), ignore_errors=True)

    def __exit__(self, *error: object) -> None:
        """Unlock, and say what was written."""
        if error[0] is None and processes.leads():
            for path in self.writes:
                shutil.rmtree(_parts(path), ignore_errors=True)
        self._locks.close()
        if error[0] is None and self.todo:
            self.notice(f"wrote {self.layout.describe(self.todo)} in {time.monotonic() - self._started:.1f} s")

    def parts(self, path: Path) -> Path:
        """The folder for unfinished work on output `path`: what an interrupted run of the same kind left is there."""
        folder = _parts(path)
        if processes.leads() and not self._has_parts(path):
            store.save_json(folder / RUN, {"run": self.run, "forced": self._forced_since})
        return folder

    def _has_parts(self, path: Path) -> bool:
        left = _left(path)
        return left.get("run") == self.run and (not self.force or left.get("forced") == self._forced_since)

    def _stopped_since(self) -> str | None:
        """When the run with --force began that was stopped and is gone on with; None if there is none."""
        runs = (left for path in self.writes if (left := _left(path)) and left.get("run") == self.run)
        return next((began for left in runs if isinstance(began := left.get("forced"), str)), None)

    @contextmanager
    def writing(self, path: Path, **numbers: Any) -> Iterator[BinaryIO]:
        """A file that becomes output `path` when the block ends well; `numbers` go into its entry.

        Raises:
            Problem: an input has changed since the stage began.
            ValueError: `path` is not an output that is to do, or this process is not the leader.
        """
        if path not in self.todo or not processes.leads():
            raise ValueError(f"{path} is not among the outputs to be made")

        def record(whole: Path) -> None:
            for read in self.reads:
                self._provenance.hashes.check(read)
            manifest = self._provenance.manifest(path.parent)
            run_id = hashlib.sha256(json.dumps(self.run, sort_keys=True).encode()).hexdigest()[:16]
            manifest["runs"][run_id] = self.run
            manifest["files"][path.name] = {
                "run": run_id,
                "sha256": sha256(whole),
                "made": datetime.now(UTC).isoformat(timespec="seconds"),
                "seconds": round(time.monotonic() - self._started, 1),
                **({"forced": self._forced_since} if self.force else {}),
                **numbers,
            }
            # under --force: an entry must never stand beside another run's file, nor that go before all is on the disk
            _save(path.parent / NAME, manifest, lambda _: path.unlink(missing_ok=True))

        with store.replacing(path, record) as file:
            yield file

    def save(self, path: Path, *values: Any, **numbers: Any) -> None:
        """Pickle the values, one after another, as output `path`; `numbers` go into its entry."""
        with self.writing(path, **numbers) as file:
            store.dump(file, *values)

    def _is_made(self, path: Path) -> bool:
        if not path.exists():
            return False
        made = self._provenance.made_by(path)
        if self.force:
            return made is not None and made[0].get("forced") == self._forced_since and not self._why_not(path, *made)
        if made is None:
            raise Problem(
                f"{self.layout.relative(path)} is there without a manifest entry (made by hand or by other code):"
                " --force replaces it"
            )
        if why := self._why_not(path, *made):
            raise Problem(f"{self.layout.relative(path)} {why}: --force makes it anew")
        return True

    def _why_not(self, path: Path, entry: dict[str, Any], before: Run) -> str:
        """Why a file is not what this run would make; "" if it is."""
        if others := differences(before, self.run):
            return f"was made with other settings ({others})"
        return "has changed since it was made" if entry["sha256"] != self._provenance.hashes.sha256(path) else ""


def _parts(path: Path) -> Path:
    return path.with_name(f"{path.name}.parts")


def _left(path: Path) -> dict[str, Any]:
    """What the unfinished work on a file says it is part of; {} if there is none."""
    try:
        return store.load_json(_parts(path) / RUN)
    except (OSError, Problem):
        return {}


def forget(path: Path) -> None:
    """Remove a file with its entry, so that one made elsewhere can take its name; its folder must be locked.

    Raises:
        Problem: the manifest is damaged.
    """
    path.unlink(missing_ok=True)  # first: an entry must never stand beside another run's file
    manifest = entries.load(path.parent / NAME)
    if manifest["files"].pop(path.name, None):
        _save(path.parent / NAME, manifest)


def _save(path: Path, manifest: dict[str, Any], record: Callable[[Path], None] | None = None) -> None:
    """Write a manifest in order, without the runs of which no file is left; `record` as in `store.replacing`."""
    used = {entry["run"] for entry in manifest["files"].values()}
    manifest["runs"] = {key: run for key, run in manifest["runs"].items() if key in used}
    manifest["files"] = dict(sorted(manifest["files"].items()))
    store.save_json(path, manifest, record)


class Unwritable(Problem):
    """A folder that is there to be read only."""


@contextmanager
def locked(folder: Path, script: str) -> Iterator[None]:
    """Hold the folder for this process; the system lets go of it when the process ends, however it does.

    Raises:
        Unwritable: it may only be read.
        Problem: another run has it, or it cannot be.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        kind = Unwritable if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM) else Problem
        raise kind(f"cannot write to {folder}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = shown(os.pread(handle, 200, 0).decode(errors="replace").strip())
            raise Problem(f"{folder} is in use by {holder or 'another run'}: wait for it, or stop it") from None
        with suppress(OSError):  # who holds it is for people; a full disk is told of where it matters
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{script} (process {os.getpid()})\n".encode(), 0)
        yield
    finally:
        os.close(handle)
