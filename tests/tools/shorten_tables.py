"""Measure docs/results/shorten.json, from which `make tables` fills the table of docs/shorten.md.

    python tests/tools/shorten_tables.py MODEL DATASET

The sentences, tokens and matrices have to be there.
"""

import json
import os
import sys
from datetime import date
from math import exp
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from shortcut import shorten  # noqa: E402
from shortcut.files import formats  # noqa: E402
from shortcut.files.names import Names  # noqa: E402
from shortcut.intervals import average  # noqa: E402
from shortcut.loading import pretrained  # noqa: E402
from shortcut.representations import batches  # noqa: E402

RESULTS = ROOT / "docs" / "results" / "shorten.json"
PAIRS, PART, TOKENS = 3, 500, 2048
COLUMNS = ["blocks dropped", "dropped alone", "folded", "full map A", "folded - alone, ln", "folded - A, ln"]


def measure(folder: str, dataset: str) -> dict:
    """Perplexities without each block, and without the pairs of the lowest perplexity on training sentences."""
    model, files = pretrained.load(folder, masked=False), Names(ROOT, Path(folder).name, dataset)
    train, val = (shorten.whole(formats.load_tokenized(files.split(split))) for split in ("train", "val"))
    L = model.n_layers
    drops = [range(i, i + K) for K in (1, 2) for i in range(1, L - K + 1)]
    found = shorten.shorten(model, drops, batches(model, train, TOKENS))
    part = type(train)(train.sentences[:PART], train.positions[:PART], added=train.added)
    pairs = {each: (model, each.swaps(model)) for each in found if len(each.drop) == 2}
    nats = shorten.surprisals(pairs, batches(model, part, TOKENS))[0]
    kept = [each for each in found if len(each.drop) == 1] + sorted(pairs, key=lambda each: nats[each].mean())[:PAIRS]
    runs = {("whole",): (model, [])}
    for each in kept:
        A = formats.load_map(files, each.drop.start, each.drop.stop, model.d)
        name = f"{each.drop.start}:{each.drop.stop}"
        runs[name, "alone"] = (model, shorten.passed_over(model, each.drop))
        runs[name, "folded"] = (model, each.swaps(model))
        runs[name, "A"] = (model, shorten.passed_over(model, each.drop, A, val.added))
    nats, _, groups = shorten.surprisals(runs, batches(model, val, TOKENS))
    rows = [["none", _interval(nats["whole",], groups), "", "", "", ""]]
    for name in (f"{each.drop.start}:{each.drop.stop}" for each in kept):
        ways = [_interval(nats[name, way], groups) for way in ("alone", "folded", "A")]
        pairs = [average(nats[name, "folded"] - nats[name, way], groups) for way in ("alone", "A")]
        rows.append([name, *ways, *(f"{mean:+.4f} ±{(high - low) / 2:.4f}" for mean, low, high in pairs)])
    sample = f"{len(groups):,} tokens of {len(val):,} validation sentences; [ ], ±: 95% intervals by sentence"
    return {"date": date.today().isoformat(), "cores": os.cpu_count(), "measured": f"{model.name}, {sample}",
            "columns": COLUMNS, "rows": rows}  # fmt: skip


def _interval(nats: torch.Tensor, groups: torch.Tensor) -> str:
    """Perplexity with its interval."""
    mean, low, high = map(exp, average(nats, groups))
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]"


if __name__ == "__main__":
    RESULTS.write_text(json.dumps(measure(*sys.argv[1:]), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
