"""Show scores and results as figures, tables and a page, and the predictions of every layer for a user's sentence."""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from shortcut import Problem, results, sentence_grid
from shortcut.approximation import mode_of
from shortcut.corpus.sentences import text_of
from shortcut.files import formats, result_formats, store
from shortcut.files.names import MODEL_FILES, Names
from shortcut.linear import KINDS, LEAST_SQUARES
from shortcut.loading import pretrained
from shortcut.pipeline import evaluation
from shortcut.pipeline.outputs import Outputs
from shortcut.pipeline.script import Work
from shortcut.pipeline.states import load_model
from shortcut.results import Comparison, Results
from shortcut.show import maps, plots, report, tables
from shortcut.show.canvas import Plot
from shortcut.show.figures import label
from shortcut.show.table import select, text, to_json


def draw(outputs: Outputs, figures: Mapping[str, Plot]) -> None:
    """Write the files of these figures that are still missing. figures: by file name."""
    for path in outputs.todo:
        if plot := figures.get(path.stem):
            with outputs.writing(path) as file:
                file.write(plot.render(path.suffix[1:]))


def show_r2(work: Work, outputs: Outputs) -> None:
    """Draw r2 and the quality of the maps where figures are missing; print r2 to the next and to the last layer."""
    files = work.files
    r2, quality = result_formats.load_r2(files.r2_scores), result_formats.load_quality(files.quality)
    draw(outputs, of_maps(files, work.L, r2, quality))
    short = select(maps.r2_tables(r2)[0], "layer", "mat next", "mat last", "id next", "id last")
    more = f"All jumps: {files.relative(files.plot(f'r2_scores_{work.L}'))}; quality: maps_{work.L}.pdf beside it"
    work.say("\n".join([text([short]), *warnings(work, [files]), more]))


def of_maps(files: Names, L: int, r2: maps.R2, quality: maps.Quality) -> dict[str, Plot]:
    """The figures of r2 and of the quality of the maps, by name."""
    found = {f"r2_scores_{L}": maps.r2_heat_maps(r2, files.title, files.map_kind)} if r2 else {}
    return found | ({f"maps_{L}": maps.quality_figure(quality, files.title)} if quality else {})


def load(work: Work, files: Names) -> Results:
    """Load the results in `files`, with their predictions (see `inputs`)."""
    work.provenance.check(inputs(work, files), work.say)
    records, evaluated = result_formats.load_results(files.results), None
    if others := sorted({str(record["info"]["mode"]) for record in records if not mode_of(record["info"]["mode"])}):
        work.say(f"not shown: {', '.join(others)}. The paper does not replace these sub-modules.")
    if files.predictions in inputs(work, files):
        n, L = len(records[0]["topk"]), max(r["info"].get("layer", 0) for r in records)
        evaluated = result_formats.load_predictions(files.predictions, n, L)
    return results.summarize(records, evaluated)


def inputs(work: Work, files: Names) -> list[Path]:
    """The results, and the predictions if both files were made by the same run or by equal runs."""
    keys = [work.provenance.entry(path).get("key") for path in (files.results, files.predictions)]
    same = files.predictions.exists() and keys[0] == keys[1] is not None
    return [files.results, files.predictions] if same else [files.results]


def warnings(work: Work, shown: list[Names]) -> list[str]:
    """The warnings recorded when the maps of these files were fitted."""
    found = [(files.map_kind, entry) for files in shown for entry in work.provenance.entries(files.matrices).values()]
    return [*dict.fromkeys(f"{map_kind} maps: {entry['warning']}" for map_kind, entry in found if "warning" in entry)]


def compare(work: Work, r: Results) -> tuple[Comparison | None, list[Names]]:
    """All map kinds evaluated on the same sentences, id and least squares first, and the files of these results."""
    if work.map_kind != LEAST_SQUARES or work.files.predictions not in inputs(work, work.files):
        return None, [work.files]
    others = {files.map_kind: files for files in work.files.others if files.results.exists()}
    shown, curves = [work.files], {"id": r.fixed["id"], LEAST_SQUARES: r.fixed["mat"]}
    for files in (others[map_kind] for map_kind in KINDS if map_kind in others):
        try:
            other = load(work, files)
            if not other.has_sentences_of(r):
                raise Problem("evaluated on other sentences")
        except Problem as problem:
            work.say(f"left out of the comparison, {files.relative(files.results)}: {problem}")
            continue
        shown.append(files)
        curves[files.map_kind] = other.fixed["mat"]
    halves = {}
    for files in shown:
        entries = {l: work.provenance.entry(files.matrix(l, r.n_layers)) for l in range(r.n_layers)}
        if known := {l: entry["split_half_r2"] for l, entry in entries.items() if "split_half_r2" in entry}:
            halves[files.map_kind] = known
    return Comparison(curves, {files.map_kind: _cost(work, files) for files in shown}, halves), shown


def _cost(work: Work, files: Names) -> str:
    """Forward and backward passes for the maps, and the number of maps, in words; some run each position alone."""
    entries = {name: entry for name, entry in work.provenance.entries(files.matrices).items() if name[0].isdigit()}
    if not any(entry["script"].endswith("linreg.py") for entry in entries.values()):
        return "not fitted here"
    probes, epochs = ([entry[name] for entry in entries.values() if name in entry] for name in ("probes", "epochs"))
    passes = f"1 forward, {max(probes)} backward passes" if probes else "1 forward pass"
    passes += " per position" if probes or files.masked else " per sentence"
    return f"{passes} for {len(entries)} maps" + (f", {sum(epochs)} epochs of training in all" if epochs else "")


