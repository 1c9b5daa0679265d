"""Provenance: manifest.json in each folder with data records how each file was made.

    {"files": {NAME: {"script", "made", "seconds", "sha256", "key", "settings", "reads", "versions", ...}}}

`settings` are the settings of the stage. `reads` maps the path of each input, relative to the root, to the key in its
entry (null without an entry) and its SHA-256. The `key` is a hash of script, settings and reads: two files with the
same key were made from the same sentences in the same way. A file without an entry is identified by its content.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from importlib import metadata
from itertools import groupby
from pathlib import Path
from typing import Any

from shortcut import Problem
from shortcut.files import store
from shortcut.files.names import MODEL_FILES, Names
from shortcut.loading import checkpoint

NAME = "manifest.json"
FIELDS = {"script", "made", "sha256", "key", "settings", "reads", "versions"}  # of every entry
MAKERS = ("torch", "transformers")  # packages whose version is compared, except for patch releases
GPT2S = ("norm", "attention", "sum", "norm", "feed-forward", "sum")  # sub-modules that make states 1 ... 6 of a block
UNKNOWN = "no manifest entry (made by hand or by other code), used unchecked"

version = cache(metadata.version)  # cached, since each call reads a file
Entry = dict[str, Any]
InForce = Callable[[str, Path], Mapping[str, Any]]  # settings that a script would now use for a file, as far as known


def load(folder: Path) -> dict[str, Entry]:
    """Read the entries of a folder's manifest, by file name. Raises Problem if the manifest has another form."""
    if not (path := folder / NAME).exists():
        return {}
    with suppress(AttributeError, KeyError, TypeError):
        entries = store.load_json(path)["files"]
        if all(entry.keys() >= FIELDS for entry in entries.values()):
            return entries
    raise Problem(f"{path} is damaged (not the form of a manifest): remove it, and use --force")


def save(folder: Path, entries: dict[str, Entry]) -> None:
    """Write a folder's manifest, sorted by file name."""
    with store.replacing(folder / NAME) as file:
        file.write(store.dump_json({"files": dict(sorted(entries.items()))}))


def load_parts(files: Names, L: int) -> dict[tuple[int, int], tuple[str, int]] | None:
    """Sub-modules whose maps were fitted (see `Names.parts`), here or, for GPT-2, by the original code; else None."""
    if not files.submodules.exists():
        original = all(files.part(L - 1, a + 1).exists() for a in range(len(GPT2S)))
        return {(i, a + 1): (part, a) for i in range(L) for a, part in enumerate(GPT2S)} if original else None
    with suppress(AttributeError, KeyError, TypeError, ValueError):
        blocks = store.load_json(files.submodules).items()
        return {(int(i), int(a)): (part["kind"], part["from"]) for i, states in blocks for a, part in states.items()}
    raise Problem(f"{files.submodules} is damaged: remove it, and run {files.fitted_by(files.submodules)}")


def parts_dict(parts: Mapping[tuple[int, int], tuple[str, int]]) -> dict[int, dict[int, dict[str, Any]]]:
    """Layout that `load_parts` reads: for each block and state, the sub-module that makes the state, and its input."""
    by_block = groupby(parts.items(), key=lambda part: part[0][0])
    return {i: {a: {"kind": part_kind, "from": s} for (_, a), (part_kind, s) in found} for i, found in by_block}


