"""manifest.json: beside the data of every folder, what made each file.

    {"files": {NAME: {"script", "made", "seconds", "sha256", "settings", "from", "versions", ...}}}

`from` has every file that it comes from, by path from the root, with its SHA-256, down to the sentences;
`settings` every setting on the way there, a nearer one before one further up. So an entry says all by
itself, and what is read together must agree in both.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from shortcut import Problem
from shortcut.files import store
from shortcut.files.names import Names

NAME = "manifest.json"
MODEL_FILES = ("weights", "tokenizer")  # settings that all that is read together must share
MAKERS = ("torch", "transformers")  # packages whose versions are told of where they differ in more than a patch
FEW = 3  # inputs that are named one by one
GPT2S = ("norm", "attention", "sum", "norm", "feed-forward", "sum")  # what makes the states 1 ... 6 of its blocks
OF_KIND = ("map", "rank", "probes", "imported")  # settings of a kind of maps
KINDS = {"script": str, "sha256": str, "made": str, "settings": dict, "from": dict, "versions": dict}

version = cache(metadata.version)  # which reads a file each time
Entry = dict[str, Any]


def load(folder: Path) -> dict[str, Entry]:
    """The entries of a folder by the names of its files; raises Problem if its manifest is of another form."""
    if not (path := folder / NAME).exists():
        return {}
    manifest = store.load_json(path)
    entries = manifest.get("files") if isinstance(manifest, dict) else None
    for entry in entries.values() if isinstance(entries, dict) else [None]:
        if not isinstance(entry, dict) or not all(isinstance(entry.get(name), kind) for name, kind in KINDS.items()):
            raise Problem(f"{path} is damaged (not the form of a manifest): remove it, and use --force")
    return entries


def save(folder: Path, entries: dict[str, Entry]) -> None:
    """Write a folder's entries in order."""
    with store.replacing(folder / NAME) as file:
        file.write(store.dump_json({"files": dict(sorted(entries.items()))}))