def origin(work: Work, L: int) -> dict[str, Any]:
    """Provenance of results and maps, from the manifests (see `report.page`)."""
    files, entry = work.files, work.provenance.entry(work.files.results)
    settings = work.provenance.settings(files.results)
    settings |= {name: settings[name][:12] for name in MODEL_FILES if name in settings}
    fitted = work.provenance.settings(files.matrix(0, L))  # may be of another dataset, or imported
    train = fitted.get("train") or fitted.get("imported", {}).get("metadata.sentences")
    more = {"date": entry.get("made", "")[:10], "settings": settings, "versions": entry.get("versions", {})}
    return {"mat": label("mat", files.map_kind), "train": train, **more}


def show_results(work: Work, r: Results, c: Comparison | None, shown: list[Names]) -> None:
    """Draw the figures and write summary and page if they are missing; all again if a result is new or has changed."""
    files, listed = work.files, evaluation.change(work)
    figures = plots.all_figures(r, files.title, files.map_kind)
    figures |= plots.lens_figures(c, r, files.title) if c else {}
    scores = [path for path in (files.r2_scores, files.quality) if path.exists()]
    reads = [path for names in shown for path in inputs(work, names)]
    reads += [*scores, *([files.own.results] if listed else [])]
    with work.outputs(reads, [*files.plots(*figures), files.summary, files.report], renew=True) as outputs:
        draw(outputs, figures)
        if not {files.summary, files.report} & {*outputs.todo}:
            return
        r2 = result_formats.load_r2(files.r2_scores) if files.r2_scores in scores else {}
        quality = result_formats.load_quality(files.quality) if files.quality in scores else {}
        drawn = of_maps(files, r.n_layers, r2, quality)
        data = [plot.data for plot in (drawn | figures).values() if plot.data.name in ("r2", "schedules")]
        listed += [*tables.of_results(r, c), *maps.r2_tables(r2), *([maps.quality_table(quality)] if quality else [])]
        numbers = {
            "model": files.model_name, "dataset": files.dataset, "matrices_from": files.matrices_from or files.dataset,
            "layers": r.n_layers, "sentences": r.sentences, "positions": r.n, "sample": r.sample, "confidence": 0.95,
            "costs": r.costs and {**vars(r.costs), "tokens": r.costs.tokens.double().mean().item()},
            "tables": {table.name: to_json(table) for table in [*listed, *data]},
            "paper": report.claims(files.model_name, r, r2),
            "warnings": warnings(work, shown),
        }  # fmt: skip
        pngs = {name: files.plot(name, "png").read_bytes() for name in figures}
        pngs |= {name: plot.render("png") for name, plot in drawn.items()}  # their files may be missing or older
        links = {name: f"plots/{files.judged}/{name}" if files.plot(name).exists() else "" for name in pngs}
        pictures = [(name, plot, pngs[name], links[name]) for name, plot in (drawn | figures).items()]
        page = report.page(numbers, files.title, r, pictures, listed, origin(work, r.n_layers))
        for path, content in {files.summary: store.dump_json(numbers), files.report: page.encode()}.items():
            if path in outputs.todo:
                with outputs.writing(path) as file:
                    file.write(content)


def look_inside(work: Work) -> None:
    """Draw and print the predictions of every layer for each sentence."""
    works = {"mat" if name == LEAST_SQUARES else name: work.of_kind(name) for name in work.args.map}
    jumps = [each.require(each.files.matrix(l, work.L)) for each in works.values() for l in range(work.L)]
    lines = read_lines(work.args.sentence)
    work.provenance.check(jumps, work.say)  # the maps must have been fitted for this model
    model, tokenizer = load_model(work), pretrained.load_tokenizer(work.args.model, masked=work.masked)
    L, d = work.L, model.d
    maps = {mode: [formats.load_map(each.files, l, L, d) for l in range(L)] for mode, each in works.items()}
    suffix = "".join(f"@{mode}" for mode in maps) if [*maps] != ["mat"] else ""
    grids = [sentence_grid.look(model, tokenizer, line.rstrip(), maps, work.say) for line in lines.values()]
    made_with = {file_kind: work.fingerprint(file_kind) for file_kind in MODEL_FILES}
    made_with |= {"model": work.files.model, "dtype": work.config.DTYPE}
    for grid in grids:  # all sentences are read before a figure is drawn
        files, figure = replace(work.files, map_kind=LEAST_SQUARES), f"sentence_{slug(grid.sentence)}{suffix}"
        with work.outputs(jumps, files.plots(figure), sentence=grid.sentence, **made_with) as outputs:
            draw(outputs, {figure: plots.sentence_grid(grid, files.title)})
        work.say(f"{text(tables.grids(grid))}\n\n{grid.in_words()}")


def read_lines(text_or_file: str, option: str = "--sentence") -> dict[int, str]:
    """The lines that are not blank in a text, or in the file with that name, by their number from 1."""
    place, found = f"{option} {text_or_file!r}", {}
    try:
        # Python decoded the argument in the locale's encoding
        content = Path(text_or_file).read_bytes() if os.path.isfile(text_or_file) else os.fsencode(text_or_file)
        for number, line in enumerate(content.splitlines(), 1):
            place = f"{option} {text_or_file!r}: line {number}"
            if (decoded := text_of(line)).strip():
                found[number] = decoded
    except ValueError as error:
        raise Problem(f"{place}: expected UTF-8 text ({error})") from error
    if not found:
        raise Problem(f"{option} {text_or_file!r} holds no word: expected text, a sentence per line")
    return found


def slug(sentence: str) -> str:
    """File name for a sentence: its words, with a hash if another sentence could have the same words."""
    words = "-".join(re.findall("[A-Za-z0-9]+", sentence))[:60]
    if words.replace("-", " ") == sentence:
        return words
    return f"{words[:50]}-{hashlib.sha256(sentence.encode()).hexdigest()[:6]}"
