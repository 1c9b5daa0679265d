"""Figures, summary and page of made-up records: what is drawn, what stands in the files, what agrees."""

import base64
import csv
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
import torch

import plot_results
from shortcut import linear, results
from shortcut.approximation import MODES, Mode
from shortcut.files import result_formats, store
from shortcut.files.names import Names
from shortcut.pipeline import manifest
from shortcut.pipeline.outputs import Outputs
from shortcut.show import canvas, figures, maps, plots, report, table, tables
from shortcut.show.table import Table

ROOT = Path(__file__).resolve().parent.parent
L, N = 4, 50
VOID = {"meta", "link", "img"}


def make_records(n_layers=L):
    """Every mode at every layer, better with each; early exits of id and mat."""
    g = torch.Generator().manual_seed(0)
    full = torch.randint(0, 1000, (N, 10), generator=g)

    def record(info, layers, share):
        topk = full.clone()
        topk[:, 0] = torch.where(torch.rand(N, generator=g) < share, full[:, 0], 2000)
        return {"info": info, "layers_processed": layers, "topk": topk, "surprisal": torch.rand(N, generator=g) * 9}

    fixed = [
        record({"type": "jump", "mode": mode.key, "layer": l}, float(l), (k + 2) / 8 if l < n_layers else 1)
        for k, mode in enumerate(MODES.values())
        for l in range(n_layers + 1)
    ]
    early = [
        record(
            {"type": "early_exit", "mode": MODES[mode].key, "lambda": lam}, 1 + (n_layers - 1) * lam, 0.2 + 0.8 * lam
        )
        for mode in ("id", "mat")
        for lam in (0.0, 0.5, 1.0)
    ]
    return [*fixed, *early]


def scores(only_last=False):
    pairs = [(i, j) for i in range(L) for j in range(i + 1, L + 1) if j == L or not only_last]
    return {"score_mat": {p: 0.9 - 0.1 * (p[1] - p[0]) for p in pairs}, "score_id": dict.fromkeys(pairs, -0.5)}


def make(root, model="gpt2-xl", records=None, r2=None):
    files = Names(root, model, "words")
    with store.replacing(files.results) as file:
        store.dump(file, *(records or make_records()))
    with store.replacing(files.r2_scores) as file:
        store.dump(file, r2 or scores())
    return files


def read(path):
    return list(csv.DictReader(io.StringIO(path.read_bytes().decode())))


def show(files, *options):
    plot_results.main(["--out", str(files.root), "--model", files.model, "--dataset", "words", *options])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    files = make(tmp_path_factory.mktemp("out"))
    show(files)
    return files


class Page(HTMLParser):
    """A page taken apart; fails where an element is not closed in its turn."""

    def __init__(self, html):
        super().__init__()
        self.open, self.images, self.links, self.ids, self.data, self.cells = [], [], [], [], "", []
        self.captions = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(attrs)
        if tag in ("td", "th"):
            self.cells.append("")
        if tag == "figcaption":
            self.captions.append("")
        self.links += [attrs[name] for name in ("src", "href") if name in attrs]
        self.ids += [attrs["id"]] if "id" in attrs else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.data += data
        elif self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data
        elif self.open and self.open[-1] == "figcaption":
            self.captions[-1] += data


def test_page_is_whole_and_holds_the_summary(made):
    html = made.report.read_text(encoding="utf-8")
    page = Page(html)
    assert html.startswith("<!doctype html>\n<html lang=")
    assert json.loads(page.data) == json.loads(made.summary.read_text())
    assert len(set(page.ids)) == len(page.ids)
    links = [link for link in page.links if not link.startswith("data:")]
    assert links == [f"plots/words/{path.name}" for path in linked(made)]
    assert "url(" not in html
    assert len(page.images) == 8
    for image in page.images:
        picture = base64.b64decode(image["src"].partition(",")[2], validate=True)
        shape = matplotlib.image.imread(io.BytesIO(picture)).shape
        assert (int(image["height"]), int(image["width"])) == shape[:2]
        assert len(image["alt"]) > 40
    assert len(html) < 1_500_000


