"""Predict the masked token from every layer of BERT, with and without maps, and let the model exit early.

"Linear Shortcut for Language Modeling" and "Implication to Early Exiting" in the paper. Two modes lead from layer l
to a prediction, both through the whole masked-LM head: `id` reads out h_l unchanged, `mat` reads out A_lL h_l. Early
exit stops each sentence at the first layer whose prediction is confident. Beyond the paper, after
add_linreg_submodules.py on the same model: `mat_ln1_ln2`, `mat_attn` and `mat_ffn` run the blocks from l on with
their norms, attention or feed-forward replaced at every position by matrices, which were fitted at [MASK].

Reads   experiment/<m>_mask/<d>_val.pickle, linreg/<m>_mask/<d>/l_L.pickle, p{i}_{a}_{a+1}.pickle
Writes  experiment/<m>_mask/<d>_results.pickle: dicts, pickled one after another: `info` (`type` jump
        or early_exit; `mode`; `layer` or `lambda`), `layers_processed` (float), `topk` int64 [n, 10],
        `surprisal` float32 [n] (nats)
        experiment/<m>_mask/<d>_predictions.pickle: dict of `tau`, `positions`, `costs`, `actual` (the masked tokens)
        and `modes` (for each mode the confidence `gap`, KL, entropy and cross-entropy, [L + 1, n])
"""

import config
from shortcut.pipeline import stages

if __name__ == "__main__":  # before torch is imported
    stages.answer(config, __file__, __doc__)

from shortcut.approximation import MODES, modes_of
from shortcut.files import formats
from shortcut.pipeline import evaluation
from shortcut.pipeline.script import Work, script, shell
from shortcut.pipeline.states import load_model


@script(config, reads=evaluation.matrices, then=evaluation.show_change)
def main(work: Work) -> None:
    model, (tokenized, h) = load_model(work), formats.load_states(work.files.split("val"), work.L)
    maps = evaluation.maps(work, model)
    modes = {mode: MODES[mode].start(model, maps) for mode in modes_of(work.files.parts or {})}
    work.say("  blocks and jumps are not alternated: maps fitted only at [MASK] would spoil all other tokens")
    evaluation.evaluate(work, model, tokenized, modes, {}, h)


if __name__ == "__main__":
    shell(main)
