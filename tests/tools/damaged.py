"""Valid files, as our code and the original's writes them, and what damage makes of them."""

import io
import pickle
import pickletools
import struct

import numpy as np
import torch

from shortcut.files import formats, store
from shortcut.tokens import Tokenized

D, N, L = 4, 3, 2
IDS = [torch.arange(1, n + 3) for n in range(N)]


def a_batch():
    return {
        "tokenized_sentences": IDS, "token_positions": torch.tensor([0, 1, 2]),
        **{layer: torch.randn(N, 5, D)[:, 1] for layer in range(L + 1)},
    }  # fmt: skip


def the_records(number=float):
    for layer in range(L + 1):
        for mode in ("idln", "mat", ("blk_mat", {"what_to_mat": {1, 4}})):
            info = {"type": "jump", "mode": mode, "layer": layer}
            yield {
                "info": info, "layers_processed": number(layer),
                "topk": torch.arange(N * 10).reshape(N, 10), "surprisal": torch.rand(N),
            }  # fmt: skip
    for lam in (-1.112, 0.5):
        info = {"type": "early_exit", "mode": "id", "lambda": number(lam)}
        yield {"info": info, "layers_processed": number(1.5), "topk": torch.arange(N * 10).reshape(N, 10)}


def the_scores(number=float):
    return {name: {(i, j): number(0.5) for j in range(L + 1) for i in range(j)} for name in ("score_mat", "score_id")}


def the_tables():
    return {name: torch.rand(L + 1, 3) for name in ("gap", "kl", "entropy", "cross-entropy")}


def the_predictions():
    return {
        "masked": False,
        "tau": 4.0,
        "positions": torch.tensor([0, 1, 2]),
        "costs": {"block": 8.0, "read_out": 9.0, "matrix": 4.0, "tokens": torch.tensor([1, 2, 3])},
        "actual": torch.tensor([3, -1, 5]),
        "modes": {"id": the_tables(), "mat": the_tables()},
        "schedules": {("blocks", 1, L - 1): ((1, L),), ("r2", L, 0): ()},
        "topk": torch.arange(60).reshape(2, 3, 10),
        "surprisal": torch.rand(2, 3),
    }


def valid_files():
    """(kind, content) of files as our code and as the original's writes them."""
    values = {
        "sentences": [f"Sentence {k} of a few words.\n" for k in range(5)],
        "tokenized": [formats.tokenized_dict(Tokenized(IDS, torch.tensor([0, 1, 2])))],
        "states": [a_batch(), a_batch()],
        "matrix": [torch.randn(D, D)],
        "r2": [the_scores()],
        "results": [*the_records()],
        "predictions": [the_predictions()],
    }
    for kind, ours in values.items():
        with io.BytesIO() as file:
            store.dump(file, *ours)
            yield kind, file.getvalue()
        theirs = {"r2": [the_scores(np.float64)], "results": [*the_records(np.float64)]}.get(kind, ours)
        yield kind, b"".join(map(pickle.dumps, theirs))


def mutants(content, others, rng):
    """Endless (how, content): bits, bytes, instructions, lengths, cuts and splices."""
    opcodes = []
    with io.BytesIO(content) as file:
        while file.tell() < len(content):
            opcodes += [position for _, _, position in pickletools.genops(file)]
    codes = [ord(info.code) for info in pickletools.opcodes]
    while True:
        data, at = bytearray(content), rng.randrange(len(content))
        how = rng.choice(("bits", "bits", "bytes", "opcode", "opcode", "opcodes", "length", "cut", "splice", "repeat"))
        if how == "bits":
            for _ in range(rng.choice((1, 1, 1, 4, 16))):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        elif how == "bytes":
            data[at : at + rng.randrange(9)] = rng.randbytes(rng.randrange(9))
        elif how in ("opcode", "opcodes"):
            for position in rng.sample(opcodes, 1 if how == "opcode" else 4):
                data[position] = rng.choice(codes)
        elif how == "length":
            data[at : at + 8] = rng.choice((b"\xff" * 8, b"\x00" * 8, b"\xff\xff\xff\x7f", struct.pack("<Q", 2**62)))
        elif how == "cut":
            del data[at:]
        elif how == "splice":
            other = rng.choice(others)
            start = rng.randrange(len(other))
            data[at : at + rng.randrange(100)] = other[start : start + rng.randrange(300)]
        else:
            data[at:at] = data[at : at + rng.randrange(200)] * rng.randrange(20)
        yield how, bytes(data)