def linked(files):
    """PDF and CSV of every figure of the results, in the order of the page."""
    names = plots.all_figures(results.summarize(result_formats.load_results(files.results)), "")
    return [files.plot(name, ending) for name in names for ending in ("pdf", "csv")]


def test_page_links_the_files_of_the_maps_if_they_are_drawn(made, tmp_path):
    files = make(tmp_path)
    path = files.plot(f"r2_scores_{L}")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    show(files)
    links = Page(files.report.read_text(encoding="utf-8")).links
    assert {*links} - {*Page(made.report.read_text(encoding="utf-8")).links} >= {
        f"plots/words/r2_scores_{L}.{ending}" for ending in ("pdf", "csv")
    }


def test_captions_say_what_to_see_and_define_the_curves(made):
    page = Page(made.report.read_text(encoding="utf-8"))
    titles = [plot.data.title for plot in plots.all_figures(results.summarize(make_records()), made.title).values()]
    assert len(page.captions) == len(page.images) == len({*page.captions})
    assert not [caption for caption in page.captions if any(title in caption for title in titles)]
    first = next(caption for caption in page.captions if "mat_ln1_ln2" in caption)
    assert "mat_ln1_ln2 both layer norms" in first
    assert "best constant, the score of always guessing" in first


@pytest.mark.parametrize("map_kind", linear.KINDS)
def test_every_figure_has_a_caption(map_kind):
    """All rows of the table of figures, and the three figures that are drawn by functions of their own."""
    names = [*figures.names(L, parts=True, alternation=True, lenses=True), f"r2_scores_{L}", f"maps_{L}"]
    plot = canvas.Plot(None, Table("", "t", [], []), "alt")
    origin = {"mat": figures.label("mat", map_kind), "train": None, "date": "", "settings": {}, "versions": {}}
    summary = {"layers": L, "sample": "50 sentences", "sentences": 50, "dataset": "words", "matrices_from": "words"}
    png, r = bytes(24), results.summarize(make_records())
    shown = [(name, plot, png, "") for name in names]
    page = Page(report.page(summary | {"paper": [], "warnings": []}, "t", r, shown, [], origin))
    assert len(page.captions) == len(names)
    assert all(len(caption) > 30 for caption in page.captions)


def test_page_says_how_the_results_were_made(made, tmp_path):
    """Date, versions and settings from the manifest of the results, or that there is no entry."""
    assert "date, versions and settings are not known" in made.report.read_text(encoding="utf-8")
    files = make(tmp_path)
    entry = {"script": "add_results.py", "made": "2031-02-03T04:05:06+00:00", "sha256": manifest.sha256(files.results),
             "key": "k", "settings": {"train": 17, "tau": 4.0, "weights": 64 * "a"}, "reads": {},
             "versions": {"torch": manifest.version("torch")}}  # fmt: skip
    manifest.save(files.experiment, {files.results.name: entry})
    show(files)
    html = files.report.read_text(encoding="utf-8")
    assert "Results of 2031-02-03, made with torch" in html
    assert "04:05" not in html
    assert {"tau", "4.0", "version of torch", 12 * "a"} <= {*Page(html).cells}


def test_page_shows_the_numbers_of_the_summary(made):
    page = Page(made.report.read_text(encoding="utf-8"))
    summary = json.loads(made.summary.read_text())
    for row in summary["tables"]["precision@5"]:
        for mode in MODES:
            half = "" if row["layer"] == L else f" ±{50 * (row[mode]['high'] - row[mode]['low']):.1f}"
            assert f"{100 * row[mode]['mean']:.1f}{half}" in page.cells, mode
    (saved,) = [x for x in summary["tables"]["layers_saved"] if (x["mode"], x["Precision@1"]) == ("mat", 0.95)]
    assert saved["needs"] == pytest.approx(4 - saved["saves"]["mean"])
    assert {f"{saved['needs']:.2f}", f"{saved['saves']['mean']:.2f}"} <= {*page.cells}
    assert f"{r2_of(summary, 'mat')[0, 4]:.3f}" in page.cells


