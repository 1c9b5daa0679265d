"""Matrices from and for others: fetched from the Hugging Face hub as published, exported as safetensors.

`python -m shortcut fetch` and `python -m shortcut export`.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, HTTPError, RepositoryNotFoundError
from huggingface_hub.utils import disable_progress_bars

from shortcut import Problem, one_line
from shortcut.files import formats, store
from shortcut.files.manifest import Provenance
from shortcut.files.names import Names
from shortcut.files.outputs import Outputs, forget, locked

REPOSITORY = "sashay/linear-shortcut"  # of the paper's authors
MATRIX = re.compile(r"(\d+_\d+|p\d+_\d_\d)\.pickle")
SAFETENSORS = "matrices.safetensors"
UNFINISHED = "fetch.unfinished"  # where downloads lie until they are whole and checked
HUB_ERRORS = (OSError, HTTPError, EntryNotFoundError, HFValidationError)

Progress = Callable[[list], Iterable]  # the same items, shown as they are dealt with


def fetch(repository: str, files: Names, *, force: bool, notice: Callable[[str], None], progress: Progress) -> None:
    """Download a repository's matrices of a model and dataset; they get no entries in the manifest.

    What is there is kept, unless `force`; what is no matrix is not put in place.
    """
    disable_progress_bars()  # ours counts matrices
    revision, names = _listing(repository, files)
    folder, shown = files.matrices, files.relative(files.matrices)
    with locked(folder, "shortcut fetch"):
        there = [name for name in names if (folder / name).exists() and not force]
        missing = [name for name in names if name not in there]
        if there:
            notice(f"kept {len(there)} matrices that are in {shown} already (--force replaces them)")
        d = len(formats.load_matrix(folder / there[0], None)) if there else None
        for name in progress(missing):
            store.remove_leftovers(folder / name)
            d = _fetch_one(repository, revision, files, name, d)
        shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
    if missing:
        notice(f"wrote {len(missing)} matrices [{d}, {d}] to {shown}, from {repository} at {revision[:12]}")


def _listing(repository: str, files: Names) -> tuple[str, list[str]]:
    """The repository's revision, and the names of its matrices of this model and dataset, in order."""
    where = f"{repository} on the Hugging Face hub"
    try:
        api = huggingface_hub.HfApi()
        revision = api.model_info(repository).sha
        paths = api.list_repo_files(repository, revision=revision)
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise Problem(f"no repository {where}: give OWNER/NAME of one that is public, as {REPOSITORY}") from error
    except HUB_ERRORS as error:
        out = "try again with a network and without HF_HUB_OFFLINE, name a mirror in HF_ENDPOINT, or fit the matrices"
        raise Problem(f"cannot list {where} ({one_line(error, 120)}): {out} by add_linreg.py") from error
    found = [path.rpartition("/")[::2] for path in paths if MATRIX.fullmatch(path.rpartition("/")[2])]
    folder, others = f"{files.model}/{files.dataset}", ", ".join(sorted({parent for parent, _ in found}))[:200]
    if names := [name for parent, name in found if parent == folder]:
        return revision, sorted(names, key=_order)
    listed = f"; it has some in {others}: use --model and --dataset" if others else ""
    raise Problem(f"{where} holds no matrices in {folder}{listed}")


def _fetch_one(repository: str, revision: str, files: Names, name: str, d: int | None) -> int:
    """Put one matrix in its place, if it is one of width d (any, if None); returns its width."""
    remote, path = f"{files.model}/{files.dataset}/{name}", files.matrices / name
    options = {"revision": revision, "local_dir": files.matrices / UNFINISHED}
    try:
        downloaded = Path(huggingface_hub.hf_hub_download(repository, remote, **options))
    except HUB_ERRORS as error:
        why = f"cannot fetch {remote} of {repository} ({one_line(error, 120)})"
        raise Problem(f"{why}: run it again to go on from there") from error
    try:
        A = formats.load_matrix(downloaded, d)
    except Problem as problem:
        downloaded.unlink()
        what = str(problem).removeprefix(f"{downloaded}: ").replace(str(downloaded), name)
        raise Problem(f"{remote} of {repository} was not put in place: it {what}") from problem
    with open(downloaded, "rb") as source, store.replacing(path, lambda _: forget(path)) as file:
        shutil.copyfileobj(source, file)
    downloaded.unlink()
    return len(A)


def export(files: Names, notice: Callable[[str], None], progress: Progress) -> None:
    """Write every matrix of a model and dataset, by its name, to one safetensors file."""
    folder = files.matrices
    paths = sorted((p for p in folder.glob("*.pickle") if MATRIX.fullmatch(p.name)), key=lambda p: _order(p.name))
    if not paths:
        first = files.fitted_by(folder / "0_1.pickle")
        raise Problem(f"{files.relative(folder)} holds no matrix: run {first} first, or fetch published ones")
    target = folder / SAFETENSORS
    made = {"reads": paths, "writes": [target], "settings": {}, "notice": notice, "force": True}
    with Outputs(Provenance(files), "shortcut export", **made) as outputs:
        shape = formats.load_matrix(paths[0], None, files.kind).shape
        for path in paths:  # before the old file goes
            formats.load_matrix(path, shape[0], files.kind)
        with outputs.writing(target) as file:
            names, metadata = [path.stem for path in paths], {"model": files.model, "dataset": files.dataset}
            file.write(_header(names, shape, metadata))
            for path in progress(paths):
                file.write(formats.load_matrix(path, shape[0], files.kind).contiguous().numpy())


def _header(names: list[str], shape: tuple[int, int], metadata: dict[str, str]) -> bytes:
    """What a safetensors file begins with: the length of its header, and what lies where behind that."""
    told, size = {"dtype": "F32", "shape": [*shape]}, 4 * shape[0] * shape[1]
    tensors = {name: {**told, "data_offsets": [k * size, (k + 1) * size]} for k, name in enumerate(names)}
    header = json.dumps({"__metadata__": {"format": "pt", **metadata}, **tensors}).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header


def _order(name: str) -> tuple[bool, list[int]]:  # jumps before parts, by their numbers
    return name.startswith("p"), [int(number) for number in re.findall(r"\d+", name)]
