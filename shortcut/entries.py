"""manifest.json as it is read: its form checked, without the libraries that its writer needs (see `manifest`).

Under `runs`, by key, dicts with at least `script` (text), `settings` and `inputs` (dicts), and where the
inputs were made here `upstream`, a list of the runs that made them, each with `made`, what of theirs it
read; under `files`, by name, dicts with at least `sha256`, `made` and `run`, the key of what made it.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shortcut import Problem

NAME = "manifest.json"
SCRIPT = re.compile(r"[a-zA-Z0-9_.]{1,60}( [a-z]+)?")  # it will be named as what to run


def load(path: Path) -> dict[str, Any]:
    """A folder's manifest; an empty one where there is none.

    Raises:
        Problem: it cannot be read, is damaged, or of another form.
    """
    try:
        manifest = json.loads(path.read_text()) if path.exists() else {}
        if isinstance(manifest, dict):
            manifest = {"runs": {}, "files": {}, **manifest}
        if not _is_whole(manifest):
            raise ValueError("not the form of a manifest")
    except OSError as error:
        raise Problem(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise Problem(f"{path} is damaged ({error}): remove it, and use --force") from error
    return manifest


def _is_whole(manifest: Any) -> bool:
    return (
        isinstance(manifest, dict)
        and all(isinstance(manifest[part], dict) for part in ("runs", "files"))
        and all(_is_run(run) for run in manifest["runs"].values())
        and all(_is_entry(entry, manifest["runs"]) for entry in manifest["files"].values())
    )


def _is_run(run: Any) -> bool:
    kinds = {"script": str, "settings": dict, "inputs": dict}
    if not isinstance(run, dict) or not all(isinstance(run.get(name), kind) for name, kind in kinds.items()):
        return False
    if not SCRIPT.fullmatch(run["script"]) or not _is_plain(run["settings"]):
        return False
    if not all(_is_ours(name) and isinstance(sha256, str) for name, sha256 in run["inputs"].items()):
        return False
    upstream = run.get("upstream", [])
    return isinstance(upstream, list) and all(_is_run(of) and _are_names(of.get("made")) for of in upstream)


def _is_ours(name: str) -> bool:
    """Whether it is the path of a file of the pipeline, as `Layout.relative` writes it; it will be looked up."""
    parts = name.split("/")
    return parts[0] in ("experiment", "linreg") and ".." not in parts and _is_plain(name)


def _are_names(names: Any) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) and _is_ours(name) for name in names)


def _is_plain(value: Any) -> bool:
    """Whether a text, or all keys of a value, can be shown on one line."""
    if isinstance(value, str):
        return value.isprintable() and len(value) < 1_000
    if isinstance(value, dict):
        return all(_is_plain(key) and (isinstance(part, str) or _is_plain(part)) for key, part in value.items())
    return not isinstance(value, list) or all(isinstance(part, str) or _is_plain(part) for part in value)


def _is_entry(entry: Any, runs: Mapping[str, Any]) -> bool:
    texts = ("sha256", "run", "made")
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in texts):
        return False
    return entry["run"] in runs and _is_plain(entry["made"])