def r2_of(summary, mode):
    """By (source, target), what the summary has of r2."""
    return {(row["source"], row["target"]): row[mode] for row in summary["tables"]["r2"]}


def test_summary_holds_the_numbers_of_the_records(made):
    summary = json.loads(made.summary.read_text())
    records = result_formats.load_results(made.results)
    full = records[L]["topk"].numpy()
    mat, identity = (
        {r["info"]["layer"]: r for r in records if r["info"]["mode"] == key and "layer" in r["info"]}
        for key in ("mat", "idln")
    )
    for layer in range(L + 1):
        point, apart = (
            {m: summary["tables"][m][layer][name] for m in (*results.PRECISIONS, "surprisal")}
            for name in ("mat", "mat - id")
        )
        assert {rows[layer]["layer"] for rows in (summary["tables"][m] for m in point)} == {layer}
        hits = [[row[0] in best for row, best in zip(r[layer]["topk"].numpy(), full[:, :5], strict=True)]
                for r in (mat, identity)]  # fmt: skip
        assert point["precision@5"]["mean"] == pytest.approx(np.mean(hits[0]), abs=1e-6)
        assert apart["precision@5"]["mean"] == pytest.approx(np.mean(hits[0]) - np.mean(hits[1]), abs=1e-6)
        assert point["surprisal"]["mean"] == pytest.approx(float(mat[layer]["surprisal"].mean()), abs=1e-5)
        known = {k: p for k, p in point.items() if k == "surprisal" or layer < L}
        assert all(p["low"] <= p["mean"] <= p["high"] for p in known.values())
        constant = [
            *(p for k, p in point.items() if k not in known),
            *([apart["surprisal"]] * (layer == L)),
        ]
        assert [(p["low"], p["high"]) for p in constant] == [(None, None)] * (4 if layer == L else 0)


def test_paper_is_quoted_for_the_models_it_names_alone(made):
    told = json.loads(made.summary.read_text())["paper"]
    assert [claim["here"] for claim in told if "pairs of layers" in claim["what"]] == ["10 of 10"]
    assert any("28-45%" in claim["paper"] for claim in told)
    r = results.summarize(make_records())
    assert report.claims("my-model", r, scores()) == []
    assert {claim["paper"] for claim in report.claims("gpt2", r, None)} == {"every layer"}
    saved = {m: [c for c in report.claims(m, r, None) if "early exit saves" in c["what"]]
             for m in ("gpt2-medium", "bert-large-uncased")}  # fmt: skip
    needed = {mode: L - r.early[mode].saved(0.95, L).mean for mode in ("mat", "id")}
    for of_model in saved.values():
        assert of_model[0]["here"].startswith(f"mat {L - needed['mat']:.1f} ({100 * (L - needed['mat']) / L:.1f}%)")


def test_csv_holds_the_curves_with_their_intervals(made):
    r = results.summarize(result_formats.load_results(made.results))
    rows = read(made.plot(f"ee_pre1_{L}", "csv"))
    assert [row["exit"] for row in rows] == ["fixed"] * 2 * (L + 1) + ["early"] * 6
    early = [row for row in rows if row["exit"] == "early" and row["mode"] == "mat"]
    assert [float(row["lambda"]) for row in early] == [0, 0.5, 1]
    for row, point in zip(early, r.early["mat"].estimates["precision@1"], strict=True):
        numbers = [float(row[name]) if row[name] else None for name in ("value", "low", "high")]
        assert numbers == (pytest.approx(point, abs=1e-5) if float(row["layers"]) < L else [1, None, None])
    assert {row["metric"] for row in read(made.plot(f"pre_{L}", "csv"))} == set(results.PRECISIONS)


def test_what_is_missing_alone_is_made(made, capsys):
    lost = [made.plot(f"surp_{L}", "png"), made.plot(f"pre_{L}", "csv"), made.report]
    before = {path: path.read_bytes() for path in lost}
    kept = made.plot(f"pre_{L}").stat().st_mtime_ns
    for path in lost:
        path.unlink()
    show(made)
    assert {path: path.read_bytes() for path in lost} == before
    assert made.plot(f"pre_{L}").stat().st_mtime_ns == kept
    assert "wrote 3 files in" in capsys.readouterr().out


