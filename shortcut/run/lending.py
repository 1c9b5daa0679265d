"""Lenses passed on and taken over: `python -m shortcut export --to`, `import`, `fetch --from`.

What is exported is loaded again and judged on the validation sentences beside the float32 maps it was made of, layer
by layer: a range check would not see what half precision does to a map of large gain along a direction that the
states hardly have (see `quality`).
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import torch

from shortcut import Problem, one_line, representations
from shortcut.files import formats, store
from shortcut.files.exchange import HUB_ERRORS
from shortcut.files.lenses import FORMATS, only
from shortcut.files.manifest import Provenance, sha256
from shortcut.files.names import Names
from shortcut.files.outputs import Outputs
from shortcut.intervals import average, proportion
from shortcut.linear import Map
from shortcut.models import Model
from shortcut.run import checkpoint, loading
from shortcut.run.options import SETTINGS
from shortcut.tokens import Tokenized

WORSE = 0.005  # r2 and Precision@1 that a layer may lose, if the interval of the loss excludes zero
Notice = Callable[[str], None]
PUBLISHED = {"tuned-lens": "spaces/AlignmentResearch/tuned-lens/lens"}  # a folder a model


@dataclass(frozen=True)
class Judged:
    """Maps on n validation positions, for each layer 0 ... L - 1."""

    r2: list[torch.Tensor]  # float64 [n], the share of each position in r2, which is their mean
    hits: list[torch.Tensor]  # float64 [n], 1 where the best token is that of the model
    groups: torch.Tensor | None  # int64 [n], the sentence of each position; None: one each


def export(model: str, files: Names, to: str, notice: Notice) -> None:
    """Write the maps into layer L as a lens of another tool, with a card, if it is as good as they are.

    Raises Problem: one is missing; a tuned lens of a masked model, which that tool does not know; or a layer at which
        r2 or Precision@1 is lower than that of the maps in float32 (see `_check`); or maps of another model.
    """
    if files.masked and to == "tuned-lens":
        raise Problem("tuned-lens knows no masked model: export --to jlens, or safetensors without --to")
    of = FORMATS[to]
    loaded = loading.load(model, masked=files.masked, notice=notice)
    L, d = loaded.n_layers, loaded.d
    paths = [files.matrix(l, L) for l in range(L)]
    val = files.states("val") if files.masked else files.tokenized("val")
    for path, maker in (*((path, files.fitted_by(path)) for path in paths), (val, "the scripts up to add_linreg.py")):
        if not path.exists():
            raise Problem(f"{files.relative(path)} not found: run {maker} first")
    fingerprints = checkpoint.fingerprints(model)
    provenance = Provenance(files, lambda script, path: fingerprints)
    provenance.check([*paths, val], notice)
    tokenized = formats.load_states(val, L)[0] if files.masked else formats.load_tokenized(val)
    maps = [formats.load_map(files, l, L, d) for l in range(L)]
    folder = files.matrices / to
    made, entry = provenance.settings(paths[-1]), provenance.entry(paths[-1])
    written = of.write([A.A for A in maps], files.model_name, made.get("train", 0))
    with tempfile.TemporaryDirectory() as there:
        for name, content in written.items():
            Path(there, name).write_bytes(content)
        again, _ = of.read(Path(there, of.files[0]), d, L, files.model_name)
    again = [Map(A, of.kind, l, L) for l, A in enumerate(again)]
    own, its = judge(loaded, tokenized, maps), judge(loaded, tokenized, again)
    _check(own, its, of.first, to)
    whose = {"model": model if not Path(model).is_dir() else files.model_name, "n": len(tokenized)}
    card = _card(files, to, own, made | whose | {"versions": (entry and entry["versions"]) or {}})
    targets = [folder / name for name in (*written, "README.md")]
    more = {"settings": {}, "notice": notice, "force": True}
    with Outputs(provenance, "shortcut export", reads=[*paths, val], writes=targets, **more) as outputs:
        for path, content in zip(targets, [*written.values(), card.encode()], strict=True):
            with outputs.writing(path) as file:
                file.write(content)


@torch.no_grad()
def judge(model: Model, tokenized: Tokenized, maps: list[Map]) -> Judged:
    """r2 and Precision@1 of maps into layer L on these sentences."""
    h = torch.empty(model.n_layers + 1, len(tokenized), model.d)
    for batch in representations.batches(model, tokenized, 1024):
        h[:, batch.rows] = representations.run(model, batch).h.cpu()
    best = _best(model, h[-1])
    groups = None if tokenized.numbers is None else tokenized.numbers.unique(return_inverse=True)[1]
    made = [A(h[A.source]) for A in maps]
    hits = [(_best(model, states) == best).double() for states in made]
    return Judged([_r2(states, h[-1]) for states in made], hits, groups)


def _r2(states: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """r2 over coordinates c that vary as a mean over positions s: 1 - n mean_c((target_sc - states_sc)^2 / sst_c)."""
    states, target = states.double(), target.double()
    sst = (target - target.mean(0)).square().sum(0)
    return 1 - len(target) * ((target - states).square() / sst)[:, sst > 0].mean(1)


def _best(model: Model, states: torch.Tensor) -> torch.Tensor:
    return torch.cat([model.read_out(part.to(model.device)).argmax(-1).cpu() for part in states.split(256)])


def _check(own: Judged, its: Judged, first: int, to: str) -> None:
    """Raise Problem, naming the layers, at a loss above `WORSE` whose paired 95% interval excludes zero."""
    worse = []
    for l in range(first, len(own.r2)):
        (a, p), (b, q) = ((judged.r2[l], judged.hits[l]) for judged in (own, its))
        losses = [average(before - after, own.groups) for before, after in ((a, b), (p, q))]
        if not all(loss.mean <= WORSE or loss.low <= 0 for loss in losses):
            a, p, b, q = (x.mean() for x in (a, p, b, q))
            worse.append(f"{l} (r2 {a:.3f} to {b:.3f}, Precision@1 {p:.1%} to {q:.1%})")
    if worse:
        told = ", ".join(worse[:3]) + (f" and {len(worse) - 3} more" if len(worse) > 3 else "")
        raise Problem(f"not exported: rounded to the numbers of {to}, the lens loses at layers {told}")


def _card(files: Names, to: str, own: Judged, made: dict[str, Any]) -> str:
    """A model card: what it is, made from what with which versions, figures; the licence is the person's."""
    told = "\n".join(f"- {name}: {made[name]}" for name in map(str.lower, SETTINGS) if name in made)
    used = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    rows = "\n".join(
        f"| {l} | {own.r2[l].mean():.3f} | {100 * p.mean:.1f} [{100 * p.low:.1f}, {100 * p.high:.1f}] |"
        for l, p in enumerate(proportion(hits, own.groups) for hits in own.hits)
    )
    return f"""---
base_model: {made["model"]}
tags: [interpretability, linear-shortcut, {to}]
---

# {files.kind} maps into the last layer of {made["model"]}, as {to}

A_lL takes the state of a token after l blocks to what it is expected to be after the last one, before the final
norm; what is read out of it is what the model already knows there. The kind of map is {files.kind} ("Jump to
Conclusions: Short-Cutting Transformers With Linear Transformations", Yom Din et al. 2024, has least-squares).

Fitted on sentences of `{files.dataset}`, at positions drawn from all of each, the first included:

{told or "- not recorded"}

Made with {used or "versions that are not recorded"}.

On {made["n"]} positions in other sentences, of the maps in float32 (Precision@1 in percent, with its 95% interval):

| layer | r2 | Precision@1 |
|---|---|---|
{rows}

Licence: not chosen yet. That of the model, and of the text that it was fitted on, are yours to look at.
"""


