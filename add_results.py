"""Predict the next token from every layer, with and without maps, and let the model exit early.

"Linear Shortcut for Language Modeling", "Implication to Early Exiting" and "Linear Shortcut Across Sub-modules" in
the paper. Five modes lead from layer l to a prediction: `id` reads out h_l unchanged; `mat` reads out A_lL h_l;
`mat_ln1_ln2`, `mat_attn` and `mat_ffn` run the blocks from l on with their norms, attention or feed-forward replaced
by matrices, if the model's sub-modules can be replaced. Early exit, with id and with mat, stops each sentence at the
first layer whose prediction is confident. Schedules alternate blocks and jumps.

Reads   experiment/<m>/<d>_tokenized_val.pickle, linreg/<m>/<d>/l_L.pickle, p{i}_{a}_{a+1}.pickle
        with SCHEDULES in config.py also <d>_r2_scores.pickle and every i_j.pickle
Writes  experiment/<m>/<d>_results.pickle: dicts, pickled one after another: `info` (`type` jump or
        early_exit; `mode`; `layer` or `lambda`), `layers_processed` (float), `topk` int64 [n, 10],
        `surprisal` float32 [n] (nats)
        experiment/<m>/<d>_predictions.pickle: dict of `tau`, `positions`, `costs`, `actual` (the next tokens),
        `modes` (for each mode the confidence `gap`, KL, entropy and cross-entropy, [L + 1, n]), and the predictions
        of the `schedules`
"""

import config
from shortcut.pipeline import stages

if __name__ == "__main__":  # before torch is imported
    stages.answer(config, __file__, __doc__)

from shortcut import alternation
from shortcut.approximation import MODES, alternate, modes_of
from shortcut.files import formats
from shortcut.pipeline import evaluation
from shortcut.pipeline.script import Work, script, shell
from shortcut.pipeline.states import load_model


@script(config, reads=evaluation.matrices, then=evaluation.show_change)
def main(work: Work) -> None:
    model, tokenized = load_model(work), formats.load_tokenized(work.files.split("val"))
    maps, (schedules, jumps) = evaluation.maps(work, model), evaluation.schedules(work, model)
    modes = {mode: MODES[mode].start(model, maps) for mode in modes_of(work.files.parts)}
    if schedules:
        distinct = alternation.distinct(schedules)
        modes[evaluation.SCHEDULES] = lambda forward: alternate(model, forward, distinct, jumps)
    evaluation.evaluate(work, model, tokenized, modes, schedules)


if __name__ == "__main__":
    shell(main)
