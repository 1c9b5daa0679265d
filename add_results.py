"""Predict from every layer, with maps and without, and let the model exit early.

Sections 3.3, 4 and 5 of the paper. Five ways to go on from layer l to the prediction: `id` reads out
h_l as it stands; `mat` reads out A_lL h_l; `mat_ln1_ln2`, `mat_attn`, `mat_ffn` run the blocks from l
on with that sub-module replaced by its matrix. Early exit, with id and mat, stops each sentence at
the first layer whose prediction is confident.

Reads   experiment/<m>/<d>_tokenized_val.pickle, linreg/<m>/<d>/l_L.pickle, p{i}_{a}_{a+1}.pickle
Writes  experiment/<m>/<d>_results.pickle: dicts, pickled one after another: `info` (`type` jump or
        early_exit; `mode`; `layer` or `lambda`), `layers_processed` (float), `topk` int64 [n, 10],
        `surprisal` float32 [n] (nats)
"""

import config
from shortcut import approximation, cli, steps, store


def main(argv: list[str] | None = None) -> None:
    run = cli.start(argv, __file__, __doc__, config, model=config.GPT2, shared=True, maps=True)
    val, L = run.files.tokenized("val"), run.n_layers()
    jumps = [run.files.matrix(l, L) for l in range(L)]
    parts = {(i, a): run.files.part(i, a) for i in range(L) for a in approximation.REPLACED_STATES}
    with run.stage(
        reads=[val, *jumps, *parts.values()], writes=[run.files.results],
        depends=["weights"], lambdas=config.LAMBDAS, tau=config.TAU,
    ) as stage:  # fmt: skip
        if not stage.made:
            model, tokenized = run.load_model(), store.load_tokenized(val)
            kept = stage.parts(run.files.results)
            h = steps.layer_states(run, model, tokenized, kept / "layers")
            records = steps.records(run, model, tokenized, h and h.tensor(), jumps, parts, config.LAMBDAS, kept)
            if not records:  # of several processes one reads out and writes
                return
            stage.save(run.files.results, *records)
    steps.show_change(run)


if __name__ == "__main__":
    cli.run(main)
