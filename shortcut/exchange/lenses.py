"""Lens formats of other tools; each format is one row of `FORMATS`.

    tuned-lens   params.pt, {"l.weight": A_lL - I, "l.bias"} for l = 0 ... L - 1, and config.json
    jlens        lens.pt, {"J": {l: A_(l+1)L, float16}, "n_prompts", "source_layers", "d_model"}; its layer l is the
                 output of block l, counted from 0, so there is no map from h_0

Both hold `metadata`: the estimator (a row of `linear.KINDS`), the dataset, the numbers of sentences and of positions in
each, and the versions of torch and transformers. A published Jacobian lens, without an estimator, is `jacobian-later`.
An exported lens is read again and compared, layer by layer, with the float32 maps on the validation sentences, since
half precision ruins a map that amplifies a direction in which the hidden states hardly vary.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from shortcut import Problem, predictions
from shortcut.files.formats import expect, got
from shortcut.intervals import average
from shortcut.linear import KINDS, Map
from shortcut.models import Model

WORSE = 0.005  # largest loss of r2 or Precision@1 at a layer that is accepted whatever its confidence interval

Maps = list[torch.Tensor]  # A_lL for l = 0 ... L - 1, [d, d] or [d, d + 1]
Lens = tuple[Any, Any]  # contents of the .pt file and of config.json (None if the format has none)
ORIGIN = ("estimator", "revision", "dataset", "sentences", "positions", "torch", "transformers")


def _write_tuned(maps: Maps, model: str, metadata: dict[str, Any]) -> Lens:
    state, d = {}, len(maps[0])
    for l, A in enumerate(maps):
        state[f"{l}.weight"] = A[:, :d] - torch.eye(d)
        state[f"{l}.bias"] = A[:, d].clone() if A.shape[1] > d else torch.zeros(d)
    return state, {
        "base_model_name_or_path": model, "d_model": d, "num_hidden_layers": len(maps), "bias": True,
        "base_model_revision": None, "unembed_hash": None, "lens_type": "linear_tuned_lens", "metadata": metadata,
    }  # fmt: skip


def _read_tuned(lens: Lens, d: int, L: int, model: str) -> tuple[Maps, dict[str, str]]:
    state, config = lens
    expect(isinstance(state, dict) and isinstance(config, dict), "holds no tuned lens: expected two dicts")
    origin = _origin(config, {"d_model": d, "num_hidden_layers": L, "base_model_name_or_path": model})
    state = {str(key).removeprefix("layer_translators."): x for key, x in state.items()}  # layout of older files
    maps = []
    for l in range(L):
        weight = _tensor(state.get(f"{l}.weight"), (d, d))
        bias = torch.zeros(d) if config.get("bias") is False else _tensor(state.get(f"{l}.bias"), (d,))
        maps.append(torch.cat([weight + torch.eye(d), bias[:, None]], 1))
    return maps, origin


def _write_jacobian(maps: Maps, model: str, metadata: dict[str, Any]) -> Lens:
    expect(maps[0].shape[1] == len(maps[0]), "a Jacobian lens has no intercept: export jacobian or jacobian-later maps")
    J = {l: A.half() for l, A in enumerate(maps[1:])}
    if overflows := [l + 1 for l in J if not J[l].isfinite().all()]:
        raise Problem(f"not exported: the maps of layers {overflows} hold numbers too large for half precision")
    metadata = metadata | {"model_name": model, "target_layer": len(J)}  # the tool counts blocks from 0
    n = metadata.get("sentences", 0)
    return {"J": J, "n_prompts": n, "source_layers": [*J], "d_model": len(maps[0]), "metadata": metadata}, None


def _read_jacobian(lens: Lens, d: int, L: int, model: str) -> tuple[Maps, dict[str, str]]:
    found, _ = lens
    expect(isinstance(found, dict) and isinstance(found.get("J"), dict), f"holds {got(found)}, expected a dict with J")
    J, origin = found["J"], _origin(found, {"d_model": d, "target_layer": L - 1, "model_name": model})
    if (estimator := origin.get("metadata.estimator")) in KINDS:
        expect(estimator in FORMATS["jlens"].map_kinds, f"{estimator} maps are no Jacobian lens: use jacobian maps")
    what = f"has layers {str([*J])[:60]}, expected 0 to {L - 2}: a lens for another model, or only for some layers"
    expect({*range(L - 1)} <= J.keys() <= {*range(L)}, what)
    return [torch.eye(d), *(_tensor(J[l], (d, d)) for l in range(L - 1))], origin


class Format(NamedTuple):
    """Lens format of another tool: map kind, files, writer and reader."""

    map_kinds: tuple[str, ...]  # of an imported lens, rows of `linear.KINDS`: the first, unless it names another
    files: tuple[str, ...]  # file names: first the tensors, then config.json if the format has it
    write: Callable[[Maps, str, dict[str, Any]], Lens]  # (maps, model name, metadata)
    read: Callable[[Lens, int, int, str], tuple[Maps, dict[str, str]]]  # (lens, d, L, model name); returns `ORIGIN` too
    first: int = 0  # first layer with a map; for lower layers, the identity is read
    masked: bool = True  # True if the tool supports masked models
    published: str = ""  # where lenses are downloaded from by default: a folder on the hub with one for each model


FORMATS = {
    "tuned-lens": Format(("tuned",), ("params.pt", "config.json"), _write_tuned, _read_tuned, masked=False,
                         published="spaces/AlignmentResearch/tuned-lens/lens"),
    "jlens": Format(("jacobian-later", "jacobian"), ("lens.pt",), _write_jacobian, _read_jacobian, first=1),
}  # fmt: skip


def only(place: object, names: list[str]) -> str:
    """The only .pt file among the names in a folder. Raises Problem if there is none, or several."""
    found = sorted(name for name in names if name.endswith(".pt"))
    expect(len(found) == 1, f"{place} holds {len(found)} .pt files {found[:4]}, expected one lens: name its file")
    return found[0]


def judge(model: Model, h: torch.Tensor, maps: list[Map]) -> torch.Tensor:
    """Scores of maps into layer L at n token positions, float64 [2, L, n]; the means over n are r2 and Precision@1.

    h: [L + 1, n, d], the hidden states. The r2 contribution of position s is
    1 - n mean_c((h_Lsc - (A h_l)_sc)^2 / sst_c), over coordinates c that vary.
    """
    made, target, n = torch.stack([A(h[A.source]) for A in maps]), h[-1].double(), h.shape[1]
    best = predictions.judge(model, made, h[-1], torch.arange(n), None).topk[:, :, 0]
    sst = (target - target.mean(0)).square().sum(0)
    r2 = [1 - n * ((target - x.double()).square() / sst)[:, sst > 0].mean(1) for x in made]
    return torch.stack([torch.stack(r2), (best[:-1] == best[-1]).double()])


def check(exact: torch.Tensor, rounded: torch.Tensor, groups: torch.Tensor | None, format_name: str) -> None:
    """Raise Problem if a layer loses more than `WORSE` and the paired 95% confidence interval excludes zero.

    exact, rounded: float64 [2, L, n], from `judge` before and after export. groups: int64 [n], the sentence numbers.
    """
    worse = []
    for l in range(FORMATS[format_name].first, exact.shape[1]):
        losses = [average(loss, groups) for loss in (exact - rounded)[:, l]]
        if not all(loss.mean <= WORSE or loss.low <= 0 for loss in losses):
            (a, p), (b, q) = (scores[:, l].mean(-1) for scores in (exact, rounded))
            worse.append(f"{l} (r2 {a:.3f} to {b:.3f}, Precision@1 {p:.1%} to {q:.1%})")
    if worse:
        layers = ", ".join(worse[:3]) + (f" and {len(worse) - 3} more" if len(worse) > 3 else "")
        raise Problem(f"not exported: rounding to {format_name} lowers the scores at layers {layers}")


def _origin(found: dict[Any, Any], named: dict[str, Any]) -> dict[str, str]:
    """Fields in `ORIGIN` that a lens or its metadata has. Raises Problem if one differs from its value in `named`."""
    more = found.get("metadata")
    fields = found | {f"metadata.{key}": x for key, x in (more.items() if isinstance(more, dict) else ())}
    known = {str(key): x for key, x in fields.items() if x is not None}
    for key, x in known.items():
        for name, expected in named.items():
            same = not key.endswith(name) or Path(str(x)).name == str(expected)
            expect(same, f"has {key} {x!r}, expected {expected}: a lens for another model or target layer")
        counts = key in ("metadata.sentences", "metadata.positions")
        expect(not counts or (type(x) is int and x > 0), f"has {key} {x!r}, expected a number of at least 1")
    return {key: str(x) for key, x in known.items() if key.endswith(ORIGIN)}


def _tensor(value: Any, shape: tuple[int, ...]) -> torch.Tensor:
    fits = isinstance(value, torch.Tensor) and value.is_floating_point() and value.shape == shape
    expect(fits and value.float().isfinite().all(), f"has {got(value)}, expected finite numbers {list(shape)}")
    return value.float()
