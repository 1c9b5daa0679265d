"""Lenses in the formats of other tools: tuned-lens (a folder), and the Jacobian lens (one file of torch).

    tuned-lens   params.pt, {"l.weight": A_lL - I, "l.bias"} for l = 0 ... L - 1, and config.json
    jlens        lens.pt, {"J": {l: A_(l+1)L, float16}, "n_prompts", "source_layers", "d_model"}; its layer l is what
                 leaves block l, counted from 0, so that it has no h_0

Both are published under other file names too. A file that names another model or target layer is refused.

Read with `weights_only`, so that nothing in them is run.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from shortcut import Problem, one_line
from shortcut.files import store
from shortcut.files.checks import expect, got, inside, is_tensor

Maps = list[torch.Tensor]  # A_lL for l = 0 ... L - 1, [d, d] or [d, d + 1]
Origin = dict[str, str]  # the estimator and the revision that a file names


class Format(NamedTuple):
    """How a lens is written and read."""

    kind: str  # of the maps that it is read as, a row of `linear.KINDS`
    files: tuple[str, ...]  # that are written: its tensors, then what is read beside these
    write: Callable[[Maps, str, int], dict[str, bytes]]  # from the maps, the model's name and n sentences
    read: Callable[
        [Path, int, int, str], tuple[Maps, Origin]
    ]  # from the file of its tensors, d, L and the model's name
    first: int  # the layer from which on it has maps


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
    config, state = store.load_json(path.parent / "config.json"), _load(path)
    with inside(path.parent):
        whole = isinstance(config, dict) and isinstance(state, dict)
        expect(whole, f"holds no tuned lens: expected config.json and {path.name}, a dict each")
        of = {name: config.get(name) for name in ("d_model", "num_hidden_layers", "base_model_name_or_path")}
        same = (of["d_model"], of["num_hidden_layers"], Path(str(of["base_model_name_or_path"])).name) == (d, L, model)
        found = f"{of['base_model_name_or_path']} ({of['num_hidden_layers']} layers of width {of['d_model']})"
        expect(same, f"is a lens of {found}, expected one of {model} ({L} layers of width {d})")
        state, maps = {str(key).removeprefix("layer_translators."): x for key, x in state.items()}, []  # older files
        for l in range(L):
            weight = _matrix(state.get(f"{l}.weight"), (d, d))
            bias = torch.zeros(d) if config.get("bias") is False else _matrix(state.get(f"{l}.bias"), (d,))
            maps.append(torch.cat([weight + torch.eye(d), bias[:, None]], 1))
    return maps, _origin(config)


def _write_jacobian(maps: Maps, model: str, n: int) -> dict[str, bytes]:
    if maps[0].shape[1] > len(maps[0]):
        raise Problem("a Jacobian lens has no intercept: export maps of another kind, or --to tuned-lens")
    J = {l: A.half() for l, A in enumerate(maps[1:])}
    if beyond := [l + 1 for l in J if not J[l].isfinite().all()]:
        raise Problem(f"not exported: the maps of layers {_few(beyond)} hold numbers beyond half precision")
    return {"lens.pt": _bytes({"J": J, "n_prompts": n, "source_layers": [*J], "d_model": len(maps[0])})}


def _read_jacobian(path: Path, d: int, L: int, model: str) -> tuple[Maps, Origin]:
    lens = _load(path)
    with inside(path):
        whole = isinstance(lens, dict) and isinstance(lens.get("J"), dict)
        expect(whole, f"holds {got(lens)}, expected a dict with J")
        J, of = lens["J"], lens.get("d_model")
        expect(of == d, f"is a lens of a model of width {of}, expected {d}")
        parts = [("", lens), ("metadata.", lens.get("metadata"))]
        said = {f"{place}{key}": x for place, of in parts if isinstance(of, dict) for key, x in of.items()}
        for key, x in said.items():
            if key.endswith("target_layer"):
                expect(x in (None, L - 1), f"has {key} {x!r}, expected {L - 1}: maps into the last block")
            if key.endswith("model_name"):
                expect(
                    x is None or Path(str(x)).name == model,
                    f"has {key} {x!r}, expected {model}: a lens of another model",
                )
        lacks = [l for l in range(L - 1) if l not in J]
        more = [l for l in J if type(l) is not int or not 0 <= l < L]
        what = f"has layers {_few([*J])}, expected 0 to {L - 2}: a lens of another model, or of some layers alone"
        expect(not (lacks or more), what)
        return [torch.eye(d), *(_matrix(J[l], (d, d)) for l in range(L - 1))], _origin(said)


FORMATS = {
    "tuned-lens": Format("tuned", ("params.pt", "config.json"), _write_tuned, _read_tuned, 0),
    "jlens": Format("jacobian", ("lens.pt",), _write_jacobian, _read_jacobian, 1),
}


def only(place: object, names: list[str]) -> str:
    """The only .pt file among the names in a folder; raises Problem if there is none, or several."""
    found = sorted(name for name in names if name.endswith(".pt"))
    if len(found) != 1:
        raise Problem(f"{place} holds {len(found)} .pt files ({_few(found)}), expected one lens: name its file")
    return found[0]


def _origin(said: dict[str, Any]) -> Origin:
    return {key: str(x) for key, x in said.items() if key.endswith(("estimator", "revision")) and x is not None}


def _matrix(value: Any, shape: tuple[int, ...]) -> torch.Tensor:
    """A tensor of that shape, as float32."""
    kinds = torch.float16, torch.bfloat16, torch.float32, torch.float64
    fits = any(is_tensor(value, kind, shape) for kind in kinds) and value.isfinite().all()
    expect(fits, f"has {got(value)}, expected finite numbers {list(shape)}")
    return value.float()


def _few(layers: list[Any]) -> str:
    return ", ".join(map(str, layers[:4])) + (f" ... {layers[-1]}" if len(layers) > 4 else "") or "none"


def _bytes(value: Any) -> bytes:
    torch.save(value, file := io.BytesIO())
    return file.getvalue()


def _load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise Problem(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:  # whatever of many kinds
        raise Problem(f"{path} is no file of tensors ({one_line(error, 120)})") from error
