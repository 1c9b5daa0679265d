"""What is shown of scores and results once they are there: figures, tables, the page, one sentence."""

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from shortcut import Problem, alternation, early_exit, results
from shortcut.approximation import mode_of
from shortcut.comparison import Comparison
from shortcut.files import beside, formats, store
from shortcut.files.names import Names
from shortcut.files.outputs import Outputs
from shortcut.linear import KINDS, LEAST_SQUARES
from shortcut.results import SAME, Results
from shortcut.run import stages
from shortcut.run.script import Work
from shortcut.show import lenses as maps_side_by_side
from shortcut.show import maps, report, tables
from shortcut.show.canvas import Plot


def draw(work: Work, outputs: Outputs, figures: Mapping[str, Plot]) -> None:
    """Write those files of the figures, by name, that are still to do."""
    for path in outputs.todo:
        if plot := figures.get(path.stem):
            with outputs.writing(path) as file:
                plot.write(file, path.suffix[1:])


def show_r2(work: Work, outputs: Outputs) -> None:
    """Draw what is stored of r2 and of how good the maps are, if that is to do, and print the tables."""
    r2, quality, title = (
        formats.load_r2(work.files.r2_scores),
        beside.load_quality(work.files.quality),
        work.files.title,
    )
    figures = {
        f"r2_scores_{work.L}": maps.r2_heat_maps(r2, title),
        f"maps_{work.L}": maps.quality_figure(quality, title),
    }
    draw(work, outputs, figures)
    work.say("\n".join([tables.text([*maps.r2_tables(r2), maps.quality_table(quality)]), *warnings(work)]))


def warnings(work: Work, r: Results | None = None) -> list[str]:
    """The warnings that the fits of the maps at work printed, and of the other kinds that the results show."""
    others = [files for files in work.files.others("lens") if r and r.lenses and files.kind in r.lenses.costs]
    found = [(f.kind, entry) for f in [work.files, *others] for entry in work.provenance.entries(f.matrices).values()]
    told = [f"{kind} maps: {entry['warning']}" for kind, entry in found if "warning" in entry]
    return [*dict.fromkeys(told)]


def load_results(work: Work) -> Results:
    """What add_results.py found, checked against its entry before it is read."""
    path = work.require(work.files.results)
    work.provenance.check([path], work.say)
    records = formats.load_results(path)
    if others := sorted({str(record["info"]["mode"]) for record in records if not mode_of(record["info"]["mode"])}):
        work.say(f"not shown, replaced sub-modules that are no mode of the paper: {', '.join(others)}")
    r = with_schedules(work, with_gaps(work, results.summarize(records)))
    return with_lenses(work, r)


def _is_of_results(work: Work, path: Path) -> bool:
    """True if a file was made in the same run as the results, or in one like it."""
    keys = [(work.provenance.entry(made) or {}).get("key") for made in (path, work.files.results)]
    if not path.exists() or None in keys:
        return False
    work.provenance.check([path], work.say)
    return keys[0] == keys[1]


def with_gaps(work: Work, r: Results) -> Results:
    """The results, with the early exits at all lambda where the gaps stand beside them."""
    if not _is_of_results(work, path := work.files.gaps):
        return r
    tau, positions, gaps, costs = beside.load_gaps(path, r.n, r.n_layers)
    hits = {mode: curve.values["precision@1"] for mode, curve in r.fixed.items() if len(curve.layers) == r.n_layers + 1}
    exits = {mode: early_exit.exits(gaps[mode], positions, tau, hits[mode]) for mode in gaps if mode in hits}
    early = {mode: replace(curve, exits=exits.get(mode)) for mode, curve in r.early.items()}
    if not costs:
        work.say(f"{path.name} lacks the tokens of each sentence, for net saving: {{add,bert_add}}_results.py --force")
    return replace(r, early=early, costs=costs and early_exit.Costs(**costs), masked=work.masked)


def with_schedules(work: Work, r: Results) -> Results:
    """The results, with the schedules that were judged beside them."""
    if not _is_of_results(work, path := work.files.schedules) or "mat" not in r.fixed:
        return r
    kept, direct = beside.load_schedules(path, r.n, r.n_layers), r.fixed["mat"].values["precision@1"]
    return replace(r, alternation=alternation.judge(kept, r.full, direct, r.of))


