"""Readers and writers for the lens formats of other tools; each format is one row of `FORMATS`.

    tuned-lens   params.pt, {"l.weight": A_lL - I, "l.bias"} for l = 0 ... L - 1, and config.json
    jlens        lens.pt, {"J": {l: A_(l+1)L, float16}, "n_prompts", "source_layers", "d_model"}; its layer l is the
                 output of block l, counted from 0, so there is no map from h_0

A file that names another model or target layer is refused. Files are read with `weights_only`, so that they cannot
run code.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from shortcut import Problem, one_line
from shortcut.files import store
from shortcut.files.formats import expect, got
from shortcut.files.store import inside

Maps = list[torch.Tensor]  # A_lL for l = 0 ... L - 1, [d, d] or [d, d + 1]
Origin = dict[str, str]  # estimator and revision named in a file


def _write_tuned(maps: Maps, model: str, n: int) -> dict[str, bytes]:
    state = {}
    for l, A in enumerate(maps):
        d = len(A)
        state[f"{l}.weight"] = A[:, :d] - torch.eye(d)
        state[f"{l}.bias"] = A[:, d].clone() if A.shape[1] > d else torch.zeros(d)
    config = {
        "base_model_name_or_path": model, "d_model": len(maps[0]), "num_hidden_layers": len(maps), "bias": True,
        "base_model_revision": None, "unembed_hash": None, "lens_type": "linear_tuned_lens",
    }  # fmt: skip
    return {"params.pt": _bytes(state), "config.json": store.dump_json(config)}


def _read_tuned(path: Path, d: int, L: int, model: str) -> tuple[Maps, Origin]:
    config, state, maps = store.load_json(path.parent / "config.json"), _load(path), []
    with inside(path.parent):
        whole = isinstance(config, dict) and isinstance(state, dict)
        expect(whole, f"holds no tuned lens: expected config.json and {path.name}, each a dict")
        origin = _origin(config, {"d_model": d, "num_hidden_layers": L, "base_model_name_or_path": model})
        state = {str(key).removeprefix("layer_translators."): x for key, x in state.items()}  # layout of older files
        for l in range(L):
            weight = _tensor(state.get(f"{l}.weight"), (d, d))
            bias = torch.zeros(d) if config.get("bias") is False else _tensor(state.get(f"{l}.bias"), (d,))
            maps.append(torch.cat([weight + torch.eye(d), bias[:, None]], 1))
        return maps, origin


def _write_jacobian(maps: Maps, model: str, n: int) -> dict[str, bytes]:
    if maps[0].shape[1] > len(maps[0]):
        raise Problem("a Jacobian lens has no intercept: export another map kind, or use --to tuned-lens")
    J = {l: A.half() for l, A in enumerate(maps[1:])}
    if overflows := [l + 1 for l in J if not J[l].isfinite().all()]:
        raise Problem(f"not exported: the maps of layers {overflows} hold numbers too large for half precision")
    return {"lens.pt": _bytes({"J": J, "n_prompts": n, "source_layers": [*J], "d_model": len(maps[0])})}


def _read_jacobian(path: Path, d: int, L: int, model: str) -> tuple[Maps, Origin]:
    lens = _load(path)
    with inside(path):
        whole = isinstance(lens, dict) and isinstance(J := lens.get("J"), dict)
        expect(whole, f"holds {got(lens)}, expected a dict with J")
        more = lens["metadata"] if isinstance(lens.get("metadata"), dict) else {}
        fields = {str(key): x for key, x in lens.items()} | {f"metadata.{key}": x for key, x in more.items()}
        # the tool counts blocks from 0
        origin = _origin(fields, {"d_model": d, "target_layer": L - 1, "model_name": model})
        what = f"has layers {str([*J])[:60]}, expected 0 to {L - 2}: a lens for another model, or only for some layers"
        expect({*range(L - 1)} <= J.keys() <= {*range(L)}, what)
        return [torch.eye(d), *(_tensor(J[l], (d, d)) for l in range(L - 1))], origin


class Format(NamedTuple):
    """Lens format of another tool: map kind, files, writer and reader."""

    map_kind: str  # map kind of an imported lens, a row of `linear.KINDS`
    files: tuple[str, ...]  # file names: first the tensors, then the other files of the lens
    write: Callable[[Maps, str, int], dict[str, bytes]]  # (maps, model name, number of sentences)
    read: Callable[[Path, int, int, str], tuple[Maps, Origin]]  # (file with the tensors, d, L, model name)
    first: int = 0  # first layer with a map; for lower layers, the identity is read
    masked: bool = True  # True if the tool supports masked models
    published: str = ""  # folder on the hub with one folder for each model


FORMATS = {
    "tuned-lens": Format(
        "tuned", ("params.pt", "config.json"), _write_tuned, _read_tuned,
        masked=False, published="spaces/AlignmentResearch/tuned-lens/lens",
    ),
    "jlens": Format("jacobian", ("lens.pt",), _write_jacobian, _read_jacobian, first=1),
}  # fmt: skip


def only(place: object, names: list[str]) -> str:
    """The only .pt file among the names in a folder. Raises Problem if there is none, or several."""
    found = sorted(name for name in names if name.endswith(".pt"))
    if len(found) != 1:
        raise Problem(f"{place} holds {len(found)} .pt files {found[:4]}, expected one lens: name its file")
    return found[0]


def _origin(fields: dict[str, Any], named: dict[str, Any]) -> Origin:
    """Estimator and revision named in a file. Raises Problem if a field differs from its expected value in `named`."""
    for key, x in fields.items():
        for name, expected in named.items():
            same = not key.endswith(name) or x is None or Path(str(x)).name == str(expected)
            expect(same, f"has {key} {x!r}, expected {expected}: a lens for another model or target layer")
    return {key: str(x) for key, x in fields.items() if key.endswith(("estimator", "revision")) and x is not None}


def _tensor(value: Any, shape: tuple[int, ...]) -> torch.Tensor:
    fits = isinstance(value, torch.Tensor) and value.is_floating_point() and value.shape == shape
    expect(fits and value.float().isfinite().all(), f"has {got(value)}, expected finite numbers {list(shape)}")
    return value.float()


def _bytes(value: Any) -> bytes:
    torch.save(value, file := io.BytesIO())
    return file.getvalue()


def _load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises errors of many types
        raise Problem(f"cannot read {path} as a file of tensors ({one_line(error, 120)})") from error
