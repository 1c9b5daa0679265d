"""Fit and judge all map kinds on the embedded models and on stories260K: the numbers in docs/results/kinds.json.

    .venv/bin/python tests/tools/kinds.py ROOT --stories FOLDER [--only MODEL ...]

ROOT holds experiment/ with the tokens (BERT: the states) of both splits, as the scripts write them. Results are kept in
ROOT/kinds/, so a stopped run goes on; the numbers are written once all models are done. A cost is processor time with
one thread, which other work on the machine hardly changes: the passes for a map kind, and the fits of its five maps.
"""

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

import in_memory  # noqa: E402
import torch  # noqa: E402

import config  # noqa: E402
from shortcut import LEAST_SQUARES, jacobian, linear, predictions, representations, tokens, trained  # noqa: E402
from shortcut.files import formats  # noqa: E402
from shortcut.files.names import Names  # noqa: E402
from shortcut.intervals import Estimate, estimate  # noqa: E402
from shortcut.linear import KINDS, Map  # noqa: E402
from shortcut.loading import pretrained  # noqa: E402
from shortcut.metrics import LENS  # noqa: E402

RESULTS = ROOT / "docs" / "results" / "kinds.json"
FITTED = [name for name, row in KINDS.items() if row.fitted_from]
MODELS = {  # model: its title, dataset, layers
    "gpt2-docstrings": ("GPT-2", "docstrings", (0, 3, 6, 9, 11)),
    "bert-docstrings": ("BERT", "docstrings", (0, 3, 6, 9, 11)),
    "stories260K": ("stories260K", "stories", (0, 1, 2, 3, 4)),
}
METRICS = ("kl", "precision@1")


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """What a call returns, and the processor seconds that it took."""
    start = time.process_time()
    return call(), time.process_time() - start


class Run:
    """The map kinds of one model."""

    def __init__(self, model: str, root: Path, stories: Path | None):
        self.masked, self.folder = model.startswith("bert"), root / "kinds"
        self.name, (_, dataset, self.layers) = model, MODELS[model]
        self.kinds = ["id", *(kind for kind in FITTED if not (self.masked and kind == "jacobian-later"))]
        self.files = Names(root, model + "_mask" * self.masked, dataset, masked=self.masked)
        self.source = str(stories if dataset == "stories" else ROOT / "models" / model)

    @cached_property
    def model(self):
        return pretrained.load(self.source, masked=self.masked)

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """A result that is kept in a file."""
        path = self.folder / f"{self.name}_{name}.pt"
        if not path.exists():
            made = make()
            self.folder.mkdir(exist_ok=True)
            torch.save(made, path.with_suffix(".tmp"))
            path.with_suffix(".tmp").rename(path)
            print(self.name, name, flush=True)
        return torch.load(path)

    def tokenized(self, split: str) -> tokens.Tokenized:
        if self.masked:
            return formats.load_states(self.files.split(split), self.model.n_layers)[0]
        return formats.load_tokenized(self.files.split(split))

    def states(self, split: str) -> tuple[torch.Tensor, float]:
        """h_0 ... h_L at the chosen positions, and the processor seconds of the pass."""
        tokenized = self.tokenized(split)
        how = (self.model, tokenized, config.BATCH_SIZE)
        return self.kept(f"states_{split}", lambda: timed(lambda: in_memory.layer_states(*how)))

    def gradients(self, kind: str) -> tuple[torch.Tensor, float]:
        """Gradients [P, layers, n, d] of the probes, and the processor seconds of the passes."""
        name = "jacobian-later" if kind == "jacobian-later" else "jacobian"
        return self.kept(f"gradients_{name}", lambda: timed(lambda: self._gradients(kind == "jacobian-later")))

    def _gradients(self, later: bool) -> torch.Tensor:
        model, tokenized, L, P = self.model, self.tokenized("train"), self.model.n_layers, config.PROBES
        V = jacobian.probes(model.d, len(tokenized), P, config.SEED)
        ends = torch.tensor([*map(len, tokenized.sentences)]) - 1
        run = replace(tokenized, positions=ends) if later else tokenized
        found = torch.empty(P, len(self.layers), len(tokenized), model.d)
        for batch in representations.batches(model, run, config.BATCH_SIZE):
            at = tokenized.positions[batch.rows] if later else None
            g = jacobian.gradients(model, batch, V[:, batch.rows], at)[L + 1 :].unflatten(0, (P, L))
            found[:, :, batch.rows] = g[:, [*self.layers]]
        return found

    def fit(self, kind: str) -> dict[str, Any]:
        """The maps [d, columns] of a kind by layer, and what they cost."""
        row, (h, seconds) = KINDS[kind], self.states("train")
        L, passes, epochs = len(h) - 1, {"forward": 1, "backward": 0}, {}
        start = time.process_time()
        if row.fitted_from == "gradients":
            (g, seconds), passes = self.gradients(kind), {"forward": 1, "backward": config.PROBES}
            start = time.process_time()
            V = jacobian.probes(self.model.d, h.shape[1], config.PROBES, config.SEED)
            maps = {l: jacobian.average(V, [*g[:, k]])[0] for k, l in enumerate(self.layers)}
            maps = {l: jacobian.tangent(J, h[l], h[L]) if row.intercept else J for l, J in maps.items()}
        elif row.fitted_from == "predictions":
            held_out, sources = trained.hold_out(torch.arange(h.shape[1]), config.SEED), {l: h[l] for l in self.layers}
            made = [*trained.train(self.model.read_out, sources, h[L], held_out, config.RCOND, config.SEED)]
            maps, epochs = {l: A for l, A, _ in made}, {"epochs": {str(l): told["epochs"] for l, _, told in made}}
        else:
            settings = {name: getattr(config, name.upper()) for name in row.settings}
            jumps = [(l, L) for l in self.layers]
            found = linear.fit_pairs(h, jumps, config.RCOND, "cpu", lambda _: None, row.with_settings(**settings))
            maps = {A.source: A.A for A, _ in found}
        cost = {"seconds": round(seconds + time.process_time() - start, 1), **passes, **epochs}
        return {"maps": {l: A.float() for l, A in maps.items()}, "cost": cost}

    def judge(self, kind: str) -> dict[str, torch.Tensor]:
        """KL and hits of Precision@1 on the validation sentences, [layers, n] each."""
        h, _ = self.states("val")
        made = h[[*self.layers]]
        if kind != "id":
            maps = self.kept(f"fit_{kind}", lambda: self.fit(kind))["maps"]
            made = torch.stack([Map(maps[l], kind, l, len(h) - 1)(h[l]) for l in self.layers])
        rows = torch.arange(h.shape[1])
        found = predictions.judge(self.model, made, h[-1], rows, torch.zeros_like(rows))
        best = found.topk[:, :, 0]
        return {"kl": found.lens[:-1, :, LENS.index("kl")], "precision@1": best[:-1] == best[-1]}

    def collect(self) -> dict[str, Any]:
        """Numbers by map kind: KL, Precision@1, their paired differences to least squares, and costs."""
        slow_last = sorted(self.kinds, key=lambda kind: kind != "id" and KINDS[kind].fitted_from == "gradients")
        found = {kind: self.kept(f"judged_{kind}", lambda kind=kind: self.judge(kind)) for kind in slow_last}
        found = {kind: found[kind] for kind in self.kinds}
        numbers: dict[str, Any] = {"layers": [*self.layers]}
        for metric in METRICS:
            least = found[LEAST_SQUARES][metric].double()
            numbers[metric] = {kind: self.estimates(judged[metric]) for kind, judged in found.items()}
            numbers[f"{metric} - least squares"] = {
                kind: self.estimates(judged[metric].double() - least)
                for kind, judged in found.items()
                if kind != LEAST_SQUARES
            }
        costs = {kind: self.kept(f"fit_{kind}", lambda: None)["cost"] for kind in self.kinds if kind != "id"}
        return numbers | {"cost": costs}

    def estimates(self, x: torch.Tensor) -> dict[str, dict[str, float]]:
        """Means over the sentences with 95% intervals, at each layer, and of the mean over these layers."""
        found = {str(l): estimate(values) for l, values in zip(self.layers, x, strict=True)}
        return {l: rounded(e) for l, e in (found | {"mean": estimate(x.double().mean(0))}).items()}


