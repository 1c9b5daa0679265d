"""Predict from every layer of BERT, with maps and without, and let the model exit early.

Sections 3.3 and 4 of the paper. Two ways to go on from layer l to the prediction of the masked token,
through the whole masked-LM head: `id` reads out h_l as it stands, `mat` A_lL h_l. Early exit stops
each sentence at the first layer whose prediction is confident.

Reads   experiment/<m>_mask/<d>_val.pickle, linreg/<m>_mask/<d>/l_L.pickle
Writes  experiment/<m>_mask/<d>_results.pickle: dicts, pickled one after another: `info` (`type` jump
        or early_exit; `mode`; `layer` or `lambda`), `layers_processed` (float), `topk` int64 [n, 10],
        `surprisal` float32 [n] (nats)
"""

import config
from shortcut import cli, steps, store


def main(argv: list[str] | None = None) -> None:
    run = cli.start(argv, __file__, __doc__, config, model=config.BERT, masked=True, maps=True)
    val, L = run.files.states("val"), run.n_layers()
    jumps = [run.files.matrix(l, L) for l in range(L)]
    with run.stage(
        reads=[val, *jumps], writes=[run.files.results],
        depends=["weights"], lambdas=config.LAMBDAS, tau=config.TAU,
    ) as stage:  # fmt: skip
        if not stage.made:
            model, (tokenized, h) = run.load_model(), store.load_states(val, L)
            kept = stage.parts(run.files.results)
            stage.save(run.files.results, *steps.records(run, model, tokenized, h, jumps, {}, config.LAMBDAS, kept))
    steps.show_change(run)


if __name__ == "__main__":
    cli.run(main)
