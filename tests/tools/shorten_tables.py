"""Measure docs/results/shorten.json, and fill the tables of docs/shorten.md from it.

python tests/tools/shorten_tables.py MODEL DATASET   # measure: sentences, tokens and matrices have to be there
python tests/tools/shorten_tables.py                 # write the tables into the page again
"""

import json
import sys
from datetime import date
from math import exp
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from shortcut import shorten  # noqa: E402
from shortcut.files import formats  # noqa: E402
from shortcut.files.names import Names  # noqa: E402
from shortcut.intervals import average  # noqa: E402
from shortcut.loading import pretrained  # noqa: E402
from shortcut.representations import batches  # noqa: E402

RESULTS, PAGE = ROOT / "docs" / "results" / "shorten.json", ROOT / "docs" / "shorten.md"
PAIRS, PART, TOKENS = 3, 500, 2048
HEAD = """| blocks dropped | dropped alone | folded | full map A | folded - alone, ln | folded - A, ln |
|---|---|---|---|---|---|"""


def measure(folder: str, dataset: str) -> dict:
    """Perplexities without each block, and without the pairs of the lowest perplexity on training sentences."""
    model, files = pretrained.load(folder, masked=False), Names(ROOT, Path(folder).name, dataset)
    train, val = (shorten.whole(formats.load_tokenized(files.tokenized(split))) for split in ("train", "val"))
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
    rows = []
    for name in (f"{each.drop.start}:{each.drop.stop}" for each in kept):
        row = {way: [*map(exp, average(nats[name, way], groups))] for way in ("alone", "folded", "A")}
        paired = {
            f"folded - {way}": [*average(nats[name, "folded"] - nats[name, way], groups)] for way in ("alone", "A")
        }
        rows.append({"blocks": name, **row, **paired})
    whole = [*map(exp, average(nats["whole",], groups))]
    return {"made": date.today().isoformat(), "machine": "two cores", "tokens": len(groups), "sentences": len(val),
            "whole": whole, "rows": rows}  # fmt: skip


def table(results: dict) -> str:
    """One model's results as a Markdown table."""

    def cell(mean: float, low: float, high: float) -> str:
        return f"{mean:.1f} [{low:.1f}, {high:.1f}]"

    def difference(mean: float, low: float, high: float) -> str:
        return f"{mean:+.4f} ±{(high - low) / 2:.4f}"

    lines = [HEAD, f"| none | {cell(*results['whole'])} | | | | |"]
    for row in results["rows"]:
        ways = [cell(*row[way]) for way in ("alone", "folded", "A")]
        ways += [difference(*row[f"folded - {way}"]) for way in ("alone", "A")]
        lines.append(f"| {' | '.join([row['blocks'], *ways])} |")
    return "\n".join(lines)


def main() -> None:
    """Measure if a model is given; then fill the tables."""
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    if len(sys.argv) == 3:
        results[Path(sys.argv[1]).name] = measure(*sys.argv[1:])
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8")
    for name, found in results.items():
        begin, end = f"<!-- table: shorten-{name} -->\n", "<!-- end -->"
        before, _, after = page.partition(begin)
        page = f"{before}{begin}\n{table(found)}\n\n{end}{after.partition(end)[2]}"
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
