"""Exchange of matrices: fetch published ones from the Hugging Face hub, export matrices as safetensors."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HFValidationError, HTTPError
from huggingface_hub.utils import disable_progress_bars

from shortcut import Problem, one_line
from shortcut.files import formats
from shortcut.files.names import Names
from shortcut.pipeline.manifest import Provenance
from shortcut.pipeline.outputs import Outputs, forget, locked

REPOSITORY = "sashay/linear-shortcut"  # of the paper's authors
MATRIX = re.compile(r"(\d+_\d+|p\d+_\d+_\d+)\.pickle")
SAFETENSORS = "matrices.safetensors"
UNFINISHED = "fetch.unfinished"  # folder of downloads that are incomplete or not checked yet
OFFLINE = "If the hub cannot be reached: unset HF_HUB_OFFLINE, set HF_ENDPOINT to a mirror, or run add_linreg.py"

Progress = Callable[[list], Iterable]  # yields the items and shows a progress bar


@contextmanager
def hub_errors(what: str, advice: str) -> Iterator[None]:
    """Turn an error of the hub's client into one line: what failed, why, and the advice."""
    try:
        yield
    except (OSError, HTTPError, HFValidationError) as error:
        raise Problem(f"cannot {what} ({one_line(error, 120)}): {advice}") from error


def fetch(repository: str, files: Names, *, force: bool, notice: Callable[[str], None], progress: Progress) -> None:
    """Download a repository's matrices for a model and dataset; they get no manifest entries.

    Existing files are kept unless `force`. A file is refused unless it holds a matrix as wide as the others.
    """
    disable_progress_bars()  # the progress bar of this command counts matrices
    revision, names = _listing(repository, files)
    folder, shown, d = files.matrices, files.relative(files.matrices), None
    with locked(folder, "shortcut fetch"):
        missing = [name for name in names if force or not (folder / name).exists()]
        if kept := [name for name in names if name not in missing]:
            notice(f"kept {len(kept)} existing matrices in {shown} (--force replaces them)")
            d = len(formats.load_matrix(folder / kept[0], None))
        for name in progress(missing):
            remote, where = f"{files.model}/{files.dataset}/{name}", {"local_dir": folder / UNFINISHED}
            with hub_errors(f"fetch {remote} from {repository}", "run the command again to fetch the missing matrices"):
                path = huggingface_hub.hf_hub_download(repository, remote, revision=revision, **where)
            try:
                d = len(formats.load_matrix(Path(path), d))
            except Problem as problem:
                os.unlink(path)
                what = str(problem).removeprefix(f"{path}: ").replace(path, name)
                raise Problem(f"{remote} from {repository} was not stored: it {what}") from problem
            forget(folder / name)
            os.replace(path, folder / name)
        shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
    if missing:
        notice(f"wrote {len(missing)} matrices [{d}, {d}] to {shown}, from {repository} at {revision[:12]}")


def _listing(repository: str, files: Names) -> tuple[str, list[str]]:
    """Revision of the repository, and file names of its matrices for this model and dataset."""
    where, wanted = f"{repository} on the Hugging Face hub", f"{files.model}/{files.dataset}"
    with hub_errors(f"list {where}", f"give OWNER/NAME of a public repository, such as {REPOSITORY}. {OFFLINE}"):
        found = huggingface_hub.model_info(repository)
    paths = [Path(file.rfilename) for file in found.siblings if MATRIX.fullmatch(Path(file.rfilename).name)]
    if names := sorted(path.name for path in paths if path.parent.as_posix() == wanted):
        return found.sha, names
    folders = ", ".join(sorted({path.parent.as_posix() for path in paths}))[:200]
    listed = f"; it has matrices in {folders}: use --model and --dataset" if folders else ""
    raise Problem(f"{where} holds no matrices in {wanted}{listed}")


def export(files: Names, *, notice: Callable[[str], None], progress: Progress) -> None:
    """Write all matrices for a model and dataset, [d, d] or [d, d + 1], to one safetensors file, by file name."""
    folder, d = files.matrices, None
    paths = sorted(path for path in folder.glob("*.pickle") if MATRIX.fullmatch(path.name))
    if not paths:
        first = files.fitted_by(folder / "0_1.pickle")
        raise Problem(f"{files.relative(folder)} holds no matrix: run {first} first, or fetch published ones")
    made = {"reads": paths, "writes": [folder / SAFETENSORS], "settings": {}, "notice": notice, "force": True}
    with Outputs(Provenance(files), "shortcut export", **made) as outputs:
        for path in paths:  # check all matrices before the old file is removed
            d, columns = formats.load_matrix(path, d, files.map_kind).shape
        # The library's writers hold all tensors in memory, tens of GB for a large model; here it is one.
        header: dict[str, dict] = {"__metadata__": {"format": "pt", "model": files.model, "dataset": files.dataset}}
        for k, path in enumerate(paths):
            at = [n * 4 * d * columns for n in (k, k + 1)]
            header[path.stem] = {"dtype": "F32", "shape": [d, columns], "data_offsets": at}
        content = json.dumps(header).encode()
        content += b" " * (-len(content) % 8)
        with outputs.writing(folder / SAFETENSORS) as file:
            file.write(len(content).to_bytes(8, "little") + content)
            for path in progress(paths):
                file.write(formats.load_matrix(path, d, files.map_kind).contiguous().numpy())
