"""Export, import and fetch lenses in the formats of other tools (`python -m shortcut export --to`, ...).

An exported lens is loaded again and compared, layer by layer, with the float32 maps on the validation sentences. The
comparison finds damage that no check of the number range would find: a map that amplifies a direction in which the
hidden states hardly vary loses accuracy in half precision.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import torch

from shortcut import Problem, representations
from shortcut.exchange.lenses import FORMATS, only
from shortcut.files import formats, store
from shortcut.files.names import Names
from shortcut.intervals import average, proportion
from shortcut.linear import Map
from shortcut.loading import checkpoint, pretrained
from shortcut.models import Model
from shortcut.pipeline.manifest import Provenance, sha256
from shortcut.pipeline.options import SETTINGS
from shortcut.pipeline.outputs import Outputs
from shortcut.pipeline.published import hub_errors
from shortcut.tokens import Tokenized

# largest loss of r2 or Precision@1 at a layer that is accepted even if its confidence interval excludes zero
WORSE = 0.005
Notice = Callable[[str], None]
CARD = Path(__file__).with_name("card.md")  # template of the model card


def export(model: str, files: Names, format_name: str, notice: Notice) -> None:
    """Write the maps into layer L in another tool's format, with a model card.

    Raises Problem: a map is missing or was fitted for another model; the tool supports no masked models; or rounding
        to the format lowers r2 or Precision@1 at a layer (see `check`).
    """
    row = FORMATS[format_name]
    if files.masked and not row.masked:
        raise Problem(f"{format_name} supports no masked models: use another format, or leave out --to for safetensors")
    loaded = pretrained.load(model, masked=files.masked, notice=notice)
    L, d = loaded.n_layers, loaded.d
    val = files.states("val") if files.masked else files.tokenized("val")
    paths = [*(files.matrix(l, L) for l in range(L)), val]
    if missing := next((path for path in paths if not path.exists()), None):
        maker = "the scripts up to add_linreg.py" if missing == val else files.fitted_by(missing)
        raise Problem(f"{files.relative(missing)} not found: run {maker} first")
    fingerprints = checkpoint.fingerprints(model)
    provenance = Provenance(files, lambda script, path: fingerprints)
    provenance.check(paths, notice)
    tokenized = formats.load_states(val, L)[0] if files.masked else formats.load_tokenized(val)
    maps = [formats.load_map(files, l, L, d) for l in range(L)]
    made, entry = provenance.settings(paths[0]), provenance.entry(paths[0]) or {"versions": {}}
    written = row.write([A.A for A in maps], files.model_name, made.get("train", 0))
    with tempfile.TemporaryDirectory() as folder:
        for name, content in written.items():
            Path(folder, name).write_bytes(content)
        read, _ = row.read(Path(folder, row.files[0]), d, L, files.model_name)
    again = [Map(A, row.map_kind, l, L) for l, A in enumerate(read)]
    groups = None if tokenized.numbers is None else tokenized.numbers.unique(return_inverse=True)[1]
    scores = judge(loaded, tokenized, maps)
    check(scores, judge(loaded, tokenized, again), groups, row.first, format_name)
    card = CARD.read_text(encoding="utf-8").format(
        model=files.model_name if Path(model).is_dir() else model, format_name=format_name, map_kind=files.map_kind,
        dataset=files.dataset,
        settings="\n".join(f"- {key}: {made[key]}" for key in map(str.lower, SETTINGS) if key in made) or "- unknown",
        versions=", ".join(map(" ".join, entry["versions"].items())) or "unknown versions",
        n=len(tokenized), rows="\n".join(map(_row, range(L), *scores, [groups] * L)),
    )  # fmt: skip
    contents = {files.matrices / format_name / name: x for name, x in {**written, "README.md": card.encode()}.items()}
    _write(
        Outputs(provenance, "shortcut export", reads=paths, writes=[*contents], settings={}, notice=notice, force=True),
        contents,
    )


def _row(l: int, r2: torch.Tensor, hits: torch.Tensor, groups: torch.Tensor | None) -> str:
    p, low, high = (100 * x for x in proportion(hits, groups))
    return f"| {l} | {r2.mean():.3f} | {p:.1f} [{low:.1f}, {high:.1f}] |"


def _write(outputs: Outputs, contents: dict[Path, Any]) -> None:
    """Write bytes unchanged and matrices as pickles."""
    with outputs:
        for path in outputs.todo:
            with outputs.writing(path) as file:
                file.write(contents[path]) if isinstance(contents[path], bytes) else store.dump(file, contents[path])


@torch.no_grad()
def judge(model: Model, tokenized: Tokenized, maps: list[Map]) -> torch.Tensor:
    """Scores of maps into layer L at n token positions, float64 [2, L, n]; the means over n are r2 and Precision@1.

    The r2 contribution of position s is 1 - n mean_c((h_Lsc - (A h_l)_sc)^2 / sst_c), over coordinates c that vary.
    """
    h = torch.empty(model.n_layers + 1, len(tokenized), model.d)
    for batch in representations.batches(model, tokenized, 1024):
        h[:, batch.rows] = representations.run(model, batch).h.cpu()
    states = [*(A(h[A.source]) for A in maps), h[-1]]
    *best, own = (
        torch.cat([model.read_out(part.to(model.device)).argmax(-1).cpu() for part in x.split(256)]) for x in states
    )
    parts = [r2_parts(x, h[-1]) for x in states[:-1]]
    return torch.stack([torch.stack(parts), (torch.stack(best) == own).double()])


def r2_parts(states: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Contribution of each token position to r2, float64 [n], for states and target [n, d]."""
    states, target = states.double(), target.double()
    sst = (target - target.mean(0)).square().sum(0)
    return 1 - len(target) * ((target - states).square() / sst)[:, sst > 0].mean(1)