def rounded(e: Estimate) -> dict[str, float]:
    return {name: float(f"{value:.5g}") for name, value in e._asdict().items()}


def percent(e: dict[str, float], sign: str = "") -> str:
    return f"{100 * e['mean']:{sign}.1f} ±{50 * (e['high'] - e['low']):.1f}"


def nats(e: dict[str, float], sign: str = "") -> str:
    return f"{e['mean']:{sign}.2f} ±{(e['high'] - e['low']) / 2:.2f}"


def cost(of: dict[str, Any] | None) -> str:
    """Passes and seconds, in words."""
    if not of:
        return "-"
    passes = "1 forward" + (f", {of['backward']} backward" if of["backward"] else "")
    epochs = f", {min(of['epochs'].values())} to {max(of['epochs'].values())} epochs" if "epochs" in of else ""
    return f"{passes}{epochs}; {of['seconds']:.0f} s"


def table(metric: str) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the table of one metric, from the stored numbers, for the pages in docs/."""
    data = json.loads(RESULTS.read_text(encoding="utf-8"))
    write, rows, unit = (nats, [], "nats") if metric == "kl" else (percent, [], "%")
    for title, _, layers in MODELS.values():
        of = data[title]
        for kind, found in of[metric].items():
            apart = of[f"{metric} - least squares"].get(kind)
            difference = write(apart["mean"], "+") if apart else "-"
            values = [write(found[str(l)]) for l in layers]
            rows.append([f"{title}, `{kind}`", *values, write(found["mean"]), difference, cost(of["cost"].get(kind))])
    places = [f"layer {a}" if a == b else f"layer {a} ({b})" for a, b in zip((0, 3, 6, 9, 11), range(5), strict=True)]
    title = "KL" if metric == "kl" else "Precision@1"
    return [f"{title}, {unit}", *places, "mean", "mean - least squares", "passes; processor time"], rows


def main() -> None:
    """Fit, judge, and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path, help="folder of experiment/")
    parser.add_argument("--stories", type=Path, help="folder of stories260K")
    parser.add_argument("--only", nargs="+", choices=MODELS, default=[*MODELS], help="run only these models")
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = {MODELS[model][0]: Run(model, args.root.resolve(), args.stories).collect() for model in args.only}
    if len(data) == len(MODELS):
        measured = "9,000 + 3,000 sentences, 95% intervals over validation sentences, processor time with one thread"
        head = {"date": str(date.today()), "cores": os.cpu_count(), "measured": measured}
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(head | data, ensure_ascii=False, indent=1)
        innermost = re.compile(r"[\[{][^\[\]{}]*[\]}]")  # each on one line
        text = innermost.sub(lambda found: re.sub(r"\s*\n\s*", " ", found[0]), text)
        RESULTS.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
