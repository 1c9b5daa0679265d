"""Score every jump between layers by r2, and draw heat maps of r2 for mat and id.

"Linear Shortcut Across Blocks" in the paper: the share of the variance of h_j that A_ij h_i (mat) and h_i itself
(id) explain, on the validation sentences.

Reads   experiment/<m>/<d>_tokenized_val.pickle, linreg/<m>/<d>/i_j.pickle
Writes  experiment/<m>/<d>_r2_scores.pickle: dict of `score_mat`, `score_id`, `score_mat_weighted` and
        `score_id_weighted`, each {(i, j): r2}; the first two are means over the coordinates, as in the paper,
        the last two are weighted by the variances of the coordinates
        experiment/<m>/<d>_maps.json: the quality of the maps (see `shortcut.map_quality`)
        experiment/<m>/plots/<d>/r2_scores_<L>, maps_<L>, each as .pdf, .png and .csv
"""

import config
from shortcut.pipeline import stages

if __name__ == "__main__":  # before torch is imported
    stages.answer(config, __file__, __doc__)

from shortcut.files import formats
from shortcut.pipeline import showing
from shortcut.pipeline.scoring import quality_of_maps, r2_scores
from shortcut.pipeline.script import Work, script, shell
from shortcut.pipeline.stages import pairs
from shortcut.pipeline.states import load_model, states


@script(config, then=showing.show_r2)
def main(work: Work) -> None:
    tokenized, model = formats.load_tokenized(work.files.split("val")), load_model(work)
    h = states(work, model, tokenized, model.layer_points(), "val").tensor()
    jumps = pairs(work.L, config, work.files.map_kind)
    if work.files.r2_scores in work.todo:
        work.save(work.files.r2_scores, r2_scores(work, h, jumps))
    if work.files.quality in work.todo:
        work.save(work.files.quality, quality_of_maps(work, h, jumps))


if __name__ == "__main__":
    shell(main)
