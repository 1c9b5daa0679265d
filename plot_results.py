"""Draw the figures of the paper from the results and print their numbers, or look inside a sentence.

Sections 4 and 5 of the paper: Precision@k and Surprisal at each layer, early against fixed exit, and
the sub-modules, each with its 95% interval over the sentences. Shows what the results hold; `--model`
takes a name, a folder, or the name of a folder under experiment/. With --sentence it runs the model, and
shows instead what every layer would predict in a sentence of yours, with id and with mat.

Reads   experiment/<m>/<d>_results.pickle, and <d>_r2_scores.pickle if it is there
        with --sentence linreg/<m>/<d>/l_L.pickle
Writes  experiment/<m>/plots/<d>/: pre_<L>, surp_<L>, ee_pre1_<L> and, where sub-modules were replaced,
        parts_pre1_<L>, parts_pre5_<L>, parts_pre10_<L>, parts_surp_<L>, each as .pdf, .png and .csv;
        with --sentence sentence_<its words> likewise
        experiment/<m>/<d>_summary.json, <d>_report.html: the numbers, and a page with all figures
"""

import config
from shortcut import cli, plots, report, steps, tables


def main(argv: list[str] | None = None) -> None:
    run = cli.start(argv, __file__, __doc__, config, model=config.GPT2, maps=True, results=True)
    if run.sentence is not None:
        return steps.look_inside(run)
    r = steps.load_results(run)
    figures = plots.all_figures(r, run.files.title)
    with run.stage(reads=[run.files.results], writes=run.files.plots(*figures), depends=[]) as stage:
        steps.save_plots(run, stage, figures)
    cli.say(tables.text([*tables.fixed_exit(r, ("precision@1", "surprisal")), *tables.early_exit(r)]))
    report.save(run, r, figures)
    steps.show_change(run)
    cli.say(f"every figure and table on one page: {run.files.relative(run.files.report)}")


if __name__ == "__main__":
    cli.run(main)
