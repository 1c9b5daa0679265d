"""Exchange matrices and lenses with other projects (`python -m shortcut fetch`, `import`, `export`)."""

import io
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath

import huggingface_hub
import torch
from huggingface_hub.errors import HFValidationError, HTTPError
from huggingface_hub.utils import disable_progress_bars

from shortcut import Problem, one_line, representations
from shortcut.exchange import lenses
from shortcut.files import formats, store
from shortcut.files.names import MODEL_FILES, Names
from shortcut.intervals import proportion
from shortcut.linear import Map
from shortcut.loading import checkpoint, pretrained
from shortcut.pipeline.manifest import MAKERS, Provenance, sha256
from shortcut.pipeline.options import SETTINGS
from shortcut.pipeline.outputs import Outputs, forget, locked
from shortcut.pipeline.terminal import progress, say

REPOSITORY = "sashay/linear-shortcut"  # of the paper's authors
MATRIX = re.compile(r"(.*/)?(\d+_\d+|p\d+_\d+_\d+)\.pickle")
SAFETENSORS = "matrices.safetensors"
OFFLINE = "If the hub cannot be reached: unset HF_HUB_OFFLINE, set HF_ENDPOINT to a mirror, or run add_linreg.py"


@contextmanager
def _hub_errors(what: str, advice: str) -> Iterator[None]:
    """Turn an error of the hub's client into one line: what failed, why, and the advice."""
    try:
        yield
    except (OSError, HTTPError, HFValidationError) as error:
        raise Problem(f"cannot {what} ({one_line(error, 120)}): {advice}") from error


def fetch(repository: str, files: Names, *, force: bool) -> None:
    """Download a repository's matrices for a model and dataset; they get no manifest entries.
    Existing files are kept unless `force`. A file is refused unless it holds a matrix as wide as the others.
    """
    disable_progress_bars()  # the progress bar of this command counts matrices
    where, wanted = f"{repository} on the Hugging Face hub", f"{files.model}/{files.dataset}"
    with _hub_errors(f"list {where}", f"give OWNER/NAME of a public repository, such as {REPOSITORY}. {OFFLINE}"):
        found = huggingface_hub.model_info(repository)
    matrices = [PurePosixPath(file.rfilename) for file in found.siblings if MATRIX.fullmatch(file.rfilename)]
    names = sorted(path.name for path in matrices if str(path.parent) == wanted)
    if not names:
        folders = ", ".join(sorted({str(path.parent) for path in matrices}))[:200]
        listed = f"; it has matrices in {folders}: use --model and --dataset" if folders else ""
        raise Problem(f"{where} holds no matrices in {wanted}{listed}")
    folder, shown, d = files.matrices, files.relative(files.matrices), None
    with locked(folder, "shortcut fetch"):
        missing = [name for name in names if force or not (folder / name).exists()]
        if kept := [name for name in names if name not in missing]:
            say(f"kept {len(kept)} existing matrices in {shown} (--force replaces them)")
            d = len(formats.load_matrix(folder / kept[0], None))
        how = {"revision": found.sha, "local_dir": folder / "fetch.unfinished", "force_download": True}
        for name in progress("matrices", missing, len(missing), "matrices"):
            remote = f"{wanted}/{name}"
            with _hub_errors(f"fetch {remote} from {repository}", "run the command again for the missing matrices"):
                path = Path(huggingface_hub.hf_hub_download(repository, remote, **how))
            with store.inside(f"{remote} from {repository} was not stored"):
                d = len(formats.load_matrix(path, d))
            forget(folder / name)
            path.replace(folder / name)
        shutil.rmtree(how["local_dir"], ignore_errors=True)  # downloads that are incomplete or were refused
    if missing:
        say(f"wrote {len(missing)} matrices [{d}, {d}] to {shown}, from {repository} at {found.sha[:12]}")


