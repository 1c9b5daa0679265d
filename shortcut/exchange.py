"""Matrices from and for others: fetched from the Hugging Face hub as published, exported as safetensors.

Run as `python -m shortcut.store fetch` and `python -m shortcut.store export`.
"""

import argparse
import json
import re
import shutil
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, RepositoryNotFoundError

from shortcut import Problem, cli, manifest, store
from shortcut.layout import PROJECT, Layout
from shortcut.parquet import READ_ERRORS, one_line

REPOSITORY = "sashay/linear-shortcut"  # of the paper's authors
MATRIX = re.compile(r"(\d+_\d+|p\d+_\d_\d)\.pickle")
HUB_ERRORS = (*READ_ERRORS, EntryNotFoundError, HFValidationError)
SAFETENSORS = "matrices.safetensors"


def main(argv: list[str] | None = None) -> None:
    """Read the command line, fetch or export."""
    args = _options(argv)
    files = Layout(args.out.resolve(), args.model, args.dataset)
    if args.command == "fetch":
        fetch(args.repository, files, force=args.force)
    else:
        export(files)


def _options(argv: list[str] | None) -> argparse.Namespace:
    options = argparse.ArgumentParser(
        prog="python -m shortcut.store", description="Take matrices that others have fitted, or pass ours on."
    )
    commands = options.add_subparsers(dest="command", required=True, metavar="fetch|export")
    commands.add_parser(
        "fetch",
        help="download matrices from the Hugging Face hub",
        description="Download <model>/<dataset>/*.pickle of a repository on the Hugging Face hub (HF_ENDPOINT: of"
        " a mirror) to linreg/<model>/<dataset>/. Each is checked before it takes its name; those that are there"
        " are kept.",
    )
    commands.add_parser(
        "export",
        help="write the matrices as one safetensors file",
        description=f"Write all matrices in linreg/<model>/<dataset>/ to {SAFETENSORS} beside them, named as their"
        " files are: 3_12, p0_1_2.",
    )
    for name, command in commands.choices.items():
        fetches = name == "fetch"
        add = command.add_argument
        if fetches:
            add("repository", nargs="?", default=REPOSITORY, help=f"OWNER/NAME on the hub (default: {REPOSITORY})")
            add("--force", action="store_true", help="fetch what is there too")
        model, dataset = ("gpt2-medium", "wikipedia") if fetches else (None, None)
        for option, default in (("--model", model), ("--dataset", dataset)):
            which = f"its folder (default: {default})" if fetches else "its folder under linreg/"
            kind = _last if option == "--model" else _name
            add(option, type=kind, metavar="NAME", default=default, required=not fetches, help=which)
        add("--out", type=Path, metavar="FOLDER", default=PROJECT, help="holds linreg/ (default: the project's folder)")
    return options.parse_args(argv)


def _last(text: str) -> str:
    """Of a model's name or folder, what its own folders are called."""
    return _name(Path(text).name)


def _name(text: str) -> str:
    if not text or Path(text).name != text:
        raise argparse.ArgumentTypeError(f"expected the name of a folder, got {text!r}")
    return text


def fetch(repository: str, files: Layout, *, force: bool) -> None:
    """Download a repository's matrices of a model and dataset; they get no entries in the manifest.

    Args:
        repository: its name on the hub.
        files: where they go.
        force: whether to replace what is there.

    Raises:
        Problem: the hub cannot be reached, has no such repository or no such matrices, or what it serves
            is no matrix, which then is not put in place.
    """
    huggingface_hub.utils.disable_progress_bars()  # ours counts matrices
    revision, names = _listing(repository, files)
    folder, shown = files.matrices, files.relative(files.matrices)
    with manifest.locked(folder, "store.py fetch"):
        there = [name for name in names if (folder / name).exists() and not force]
        missing = [name for name in names if name not in there]
        if there:
            cli.say(f"kept {len(there)} matrices that are in {shown} already (--force replaces them)")
        d = len(store.load_matrix(folder / there[0], None)) if there else None
        for name in cli.progress("matrices", missing, len(missing), "matrices"):
            store.remove_leftovers(folder / name)
            d = _fetch_one(repository, revision, files, name, d)
        shutil.rmtree(_downloads(files), ignore_errors=True)
    if missing:
        cli.say(f"wrote {len(missing)} matrices [{d}, {d}] to {shown}, from {repository} at {revision[:12]}")