def test_files_of_two_runs_are_the_same_and_undated(made, tmp_path):
    other = make(tmp_path)
    show(other)
    names = sorted(p.relative_to(made.root) for p in made.root.rglob("*_*") if p.is_file())
    assert len(names) == 3 * 7 + 4
    for name in names:
        assert (made.root / name).read_bytes() == (tmp_path / name).read_bytes(), name
    assert b"CreationDate" not in other.plot(f"pre_{L}").read_bytes()
    assert b"tEXt" not in other.plot(f"pre_{L}", "png").read_bytes()


def test_page_without_r2_scores_has_no_heat_map(made, tmp_path):
    shutil.copytree(made.root, tmp_path, dirs_exist_ok=True)
    files = Names(tmp_path, made.model, made.dataset)
    for path in (files.r2_scores, files.summary, files.report):
        path.unlink()
    show(files)
    assert len(Page(files.report.read_text(encoding="utf-8")).images) == 7
    assert "r2" not in json.loads(files.summary.read_text())["tables"]


def test_scores_that_come_later_are_taken_into_the_page_whenever_that_is_killed(made, tmp_path, monkeypatch, capsys):
    shutil.copytree(made.root, tmp_path, dirs_exist_ok=True)
    files = Names(tmp_path, made.model, made.dataset)
    files.r2_scores.rename(tmp_path / "later")
    for path in (files.summary, files.report):
        path.unlink()
    show(files)
    (tmp_path / "later").rename(files.r2_scores)
    writing = Outputs.writing

    def stopping(outputs, path, **numbers):
        if path == files.report:
            raise KeyboardInterrupt
        return writing(outputs, path, **numbers)

    with monkeypatch.context() as patch:
        patch.setattr(Outputs, "writing", stopping)
        with pytest.raises(KeyboardInterrupt):
            show(files)
    assert "r2" in json.loads(files.summary.read_text())["tables"]
    show(files)
    assert files.report.read_bytes() == made.report.read_bytes()
    assert files.summary.read_bytes() == made.summary.read_bytes()


def test_the_page_shows_the_figures_that_are_there_now(made, tmp_path, monkeypatch, capsys):
    """Also one that was drawn anew, by another version of a library say."""
    shutil.copytree(made.root, tmp_path, dirs_exist_ok=True)
    files = Names(tmp_path, made.model, made.dataset)
    picture = files.plot(f"pre_{L}", "png")
    picture.unlink()
    files.report.unlink()
    monkeypatch.setitem(canvas.STYLE, "font.size", 9)
    show(files)
    assert picture.read_bytes() != made.plot(f"pre_{L}", "png").read_bytes()
    assert base64.b64encode(picture.read_bytes()) in files.report.read_bytes()
    whole, _ = files.report.read_bytes(), capsys.readouterr()
    show(files)
    assert capsys.readouterr().out.count("already made, skipped") == 1
    assert files.report.read_bytes() == whole


def as_the_first_bert_code_wrote_them(records):
    """`id` by that name, jumps without `layers_processed`, early exits without `surprisal`."""
    for r in records:
        if r["info"]["mode"] in ("idln", "mat"):
            info = {**r["info"], "mode": {"idln": "id"}.get(r["info"]["mode"], "mat")}
            left_out = "layers_processed" if info["type"] == "jump" else "surprisal"
            yield {key: value for key, value in r.items() if key != left_out} | {"info": info}


def as_the_gpt2_code_wrote_them(records):
    """Numbers as scalars of numpy, and sub-modules replaced that are no mode of the paper."""
    for r in records:
        yield {**r, "layers_processed": np.float64(r["layers_processed"])}
    yield {**records[0], "info": {**records[0]["info"], "mode": ("blk_mat", {"what_to_mat": {2, 5}})}}