def export(files: Names) -> None:
    """Write all matrices for a model and dataset, [d, d] or [d, d + 1], to one safetensors file, by file name."""
    folder, d = files.matrices, None
    paths = sorted(path for path in folder.glob("*.pickle") if MATRIX.fullmatch(path.name))
    if not paths:
        first = files.fitted_by(folder / "0_1.pickle")
        raise Problem(f"{files.relative(folder)} holds no matrix: run {first} first, or fetch published ones")
    how = {"reads": paths, "writes": [folder / SAFETENSORS], "settings": {}, "notice": say, "force": True}
    with Outputs(Provenance(files), "shortcut export", **how) as outputs:
        # The library's writers hold all tensors in memory, tens of GB for a large model; here it is one.
        origin = {"model": files.model, "dataset": files.dataset, "estimator": files.map_kind}
        header: dict[str, dict] = {"__metadata__": {"format": "pt", **origin}}
        for k, path in enumerate(paths):  # check all matrices before the old file is removed
            d, columns = formats.load_matrix(path, d, files.map_kind).shape
            at = [n * 4 * d * columns for n in (k, k + 1)]
            header[path.stem] = {"dtype": "F32", "shape": [d, columns], "data_offsets": at}
        content = json.dumps(header).encode()
        content += b" " * (-len(content) % 8)
        with outputs.writing(folder / SAFETENSORS) as file:
            file.write(len(content).to_bytes(8, "little") + content)
            for path in progress("matrices", paths, len(paths), "matrices"):
                file.write(formats.load_matrix(path, d, files.map_kind).contiguous().numpy())


def export_lens(files: Names, format_name: str) -> None:
    """Write the maps into layer L in another tool's format, with a model card, unless `lenses.check` refuses them."""
    row = lenses.FORMATS[format_name]
    if files.masked and not row.masked:
        raise Problem(f"{format_name} supports no masked models: use another format, or leave out --to for safetensors")
    loaded = pretrained.load(files.given, masked=files.masked, notice=say)
    L, d, val = loaded.n_layers, loaded.d, files.split("val")
    reads = [*(files.matrix(l, L) for l in range(L)), val]
    if missing := next((path for path in reads if not path.exists()), None):
        script = "bert_add_reps.py" if files.masked else "add_tokenization.py"
        raise files.not_found(missing, files.command(script, val) if missing == val else files.fitted_by(missing))
    provenance = Provenance.of_model(files, files.given)
    provenance.check(reads, say)
    tokenized = formats.load_states(val, L)[0] if files.masked else formats.load_tokenized(val)
    groups = None if tokenized.numbers is None else tokenized.numbers.unique(return_inverse=True)[1]
    h = torch.empty(L + 1, len(tokenized), d)
    for batch in representations.batches(loaded, tokenized, 1024):
        h[:, batch.rows] = representations.run(loaded, batch).h
    maps, made = [formats.load_map(files, l, L, d) for l in range(L)], provenance.settings(reads[0])
    versions = provenance.entry(reads[0]).get("versions", {})
    known = {"sentences": made.get("train"), "positions": made.get("positions"), **versions}
    made.pop("sentences", None)  # how many were asked for, not how many trained the maps
    metadata = {"estimator": files.map_kind, "dataset": files.dataset}
    metadata |= {key: known[key] for key in ("sentences", "positions", *MAKERS) if known.get(key) is not None}
    lens = row.write([A.A for A in maps], files.model_name, metadata)
    rounded = [Map(A, files.map_kind, l, L) for l, A in enumerate(row.read(lens, d, L, files.model_name)[0])]
    scores = lenses.judge(loaded, h, maps)
    lenses.check(scores, lenses.judge(loaded, h, rounded), groups, format_name)
    rows = []
    for l, (r2, hits) in enumerate(zip(*scores, strict=True)):
        p, low, high = (100 * x for x in proportion(hits, groups))
        rows.append(f"| {l} | {r2.mean():.3f} | {p:.1f} [{low:.1f}, {high:.1f}] |")
    card = Path(__file__).with_name("card.md").read_text(encoding="utf-8").format(
        model=files.hub_name, dataset=files.dataset,
        format_name=format_name, map_kind=files.map_kind, n=len(tokenized), rows="\n".join(rows),
        settings="\n".join(f"- {key}: {made[key]}" for key in map(str.lower, SETTINGS) if key in made) or "- unknown",
        versions=", ".join(map(" ".join, versions.items())) or "unknown versions",
    )  # fmt: skip
    torch.save(lens[0], tensors := io.BytesIO())
    contents = [tensors.getvalue(), *(store.dump_json(config) for config in lens[1:] if config), card.encode()]
    writes = [files.matrices / format_name / name for name in (*row.files, "README.md")]
    with Outputs(provenance, "shortcut export", reads=reads, writes=writes, settings={}, notice=say, force=True) as out:
        for path, content in zip(writes, contents, strict=True):
            with out.writing(path) as file:
                file.write(content)