def take(source: Path, model: str, files: Names, of: str, notice: Notice, *, force: bool) -> None:
    """Put a lens of another tool in place as maps of its kind: the file named, or the only .pt file of a folder.

    Raises Problem: it is damaged, of another shape, not finite, or of another model or target layer.
    """
    of_format, named = FORMATS[of], source.is_file() or source.suffix == ".pt"
    path = source if named else source / only(source, [path.name for path in source.glob("*.pt")])
    loaded = loading.load(model, masked=files.masked, notice=notice)
    L, d = loaded.n_layers, loaded.d
    maps, origin = of_format.read(path, d, L, files.model_name)
    for key, value in origin.items():
        notice(f"  the file has {key} {value}")
    if of_format.first:
        notice("  a Jacobian lens has nothing of the embeddings: at layer 0 the state stands as it is")
    targets = [files.matrix(l, L) for l in range(L)]
    hashes = {name: sha256(path.with_name(name)) for name in (path.name, *of_format.files[1:])}
    settings = {"map": of_format.kind, "imported": hashes | origin} | checkpoint.fingerprints(model)
    more = {"settings": settings, "notice": notice, "force": force}
    with Outputs(Provenance(files), "shortcut import", reads=[], writes=targets, **more) as outputs:
        for path, A in zip(targets, maps, strict=True):
            if path in outputs.todo:
                with outputs.writing(path) as file:
                    store.dump(file, A)


def fetch(source: str, model: str, files: Names, of: str, notice: Notice, *, force: bool) -> None:
    """Download a lens from the hub and take it; `source` is [spaces/]OWNER/NAME[/FOLDER][/FILE.pt]."""
    kind_of, rest = ("space", source.removeprefix("spaces/")) if source.startswith("spaces/") else ("model", source)
    owner, name, *inside = rest.split("/")
    what, on = "/".join(inside), {"repo_id": f"{owner}/{name}", "repo_type": kind_of}
    try:
        if not what.endswith(".pt"):
            listed = [path.rpartition("/") for path in huggingface_hub.list_repo_files(**on)]
            inside.append(only(f"{source} on the hub", [file for folder, _, file in listed if folder == what]))
        for file in (*FORMATS[of].files[1:], inside[-1]):
            what = "/".join([*inside[:-1], file])
            path = huggingface_hub.hf_hub_download(filename=what, **on)
    except HUB_ERRORS as error:
        raise Problem(f"cannot fetch {what} of {owner}/{name} on the hub ({one_line(error, 120)})") from error
    take(Path(path), model, files, of, notice, force=force)
