"""Fit the matrix A_ij of every jump from layer i to a later layer j by least squares.

Section 3.1 of the paper: A_ij = argmin_A sum over training sentences of || A h_i - h_j ||^2, h_i the
state of the chosen token after block i (h_0: the embeddings). No intercept, no penalty.

Reads   experiment/<m>/<d>_tokenized_train.pickle
Writes  linreg/<m>/<d>/i_j.pickle for 0 <= i < j <= L: float32 tensor [d, d], applied as A @ h
"""

import config
from shortcut import cli, linear, steps, store


def main(argv: list[str] | None = None) -> None:
    run = cli.start(argv, __file__, __doc__, config, model=config.GPT2, shared=True)
    train = run.files.tokenized("train")
    pairs = linear.pairs(run.n_layers(), last_only=config.LAST_ONLY)
    jumps = {run.files.matrix(i, j): (i, j) for i, j in pairs}
    with run.stage(reads=[train], writes=[*jumps], depends=["weights"], rcond=config.RCOND) as stage:
        if stage.made:
            return
        tokenized, kept = store.load_tokenized(train), stage.parts([*jumps][-1])
        h = steps.layer_states(run, run.load_model(), tokenized, kept)
        if h is not None:  # of several processes one fits and writes
            steps.save_fits(run, stage, h, jumps)


if __name__ == "__main__":
    cli.run(main)