def import_lens(source: Path, files: Names, format_name: str, *, force: bool) -> None:
    """Import a lens from another tool as maps. Raises Problem if it is damaged or for another model or target layer."""
    row, is_file = lenses.FORMATS[format_name], source.is_file() or source.suffix == ".pt"
    path = source if is_file else source / lenses.only(source, [path.name for path in source.glob("*.pt")])
    loaded = pretrained.load(files.given, masked=files.masked, notice=say)
    L, more = loaded.n_layers, [path.with_name(name) for name in row.files[1:]]
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)  # so that the file cannot run code
    except Exception as error:  # torch raises errors of many types
        raise Problem(f"cannot read {path} as a file of tensors ({one_line(error, 120)})") from error
    lens = tensors, store.load_json(more[0]) if more else None
    with store.inside(path):
        maps, origin = row.read(lens, loaded.d, L, files.model_name)
    for key, value in origin.items():
        say(f"  the file has {key} {value}")
    if (fitted_on := origin.get("metadata.dataset", files.dataset)) != files.dataset:
        say(f"  the lens was fitted on {fitted_on}, and its maps are now named after {files.dataset}")
    estimator = origin.get("metadata.estimator")
    files = replace(files, map_kind=estimator if estimator in row.map_kinds else row.map_kinds[0])
    unchanged = {"warning": f"{format_name} has no map from the embeddings: the state of layer 0 is used unchanged"}
    if row.first:
        say(f"  {unchanged['warning']}")
    writes, hashes = [files.matrix(l, L) for l in range(L)], {file.name: sha256(file) for file in (path, *more)}
    settings = {"map": files.map_kind, "imported": hashes | origin}
    settings |= {file_kind: checkpoint.fingerprint(files.given, file_kind) for file_kind in MODEL_FILES}
    how = {"settings": settings, "notice": say, "force": force}
    with Outputs(Provenance(files), "shortcut import", reads=[], writes=writes, **how) as outputs:
        for l in map(writes.index, outputs.todo):
            with outputs.writing(writes[l], **(unchanged if l < row.first else {})) as file:
                store.dump(file, maps[l])


def download(source: str | None, files: Names, format_name: str) -> Path:
    """Download a lens to the hub's cache and return its file; source: [spaces/]OWNER/NAME[/FOLDER][/FILE.pt]."""
    row = lenses.FORMATS[format_name]
    source = source or (row.published and f"{row.published}/{files.hub_name}")
    place = source.removeprefix("spaces/")
    if "/" not in place:
        raise Problem(f"fetch --from {format_name} takes [spaces/]OWNER/NAME[/FOLDER][/FILE.pt], got {source or None}")
    owner, repository, *parts = place.split("/")
    path = PurePosixPath(*parts)
    repo = {"repo_id": f"{owner}/{repository}", "repo_type": "model" if place == source else "space"}
    with _hub_errors(f"fetch {path} from {owner}/{repository} on the hub", "look at its files there"):
        if path.suffix != ".pt":
            listed = map(PurePosixPath, huggingface_hub.list_repo_files(**repo))
            path /= lenses.only(f"{source} on the hub", [file.name for file in listed if file.parent == path])
        for other in row.files[1:]:
            huggingface_hub.hf_hub_download(filename=str(path.with_name(other)), **repo)
        return Path(huggingface_hub.hf_hub_download(filename=str(path), **repo))