def load_parts(files: Names, L: int) -> dict[tuple[int, int], tuple[str, int]] | None:
    """The sub-modules whose maps a folder of matrices has (see `Names.parts`); None if they were not fitted yet.

    The original code, which knows GPT-2 alone, does not write that down: its files have six states in every block.
    """
    if not files.submodules.exists():
        original = all(files.part(L - 1, a + 1).exists() for a in range(len(GPT2S)))
        return {(i, a + 1): (kind, a) for i in range(L) for a, kind in enumerate(GPT2S)} if original else None
    try:
        return {
            (int(i), int(a)): (str(of["kind"]), int(of["from"]))
            for i, states in store.load_json(files.submodules).items()
            for a, of in states.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        raise Problem(f"{files.submodules} is damaged: remove it, and run add_linreg_submodules.py again") from None


def parts_dict(parts: Mapping[tuple[int, int], tuple[str, int]]) -> dict[int, dict[int, dict[str, Any]]]:
    """What `load_parts` reads: by block and state the kind of sub-module that makes it, and from which state."""
    blocks: dict[int, dict[int, dict[str, Any]]] = {}
    for (i, a), (kind, state) in parts.items():
        blocks.setdefault(i, {})[a] = {"kind": kind, "from": state}
    return blocks


class Provenance:
    """The entries and hashes of the files under one root, each read once."""

    def __init__(self, files: Names):
        self.files = files
        self._entries: dict[Path, dict[str, Entry]] = {}
        self._hashes: dict[Path, tuple[str, tuple[int, ...]]] = {}
        self._told: set[Path | str] = set()  # what a notice has been given of

    def entries(self, folder: Path, *, again: bool = False) -> dict[str, Entry]:
        """The entries of a folder; `again`: as they are now, since others may have written some."""
        if again or folder not in self._entries:
            self._entries[folder] = load(folder)
        return self._entries[folder]

    def entry(self, path: Path) -> Entry | None:
        """A file's entry; None if it has none."""
        return self.entries(path.parent).get(path.name)

    def sha256(self, path: Path) -> str:
        """The SHA-256 of a file, taken once."""
        if path not in self._hashes:
            before = _identity(path)
            self._hashes[path] = sha256(path), before
        return self._hashes[path][0]

    def check_unchanged(self, paths: list[Path]) -> None:
        """Raise Problem if one was changed, replaced or removed since its hash was taken."""
        for path in paths:
            if path in self._hashes and _identity(path) != self._hashes[path][1]:
                raise Problem(f"{path} was changed while it was in use: run it again")

    def behind(
        self, paths: list[Path], expects: Mapping[str, Any], notice: Callable[[str], None]
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """What a file made from these comes from: the settings and the `from` of its entry.

        `notice` is told, once in all calls, what has no entry or was made with other versions.

        Raises:
            Problem: one has changed since it was made, was made from what is no longer so, or otherwise than
                expected (of matrices of another dataset "format" and `MODEL_FILES` alone count); or two of
                them were not made alike.
        """
        settings, origin, first, of_kinds = {}, {}, {}, {}  # `first`: where one comes from; `of_kinds`: by kind of maps
        for path in paths:
            if entry := self.entry(path):
                others = self._check(path, entry, expects)
                for all_found, theirs in ((origin, entry["from"]), (settings, entry["settings"])):
                    for name, value in theirs.items():
                        own = of_kinds, (self.files.kind_of(path), name)
                        found, key = own if name in OF_KIND else (all_found, name)
                        known = self.files.relative(first.setdefault(key, path))
                        if found.setdefault(key, value) != value and (others or name in MODEL_FILES):
                            how = "; ".join(changes(found[key], value, name))
                            both = f"{known} and {self.files.relative(path)} were not made alike ({how})"
                            raise Problem(f"{both}: {self._again(path, entry)}")
            origin[self.files.relative(path)] = self.sha256(path)
        self._tell(paths, notice)
        several = len({kind for kind, _ in of_kinds}) > 1
        return settings | {name: value for (_, name), value in of_kinds.items() if not several}, origin

    def _tell(self, paths: list[Path], notice: Callable[[str], None]) -> None:
        """Tell, of each once, of files without an entry and of other versions of packages that numbers depend on."""
        if unknown := [path for path in paths if not self.entry(path) and path not in self._told]:
            shown = self.files.describe(unknown)
            notice(f"no manifest entry (made by hand or by other code), read as it is: {shown}")
        others: dict[str, list[Path]] = {}
        for path in paths:
            made = entry["versions"] if (entry := self.entry(path)) else {}
            differing = [p for p in MAKERS if p in made and _minor(made[p]) != _minor(version(p))]
            if differing:
                how = " and ".join(f"{package} {made[package]} (here: {version(package)})" for package in differing)
                others.setdefault(how, []).append(path)
        for how in [how for how in others if how not in self._told]:
            notice(f"made with {how}, so numbers may differ: {self.files.describe(others[how])}")
        self._told |= {*unknown, *others}

    def _check(self, path: Path, entry: Entry, expects: Mapping[str, Any]) -> bool:
        """Check a file against its entry; whether all settings count, as they do but for another dataset's matrices."""
        name, again, theirs = self.files.relative(path), self._again(path, entry), entry["settings"]
        if entry["sha256"] != self.sha256(path):
            raise Problem(f"{name} has changed since it was made: {again}")
        for kind in ("format", *MODEL_FILES):
            if expects.get(kind) and theirs.get(kind) and theirs[kind] != expects[kind]:
                what = f"another model's {kind}" if kind in MODEL_FILES else f"format {theirs[kind]}"
                own = ", or give the model an --out of its own" if kind in MODEL_FILES else ""
                raise Problem(f"{name} was made with {what}: {again}{own}")
        for source, recorded in entry["from"].items():
            if (self.files.root / source).exists() and self.sha256(self.files.root / source) != recorded:
                raise Problem(f"{name} was made from another {source}: {again}")
        all_count = not self.files.is_foreign(path)
        expected = {k: v for k, v in expects.items() if all_count and k in theirs and k not in MODEL_FILES}
        if told := "; ".join(how for k, ours in expected.items() for how in changes(theirs[k], ours, k)):
            raise Problem(f"{name} was made with other settings ({told}): take those, or {again}")
        return all_count

    def _again(self, path: Path, entry: Entry) -> str:
        again = f"run {entry['script']}{self.files.options(path)} --force"
        return again if entry["script"].endswith(".py") else "import it again"


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal. Raises Problem if it cannot be read, or is no regular file."""
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise Problem(f"{path} is not a regular file: remove it")
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise Problem(f"cannot read {path}: {error.strerror}") from error


def _minor(version: Any) -> list[str]:
    return str(version).split(".")[:2]


def _identity(path: Path) -> tuple[int, ...]:
    stat = os.stat(path) if path.exists() else None
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns) if stat else ()


def differences(before: Entry, settings: Mapping[str, Any], origin: Mapping[str, str]) -> str:
    """Every setting in which an entry differs from those given, and the first few inputs, in words; "" if none does."""
    told, was = [*changes(before["settings"], settings)], before["from"]
    others = [name for name in sorted({*was, *origin}) if was.get(name) != origin.get(name)]
    for name in others[:FEW]:
        how = "another" if name in was and name in origin else "with" if name in was else "without"
        told.append(f"{how} {name}")
    return "; ".join(told + [f"{len(others) - FEW} more"] * (len(others) > FEW))


def changes(was: Any, is_: Any, name: str = "") -> Iterator[str]:
    """What makes two values differ: within dicts key by key, of lists what only one of them has."""
    if isinstance(was, dict) and isinstance(is_, dict):
        for key in sorted({*was, *is_}):
            yield from changes(was.get(key, "absent"), is_.get(key, "absent"), f"{name} {key}".strip())
    elif was != is_:
        both = isinstance(was, list) and isinstance(is_, list)
        parts = {"without": [x for x in is_ if x not in was], "with": [x for x in was if x not in is_]} if both else {}
        told = " and ".join(f"{which} {_short(values)[1:-1]}" for which, values in parts.items() if values)
        yield f"{name} was {told or f'{_short(was)}, is {_short(is_)}'}"


def _short(value: Any) -> str:
    text = value if value == "absent" else json.dumps(value)
    return text if len(text) <= 40 else text[:36] + " ..."
