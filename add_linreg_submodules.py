"""Fit a matrix for every sub-module of every block by least squares.

"Linear Shortcut Across Sub-modules" in the paper, which has GPT-2's: there the states of the chosen token inside
block i (0-based) are 0 block input, 1 after ln_1, 2 after attention, 3 after the first residual sum, 4 after
ln_2, 5 after the feed-forward, 6 block output, and each is mapped to the next, though no mode uses the maps of
the residual sums. Of any other model, masked ones too, attention, feed-forward and norms are found by structure,
each mapped from its own input; states are numbered as they come up. Where they cannot be replaced one by one,
this says why, and there is nothing to fit.

Reads   experiment/<m>/<d>_tokenized_train.pickle, of a masked model experiment/<m>_mask/<d>_train.pickle
Writes  linreg/<m>/<d>/p{i}_{a}_{a+1}.pickle: float32 tensor [d, d], applied as A @ h, which makes state a + 1;
        submodules.json there: of what kind each is, and from which state of its block it is
"""

import config
from shortcut.pipeline.fitting import fits
from shortcut.pipeline.manifest import parts_dict
from shortcut.pipeline.script import Work, script, shell
from shortcut.pipeline.states import load_model, load_split, states


@script(config, "model", "device", "batch-size", "seed")
def main(work: Work) -> None:
    tokenized, model = load_split(work, "train"), load_model(work, head=False)
    work.add_parts(model.parts)
    if model.why_no_parts:
        work.say(f"the sub-modules of {work.args.model} are not mapped: {model.why_no_parts}")
    points, place = model.part_points()
    h = states(work, model, tokenized, points, "train") if points else []
    missing = work.missing(work.files.part, model.parts)
    todo = {(place[i, model.parts[i, a][1]], place[i, a]): (i, a) for i, a in missing}
    for A, numbers in fits(work, h, sorted(todo)):
        i, a = todo[A.source, A.target]
        kind, state = model.parts[i, a]
        work.save(work.files.part(i, a), A.A, kind=kind, state=state, **numbers)
    work.save_json(work.files.submodules, parts_dict(work.files.parts))


if __name__ == "__main__":
    shell(main)
