"""Draw the figures of the paper from the results, and print their numbers.

Sections 4 and 5 of the paper: Precision@k and Surprisal at each layer, early against fixed exit, and
the sub-modules. Draws what the results hold; `--model` takes a name, a folder, or the name of a
folder under experiment/.

Reads   experiment/<m>/<d>_results.pickle
Writes  experiment/<m>/plots/<d>/: pre_<L>.pdf, surp_<L>.pdf, ee_pre1_<L>.pdf and, where sub-modules
        were replaced, parts_pre1_<L>.pdf, parts_pre5_<L>.pdf, parts_pre10_<L>.pdf, parts_surp_<L>.pdf
"""

import config
from shortcut import cli, plots, results, store, tables


def main(argv: list[str] | None = None) -> None:
    run = cli.start(argv, __file__, __doc__, config, model=config.GPT2, results=True)
    r = results.summarize(store.load_results(run.files.require(run.files.results)))
    figures = plots.all_figures(r, run.files.title)
    writes = {run.files.plot(f"{name}_{r.n_layers}"): figure for name, figure in figures.items()}
    with run.stage(reads=[run.files.results], writes=list(writes), depends=[]) as stage:
        for path in stage.todo:
            with stage.writing(path) as file:
                plots.save(writes[path](), file)
    cli.say(tables.fixed_exit(r))
    cli.say(tables.early_exit(r))


if __name__ == "__main__":
    cli.run(main)
