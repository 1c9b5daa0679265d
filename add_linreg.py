"""Fit the matrix A_ij of every jump from layer i to a later layer j by least squares.

Section 3.1 of the paper: A_ij = argmin_A sum over training sentences of || A h_i - h_j ||^2, h_i the
state of the chosen token after block i (h_0: the embeddings). No intercept, no penalty.

Reads   experiment/<m>/<d>_tokenized_train.pickle
Writes  linreg/<m>/<d>/i_j.pickle for 0 <= i < j <= L: float32 tensor [d, d], applied as A @ h
"""

import config
from shortcut import cli, linear, representations, store


def main(argv: list[str] | None = None) -> None:
    run = cli.start(argv, __file__, __doc__, config, model=config.GPT2)
    train, pairs = run.files.tokenized("train"), linear.pairs(run.n_layers())
    writes = {run.files.matrix(i, j): (i, j) for i, j in pairs}
    with run.stage(reads=[train], writes=list(writes), depends="weights", rcond=config.RCOND) as stage:
        if stage.made:
            return
        model, tokenized = run.load_model(), store.load_tokenized(train)
        with cli.bar("states", len(tokenized), "sentences") as advance:
            h = representations.layer_states(model, tokenized, run.batch_size, advance)
        wanted = [writes[path] for path in stage.todo]
        fits = linear.fit_pairs(h, wanted, config.RCOND, run.device, cli.say)
        for path, fit in zip(stage.todo, cli.progress("fits", fits, len(wanted), "matrices"), strict=True):
            stage.save(path, fit.A, **fit.numbers)


if __name__ == "__main__":
    cli.run(main)
