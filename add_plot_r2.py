"""Score every jump between layers by r2, and draw the heat maps of mat and id.

Section 3.2 of the paper: how much of h_j is explained by A_ij h_i (mat) and by h_i itself (id), on
the validation sentences.

Reads   experiment/<m>/<d>_tokenized_val.pickle, linreg/<m>/<d>/i_j.pickle
Writes  experiment/<m>/<d>_r2_scores.pickle: dict of `score_mat` and `score_id`, each {(i, j): r2}
        experiment/<m>/plots/<d>/r2_scores_<L>.pdf
"""

import config
from shortcut import cli, linear, metrics, plots, representations, store, tables


def main(argv: list[str] | None = None) -> None:
    run = cli.start(argv, __file__, __doc__, config, model=config.GPT2)
    val, L = run.files.tokenized("val"), run.n_layers()
    matrices = {(i, j): run.files.matrix(i, j) for i, j in linear.pairs(L)}
    scores, figure = run.files.r2_scores, run.files.plot(f"r2_scores_{L}")
    with run.stage(reads=[val, *matrices.values()], writes=[scores, figure], depends="weights") as stage:
        if scores in stage.todo:
            model, tokenized = run.load_model(), store.load_tokenized(val)
            with cli.bar("states", len(tokenized), "sentences") as advance:
                h = representations.layer_states(model, tokenized, run.batch_size, advance)
            r2 = {"score_mat": {}, "score_id": {}}
            for (i, j), path in cli.progress("r2", matrices.items(), len(matrices), "pairs"):
                A = store.load_matrix(path, model.d)
                r2["score_mat"][i, j] = metrics.r2_score(linear.apply(A, h[i]), h[j])
                r2["score_id"][i, j] = metrics.r2_score(h[i], h[j])
            stage.save(scores, r2)
        r2 = store.load_r2(scores)
        if figure in stage.todo:
            with stage.writing(figure) as file:
                plots.save(plots.r2_heat_maps(r2["score_mat"], r2["score_id"], run.files.title), file)
        cli.say(tables.r2(r2["score_mat"], r2["score_id"]))


if __name__ == "__main__":
    cli.run(main)
