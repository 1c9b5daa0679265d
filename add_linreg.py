"""Fit the matrix A_ij of every jump from layer i to a later layer j by least squares.

"Linear Shortcut Across Blocks" in the paper: A_ij = argmin_A sum over training sentences of
|| A h_i - h_j ||^2, where h_i is the hidden state at the chosen token position after i blocks (h_0: the
embeddings). There is no intercept and no penalty.

Reads   experiment/<m>/<d>_tokenized_train.pickle
Writes  linreg/<m>/<d>/i_j.pickle for 0 <= i < j <= L: float32 tensor [d, d], applied as A @ h
        linreg/<m>/<d>@<kind>/i_j.pickle with another --map (see `shortcut.linear`)
"""

import config
from shortcut.pipeline import stages

if __name__ == "__main__":  # before torch is imported
    stages.answer(config, __file__, __doc__)

from shortcut.files import formats
from shortcut.linear import KINDS
from shortcut.pipeline.fitting import fits, jacobians, trained_maps
from shortcut.pipeline.script import Work, script, shell
from shortcut.pipeline.stages import pairs
from shortcut.pipeline.states import load_model, states


@script(config)
def main(work: Work) -> None:
    tokenized, model = formats.load_tokenized(work.files.split("train")), load_model(work)
    jumps = work.missing(work.files.matrix, pairs(work.L, config, work.files.map_kind))
    fitted_from = KINDS[work.map_kind].fitted_from
    if fitted_from == "gradients":
        fitted = jacobians(work, model, tokenized, jumps)
    else:
        h = states(work, model, tokenized, model.layer_points(), "train")
        of_predictions = fitted_from == "predictions"
        fitted = trained_maps(work, model, tokenized, h, jumps) if of_predictions else fits(work, h, jumps, into=work.L)
    for A, numbers in fitted:
        work.save(work.files.matrix(A.source, A.target), A.A, **numbers)


if __name__ == "__main__":
    shell(main)
