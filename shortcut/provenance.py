"""What files were made from, as their manifests say it, held against what is there now."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from shortcut import Problem, entries
from shortcut.layout import Layout

MODEL_FILES = ("weights", "tokenizer")  # settings that every stage of a chain must share

VARIANT = re.compile(r"(_train|_val|\bp?\d+(_\d)?_\d+)\.pickle$")  # what tells apart files that one run makes
FEW = 3  # inputs that are named one by one
MANY = 1_000  # values that are held against each other one by one
ABSENT = "absent"

Run = Mapping[str, Any]  # what made a file, see `entries`


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal. Raises Problem if it cannot be read, or is no regular file."""
    try:
        if not path.is_file():  # a pipe would be waited for
            raise Problem(f"{path} is not a regular file: remove it")
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise Problem(f"cannot read {path}: {error.strerror}") from error


class Hashes:
    """The SHA-256 of files, each taken once, and whether they are still the files it was taken of."""

    def __init__(self):
        self._taken: dict[Path, tuple[str, tuple[int, ...]]] = {}

    def sha256(self, path: Path) -> str:
        """The SHA-256 of a file. Raises as `sha256`."""
        if path not in self._taken:
            before = _identity(path)
            self._taken[path] = sha256(path), before
        return self._taken[path][0]

    def check(self, path: Path) -> None:
        """Raise Problem if a file was changed, replaced or removed since its hash was taken."""
        if path in self._taken and _identity(path) != self._taken[path][1]:
            raise Problem(f"{path} was changed while it was in use: run it again")


def _identity(path: Path) -> tuple[int, ...]:
    """What another file of that name, or another content, does not share."""
    try:
        stat = os.stat(path)
    except OSError:
        return ()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