class Provenance:
    """Manifest entries and hashes of the files under one root, each read once."""

    def __init__(self, files: Names, in_force: InForce = lambda *_: {}, *, hashing: bool = True):
        """Without `hashing`, recorded hashes are trusted and no data is read."""
        self.files, self._in_force, self._hashing = files, in_force, hashing
        self.entries = cache(load)  # entries of a folder
        self._hashed = cache(lambda path: (_identity(path), sha256(path)))
        self._model: dict[str, str] = {}  # the first fingerprints found, by `MODEL_FILES`
        self._checked: set[Path] = set()  # files that are up to date, like all files that they were made from
        self._reported: set[Path | str] = set()  # files and versions that have been reported

    @classmethod
    def of_model(cls, files: Names, model: str) -> "Provenance":
        """Provenance that compares the fingerprints of a model, by name or folder, with those of each file."""
        fingerprints = cache(lambda: {kind: checkpoint.fingerprint(model, kind) for kind in MODEL_FILES})  # slow
        return cls(files, lambda *_: fingerprints())

    def entry(self, path: Path) -> Entry:
        """Entry of a file; {} if it has none."""
        return self.entries(path.parent).get(path.name, {})

    def check_unchanged(self, paths: list[Path]) -> None:
        """Raise Problem if a file was changed, replaced or removed since its hash was computed."""
        if changed := [path for path in paths if _identity(path) != self._hashed(path)[0]]:
            raise Problem(f"{changed[0]} was changed while it was in use: run the script again")

    def recorded(self, path: Path) -> list[str | None]:
        """Key in a file's entry (None without an entry) and SHA-256 of the file."""
        entry = self.entry(path)
        return [entry.get("key"), self._hashed(path)[1] if self._hashing else entry.get("sha256")]

    def settings(self, path: Path) -> dict[str, Any]:
        """Settings of all stages that led to a file; later stages override settings of the same name."""
        entry, found = self.entry(path), {}
        for source in reversed(entry.get("reads", {})):
            found |= self.settings(self.files.root / source)
        return found | entry.get("settings", {})

    def check(self, paths: list[Path], notice: Callable[[str], None]) -> None:
        """Raise Problem if a file, or a file that it was made from, differs from the one that would be made now.
        `notice` is called once for each file without an entry or made with other versions of packages.
        """
        doubts: dict[str, list[Path]] = {}
        for path in paths:
            self._check(path)
            self._hashed(path)  # raises Problem unless it is a regular file
            doubt = _other_versions(entry) if (entry := self.entry(path)) else UNKNOWN
            if doubt and not self._reported & {path, doubt}:
                doubts.setdefault(doubt, []).append(path)
        for doubt, doubted in doubts.items():
            notice(f"{doubt}: {self.files.describe(doubted)}")
            self._reported |= {*doubted} if doubt == UNKNOWN else {doubt}

    def _check(self, path: Path) -> None:
        if (entry := self.entry(path)) and path not in self._checked:
            for source in () if self.files.is_foreign(path) else entry["reads"]:
                self._check(self.files.root / source)  # first, so that the message names the first stale stage
            if why := self.differs(path):
                raise Problem(f"{self.files.relative(path)} {': '.join(why)}")
            self._checked.add(path)

    def differs(self, path: Path) -> tuple[str, str] | None:
        """Difference between a file and the one that its script would make now, and what to do; None if there is none.

        The fingerprints of the first file are those of the model if no others are in force. For matrices fitted on
        another dataset, only the model is compared.
        """
        entry, foreign = self.entry(path), self.files.is_foreign(path)
        was, script = entry["settings"], entry["script"]
        self._model = {name: was[name] for name in MODEL_FILES if was.get(name)} | self._model
        now = self._model | plain(self._in_force(script, path))
        settings = was | {name: now[name] for name in (MODEL_FILES if foreign else now) if name in was and name in now}
        reads = dict(entry["reads"])
        for name, read in [(name, self.files.root / name) for name in reads if not foreign]:
            if read.exists() and (self._hashing or self.entry(read)):
                reads[name] = self.recorded(read)
        remake = f"run {self.files.command(script, path, '--force')}" if script.endswith(".py") else "import it again"
        return self.compare(path, settings, reads, remake)

    def compare(self, path: Path, settings: Entry, reads: Entry, remake: str) -> tuple[str, str] | None:
        """Difference between a file and the one made with these settings from these inputs, and what to do, or None."""
        entry = self.entry(path)
        was, inputs = entry["settings"], entry["reads"]
        if self._hashing and path.exists() and entry["sha256"] != self._hashed(path)[1]:
            return "has changed since it was made", remake
        for name in MODEL_FILES:
            if was.get(name) and was[name] != settings.get(name):
                how = f"was made with another model's {name}"
                return how, f"{remake}, or use another --out for another model of that name"
        found = [*changes(was, settings)]
        advice = f"restore those settings, or {remake}" if found else remake
        if others := [name for name in sorted({*inputs, *reads}) if inputs.get(name) != reads.get(name)]:
            found.append(f"other inputs: {self.files.describe([self.files.root / name for name in others])}")
        return (f"was made with other settings ({'; '.join(found)})", advice) if found else None


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal. Raises Problem if the file cannot be read or is not a regular file."""
    if path.exists() and not path.is_file():  # reading a pipe would wait forever
        raise Problem(f"{path} is not a regular file: remove it")
    with store.inside(path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _identity(path: Path) -> tuple[int, ...]:
    stat = os.stat(path) if path.exists() else None
    return (stat.st_ino, stat.st_size, stat.st_mtime_ns) if stat else ()


def _other_versions(entry: Entry) -> str:
    """Notice that a file was made with other versions of packages, which can change numbers; "" if it was not."""
    made = {package: entry["versions"][package] for package in MAKERS if package in entry["versions"]}
    others = [package for package in made if made[package].split(".")[:2] != version(package).split(".")[:2]]
    how = " and ".join(f"{package} {made[package]} (here: {version(package)})" for package in others)
    return f"made with {how}, so numbers may differ" if how else ""


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as a manifest gives them back: lists instead of tuples."""
    return json.loads(json.dumps(settings))


def key(script: str, settings: Mapping[str, Any], reads: Mapping[str, Any]) -> str:
    """Hash of everything that a script's outputs depend on, 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps([script, settings, reads], sort_keys=True).encode()).hexdigest()[:32]


def changes(was: Any, is_: Any, name: str = "") -> Iterator[str]:
    """Yield the differences between two values as text: dicts key by key, lists by items that only one list holds."""
    if isinstance(was, dict) and isinstance(is_, dict):
        for key in sorted({*was, *is_}):
            yield from changes(was.get(key, "absent"), is_.get(key, "absent"), f"{name} {key}".strip())
    elif was != is_:
        if isinstance(was, list) and isinstance(is_, list) and {*map(str, was)} != {*map(str, is_)}:
            was, is_ = [x for x in was if x not in is_], [x for x in is_ if x not in was]
        yield f"{name} was {_short(was)}, is {_short(is_)}"


def _short(value: Any) -> str:
    text = value if value == "absent" else json.dumps(value)
    return text if len(text) <= 40 else text[:36] + " ..."
