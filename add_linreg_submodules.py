"""Fit a matrix for every sub-module of every block by least squares.

"Linear Shortcut Across Sub-modules" in the paper, of GPT-2 alone. Inside block i (0-based) the states of
the chosen token are 0 block input, 1 after ln_1, 2 after attention, 3 after the first residual sum, 4 after
ln_2, 5 after the feed-forward, 6 block output; each is mapped to the next, as in the original code, though
no mode uses the maps of the residual sums.

Reads   experiment/<m>/<d>_tokenized_train.pickle
Writes  linreg/<m>/<d>/p{i}_{a}_{a+1}.pickle, a = 0 ... 5: float32 tensor [d, d], applied as A @ h
"""

import config
from shortcut.files import formats
from shortcut.run import steps
from shortcut.run.script import Work, script, shell


@script(config, "model", "device", "batch-size", "seed")
def main(work: Work) -> None:
    tokenized, model = formats.load_tokenized(work.files.tokenized("train")), steps.load_model(work)
    h = steps.states(work, model, tokenized, model.part_points(), "train")  # state a of block i is h[6 i + a]
    parts = work.missing(work.files.part, [(i, a) for i in range(work.L) for a in range(1, 7)])
    for (before, _), A, numbers in steps.fits(work, h, [(6 * i + a - 1, 6 * i + a) for i, a in parts]):
        i, a = divmod(before, 6)
        work.save(work.files.part(i, a + 1), A, **numbers)


if __name__ == "__main__":
    shell(main)
