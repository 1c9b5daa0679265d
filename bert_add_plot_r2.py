"""Score every jump between layers of BERT by r2, and draw the heat maps of mat and id.

Section 3.2 of the paper: how much of h_j is explained by A_ij h_i (mat) and by h_i itself (id), on
the validation sentences.

Reads   experiment/<m>_mask/<d>_val.pickle, linreg/<m>_mask/<d>/i_j.pickle
Writes  experiment/<m>_mask/<d>_r2_scores.pickle: dict of `score_mat` and `score_id`, each {(i, j): r2}
        experiment/<m>_mask/plots/<d>/r2_scores_<L>.pdf, .png and .csv
"""

import config
from shortcut import cli, linear, steps, store


def main(argv: list[str] | None = None) -> None:
    run = cli.start(argv, __file__, __doc__, config, model=config.BERT, masked=True, maps=True)
    val, L = run.files.states("val"), run.n_layers()
    pairs = linear.pairs(L, last_only=config.LAST_ONLY)
    matrices = {(i, j): run.files.matrix(i, j) for i, j in pairs}
    scores, figure = run.files.r2_scores, f"r2_scores_{L}"
    with run.stage(
        reads=[val, *matrices.values()], writes=[scores, *run.files.plots(figure)],
        depends=["weights"], last_only=config.LAST_ONLY,
    ) as stage:  # fmt: skip
        if scores in stage.todo:
            _, h = store.load_states(val, L)
            stage.save(scores, steps.r2_scores(run, h, matrices))
        steps.show_r2(run, stage, scores, figure)


if __name__ == "__main__":
    cli.run(main)
