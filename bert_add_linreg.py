"""Fit the matrix A_ij of every jump from layer i to a later layer j of BERT by least squares.

Section 3.1 of the paper: A_ij = argmin_A sum over training sentences of || A h_i - h_j ||^2, h_i the
state at [MASK] after block i (h_0: the embeddings). No intercept, no penalty. Layer 0 knows only the
position, so its rank is at most the number of distinct positions; the fit is the minimum-norm one.

Reads   experiment/<m>_mask/<d>_train.pickle
Writes  linreg/<m>_mask/<d>/i_j.pickle for 0 <= i < j <= L: float32 tensor [d, d], applied as A @ h
"""

import config
from shortcut import cli, linear, steps, store


def main(argv: list[str] | None = None) -> None:
    run = cli.start(argv, __file__, __doc__, config, model=config.BERT, masked=True)
    train, L = run.files.states("train"), run.n_layers()
    jumps = {run.files.matrix(i, j): (i, j) for i, j in linear.pairs(L, last_only=config.LAST_ONLY)}
    with run.stage(reads=[train], writes=[*jumps], depends=["weights"], rcond=config.RCOND) as stage:
        if stage.made:
            return
        _, h = store.load_states(train, L)
        steps.save_fits(run, stage, h, jumps)


if __name__ == "__main__":
    cli.run(main)
