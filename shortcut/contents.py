"""What every kind of file holds: each value checked before anything is computed from it.

The functions take a value as it was read, whoever wrote it, and return it in the form that the
pipeline works with. They raise Problem with what was got and expected; `store` adds the file's name.
"""

import math
from typing import Any

import numpy as np
import torch

from shortcut import Problem
from shortcut.text import Tokenized

TOP = 10  # tokens of a prediction
MOST_LAYERS = 1_000  # that scores may be of
MODES = ("idln", "id", "mat")  # of records; besides, ("blk_mat", {"what_to_mat": {...}})
STATES = range(1, 7)  # inside a block, which a sub-module's map leads to


def sentence(value: Any, k: int) -> str:
    """Sentence k."""
    if type(value) is not str:
        raise Problem(f"value {k} is of type {type(value).__name__}, expected sentences (str)")
    return value


def matrix(value: Any, d: int | None) -> torch.Tensor:
    """A fitted matrix, float32 [d, d], finite; of any d if that is None."""
    size = d if d is not None else _rows(value)
    if not _is_tensor(value, torch.float32, (size, size)) or not size:
        expected = f"[{d}, {d}] for this model" if d is not None else "[d, d]"
        raise Problem(f"holds {_got(value)}, expected a float32 matrix {expected}")
    if not value.isfinite().all():
        raise Problem("holds values that are not finite: fit it again with --force")
    return value


def tokenized(value: Any) -> Tokenized:
    """The sentences of a dict of `tokenized_sentences` and `token_positions`."""
    if not isinstance(value, dict) or not {"tokenized_sentences", "token_positions"} <= value.keys():
        raise Problem(f"holds {_got(value)}, expected a dict with tokenized_sentences and token_positions")
    sentences, positions = value["tokenized_sentences"], _positions(value["token_positions"])
    if type(sentences) is not list or not sentences or positions.shape != (len(sentences),):
        raise Problem("expected as many token_positions as tokenized_sentences, at least one")
    if positions.dtype not in (torch.int64, torch.int32):
        raise Problem(f"token_positions are {positions.dtype}, expected int64")
    lowest: dict[tuple[int, int], int] = {}  # by tensor: a pickle may name one any number of times
    for k, (ids, position) in enumerate(zip(sentences, positions.tolist(), strict=True)):
        if not _is_tensor(ids, torch.int64, (_rows(ids),)) or not len(ids):
            raise Problem(f"sentence {k} is not an int64 tensor of one dimension with at least one token")
        if (key := (ids.data_ptr(), len(ids))) not in lowest:
            lowest[key] = int(ids.min())
        if not 0 <= position < len(ids) or lowest[key] < 0:
            raise Problem(f"sentence {k} has {len(ids)} tokens, its chosen position is {position}")
    return Tokenized(sentences, positions.long())


def batch(value: Any, k: int, n_layers: int, d: int | None) -> tuple[Tokenized, list[torch.Tensor]]:
    """Sentences of batch k and their states at layers 0 ... L, float32 [b, d] each; of any d if that is None."""
    if not isinstance(value, dict) or not {"tokenized_sentences", "token_positions", 0} <= value.keys():
        raise Problem(f"batch {k} is not a dict of tokenized_sentences, token_positions and layers")
    try:
        sentences = tokenized(value)
    except Problem as problem:
        raise Problem(f"batch {k}: {problem}") from problem
    if len(value) != n_layers + 3:
        raise Problem(f"batch {k} has {len(value) - 3} layers above the embeddings, the model {n_layers}")
    states = [value.get(layer) for layer in range(n_layers + 1)]
    for layer, h in enumerate(states):
        if d is None and isinstance(h, torch.Tensor) and h.ndim == 2:
            d = h.shape[1]
        if d is None or not _is_tensor(h, torch.float32, (len(sentences), d)):
            width = d or "d"
            raise Problem(
                f"layer {layer} of batch {k} holds {_got(h)}, expected float32 states [{len(sentences)}, {width}]"
            )
        if not h.isfinite().all():
            raise Problem(f"layer {layer} of batch {k} holds states that are not finite")
    return sentences, states


