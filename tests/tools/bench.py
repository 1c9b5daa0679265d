"""This code against the direct way, stage by stage: `make bench`.

The direct way is the obvious one, and in substance that of the original code: one whole sentence at a
time, one library fit a pair, the model run anew for every layer, mapping and lambda. Both ways work on
the same input, random weights of gpt2's true shape and random tokens in sentences as long as
Wikipedia's, and must give the same numbers before any time is printed. Each is measured on the sizes
the table names and extrapolated to the paper's setting, 9,000 + 3,000 sentences, in proportion. With
--tiny the model and all sizes are small, which takes seconds and tells nothing but that both ways agree.
"""

import argparse
import sys
import tempfile
from dataclasses import fields
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import direct
import in_memory
import scipy.linalg
import sklearn.metrics
import torch
import transformers
from measuring import TINY, TRAIN, VAL, Bench, Sizes

import config
from shortcut import early_exit, linear, metrics, models, predictions, representations, submodules
from shortcut.approximation import MODES, Maps, needed
from shortcut.linear import Map
from shortcut.loading import pretrained
from shortcut.predictions import Predictions
from shortcut.tokens import Tokenized

FIELDS = {f.name for f in fields(Predictions)} - {"lens"}


def make_model(sizes: Sizes) -> models.Model:
    """Random weights of gpt2's true shape, or of the tiny one, loaded as any model is."""
    torch.manual_seed(0)
    shape = {"n_layer": sizes.L, "n_embd": sizes.d, "n_head": sizes.heads, "vocab_size": sizes.v}
    made = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape, bos_token_id=0, eos_token_id=0))
    with tempfile.TemporaryDirectory() as folder:
        made.save_pretrained(folder)
        return pretrained.load(folder, masked=False)


def make_tokenized(n: int, v: int, seed: int = 0) -> Tokenized:
    """Random tokens; lengths about those of Wikipedia's sentences: 15 tokens to the chosen one on average."""
    g = torch.Generator().manual_seed(seed)
    lengths = (27 * torch.exp(0.5 * torch.randn(n, generator=g))).clamp(2, 200).long()
    sentences = [torch.randint(v, (length,), generator=g) for length in lengths.tolist()]
    return Tokenized(sentences, (torch.rand(n, generator=g) * lengths).long())


def prefix_tokens(tokenized: Tokenized) -> int:
    """Tokens up to the chosen ones: what has to run."""
    return int((tokenized.positions + 1).sum())


def one_at_a_time(model: models.Model, tokenized: Tokenized, points: list[models.Point]) -> torch.Tensor:
    """The direct way to the states [k, n, d]: every sentence alone, and whole."""
    pairs = zip(tokenized.sentences, tokenized.positions.tolist(), strict=True)
    return torch.stack([direct.states(model, ids, t, points) for ids, t in pairs], dim=1)


def states(bench: Bench, model: models.Model) -> None:
    """Hidden states of layers, and inside blocks."""
    sizes, k = bench.sizes, bench.sizes.states_directly
    tokenized = make_tokenized(sizes.states, sizes.v)
    few = Tokenized(tokenized.sentences[:k], tokenized.positions[:k])
    flops = (prefix_tokens(tokenized) * (sizes.L - 0.75) + len(tokenized) * 0.75) * sizes.block
    for name, points, n in (
        ("states of the layers", model.layer_points(), TRAIN + 2 * VAL),
        ("states inside the blocks", submodules.find(model).points()[0], TRAIN),
    ):
        expected, seconds, _ = bench.time(lambda points=points: one_at_a_time(model, few, points))
        ours, own, peak = bench.time(lambda points=points: in_memory.collect(model, tokenized, points, 1024))
        bench.check(name, ours[:, : len(few)], expected, 1e-3)
        measured, scale = f"{len(few)}, {len(tokenized)} sentences", n / len(tokenized)
        bench.row(name, measured, seconds * n / len(few), own * scale, flops * scale, torch.float32, peak)


def fits(bench: Bench) -> None:
    """Least squares: the jumps, which share sources, and the sub-modules, which do not."""
    sizes, g = bench.sizes, torch.Generator().manual_seed(0)
    rows, d = sizes.fitted, sizes.d
    h = torch.randn(sizes.L + 1, rows, d, generator=g).cumsum(0)
    expected, seconds, _ = bench.time(
        lambda: scipy.linalg.lstsq(h[0].double().numpy(), h[1].double().numpy(), cond=config.RCOND)[0].T
    )
    # The twelve sources of the jumps have 6 or 7 targets on average; each sub-module has a source of its own.
    for name, wanted, n in (
        ("fits of the jumps", [(i, j) for i in (0, 1) for j in range(i + 1, min(i + 8 - i, sizes.L + 1))], sizes.pairs),
        ("fits of the sub-modules", [(i, i + 1) for i in range(min(4, sizes.L))], sizes.parts),
    ):
        found, own, peak = bench.time(lambda w=wanted: [*linear.fit_pairs(h, w, config.RCOND, "cpu", lambda _: None)])
        bench.check(name, found[0][0].A, torch.from_numpy(expected), 1e-5)
        scale = n / len(wanted)
        sources = scale * len({i for i, _ in wanted})
        flops = sources * (4 * TRAIN * d * d + 20 * d**3) + n * (2 * TRAIN * d * d + 4 * d**3)
        measured = f"1, {len(wanted)} pairs of {rows:,} states"
        bench.row(name, measured, seconds * n, own * scale, flops, torch.float64, peak)


