"""Reads damaged and hostile files in a process of its own that watches itself; see test_fuzz.py.

    python tests/fuzz.py FOLDER

prints what happened as JSON. The process would not survive a hostile file that got its way: what it
does while it reads is held against what reading needs, and its address space is bounded.
"""

import codecs
import json
import os
import random
import resource
import sys
import warnings
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from damaged import D, L, mutants, valid_files
from hostile import hostile

from shortcut import Problem
from shortcut.files import formats, result_formats

MUTANTS = 200  # of each valid file
SEED = 0
ROOM = 2**30  # bytes that reading may take

READERS = {
    "sentences": formats.load_sentences,
    "tokenized": formats.load_tokenized,
    "states": lambda path: formats.load_states(path, L),
    "matrix": lambda path: formats.load_matrix(path, D),
    "r2": result_formats.load_r2,
    "results": result_formats.load_results,
    "predictions": lambda path: result_formats.load_predictions(path, 3, L),
}


def fits(kind, value):
    """Whether what was read is what its reader promises, asked in other words than the reader's."""
    if kind == "sentences":
        return all(isinstance(sentence, str) for sentence in value)
    if kind in ("tokenized", "states"):
        tokenized, h = value if kind == "states" else (value, None)
        shape = h is None or (h.shape == (L + 1, len(tokenized), h.shape[2]) and finite(h, torch.float32))
        return shape and all(
            ids.dtype == torch.int64 and ids.ndim == 1 and 0 <= position < len(ids) and ids.amin() >= 0
            for ids, position in zip(tokenized.sentences, tokenized.positions.tolist(), strict=True)
        )
    if kind == "matrix":
        return value.shape == (D, D) and finite(value, torch.float32)
    if kind == "r2":
        scores = [*value["score_mat"].items(), *value["score_id"].items()]
        return all(0 <= i <= j < 100 and isinstance(r2, float) and np.isfinite(r2) for (i, j), r2 in scores)
    return predictions_fit(value) if kind == "predictions" else all(map(a_record_fits, value))


def predictions_fit(e):
    integers = [e.positions, e.actual, e.costs.tokens]
    shapes = all(x.shape == (3,) and x.dtype == torch.int64 for x in integers) and e.topk.dtype == torch.int64
    shapes = shapes and e.topk.shape[1:] == (3, 10) and e.surprisal.shape == e.topk.shape[:2]
    modes = [(n, x) for found in e.modes.values() for n, x in found.items()]
    shapes = shapes and all(x.shape == (L + 1, 3) and x.dtype == torch.float32 for _, x in modes)
    numbers = finite(e.surprisal, torch.float32)
    numbers = numbers and all(x.isfinite().all() for name, x in modes if name != "cross-entropy")
    return shapes and numbers and len(e.topk) == len({*e.schedules.values()})


def a_record_fits(r):
    numbers = r["topk"].dtype == torch.int64 and r["topk"].shape[1:] == (10,) and np.isfinite(r["layers_processed"])
    kind = r["info"]["type"] in ("jump", "early_exit")
    return numbers and kind and finite(r.get("surprisal", torch.zeros(1)), torch.float32)


def finite(tensor, dtype):
    return tensor.dtype == dtype and bool(tensor.isfinite().all())


class Watch:
    """What the process does while a file is read, but for what reading it takes."""

    def __init__(self, path):
        self.path = str(path)
        self.armed = False
        self.seen = []
        sys.addaudithook(self.hear)

    def hear(self, event, arguments):
        if not self.armed or event == "sys.excepthook":  # of CPython, where the length of a bytearray is wrong
            return
        if event == "open" and str(arguments[0]) == self.path and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        self.seen.append(f"{event} {arguments}"[:200])


def address_space():
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()


def main(folder):
    warnings.simplefilter("error")  # of torch, of protocols that it does not know
    torch.manual_seed(SEED)
    rng = random.Random(SEED)
    path = Path(folder) / "x.pickle"
    valid = [*valid_files()]
    cases = [
        (reader, f"{how} of {kind}", content)
        for kind, whole in valid
        for (how, content), _ in zip(
            mutants(whole, [content for _, content in valid], rng), range(MUTANTS), strict=False
        )
        for reader in [kind]
    ]
    cases += [(reader, name, content) for name, content in hostile() for reader in READERS]
    os.chdir(folder)
    for reader, content in valid:
        path.write_bytes(content)
        assert fits(reader, READERS[reader](path))
    codecs.lookup("cp437")  # which Python's zipfile loads when it first meets a name without a flag
    watch, wrong, read = Watch(path), [], 0
    limit = address_space() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for reader, name, content in cases:
        path.write_bytes(content)
        watch.armed = True
        try:
            value = READERS[reader](path)
        except Problem as problem:
            watch.armed = False
            message = str(problem)
            bounded = len(message) < 400 and "\n" not in message and message.isprintable()
            if str(path) not in message or not bounded:
                wrong.append([reader, name, message])
        except BaseException as error:
            watch.armed = False
            wrong.append([reader, name, repr(error)[:300]])
        else:
            watch.armed = False
            read += 1
            if not fits(reader, value):
                wrong.append([reader, name, "does not fit"])
    json.dump(
        {
            "cases": len(cases),
            "hostile": len([*hostile()]),
            "read": read,
            "wrong": wrong,
            "seen": watch.seen,
            "left": sorted(os.listdir(folder)),
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main(sys.argv[1])
