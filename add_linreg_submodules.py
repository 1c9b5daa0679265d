"""Fit a matrix for every sub-module of every block by least squares.

Section 5 of the paper. Inside block i (0-based) the states of the chosen token are 0 block input,
1 after ln_1, 2 after attention, 3 after the first residual sum, 4 after ln_2, 5 after the
feed-forward, 6 block output; each is mapped to the next.

Reads   experiment/<m>/<d>_tokenized_train.pickle
Writes  linreg/<m>/<d>/p{i}_{a}_{a+1}.pickle, a = 0 ... 5: float32 tensor [d, d], applied as A @ h
"""

import config
from shortcut import cli, steps, store


def main(argv: list[str] | None = None) -> None:
    run = cli.start(argv, __file__, __doc__, config, model=config.GPT2, shared=True)
    train, L = run.files.tokenized("train"), run.n_layers()
    parts = {run.files.part(i, a): (6 * i + a - 1, 6 * i + a) for i in range(L) for a in range(1, 7)}
    with run.stage(reads=[train], writes=[*parts], depends=["weights"], rcond=config.RCOND) as stage:
        if stage.made:
            return
        tokenized, kept = store.load_tokenized(train), stage.parts([*parts][-1])
        h = steps.part_states(run, run.load_model(), tokenized, kept)
        if h is not None:  # of several processes one fits and writes
            steps.save_fits(run, stage, h, parts)


if __name__ == "__main__":
    cli.run(main)