def scores(bench: Bench) -> None:
    """r2 of every jump."""
    rows, d, g = bench.sizes.scored, bench.sizes.d, torch.Generator().manual_seed(0)
    h, A = torch.randn(2, rows, d, generator=g), torch.randn(d, d, generator=g) / d**0.5
    expected, seconds, _ = bench.time(lambda: sklearn.metrics.r2_score(h[1].numpy(), (A @ h[0].T).T.numpy()))
    pairs = bench.sizes.pairs
    found, own, peak = bench.time(lambda: [metrics.r2_score(h[0] @ A.T, h[1]).mean for _ in range(pairs)])
    bench.check("r2", torch.tensor(found), torch.full((pairs,), expected), 1e-5)
    measured = f"1, {pairs} pairs of {rows:,} states"
    bench.row("r2 of mat", measured, seconds * pairs, own, pairs * 2 * rows * d * d, torch.float32, peak)


def exits(bench: Bench, model: models.Model) -> None:
    """Fixed exits in the five modes, and early exits."""
    sizes, g = bench.sizes, torch.Generator().manual_seed(1)
    L, d, count = sizes.L, sizes.d, sizes.exits_directly
    tokenized = make_tokenized(sizes.exits, sizes.v, seed=1)
    jumps = [torch.eye(d) + 0.01 * torch.randn(d, d, generator=g) for _ in range(L)]
    parts = {key: torch.randn(d, d, generator=g) / d**0.5 for key in needed(submodules.find(model).parts, L)[1]}

    def all_modes() -> dict[str, Predictions]:
        maps = Maps({(l, L): Map(A, "least-squares", l, L) for l, A in enumerate(jumps)}, parts)
        go_on, found = {name: mode.start(model, maps) for name, mode in MODES.items()}, []
        batches = representations.batches(model, tokenized, 1024)
        for batch in batches:
            seen = representations.run(model, batch)
            found.append({m: predictions.judge(model, go_on[m](seen), seen.h[-1], batch.rows, None) for m in MODES})
        order = torch.cat([batch.rows for batch in batches]).argsort()
        return {
            mode: Predictions(
                **{name: torch.cat([getattr(f[mode], name) for f in found], 1)[:, order] for name in FIELDS}
            )
            for mode in MODES
        }

    def one_by_one(count: int) -> dict[str, torch.Tensor]:
        """Best tokens [L + 1, count]: the model run for every sentence, layer and mode."""
        found = {}
        for mode in MODES:
            maps = {key: A for key, A in parts.items() if submodules.find(model).parts[key][0] == MODES[mode].replaces}
            found[mode] = torch.empty(L + 1, count, dtype=torch.int64)
            for s, (ids, t) in enumerate(zip(tokenized.sentences[:count], tokenized.positions.tolist(), strict=False)):
                for layer in range(L + 1):
                    if maps:
                        state = direct.approximation(model, ids, t, layer, maps)
                    else:
                        state = direct.states(model, ids, t, model.layer_points())[layer]
                        state = jumps[layer] @ state if mode == "mat" and layer < L else state
                    found[mode][layer, s] = model.read_out(state).argmax()
        return found

    judged, own, peak = bench.time(all_modes)
    expected, seconds, _ = bench.time(lambda: one_by_one(count))
    for mode, tokens in expected.items():
        bench.check(f"best tokens of {mode}", judged[mode].topk[:, :count, 0], tokens, 0)
    scale, n = VAL / len(tokenized), len(tokenized)
    blocks = L * (L + 1) / 2
    narrow = L * 0.75  # of a block is spared where the last one runs, once a start
    prefix = prefix_tokens(tokenized) * sizes.block * (L - 0.75 + blocks - narrow + (5 / 12) * blocks)
    flops = prefix + n * sizes.read_out * len(judged) * (L + 1)
    measured = f"{count}, {n} sentences"
    bench.row(
        "fixed exits, five modes", measured, seconds * VAL / count, own * scale, flops * scale, torch.float32, peak
    )

    def table() -> dict[str, list]:
        return {
            mode: [early_exit.exit_layers(judged[mode].gap, threshold) for threshold in of_mode]
            for mode, of_mode in thresholds.items()
        }

    def rerun(count: int) -> dict[str, list]:
        return {
            mode: [
                torch.tensor([
                    direct.early_exit(model, ids, t, threshold[s].item(), jumps if mode == "mat" else None)[0]
                    for s, (ids, t) in enumerate(
                        zip(tokenized.sentences[:count], tokenized.positions.tolist(), strict=False)
                    )
                ])
                for threshold in of_mode
            ]
            for mode, of_mode in thresholds.items()
        }  # fmt: skip

    thresholds = {
        mode: [early_exit.thresholds(lam, tokenized.positions, config.TAU) for lam in lambdas]
        for mode, lambdas in config.LAMBDAS.items()
    }
    found, own, peak = bench.time(table)
    expected, seconds, _ = bench.time(lambda: rerun(count))
    for mode, layers in expected.items():
        bench.check(f"exit layers of {mode}", torch.stack(found[mode])[:, :count], torch.stack(layers), 0)
    bench.row("early exits, 35 lambdas", measured, seconds * VAL / count, own * scale, 0, torch.float32, peak)


def main() -> None:
    """Measure everything, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="a tiny model and few sentences: seconds, not an hour")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table as JSON, for the documentation")
    args = parser.parse_args()
    sizes = TINY if args.tiny else Sizes()
    bench, model = Bench(sizes), make_model(sizes)
    in_memory.layer_states(model, make_tokenized(50, sizes.v), 1024)  # the first run of anything is slower
    for part in (
        partial(states, bench, model),
        partial(fits, bench),
        partial(scores, bench),
        partial(exits, bench, model),
    ):
        part()
    bench.show(args.json)


if __name__ == "__main__":
    main()
