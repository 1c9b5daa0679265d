"""Predict from every layer of BERT, with maps and without, and let the model exit early.

"Linear Shortcut for Language Modeling" and "Implication to Early Exiting" in the paper. Ways to go on from layer
l to the prediction of the masked token, through the whole masked-LM head: `id` reads out h_l as it stands, `mat`
A_lL h_l. Early exit stops each sentence at the first layer whose prediction is confident. Beyond the paper, where
add_linreg_submodules.py was run on the model: `mat_ln1_ln2`, `mat_attn`, `mat_ffn` run the blocks from l on with
their norms, attention or feed-forward replaced, at every position, by their matrices, which were fitted at [MASK].

Reads   experiment/<m>_mask/<d>_val.pickle, linreg/<m>_mask/<d>/l_L.pickle, p{i}_{a}_{a+1}.pickle
Writes  experiment/<m>_mask/<d>_results.pickle: dicts, pickled one after another: `info` (`type` jump
        or early_exit; `mode`; `layer` or `lambda`), `layers_processed` (float), `topk` int64 [n, 10],
        `surprisal` float32 [n] (nats)
        experiment/<m>_mask/<d>_gaps.pickle: dict of `tau`, `positions`, `costs` and by mode the confidence, [L + 1, n]
        experiment/<m>_mask/<d>_lens.pickle: dict of `actual`, the masked tokens, and by mode KL, entropy, cross-entropy
"""

import config
from shortcut import predictions, representations, results, tokens
from shortcut.approximation import MODES, modes_of
from shortcut.files import beside, formats
from shortcut.predictions import Predictions
from shortcut.representations import Batch, Pass
from shortcut.run import showing, steps
from shortcut.run.script import Work, script, shell


@script(config, "model", "map", "matrices-from", "device", "batch-size", "seed", then=showing.show_change)
def main(work: Work) -> None:
    model, (tokenized, h) = steps.load_model(work), formats.load_states(work.files.states("val"), work.L, least=2)
    maps = steps.maps(work, model)
    go_on = {mode: MODES[mode].start(model, maps) for mode in modes_of(work.files.parts or {})}
    work.say("  no alternation of blocks and jumps: the maps were fitted at [MASK] alone, and spoil all other tokens")
    actual = tokens.actual(tokenized, masked=work.masked)

    def judge(batch: Batch) -> dict[str, Predictions]:
        """Go on from every layer in every mode, read out, and judge by the model's own h_L."""
        entering = representations.run(model, batch).entering if work.files.parts else []
        seen = Pass(batch, h[:, batch.rows].to(model.device), entering)
        read = dict.fromkeys(beside.LENSES, actual[batch.rows])
        return {
            mode: predictions.judge(model, go_on[mode](seen), seen.h[-1], batch.rows, read.get(mode)) for mode in go_on
        }

    fixed, early, judged = [], [], steps.judged(work, model, tokenized, judge)
    for mode, found in judged.items():
        fixed += results.fixed_exits(mode, found)
        early += results.early_exits(mode, found, tokenized.positions, config.LAMBDAS.get(mode, ()), config.TAU)
    work.save_missing(work.files.results, *results.of_sentences([*fixed, *early], tokenized.numbers))
    costs = vars(predictions.costs(model, tokenized))
    work.save_missing(work.files.gaps, beside.gaps_dict(judged, tokenized.positions, config.TAU, costs))
    work.save_missing(work.files.lens, beside.lens_dict(judged, actual))


if __name__ == "__main__":
    shell(main)