def scores(value: Any) -> dict[str, dict[tuple[int, int], float]]:
    """Dicts `score_mat` and `score_id`, each {(i, j): r2} for layers i <= j."""
    if not isinstance(value, dict) or not {"score_mat", "score_id"} <= value.keys():
        raise Problem(f"holds {_got(value)}, expected a dict with score_mat and score_id")
    both = {}
    for name in ("score_mat", "score_id"):
        given = value[name]
        if not isinstance(given, dict) or not given:
            raise Problem(f"{name} is {_got(given)}, expected scores as {{(i, j): float}}")
        highest = min(len(given), MOST_LAYERS)  # maps are drawn of them: L x L cells
        for pair, r2 in given.items():
            if type(pair) is not tuple or [*map(type, pair)] != [int, int] or not 0 <= pair[0] <= pair[1] <= highest:
                raise Problem(
                    f"{name} has a key that is no pair of layers (i, j), expected scores as {{(i, j): float}}"
                )
            if not _is_finite(r2):
                raise Problem(f"{name} of {pair} is {_got(r2)}, expected a finite number")
        both[name] = {pair: float(r2) for pair, r2 in given.items()}
    return both


def record(value: Any, k: int, n: int | None) -> dict[str, Any]:
    """Record k of the results: `info`, `layers_processed`, `topk` int64 [n, 10], `surprisal` float32 [n].

    The original's BERT files lack `layers_processed` for jumps, which is their layer, and `surprisal`
    for early exits, which stays absent.
    """
    if not isinstance(value, dict) or not {"info", "topk"} <= value.keys():
        raise Problem(f"record {k} is {_got(value)}, expected a dict of info, layers_processed, topk and surprisal")
    info, topk = _info(value["info"], k), _tensor(value["topk"])
    layers = value.get("layers_processed", info.get("layer"))
    layers = layers.item() if isinstance(layers, torch.Tensor) and layers.numel() == 1 else layers
    if not _is_finite(layers) or layers < 0:
        raise Problem(f"record {k}: layers_processed is {_got(layers)}, expected a number of layers")
    n = _rows(topk) if n is None else n
    if not n or not _is_tensor(topk, torch.int64, (n, TOP)) or int(topk.min()) < 0:
        raise Problem(f"record {k}: topk is {_got(topk)}, expected int64 [{n or 'n'}, {TOP}], numbers of tokens")
    result = {"info": info, "layers_processed": float(layers), "topk": topk}
    if "surprisal" in value or info["type"] == "jump":
        surprisal = _tensor(value.get("surprisal"))
        if not _is_tensor(surprisal, torch.float32, (n,)) or not surprisal.isfinite().all():
            raise Problem(f"record {k}: surprisal is {_got(surprisal)}, expected float32 [{n}], all of it finite")
        result["surprisal"] = surprisal
    return result


def _info(info: Any, k: int) -> dict[str, Any]:
    """What is known of an info: `type`, `mode`, and `layer` or `lambda`."""
    if isinstance(info, dict) and _is_mode(mode := info.get("mode")):
        layer, lam = info.get("layer"), info.get("lambda")
        if info.get("type") == "jump" and type(layer) is int and layer >= 0:
            return {"type": "jump", "mode": mode, "layer": layer}
        if info.get("type") == "early_exit" and _is_finite(lam):
            return {"type": "early_exit", "mode": mode, "lambda": lam}
    raise Problem(f"record {k} has another info, expected type jump with layer, or early_exit with lambda, and mode")


def _is_mode(mode: Any) -> bool:
    if type(mode) is str:
        return mode in MODES
    if type(mode) is not tuple or len(mode) != 2 or type(mode[1]) is not dict or mode[0] != "blk_mat":
        return False
    states = mode[1].get("what_to_mat")
    return len(mode[1]) == 1 and type(states) is set and states <= {*STATES}


def _positions(value: Any) -> torch.Tensor:
    if type(value) is list and all(type(position) is int and abs(position) < 2**31 for position in value):
        value = torch.tensor(value, dtype=torch.int64)
    positions = _tensor(value)
    if not isinstance(positions, torch.Tensor):
        raise Problem(f"token_positions is of type {type(value).__name__}, expected an int64 tensor")
    return positions


def _tensor(value: Any) -> Any:
    """A numpy array of numbers as a tensor; anything else as it is."""
    known = isinstance(value, np.ndarray) and value.dtype in (np.int32, np.int64, np.float32, np.float64)
    return torch.from_numpy(np.array(value)) if known else value


def _is_tensor(value: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == dtype and value.shape == shape


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _rows(value: Any) -> int:
    return len(value) if isinstance(value, torch.Tensor) and value.ndim else 0


def _got(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {list(value.shape)}".removeprefix("torch.")
    return f"{value:.6g}" if type(value) in (int, float) else type(value).__name__