def _listing(repository: str, files: Layout) -> tuple[str, list[str]]:
    """The repository's revision, and the names of its matrices of this model and dataset, in order."""
    where = f"{repository} on the Hugging Face hub"
    try:
        api = huggingface_hub.HfApi()
        revision = api.model_info(repository).sha
        paths = api.list_repo_files(repository, revision=revision)
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise Problem(f"no repository {where}: give OWNER/NAME of one that is public, as {REPOSITORY}") from error
    except HUB_ERRORS as error:
        raise Problem(
            f"cannot list {where} ({one_line(error)[:120]}): try again with a network and without HF_HUB_OFFLINE,"
            " name a mirror in HF_ENDPOINT, or fit the matrices by add_linreg.py"
        ) from error
    found = [path.rpartition("/")[::2] for path in paths if MATRIX.fullmatch(path.rpartition("/")[2])]
    folder = f"{files.model}/{files.dataset}"
    if names := [name for parent, name in found if parent == folder]:
        return revision, sorted(names, key=_order)
    others = sorted({parent for parent, _ in found})
    listed = f"; it has some in {', '.join(others)[:200]}: use --model and --dataset" if others else ""
    raise Problem(f"{where} holds no matrices in {folder}{listed}")


def _fetch_one(repository: str, revision: str, files: Layout, name: str, d: int | None) -> int:
    """Put one matrix in its place, if it is one of width d (any, if None); returns its width."""
    remote, path = f"{files.model}/{files.dataset}/{name}", files.matrices / name
    try:
        downloaded = Path(
            huggingface_hub.hf_hub_download(repository, remote, revision=revision, local_dir=_downloads(files))
        )
    except HUB_ERRORS as error:
        raise Problem(
            f"cannot fetch {remote} of {repository} ({one_line(error)[:120]}): run it again to go on from there"
        ) from error
    try:
        A = store.load_matrix(downloaded, d)
    except Problem as problem:
        downloaded.unlink()
        what = str(problem).removeprefix(f"{downloaded}: ").replace(str(downloaded), name)
        raise Problem(f"{remote} of {repository} was not put in place: it {what}") from problem
    with open(downloaded, "rb") as source, store.replacing(path, lambda _: manifest.forget(path)) as file:
        shutil.copyfileobj(source, file)
    downloaded.unlink()
    return len(A)


def _downloads(files: Layout) -> Path:
    """Where downloads lie until they are whole and checked; one that was stopped goes on from there."""
    return files.matrices / "fetch.parts"


def export(files: Layout) -> None:
    """Write every matrix of a model and dataset, by its name, to one safetensors file.

    Raises:
        Problem: there is none, or one is not a matrix, of another width, or has changed since it was made.
    """
    folder = files.matrices
    names = sorted((path.name for path in folder.glob("*.pickle") if MATRIX.fullmatch(path.name)), key=_order)
    paths = [folder / name for name in names]
    if not paths:
        raise Problem(f"{files.relative(folder)} holds no matrix: run add_linreg.py first, or fetch published ones")
    target = folder / SAFETENSORS
    with manifest.Stage(
        files, "store.py export", reads=paths, writes=[target], settings={}, force=True, notice=cli.say
    ) as stage:
        if stage.made:  # by a run that was stopped after that
            return
        d = len(store.load_matrix(paths[0], None))
        with stage.writing(target) as file:
            file.write(_header([path.stem for path in paths], d, {"model": files.model, "dataset": files.dataset}))
            for path in cli.progress("matrices", paths, len(paths), "matrices"):
                file.write(store.load_matrix(path, d).contiguous().numpy())


def _header(names: list[str], d: int, metadata: dict[str, str]) -> bytes:
    """What a safetensors file begins with: the length of its header, and what lies where behind that."""
    size = 4 * d * d
    tensors = {
        name: {"dtype": "F32", "shape": [d, d], "data_offsets": [k * size, (k + 1) * size]}
        for k, name in enumerate(names)
    }
    header = json.dumps({"__metadata__": {"format": "pt", **metadata}, **tensors}).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header


def _order(name: str) -> tuple[bool, list[int]]:
    """Jumps before parts, by their numbers."""
    return name.startswith("p"), [int(number) for number in re.findall(r"\d+", name)]