def check(
    exact: torch.Tensor, rounded: torch.Tensor, groups: torch.Tensor | None, first: int, format_name: str
) -> None:
    """Raise Problem if a layer loses more than `WORSE` and the paired 95% confidence interval excludes zero.

    exact, rounded: float64 [2, L, n], scores from `judge` before and after export. groups: int64 [n], the sentence
    number of each position. The message names the layers.
    """
    worse = []
    for l in range(first, exact.shape[1]):
        losses = [average(loss, groups) for loss in (exact - rounded)[:, l]]
        if not all(loss.mean <= WORSE or loss.low <= 0 for loss in losses):
            (a, p), (b, q) = (scores[:, l].mean(-1) for scores in (exact, rounded))
            worse.append(f"{l} (r2 {a:.3f} to {b:.3f}, Precision@1 {p:.1%} to {q:.1%})")
    if worse:
        layers = ", ".join(worse[:3]) + (f" and {len(worse) - 3} more" if len(worse) > 3 else "")
        raise Problem(f"not exported: rounding to {format_name} lowers the scores at layers {layers}")


def import_lens(source: Path, model: str, files: Names, format_name: str, notice: Notice, *, force: bool) -> None:
    """Import a lens from another tool as maps: from the file `source`, or the only .pt file in a folder.

    Raises Problem: the lens is damaged, has another shape, is not finite, or is for another model or target layer.
    """
    row, is_file = FORMATS[format_name], source.is_file() or source.suffix == ".pt"
    path = source if is_file else source / only(source, [path.name for path in source.glob("*.pt")])
    loaded = pretrained.load(model, masked=files.masked, notice=notice)
    L, d = loaded.n_layers, loaded.d
    maps, origin = row.read(path, d, L, files.model_name)
    for key, value in origin.items():
        notice(f"  the file has {key} {value}")
    if row.first:
        notice(f"  {format_name} has no map from the embeddings: the state of layer 0 is used unchanged")
    targets = [files.matrix(l, L) for l in range(L)]
    hashes = {file: sha256(path.with_name(file)) for file in (path.name, *row.files[1:])}
    settings = {"map": row.map_kind, "imported": hashes | origin} | checkpoint.fingerprints(model)
    more = {"settings": settings, "notice": notice, "force": force}
    outputs = Outputs(Provenance(files), "shortcut import", reads=[], writes=targets, **more)
    _write(outputs, dict(zip(targets, maps, strict=True)))


def download(source: str, format_name: str) -> Path:
    """Download a lens to the hub's cache and return its file; source: [spaces/]OWNER/NAME[/FOLDER][/FILE.pt]."""
    place = source.removeprefix("spaces/")
    if "/" not in place:
        raise Problem(f"fetch --from {format_name} takes [spaces/]OWNER/NAME[/FOLDER][/FILE.pt], got {source or None}")
    owner, repository, *parts = place.split("/")
    repo = {"repo_id": f"{owner}/{repository}", "repo_type": "model" if place == source else "space"}
    with hub_errors(f"fetch {'/'.join(parts)} from {owner}/{repository} on the hub", "look at its files there"):
        if not source.endswith(".pt"):
            listed = [path.rpartition("/") for path in huggingface_hub.list_repo_files(**repo)]
            found = [file for folder, _, file in listed if folder == "/".join(parts)]
            parts.append(only(f"{source} on the hub", found))
        files = ["/".join([*parts[:-1], file]) for file in (*FORMATS[format_name].files[1:], parts[-1])]
        return Path([huggingface_hub.hf_hub_download(filename=file, **repo) for file in files][-1])