@pytest.mark.parametrize("written", [as_the_first_bert_code_wrote_them, as_the_gpt2_code_wrote_them])
def test_the_originals_results_reach_what_a_person_reads(written, tmp_path, capsys):
    """Table, CSV, summary and page: Precision@1 of id and mat, counted here from the records."""
    files = Names(tmp_path, "m_mask", "words")
    records = [*written(make_records())]
    files.results.parent.mkdir(parents=True)
    files.results.write_bytes(b"".join(map(pickle.dumps, records)))
    files.r2_scores.write_bytes(
        pickle.dumps({name: {p: np.float64(x) for p, x in of.items()} for name, of in scores().items()})
    )
    show(files)
    told = capsys.readouterr().out
    assert ("not shown" in told) == (written is as_the_gpt2_code_wrote_them)
    assert told.count("no manifest entry") == 2  # of the results, and of the scores
    table = told[told.index("Precision@1 at each layer") :].splitlines()
    at, names = (
        {row.split()[0]: [cell for cell in row.split() if cell[0] != "±"] for row in table[2 : 3 + L]},
        [name for name in MODES if name in table[1].split()],
    )
    full = next(r["topk"] for r in records if r["info"].get("layer") == L)
    summary, rows = json.loads(files.summary.read_text()), read(files.plot(f"pre_{L}", "csv"))
    for mode, keys in (("id", ("id", "idln")), ("mat", ("mat",))):
        for layer in range(L + 1):
            topk = next(r["topk"] for r in records if r["info"]["mode"] in keys and r["info"].get("layer") == layer)
            share = sum(ours == best for ours, best in zip(topk[:, 0].tolist(), full[:, 0].tolist(), strict=True)) / N
            row = [r for r in rows if (r["metric"], r["mode"], float(r["layers"])) == ("precision@1", mode, layer)]
            assert [float(r["value"]) for r in row] == [pytest.approx(share)]
            assert summary["tables"]["precision@1"][layer][mode]["mean"] == pytest.approx(share)
            assert at[str(layer)][1 + names.index(mode)] == f"{100 * share:.1f}"
        assert [row["lambda"] for row in summary["tables"][f"early_exit_{mode}"]] == [0, 0.5, 1]
        assert f"Early exit with {mode}" in files.report.read_text(encoding="utf-8")
    assert r2_of(summary, "id")[0, 4] == -0.5
    assert len(Page(files.report.read_text(encoding="utf-8")).images) == (4 if "not shown" not in told else 8)


def test_scores_by_variance_stand_beside_those_of_the_paper(tmp_path, capsys):
    """One of -1e60 leaves tables that can be read; files without such scores are shown above."""
    r2 = scores() | {
        name: dict.fromkeys(scores()["score_mat"], 0.25) for name in ("score_mat_weighted", "score_id_weighted")
    }
    r2["score_id"][0, L] = -1e60
    files = make(tmp_path, r2=r2)
    show(files)
    summary, cells = json.loads(files.summary.read_text()), Page(files.report.read_text(encoding="utf-8")).cells
    assert (r2_of(summary, "id")[0, L], r2_of(summary, "id_weighted")[0, L]) == (-1e60, 0.25)
    assert cells.count("-1e+60") == 1
    assert cells.count("0.250") >= 2 * L
    first, second = map(table.cells, maps.r2_tables(r2))
    assert first[0] == ["0", "0.800", "0.500", "0.650", "-0.500", "-1e+60", "-2.5e+59"]
    assert second[0][4:] == ["0.250"] * 3
    csv_rows = maps.r2_heat_maps(r2, "t").data
    assert [column.name for column in csv_rows.columns] == [
        "source",
        "target",
        "mat",
        "id",
        "mat_weighted",
        "id_weighted",
    ]
    assert csv_rows.rows[L - 1] == [0, L, pytest.approx(0.5), -1e60, 0.25, 0.25]


