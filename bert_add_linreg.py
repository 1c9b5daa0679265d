"""Fit the matrix A_ij of every jump from layer i to a later layer j of BERT by least squares.

"Linear Shortcut Across Blocks" in the paper: A_ij = argmin_A sum over training sentences of
|| A h_i - h_j ||^2, where h_i is the hidden state at [MASK] after i blocks (h_0: the embeddings). There is no
intercept and no penalty. The state of layer 0 depends only on the position, so the rank of the layer-0 states is at
most the number of distinct positions; the fit is the minimum-norm solution.

Reads   experiment/<m>_mask/<d>_train.pickle
Writes  linreg/<m>_mask/<d>/i_j.pickle for 0 <= i < j <= L: float32 tensor [d, d], applied as A @ h
        linreg/<m>_mask/<d>@<kind>/i_j.pickle with another --map (see `shortcut.linear`)
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
from shortcut.pipeline.states import load_model


@script(config)
def main(work: Work) -> None:
    tokenized, h = formats.load_states(work.files.split("train"), work.L)
    jumps = work.missing(work.files.matrix, pairs(work.L, config, work.files.map_kind))
    fitted_from = KINDS[work.map_kind].fitted_from
    if fitted_from == "gradients":
        fitted = jacobians(work, load_model(work, head=False), tokenized, jumps)
    elif fitted_from == "predictions":
        fitted = trained_maps(work, load_model(work), tokenized, h, jumps)
    else:
        fitted = fits(work, h, jumps, into=work.L)
    for A, numbers in fitted:
        work.save(work.files.matrix(A.source, A.target), A.A, **numbers)


if __name__ == "__main__":
    shell(main)