def with_lenses(work: Work, r: Results) -> Results:
    """The results with all kinds of maps that were judged on the same sentences side by side, id and mat first."""
    if work.kind != LEAST_SQUARES or not _is_of_results(work, work.files.lens):
        return r
    values, costs, halves = {}, {}, {}
    own = [work.files.results, work.files.lens]
    others = {files.kind: files for files in work.files.others("lens") if files.results.exists()}
    for kind, files in [(LEAST_SQUARES, work.files), *((kind, others[kind]) for kind in KINDS if kind in others)]:
        try:
            work.provenance.check([*own, files.results, files.lens], work.say)
            other = results.summarize(formats.load_results(files.results)) if kind != LEAST_SQUARES else r
            if other.n != r.n or (other.best != r.best).double().mean() > SAME:
                raise Problem("of other sentences")
            _, lenses = beside.load_lens(files.lens, r.n, r.n_layers)
        except Problem as problem:
            if kind == LEAST_SQUARES:
                raise
            work.say(f"not shown beside the others, {files.relative(files.results)}: {problem}")
            continue
        names = {"id": "id", "mat": kind} if kind == LEAST_SQUARES else {"mat": kind}
        values |= {name: other.fixed[mode].values | lenses[mode] for mode, name in names.items() if mode in other.fixed}
        costs[kind] = _cost(work, files)
        last = {l: work.provenance.entry(files.matrix(l, r.n_layers)) or {} for l in range(r.n_layers)}
        if of := {l: entry["split_half_r2"] for l, entry in last.items() if "split_half_r2" in entry}:
            halves[kind] = of
    return replace(r, lenses=Comparison(values, costs, r.of, halves))


def _cost(work: Work, files: Names) -> str:
    """The passes a sentence that the maps took, and how many maps; the time is in the manifest only."""
    entries = {path: entry for path, entry in work.provenance.entries(files.matrices).items() if path[0].isdigit()}
    if not any(entry["script"].endswith("linreg.py") for entry in entries.values()):
        return "not fitted here"
    probes = {entry["probes"] for entry in entries.values() if "probes" in entry}
    passes = f"1 forward, {max(probes)} backward passes" if probes else "1 forward pass"
    return f"{passes} a sentence for {len(entries)} maps"


def show_change(work: Work, outputs: Outputs | None = None) -> None:
    """Under --matrices-from, print what the maps of the other corpus change in mean Precision@1."""
    files = work.files
    if not files.matrices_from:
        return
    if not files.own.results.exists():
        maker = stages.maker(files.results, files, work.L, work.config)
        work.say(f"to see what that changes, run {maker} without --matrices-from too")
        return
    work.provenance.check([files.own.results], work.say)
    other, own = (results.summarize(formats.load_results(path)) for path in (files.results, files.own.results))
    work.say(tables.text([tables.change(other, own, files.dataset, files.matrices_from)]))


def inputs(work: Work, r: Results) -> list[Path]:
    """What the figures are drawn from."""
    gaps = [work.files.gaps] if any(curve.exits for curve in r.early.values()) else []
    return [work.files.results, *gaps, *([work.files.schedules] if r.alternation else [])]


def draw_lenses(work: Work, r: Results) -> dict[str, Plot]:
    """Draw the kinds of maps side by side, anew where one has come since or is another."""
    if not r.lenses:
        return {}
    files, figures = work.files, maps_side_by_side.figures(r.lenses, r.n_layers, work.files.title)
    shown = [files, *(names for names in files.others("lens") if names.kind in r.lenses.costs)]
    of = [path for names in shown for path in (names.results, names.lens)]
    with work.outputs(of, files.plots(*figures), renew=True) as outputs:
        draw(work, outputs, figures)
    return figures


def save_page(work: Work, r: Results, figures: Mapping[str, Plot]) -> None:
    """Write the summary and the page of results whose figures have been drawn, if that is to do.

    The heat maps of r2 come first where their scores are there, and the change from the dataset's own matrices
    where it was judged with them too; where one of these or a figure has come since or is another, both are
    made anew.
    """
    files = work.files
    scores = [path for path in (files.r2_scores, files.quality) if path.exists()]
    owns = [files.own.results] if files.matrices_from and files.own.results.exists() else []
    drawn = [files.plot(name, "png") for name in figures]
    shown = [*inputs(work, r), *scores, *owns, *drawn]
    with work.outputs(shown, [files.summary, files.report], renew=True) as outputs:
        if not outputs.todo:
            return
        r2 = formats.load_r2(files.r2_scores) if files.r2_scores in scores else None
        quality = beside.load_quality(files.quality) if files.quality in scores else None
        own = results.summarize(formats.load_results(files.own.results)) if owns else None
        told = [*tables.fixed_exit(r), *tables.early_exit(r), *tables.alternation(r)]
        told += maps_side_by_side.tables(r.lenses) if r.lenses else []
        told[:0] = [tables.change(r, own, files.dataset, files.matrices_from)] if own else []
        pictures = [(plot, path.read_bytes()) for plot, path in zip(figures.values(), drawn, strict=True)]
        of_maps = [maps.r2_heat_maps(r2, files.title)] if r2 else []
        of_maps += [maps.quality_figure(quality, files.title)] if quality else []
        for k, plot in enumerate(of_maps):
            plot.write(file := io.BytesIO(), "png")
            pictures.insert(k, (plot, file.getvalue()))
        told += maps.r2_tables(r2) if r2 else []
        told += [maps.quality_table(quality)] if quality else []
        numbers = report.summary(r, own, r2, files.model_name, files.dataset, files.matrices.name)
        numbers["warnings"] = warnings(work, r) or None
        page = report.page(r, numbers, files.title, pictures, told)
        for path, content in {files.summary: store.dump_json(numbers), files.report: page.encode()}.items():
            if path in outputs.todo:
                with outputs.writing(path) as file:
                    file.write(content)
