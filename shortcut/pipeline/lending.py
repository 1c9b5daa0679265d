"""Lenses of other tools: `python -m shortcut export --to`, `import --from`, `fetch --from`.

An exported lens is loaded again and compared, layer by layer, with the float32 maps on the validation sentences. A
check of the range would not find what half precision does to a map that amplifies a direction in which the states
hardly vary.
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
from shortcut.pipeline.published import asking
from shortcut.tokens import Tokenized

WORSE = 0.005  # r2 and Precision@1 that a layer may lose even if the interval of the loss excludes zero
Notice = Callable[[str], None]
CARD = Path(__file__).with_name("card.md")  # template of the model card


def export(model: str, files: Names, to: str, notice: Notice) -> None:
    """Write the maps into layer L in another tool's format, with a model card.

    Raises Problem: a map is missing or of another model; the tool knows no masked model; or the format's numbers lower
        r2 or Precision@1 at a layer (see `check`).
    """
    row = FORMATS[to]
    if files.masked and not row.masked:
        raise Problem(f"{to} knows no masked model: export to another format, or to safetensors without --to")
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
    check(scores, judge(loaded, tokenized, again), groups, row.first, to)
    card = CARD.read_text(encoding="utf-8").format(
        model=files.model_name if Path(model).is_dir() else model, to=to, kind=files.map_kind, dataset=files.dataset,
        settings="\n".join(f"- {key}: {made[key]}" for key in map(str.lower, SETTINGS) if key in made) or "- unknown",
        versions=", ".join(map(" ".join, entry["versions"].items())) or "unknown versions",
        n=len(tokenized), rows="\n".join(map(_row, range(L), *scores, [groups] * L)),
    )  # fmt: skip
    contents = {files.matrices / to / name: x for name, x in {**written, "README.md": card.encode()}.items()}
    _write(
        Outputs(provenance, "shortcut export", reads=paths, writes=[*contents], settings={}, notice=notice, force=True),
        contents,
    )


def _row(l: int, r2: torch.Tensor, hits: torch.Tensor, groups: torch.Tensor | None) -> str:
    p, low, high = (100 * x for x in proportion(hits, groups))
    return f"| {l} | {r2.mean():.3f} | {p:.1f} [{low:.1f}, {high:.1f}] |"


def _write(outputs: Outputs, contents: dict[Path, Any]) -> None:
    """Write bytes as they are and matrices as pickles."""
    with outputs:
        for path in outputs.todo:
            with outputs.writing(path) as file:
                file.write(contents[path]) if isinstance(contents[path], bytes) else store.dump(file, contents[path])


@torch.no_grad()
def judge(model: Model, tokenized: Tokenized, maps: list[Map]) -> torch.Tensor:
    """Scores of maps into layer L at n token positions, float64 [2, L, n]; their means over n are r2 and Precision@1.

    The part of position s in r2 is 1 - n mean_c((h_Lsc - (A h_l)_sc)^2 / sst_c), over coordinates c that vary.
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
    """Part of each position in r2, float64 [n], for states and target [n, d]."""
    states, target = states.double(), target.double()
    sst = (target - target.mean(0)).square().sum(0)
    return 1 - len(target) * ((target - states).square() / sst)[:, sst > 0].mean(1)


def check(own: torch.Tensor, its: torch.Tensor, groups: torch.Tensor | None, first: int, to: str) -> None:
    """Raise Problem, naming the layers, at a loss above `WORSE` whose paired 95% interval excludes zero.

    `own` and `its` are scores of `judge` before and after; `groups` [n] is the sentence of each position.
    """
    worse = []
    for l in range(first, own.shape[1]):
        losses = [average(loss, groups) for loss in (own - its)[:, l]]
        if not all(loss.mean <= WORSE or loss.low <= 0 for loss in losses):
            (a, p), (b, q) = (scores[:, l].mean(-1) for scores in (own, its))
            worse.append(f"{l} (r2 {a:.3f} to {b:.3f}, Precision@1 {p:.1%} to {q:.1%})")
    if worse:
        told = ", ".join(worse[:3]) + (f" and {len(worse) - 3} more" if len(worse) > 3 else "")
        raise Problem(f"not exported: rounded to the numbers of {to}, the lens loses at layers {told}")


def take(source: Path, model: str, files: Names, name: str, notice: Notice, *, force: bool) -> None:
    """Import a lens of another tool as maps of its kind: the file `source`, or the only .pt file of a folder.

    Raises Problem: it is damaged, of another shape, not finite, or of another model or target layer.
    """
    row, is_file = FORMATS[name], source.is_file() or source.suffix == ".pt"
    path = source if is_file else source / only(source, [path.name for path in source.glob("*.pt")])
    loaded = pretrained.load(model, masked=files.masked, notice=notice)
    L, d = loaded.n_layers, loaded.d
    maps, origin = row.read(path, d, L, files.model_name)
    for key, value in origin.items():
        notice(f"  the file has {key} {value}")
    if row.first:
        notice(f"  {name} has no map from the embeddings: the state of layer 0 is used as it is")
    targets = [files.matrix(l, L) for l in range(L)]
    hashes = {file: sha256(path.with_name(file)) for file in (path.name, *row.files[1:])}
    settings = {"map": row.map_kind, "imported": hashes | origin} | checkpoint.fingerprints(model)
    more = {"settings": settings, "notice": notice, "force": force}
    outputs = Outputs(Provenance(files), "shortcut import", reads=[], writes=targets, **more)
    _write(outputs, dict(zip(targets, maps, strict=True)))


def download(source: str, name: str) -> Path:
    """The file of a lens, downloaded to the hub's cache; `source` is [spaces/]OWNER/NAME[/FOLDER][/FILE.pt]."""
    place = source.removeprefix("spaces/")
    if "/" not in place:
        raise Problem(f"fetch --from {name} takes [spaces/]OWNER/NAME[/FOLDER][/FILE.pt], got {source or None}")
    owner, repository, *inside = place.split("/")
    on = {"repo_id": f"{owner}/{repository}", "repo_type": "model" if place == source else "space"}
    with asking(f"fetch {'/'.join(inside)} of {owner}/{repository} on the hub", "look at its files there"):
        if not source.endswith(".pt"):
            listed = [path.rpartition("/") for path in huggingface_hub.list_repo_files(**on)]
            found = [file for folder, _, file in listed if folder == "/".join(inside)]
            inside.append(only(f"{source} on the hub", found))
        files = ["/".join([*inside[:-1], file]) for file in (*FORMATS[name].files[1:], inside[-1])]
        return Path([huggingface_hub.hf_hub_download(filename=file, **on) for file in files][-1])