def test_a_model_of_one_layer_is_shown_whole(tmp_path):
    r2 = {name: {(0, 1): 0.5} for name in result_formats.SCORES}
    files = make(tmp_path, records=make_records(1), r2=r2)
    show(files)
    summary = json.loads(files.summary.read_text())
    assert summary["layers"] == 1
    assert [row["layer"] for row in summary["tables"]["precision@1"]] == [0, 1, "mean"]
    assert summary["tables"]["precision@1"][1]["mat"]["mean"] == 1
    assert len(Page(files.report.read_text(encoding="utf-8")).images) == 8
    assert table.cells(maps.r2_tables(r2)[0]) == [["0", *["0.500"] * 6]]


@pytest.mark.parametrize("title", ["$x^{ on $y_{", "模型 on \x1b[31m\n", "a$b$c"])
def test_titles_are_drawn_as_they_are_whatever_characters_a_name_holds(title, tmp_path, made):
    r = results.summarize(result_formats.load_results(made.results))
    for plot in (maps.r2_heat_maps(scores(), title), plots.all_figures(r, title)[f"surp_{L}"]):
        assert plot.render("png")
        assert plot.render("pdf")


PREFERRED = {
    "text.usetex": True, "savefig.bbox": "tight", "figure.dpi": 37, "font.family": "no such font", "lines.marker": "o",
    "axes.prop_cycle": matplotlib.cycler(color=["red"]), "savefig.transparent": True, "pdf.compression": 0,
    "axes.formatter.use_mathtext": True, "figure.facecolor": "black",
}  # fmt: skip


def test_settings_of_the_person_do_not_reach_the_figures(made):
    r = results.summarize(result_formats.load_results(made.results))
    plot = plots.all_figures(r, made.title)[f"pre_{L}"]
    with matplotlib.rc_context(PREFERRED):
        for ending in ("png", "pdf"):
            assert plot.render(ending) == made.plot(f"pre_{L}", ending).read_bytes()
        assert matplotlib.rcParams["figure.dpi"] == 37


@pytest.mark.parametrize(
    ("variables", "settings"),
    [
        (
            {"MPLBACKEND": "module://matplotlib_inline.backend_inline"},
            b"no.such.key: 1\nnor a colon\nlines.linewidth: wide",
        ),
        ({"MATPLOTLIBRC": "other"}, b"\xff\xfe: not in UTF-8"),
    ],
)
def test_surroundings_do_not_decide_whether_figures_are_drawn(made, tmp_path, variables, settings):
    """A backend that is not installed, settings files that are broken: in the folder, and named by a variable."""
    shutil.copytree(made.root, tmp_path, dirs_exist_ok=True)
    picture = Names(tmp_path, made.model, made.dataset).plot(f"surp_{L}", "png")
    picture.unlink()
    for name in ("matplotlibrc", "other"):
        (tmp_path / name).write_bytes(settings)
    command = [sys.executable, ROOT / "plot_results.py", "--out", tmp_path, "--model", made.model, "--dataset", "words"]
    env = os.environ | variables
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert picture.read_bytes() == made.plot(f"surp_{L}", "png").read_bytes()


def test_heat_map_of_jumps_into_the_last_layer_alone_leaves_the_others_empty():
    r2 = scores(only_last=True)
    plot = maps.r2_heat_maps(r2, "t")
    mat, identity = (ax.images[0].get_array() for ax in plot.draw().axes[:2])
    drawn = ~np.ma.getmaskarray(mat)
    assert [tuple(cell) for cell in np.argwhere(drawn)] == sorted([*((i, i) for i in range(L + 1)), *r2["score_mat"]])
    assert mat[0, L] == pytest.approx(0.5)
    assert identity[0, L] == -0.5
    first = table.cells(maps.r2_tables(r2)[0])[0]
    assert first == ["0", "-", "0.500", "-", "-", "-0.500", "-"]


