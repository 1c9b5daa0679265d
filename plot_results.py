"""Draw the figures of the paper from the results and print their numbers, or look inside a sentence.

The figures show Precision@k and Surprisal at each layer, early exit against fixed exit, and the replaced sub-modules,
each with its 95% confidence interval over the sentences. Only figures whose results exist are drawn. `--model` takes
a name, a folder, or the name of a folder under experiment/. With --sentence the script runs the model instead and
shows the predictions of every layer in your sentence, with id and with mat or the map kinds given by --map.

Reads   experiment/<m>/<d>_results.pickle, and the other files of add_results.py and add_plot_r2.py if they exist
        with --sentence: linreg/<m>/<d>/l_L.pickle, and linreg/<m>/<d>@<kind>/l_L.pickle for other kinds in --map
Writes  experiment/<m>/plots/<d>/: pre_<L>, surp_<L>, ee_pre1_<L>; alternation_<L> for causal models; with replaced
        sub-modules parts_pre1_<L>, parts_pre5_<L>, parts_pre10_<L>, parts_surp_<L>; lenses_<metric>_<L>: all
        evaluated map kinds side by side; each as .pdf, .png and .csv
        with --sentence: sentence_<its words> in the same formats
        experiment/<m>/<d>_summary.json, <d>_report.html: the numbers, and a page with all figures
"""

import config
from shortcut.pipeline import stages

if __name__ == "__main__":  # before torch is imported
    stages.answer(config, __file__, __doc__)

from shortcut.pipeline import evaluation, showing
from shortcut.pipeline.script import Work, script, shell
from shortcut.show import tables
from shortcut.show.table import text


@script(config)
def main(work: Work) -> None:
    if work.args.sentence is not None:
        return showing.look_inside(work)
    work.require(work.files.results)
    r = showing.load(work, work.files)
    c, loaded = showing.compare(work, r)
    showing.show_results(work, r, c, loaded)
    work.say("\n".join([text(tables.headlines(r, c)), *showing.warnings(work, loaded)]))
    evaluation.show_change(work)
    work.say(f"All figures and tables are on one page: {work.files.relative(work.files.report)}")


if __name__ == "__main__":
    shell(main)
