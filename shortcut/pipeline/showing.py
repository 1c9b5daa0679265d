"""Show scores and results as figures, tables and a page."""

import io
from collections.abc import Mapping
from pathlib import Path

from shortcut import Problem, results
from shortcut.files import result_formats, store
from shortcut.files.names import Names
from shortcut.linear import KINDS, LEAST_SQUARES
from shortcut.pipeline import evaluation
from shortcut.pipeline.outputs import Outputs
from shortcut.pipeline.script import Work
from shortcut.results import Comparison, Results
from shortcut.show import claims, maps, plots, report, tables
from shortcut.show.canvas import Plot
from shortcut.show.table import text, to_json


def draw(outputs: Outputs, figures: Mapping[str, Plot]) -> None:
    """Write the files of these figures that are still missing. figures: by file name."""
    for path in outputs.todo:
        if plot := figures.get(path.stem):
            with outputs.writing(path) as file:
                plot.write(file, path.suffix[1:])


def show_r2(work: Work, outputs: Outputs) -> None:
    """Draw r2 and the quality of the maps where figures are missing, and print both as tables."""
    r2, quality = result_formats.load_r2(work.files.r2_scores), result_formats.load_quality(work.files.quality)
    heat_maps, quality_figure = maps.r2_heat_maps(r2, work.files.title), maps.quality_figure(quality, work.files.title)
    draw(outputs, {f"r2_scores_{work.L}": heat_maps, f"maps_{work.L}": quality_figure})
    work.say("\n".join([text([*maps.r2_tables(r2), maps.quality_table(quality)]), *warnings(work)]))


def warnings(work: Work, compared: list[Names] | None = None) -> list[str]:
    """The warnings recorded when the maps, and the maps compared with them, were fitted."""
    shown = [work.files, *(files for files in compared or () if files.map_kind != LEAST_SQUARES)]
    found = [(f.map_kind, entry) for f in shown for entry in work.provenance.entries(f.matrices).values()]
    lines = [f"{map_kind} maps: {entry['warning']}" for map_kind, entry in found if "warning" in entry]
    return [*dict.fromkeys(lines)]


def draw_results(work: Work, r: Results, c: Comparison | None, compared: list[Names]) -> dict[str, Plot]:
    """Draw all figures of the results and all figures that compare map kinds."""
    files, figures, comparisons = work.files, plots.all_figures(r, work.files.title), {}
    with work.outputs(inputs(work, [files]), files.plots(*figures)) as outputs:
        draw(outputs, figures)
    if c:  # drawn again if a map kind is new or has changed
        comparisons = plots.lens_figures(c, r.n_layers, files.title)
        with work.outputs(inputs(work, compared), files.plots(*comparisons), renew=True) as outputs:
            draw(outputs, comparisons)
    return figures | comparisons


def inputs(work: Work, shown: list[Names]) -> list[Path]:
    """The files from which results are loaded."""
    evaluated = [files for files in shown if evaluation.has_predictions(work, files)]
    return [*(files.results for files in shown), *(files.predictions for files in evaluated)]


def compare(work: Work, r: Results) -> tuple[Comparison | None, list[Names]]:
    """Compare all map kinds evaluated on the same sentences, id and least squares first; also return their files."""
    if work.map_kind != LEAST_SQUARES or not evaluation.has_predictions(work, work.files):
        return None, []
    others = {files.map_kind: files for files in work.files.others("predictions") if files.results.exists()}
    compared, L, curves, costs, halves = [], r.n_layers, {}, {}, {}
    for files in (work.files, *(others[map_kind] for map_kind in KINDS if map_kind in others)):
        try:
            other = r if files.map_kind == LEAST_SQUARES else evaluation.load(work, files)
            if not other.has_sentences_of(r):
                raise Problem("evaluated on other sentences")
        except Problem as problem:
            work.say(f"left out of the comparison, {files.relative(files.results)}: {problem}")
            continue
        compared.append(files)
        modes = {"id": "id", "mat": files.map_kind} if files.map_kind == LEAST_SQUARES else {"mat": files.map_kind}
        curves |= {modes[mode]: curve for mode, curve in other.fixed.items() if mode in modes}
        costs[files.map_kind] = _cost(work, files)
        entries = {l: work.provenance.entry(files.matrix(l, L)) or {} for l in range(L)}
        if known := {l: entry["split_half_r2"] for l, entry in entries.items() if "split_half_r2" in entry}:
            halves[files.map_kind] = known
    return Comparison(curves, costs, halves), compared