def test_curves_have_the_papers_colours_and_bands(made):
    r = results.summarize(result_formats.load_results(made.results))
    figures = plots.all_figures(r, "t")
    ax = figures[f"parts_pre1_{L}"].draw().axes[0]
    *lines, floor = ax.lines
    colours = {line.get_label(): line.get_color() for line in lines}
    assert colours == {
        "mat (least squares)": "blue",
        "mat_attn": "green",
        "mat_ffn": "magenta",
        "mat_ln1_ln2": "orange",
    }
    assert len({str(line._dash_pattern) for line in lines}) == len(lines) == len(ax.collections)
    assert floor.get_label() == "best constant"
    assert {*floor.get_ydata()} == {r.floor["precision@1"].mean}
    low = ax.collections[0].get_paths()[0].vertices[:, 1].min()
    *below, at_last = r.fixed["mat"].estimates["precision@1"]
    assert low == pytest.approx(min(p.low for p in below))
    assert at_last == (1, None, None)
    assert ax.collections[0].get_paths()[0].vertices[:, 0].max() == L - 1  # the band ends before it


def test_the_terminal_shows_precision_of_id_and_mat_and_the_layers_saved(made, capsys):
    show(made, "--force")
    told = capsys.readouterr().out.split("\n\n")[1:]
    assert [part.splitlines()[1].split() for part in told] == [
        ["layer", "id", "mat"],
        ["Precision@1", "mode", "needs", "saves", "share"],
    ]


def quality(**found):
    """Numbers of three maps of a model of width 2; composition_loss as given."""
    layers = range(3)
    jumps = [(i, j) for i in layers for j in range(i + 1, 4)]
    return {"composition_loss": {}, "gain": dict.fromkeys(jumps, 0.0), "split_half_r2": dict.fromkeys(layers, 0.9),
            "effective_rank": dict.fromkeys(layers, 1.5), "spectrum": {l: [2.0, 1.0] for l in layers},
            "r2_by_rank": {}} | found  # fmt: skip


def titles(plot):
    return " ".join(ax.get_title() for ax in plot.draw().axes)


def test_the_figure_of_the_maps_says_where_a_loss_has_no_meaning_and_marks_what_is_beyond_an_axis():
    lost = maps.quality_figure(quality(composition_loss={(0, 1): 0.02, (0, 2): -0.01, (1, 2): 0.0}), "t")
    gained = maps.quality_figure(quality(composition_loss={(0, 1): -0.02, (0, 2): -0.01, (1, 2): 0.0}), "t")
    exact = maps.quality_figure(quality(), "t")
    last_only = maps.quality_figure(quality(gain=dict.fromkeys([(0, 3), (1, 3), (2, 3)], 0.0)), "t")
    assert ["nothing is lost" in titles(plot) for plot in (lost, gained, exact, last_only)] == [0, 1, 0, 0]
    assert ["no more training states than d" in titles(plot) for plot in (lost, gained, exact, last_only)] == [
        0,
        0,
        1,
        0,
    ]
    assert "lose up to 0.02 of" in lost.alt
    assert "lose nothing" in gained.alt
    assert maps.EXACT in exact.alt
    image = gained.draw().axes[1].images[0]
    assert image.norm.vmin == -0.02
    (legend,) = maps.quality_figure(quality(split_half_r2={0: -35.2, 1: 0.5, 2: 0.9}), "t").draw().legends
    assert "halves agree, $r^2$ (lowest: -35)" in [text.get_text() for text in legend.get_texts()]


LOST, BY_RANK = {"composition_loss": {(0, 1): 0.1}}, {"r2_by_rank": {l: [[1, 0.5], [2, 0.6]] for l in range(3)}}


@pytest.mark.parametrize("name", ["lost", "by rank", f"parts_pre1_{L}", f"ee_pre1_{L}", f"pre_{L}"])
def test_no_legend_covers_a_curve_or_leaves_the_figure(name):
    of_maps = {
        "lost": maps.quality_figure(quality(**LOST), "t"),
        "by rank": maps.quality_figure(quality(**BY_RANK), "t"),
    }
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **canvas.STYLE}):
        figure = (of_maps | plots.all_figures(results.summarize(make_records()), "t"))[name].draw()
        figure.savefig(io.BytesIO(), format="png", dpi=100)
    (legend,) = figure.legends
    assert not [ax for ax in figure.axes if ax.get_legend()]
    box = legend.get_window_extent()
    assert not [ax for ax in figure.axes if ax.get_window_extent().overlaps(box)]
    assert 0 <= box.x0 < box.x1 <= figure.bbox.width