class Provenance:
    """The manifests and hashes of the files under one root, each read once.

    Args:
        layout: where everything lies.
        hashes: what has been hashed already, and is not again.
    """

    def __init__(self, layout: Layout, hashes: Hashes | None = None):
        self.layout = layout
        self.hashes = hashes or Hashes()
        self._manifests: dict[Path, dict[str, Any]] = {}
        self._checked: set[Path] = set()

    def manifest(self, folder: Path) -> dict[str, Any]:
        """The manifest of a folder. Raises Problem if it is damaged."""
        if folder not in self._manifests:
            self._manifests[folder] = entries.load(folder / entries.NAME)
        return self._manifests[folder]

    def made_by(self, path: Path) -> tuple[dict[str, Any], Run] | None:
        """A file's entry and the run that made it; None if it has no entry."""
        manifest = self.manifest(path.parent)
        entry = manifest["files"].get(path.name)
        return entry and (entry, manifest["runs"][entry["run"]])

    def check_inputs(
        self,
        paths: list[Path],
        settings: Mapping[str, Any],
        notice: Callable[[str], None],
        expects: Mapping[str, Any] | None = None,
    ) -> dict[str, str]:
        """The SHA-256 of every file, by its path from the root.

        Args:
            paths: the files.
            settings: of the stage that reads them, whose format and `MODEL_FILES` must be theirs.
            notice: told once of those that have no entry.
            expects: further settings that must be theirs, as they were last set on the way to them; of
                matrices of another dataset the `MODEL_FILES` alone.

        Raises:
            Problem: one has changed since it was made, was made from what is no longer so, by another model,
                with other settings or in another format; or what they were made from does not belong together.
        """
        expects = expects or {}
        of_all = {kind: {**settings, **expects}.get(kind) for kind in ("format", *MODEL_FILES)}
        unknown = [path for path in paths if not self._check(path, of_all)]
        if unknown:
            shown = self.layout.describe(unknown)
            notice(f"no manifest entry (made by hand or by other code), read as it is: {shown}")
        self._check_alike(paths)
        for path in paths:
            if not (self.layout.matrices_from and path.parent == self.layout.matrices):
                self._check_settings(path, {name: x for name, x in expects.items() if name not in MODEL_FILES})
        return {self.layout.relative(path): self.hashes.sha256(path) for path in paths}

    def _check(self, path: Path, settings: Mapping[str, Any]) -> bool:
        """Check a file against its entry, and its inputs likewise; False if it has no entry."""
        if (made := self.made_by(path)) is None:
            return False
        if path in self._checked:
            return True
        self._checked.add(path)
        entry, run = made
        again = self._again(path, run)
        if entry["sha256"] != self.hashes.sha256(path):
            raise Problem(f"{self.layout.relative(path)} has changed since it was made: {again}")
        for kind, ours in settings.items():
            theirs = run["settings"].get(kind)
            if ours and theirs and ours != theirs:
                what = f"another model's {kind}" if kind in MODEL_FILES else f"format {_short(theirs)}, now {ours}"
                raise Problem(f"{self.layout.relative(path)} was made with {what}: {again}")
        self._check_upstream(path, run, settings)
        return True

    def _again(self, path: Path, run: Run) -> str:
        """What makes a file anew that `run` made."""
        return f"run {run['script']}{self.layout.dataset_option(path)} --force"

    def _check_settings(self, path: Path, expects: Mapping[str, Any]) -> None:
        """Check those settings of a file that the nearest run behind it to have them was made with."""
        if (made := self.made_by(path)) is None:
            return
        told, scripts = [], set()
        for name, ours in expects.items():
            behind = [made[1]]
            while behind and name not in behind[0]["settings"]:
                behind += behind.pop(0).get("upstream", [])
            if behind and (how := [*changes(behind[0]["settings"][name], ours, name)]):
                told += how
                scripts.add(behind[0]["script"])
        if told:
            raise Problem(
                f"{self.layout.relative(path)} was made with other settings ({'; '.join(told)}):"
                f" take those, or run {' and '.join(sorted(scripts))} --force"
            )

    def _check_alike(self, paths: list[Path]) -> None:
        """Check that all of one kind that the files were made from, as train and val, was made alike.

        So must the matrices of one script be; and all runs behind the files must be of one model.
        """
        first: dict[tuple[str, str], tuple[str, Run]] = {}
        todo = self.upstream(paths)
        while todo:
            run = todo.pop(0)
            todo += run.get("upstream", [])
            for name in run["made"]:
                other, before = first.setdefault((run["script"], VARIANT.sub("", name)), (name, run))
                if before is not run and (how := differences(before, run)):
                    raise Problem(f"{other} and {name} were not made alike ({how}): run {run['script']} --force")
                for kind in MODEL_FILES:
                    if kind in run["settings"]:
                        other, before = first.setdefault((kind, ""), (name, run))
                        if before["settings"][kind] != run["settings"][kind]:
                            raise Problem(f"{other} and {name} are of two models ({kind}): run {run['script']} --force")

    def _check_upstream(self, path: Path, run: Run, settings: Mapping[str, Any]) -> None:
        """Check what a run behind `path` read; of an input that is gone, what that was made from."""
        makers = {name: maker for maker in run.get("upstream", []) for name in maker["made"]}
        for name, recorded in run["inputs"].items():
            upstream = self.layout.root / name
            if upstream.exists():
                if self.hashes.sha256(upstream) != recorded:
                    again = self._again(path, self.made_by(path)[1])
                    raise Problem(f"{self.layout.relative(path)} was made from another {name}: {again}")
                self._check(upstream, settings)
            elif name in makers:
                self._check_upstream(path, makers[name], settings)

    def upstream(self, paths: list[Path]) -> list[dict[str, Any]]:
        """The runs that made the files, each once, with `made`: the files' paths from the root."""
        runs: dict[str, dict[str, Any]] = {}
        for path in paths:
            if (made := self.made_by(path)) is not None:
                entry, run = made
                runs.setdefault(entry["run"], {"made": [], **run})["made"].append(self.layout.relative(path))
        return list(runs.values())


def differences(before: Run, now: Run) -> str:
    """Every setting in which two runs differ, and the first few inputs, in words; "" if none does."""
    told = [*changes(before["settings"], now["settings"])]
    was, is_ = before["inputs"], now["inputs"]
    others = [name for name in sorted({*was, *is_}) if was.get(name) != is_.get(name)]
    for name in others[:FEW]:
        how = "another" if name in was and name in is_ else "with" if name in was else "without"
        told.append(f"{how} {name}")
    return "; ".join(told + [f"{len(others) - FEW} more"] * (len(others) > FEW))


def changes(was: Any, is_: Any, name: str = "") -> Iterator[str]:
    """What makes two values differ: within dicts key by key, of lists what only one of them has."""
    if was == is_:
        return
    if isinstance(was, dict) and isinstance(is_, dict):
        for key in sorted({*was, *is_}):
            yield from changes(was.get(key, ABSENT), is_.get(key, ABSENT), f"{name} {key}".strip())
    elif isinstance(was, list) and isinstance(is_, list) and (told := _only_in_one(was, is_)):
        yield f"{name} was {told}"
    else:
        yield f"{name} was {_short(was)}, is {_short(is_)}"


def _only_in_one(was: list[Any], is_: list[Any]) -> str:
    if max(len(was), len(is_)) > MANY:
        return ""
    parts = {"without": [x for x in is_ if x not in was], "with": [x for x in was if x not in is_]}
    return " and ".join(f"{which} {_short(values)[1:-1]}" for which, values in parts.items() if values)


def _short(value: Any) -> str:
    text = value if value == ABSENT else json.dumps(value)
    return text if len(text) <= 40 else text[:36] + " ..."
