"""Matrices on a hub that is played, and the command in a process of its own that asks for them."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import torch
from conftest import LAYERS, D

PUBLISHED = "sashay/linear-shortcut"
ROOT = Path(__file__).resolve().parent.parent.parent
PAIRS = [(i, j) for i in range(LAYERS) for j in range(i + 1, LAYERS + 1)]
OFFER = [f"{i}_{j}.pickle" for i, j in PAIRS] + [f"p{i}_0_1.pickle" for i in range(LAYERS)]
CHILD = """
import contextlib, io, json, sys, time
from shortcut import Problem
from shortcut.__main__ import main
time.sleep = lambda _: None  # the hub's client waits before it asks again
for line in sys.stdin:
    said, problem = io.StringIO(), None
    try:
        with contextlib.redirect_stdout(said):
            main(json.loads(line))
    except Problem as error:
        problem = str(error)
    print(json.dumps([problem, said.getvalue()]), flush=True)
"""


def matrix(k, d=D):
    return torch.randn(d, d, generator=torch.Generator().manual_seed(k))


def publish(folder):
    """The matrices of a tiny model as the original code writes them, among what else lies in a repository."""
    place = folder / "tiny-gpt2" / "words"
    place.mkdir(parents=True)
    for k, name in enumerate(OFFER):
        (place / name).write_bytes(pickle.dumps(matrix(k)))
    (folder / "README.md").write_text("matrices")
    (place / "notes.pickle").write_bytes(b"no matrix")
    (folder / "gpt2-xl" / "wikipedia").mkdir(parents=True)
    (folder / "gpt2-xl" / "wikipedia" / "0_48.pickle").write_bytes(pickle.dumps(matrix(0)))
    return place


class Child:
    """The command in a process of its own, which a hub is named to; asked again and again."""

    def __init__(self, url, cache, **variables):
        environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD], cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**environment, "HF_ENDPOINT": url, "HF_HOME": str(cache), **variables},
        )  # fmt: skip

    def ask(self, *arguments):
        self.process.stdin.write(json.dumps([str(argument) for argument in arguments]) + "\n")
        self.process.stdin.flush()

    def answer(self):
        problem, said = json.loads(self.process.stdout.readline())
        assert problem is None or "\n" not in problem
        return problem, said

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()