def test_the_legend_shows_the_line_of_early_exit():
    """A line for all lambda and points for some, with one entry for both."""
    r = results.summarize(make_records())
    exits = SimpleNamespace(along=lambda: (torch.zeros(2), [1.0, float(L)], [0.2, 1.0]))
    early = {mode: replace(curve, exits=exits) for mode, curve in r.early.items()}
    (row,) = [row for row in figures.FIGURES if row.early]
    shown = replace(r, fixed={"id": r.fixed["id"]}, early=early)
    (legend,) = plots._draw_curves(row, "t", shown, "least-squares").legends
    entries = {text.get_text(): line for text, line in zip(legend.get_texts(), legend.get_lines(), strict=True)}
    assert [*entries] == ["id, early exit", "mat (least squares), early exit", "id, fixed exit"]
    assert [entries[name].get_linestyle() for name in entries] == ["--", "-", "--"]
    assert [entries[name].get_marker() for name in entries] == [".", ".", "None"]


def test_mat_is_called_by_its_map_kind():
    r = results.summarize(make_records())
    for map_kind, expected in (("least-squares", "mat (least squares)"), ("low-rank", "mat (low rank)")):
        (legend,) = plots.all_figures(r, "t", map_kind)[f"pre_{L}"].draw().legends
        assert [text.get_text() for text in legend.get_texts()] == [expected, "id", "best constant"]
        assert maps.r2_heat_maps(scores(), "t", map_kind).draw().axes[0].get_title() == expected


def test_a_mode_without_a_look_of_its_own_gets_a_free_one(made, monkeypatch):
    """A row of the table is all that a way to go on needs to be shown."""
    monkeypatch.setitem(MODES, "half", Mode("half", "halved", None))
    records = result_formats.load_results(made.results)
    records += [{**r, "info": {**r["info"], "mode": "halved"}} for r in records if r["info"]["mode"] == "mat"]
    r = results.summarize(records)
    ax = plots.all_figures(r, "t")[f"parts_pre1_{L}"].draw().axes[0]
    assert "half" in [line.get_label() for line in ax.lines]
    assert len({(line.get_color(), str(line._dash_pattern)) for line in ax.lines}) == len(ax.lines) == 5 + 1
    assert "half" in [column.name for column in tables.of_results(r, None)[0].columns]


@pytest.mark.parametrize(
    ("output", "told"),
    [("head", ""), ("/dev/full", "cannot print (No space left on device): continuing without output\n")],
)
def test_when_nobody_reads_what_is_said_the_work_goes_on(made, output, told):
    made.report.unlink()
    options = ["--out", made.root, "--model", made.model, "--dataset", "words"]
    reader, writer = os.pipe()
    os.close(reader)  # as head does when it has had enough
    to = writer if output == "head" else os.open(output, os.O_WRONLY)
    command = [sys.executable, ROOT / "plot_results.py", *options]
    done = subprocess.run(command, stdout=to, stderr=subprocess.PIPE, text=True, check=False)
    overview_told = subprocess.run(
        [sys.executable, ROOT / "config.py"], stdout=writer, stderr=subprocess.PIPE, check=False
    )
    for handle in {to, writer}:
        os.close(handle)
    assert (done.returncode, done.stderr) == (0, told)
    assert made.report.exists()
    assert (overview_told.returncode, overview_told.stderr) == (0, b"")


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium: make page-check installs it")
def test_the_check_of_pages_finds_a_broken_figure(made, tmp_path):
    def check(page):
        script = ROOT / "tests" / "tools" / "check_page.py"
        return subprocess.run([sys.executable, script, page], capture_output=True, text=True, check=False)

    assert check(made.report).returncode == 0
    whole = made.report.read_text(encoding="utf-8")
    start = whole.index("base64,")
    (tmp_path / "page.html").write_text(whole[:start] + "base64,AAAA" + whole[start + 20_000 :], encoding="utf-8")
    done = check(tmp_path / "page.html")
    assert done.returncode == 1
    assert "figures are not decoded" in done.stderr
