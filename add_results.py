"""Predict from every layer, with maps and without, and let the model exit early.

"Linear Shortcut for Language Modeling", "Implication to Early Exiting" and "Linear Shortcut Across
Sub-modules" in the paper. Five ways to go on from layer l to the prediction: `id` reads out h_l as it
stands; `mat` reads out A_lL h_l; `mat_ln1_ln2`, `mat_attn`, `mat_ffn` run the blocks from l on with their
norms, attention or feed-forward replaced by their matrices, where the model has them apart. Early exit, with id
and mat, stops each sentence at the first layer whose prediction is confident. Schedules alternate blocks and jumps.

Reads   experiment/<m>/<d>_tokenized_val.pickle, linreg/<m>/<d>/l_L.pickle, p{i}_{a}_{a+1}.pickle
        with SCHEDULES in config.py also <d>_r2_scores.pickle and every i_j.pickle
Writes  experiment/<m>/<d>_results.pickle: dicts, pickled one after another: `info` (`type` jump or
        early_exit; `mode`; `layer` or `lambda`), `layers_processed` (float), `topk` int64 [n, 10],
        `surprisal` float32 [n] (nats)
        experiment/<m>/<d>_gaps.pickle: dict of `tau`, `positions`, `costs` and by mode the confidence, [L + 1, n]
        experiment/<m>/<d>_lens.pickle: dict of `actual`, the tokens that follow, and by mode KL, entropy, cross-entropy
        experiment/<m>/<d>_schedules.pickle: likewise, `info` has `first` (blocks, jumps, or r2), how many `blocks`
        and `jumps` it alternates, and `schedule`, its jumps
"""

import config
from shortcut import alternation, predictions, representations, results, tokens
from shortcut.approximation import MODES, alternate, modes_of
from shortcut.files import beside, formats
from shortcut.predictions import Predictions
from shortcut.representations import Batch
from shortcut.run import showing, steps
from shortcut.run.script import Work, script, shell


@script(config, "model", "map", "matrices-from", "device", "batch-size", "seed", then=showing.show_change)
def main(work: Work) -> None:
    model, tokenized = steps.load_model(work), formats.load_tokenized(work.files.tokenized("val"), least=2)
    maps, (schedules, jumps) = steps.maps(work, model), steps.schedules(work, model)
    go_on = {mode: MODES[mode].start(model, maps) for mode in modes_of(work.files.parts)}
    actual = tokens.actual(tokenized, masked=work.masked)

    def judge(batch: Batch) -> dict[str, Predictions]:
        """Go on from every layer in every mode, or by a schedule, read out, and judge by the model's own h_L."""
        seen = representations.run(model, batch)
        ends = {mode: go_on[mode](seen) for mode in go_on}
        if schedules:
            ends[steps.SCHEDULES] = alternate(model, seen, alternation.distinct(schedules), jumps)
        read = dict.fromkeys(beside.LENSES, actual[batch.rows])
        return {name: predictions.judge(model, h, seen.h[-1], batch.rows, read.get(name)) for name, h in ends.items()}

    judged = steps.judged(work, model, tokenized, judge)
    fixed, early, alternated = [], [], judged.pop(steps.SCHEDULES, None)
    for mode, found in judged.items():
        fixed += results.fixed_exits(mode, found)
        early += results.early_exits(mode, found, tokenized.positions, config.LAMBDAS.get(mode, ()), config.TAU)
    work.save_missing(work.files.results, *results.of_sentences([*fixed, *early], tokenized.numbers))
    costs = vars(predictions.costs(model, tokenized))
    work.save_missing(work.files.gaps, beside.gaps_dict(judged, tokenized.positions, config.TAU, costs))
    work.save_missing(work.files.lens, beside.lens_dict(judged, actual))
    if alternated:
        records = alternation.records(schedules, work.L, alternated.topk, alternated.surprisal)
        work.save_missing(work.files.schedules, *records)


if __name__ == "__main__":
    shell(main)
