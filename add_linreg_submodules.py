"""Fit a matrix for every sub-module of every block by least squares.

"Linear Shortcut Across Sub-modules" in the paper, for GPT-2. The states of the chosen token inside block i (0-based)
are 0 block input, 1 after ln_1, 2 after attention, 3 after the first residual sum, 4 after ln_2, 5 after the
feed-forward, 6 block output. Each state is mapped to the next; no mode uses the maps of the residual sums. In any
other model, causal or masked, attention, feed-forward and norms are found by structure, each is mapped from its own
input, and states are numbered in the order of computation. If a model's sub-modules cannot be replaced one by one,
the reason is printed and nothing is fitted.

Reads   experiment/<m>/<d>_tokenized_train.pickle; for a masked model experiment/<m>_mask/<d>_train.pickle
Writes  linreg/<m>/<d>/p{i}_{a}_{a+1}.pickle: float32 tensor [d, d], applied as A @ h, which gives state a + 1
        linreg/<m>/<d>/submodules.json: the kind of each sub-module and the state of its block that it reads
"""

import config
from shortcut.pipeline import stages

if __name__ == "__main__":  # before torch is imported
    stages.answer(config, __file__, __doc__)

from shortcut import submodules
from shortcut.pipeline.fitting import fits
from shortcut.pipeline.manifest import parts_dict
from shortcut.pipeline.script import Work, script, shell
from shortcut.pipeline.states import load_model, load_split, states


@script(config)
def main(work: Work) -> None:
    tokenized, model = load_split(work, "train"), load_model(work, head=False)
    found = submodules.find(model)
    work.add_parts(found.parts)
    if found.why_none:
        work.say(f"the sub-modules of {work.args.model} are not mapped: {found.why_none}")
    points, place = found.points()
    h = states(work, model, tokenized, points, "train") if points else []
    missing = work.missing(work.files.part, found.parts)
    todo = {(place[i, found.parts[i, a][1]], place[i, a]): (i, a) for i, a in missing}
    for A, numbers in fits(work, h, sorted(todo)):
        i, a = todo[A.source, A.target]
        part_kind, state = found.parts[i, a]
        work.save(work.files.part(i, a), A.A, kind=part_kind, state=state, **numbers)
    work.save(work.files.submodules, parts_dict(work.files.parts))


if __name__ == "__main__":
    shell(main)