def _cost(work: Work, files: Names) -> str:
    """Forward and backward passes per sentence for the maps, and the number of maps, in words."""
    entries = {name: entry for name, entry in work.provenance.entries(files.matrices).items() if name[0].isdigit()}
    if not any(entry["script"].endswith("linreg.py") for entry in entries.values()):
        return "not fitted here"
    probes = {entry["probes"] for entry in entries.values() if "probes" in entry}
    passes = f"1 forward, {max(probes)} backward passes" if probes else "1 forward pass"
    return f"{passes} per sentence for {len(entries)} maps"


def save_page(work: Work, r: Results, c: Comparison | None, compared: list[Names], figures: Mapping[str, Plot]) -> None:
    """Write the summary and the page of the results, if they are missing. The figures must have been drawn.

    The heat maps of r2 are the first figure if scores exist. The change from the dataset's own maps is the first table
    if results with these maps exist. If an input or a figure has changed, both files are written again.
    """
    files = work.files
    scores = [path for path in (files.r2_scores, files.quality) if path.exists()]
    owns = [files.own.results] if files.matrices_from and files.own.results.exists() else []
    drawn = [files.plot(name, "png") for name in figures]
    shown = [*inputs(work, [files]), *scores, *owns, *drawn]
    with work.outputs(shown, [files.summary, files.report], renew=True) as outputs:
        if not outputs.todo:
            return
        r2 = result_formats.load_r2(files.r2_scores) if files.r2_scores in scores else None
        quality = result_formats.load_quality(files.quality) if files.quality in scores else None
        own = results.summarize(result_formats.load_results(files.own.results)) if owns else None
        listed = [tables.change(r, own, files.dataset, files.matrices_from)] if own else []
        listed += tables.of_results(r, c)
        listed += maps.r2_tables(r2) if r2 else []
        listed += [maps.quality_table(quality)] if quality else []
        plots_of_maps = [maps.r2_heat_maps(r2, files.title)] if r2 else []
        data = [*(plot.data for plot in plots_of_maps), *([tables.schedules(r, "")] if r.alternation else [])]
        plots_of_maps += [maps.quality_figure(quality, files.title)] if quality else []
        pictures = [(plot, path.read_bytes()) for plot, path in zip(figures.values(), drawn, strict=True)]
        for k, plot in enumerate(plots_of_maps):
            plot.write(file := io.BytesIO(), "png")
            pictures.insert(k, (plot, file.getvalue()))
        numbers = {
            **{"model": files.model_name, "dataset": files.dataset},
            "matrices_from": files.matrices_from or files.dataset,
            **{"layers": r.n_layers, "sentences": r.sentences, "positions": r.n, "sample": r.sample},
            "confidence": 0.95,
            "costs": r.costs and {**vars(r.costs), "tokens": r.costs.tokens.double().mean().item()},
            "tables": {table.name: to_json(table) for table in [*listed, *data]},
            "paper": claims.claims(files.model_name, r, r2),
            "warnings": warnings(work, compared),
        }  # fmt: skip
        page = report.page(numbers, files.title, r, pictures, listed)
        for path, content in {files.summary: store.dump_json(numbers), files.report: page.encode()}.items():
            if path in outputs.todo:
                with outputs.writing(path) as file:
                    file.write(content)
