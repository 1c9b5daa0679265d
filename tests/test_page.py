"""The page of made-up records: whole, with the figures, numbers and captions of now."""

import base64
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest
from made_up import L, Page, make, make_records, r2_of, show

from shortcut import linear, results
from shortcut.approximation import MODES
from shortcut.files import result_formats
from shortcut.files.names import Names
from shortcut.pipeline import manifest
from shortcut.pipeline.outputs import Outputs
from shortcut.show import canvas, figures, plots, report
from shortcut.show.table import Table

ROOT = Path(__file__).resolve().parent.parent


def test_page_is_whole_and_holds_the_summary(drawn):
    html = drawn.report.read_text(encoding="utf-8")
    page = Page(html)
    assert html.startswith("<!doctype html>\n<html lang=")
    assert json.loads(page.data) == json.loads(drawn.summary.read_text())
    assert len(set(page.ids)) == len(page.ids)
    links = [link for link in page.links if not link.startswith("data:")]
    assert links == [f"plots/words/{path.name}" for path in linked(drawn)]
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


def test_page_links_the_files_of_the_maps_if_they_are_drawn(drawn, tmp_path):
    files = make(tmp_path)
    path = files.plot(f"r2_scores_{L}")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    show(files)
    links = Page(files.report.read_text(encoding="utf-8")).links
    assert {*links} - {*Page(drawn.report.read_text(encoding="utf-8")).links} >= {
        f"plots/words/r2_scores_{L}.{ending}" for ending in ("pdf", "csv")
    }


def test_captions_say_what_to_see_and_define_the_curves(drawn):
    page = Page(drawn.report.read_text(encoding="utf-8"))
    titles = [plot.data.title for plot in plots.all_figures(results.summarize(make_records()), drawn.title).values()]
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


def test_page_says_how_the_results_were_made(drawn, tmp_path):
    """Date, versions and settings from the manifest of the results, or that there is no entry."""
    assert "date, versions and settings are not known" in drawn.report.read_text(encoding="utf-8")
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


def test_page_shows_the_numbers_of_the_summary(drawn):
    page = Page(drawn.report.read_text(encoding="utf-8"))
    summary = json.loads(drawn.summary.read_text())
    for row in summary["tables"]["precision@5"]:
        for mode in MODES:
            half = "" if row["layer"] == L else f" ±{50 * (row[mode]['high'] - row[mode]['low']):.1f}"
            assert f"{100 * row[mode]['mean']:.1f}{half}" in page.cells, mode
    (saved,) = [x for x in summary["tables"]["layers_saved"] if (x["mode"], x["Precision@1"]) == ("mat", 0.95)]
    assert saved["needs"] == pytest.approx(4 - saved["saves"]["mean"])
    assert {f"{saved['needs']:.2f}", f"{saved['saves']['mean']:.2f}"} <= {*page.cells}
    assert f"{r2_of(summary, 'mat')[0, 4]:.3f}" in page.cells


def test_page_without_r2_scores_has_no_heat_map(drawn, tmp_path):
    shutil.copytree(drawn.root, tmp_path, dirs_exist_ok=True)
    files = Names(tmp_path, drawn.model, drawn.dataset)
    for path in (files.r2_scores, files.summary, files.report):
        path.unlink()
    show(files)
    assert len(Page(files.report.read_text(encoding="utf-8")).images) == 7
    assert "r2" not in json.loads(files.summary.read_text())["tables"]


def test_scores_that_come_later_are_taken_into_the_page_whenever_that_is_killed(drawn, tmp_path, monkeypatch, capsys):
    shutil.copytree(drawn.root, tmp_path, dirs_exist_ok=True)
    files = Names(tmp_path, drawn.model, drawn.dataset)
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
    assert files.report.read_bytes() == drawn.report.read_bytes()
    assert files.summary.read_bytes() == drawn.summary.read_bytes()


def test_the_page_shows_the_figures_that_are_there_now(drawn, tmp_path, monkeypatch, capsys):
    """Also one that was drawn anew, by another version of a library say."""
    shutil.copytree(drawn.root, tmp_path, dirs_exist_ok=True)
    files = Names(tmp_path, drawn.model, drawn.dataset)
    picture = files.plot(f"pre_{L}", "png")
    picture.unlink()
    files.report.unlink()
    monkeypatch.setitem(canvas.STYLE, "font.size", 9)
    show(files)
    assert picture.read_bytes() != drawn.plot(f"pre_{L}", "png").read_bytes()
    assert base64.b64encode(picture.read_bytes()) in files.report.read_bytes()
    whole, _ = files.report.read_bytes(), capsys.readouterr()
    show(files)
    assert capsys.readouterr().out.count("already made, skipped") == 1
    assert files.report.read_bytes() == whole


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium: make page-check installs it")
def test_the_check_of_pages_finds_a_broken_figure(drawn, tmp_path):
    def check(page):
        script = ROOT / "tests" / "tools" / "check_page.py"
        return subprocess.run([sys.executable, script, page], capture_output=True, text=True, check=False)

    assert check(drawn.report).returncode == 0
    whole = drawn.report.read_text(encoding="utf-8")
    start = whole.index("base64,")
    (tmp_path / "page.html").write_text(whole[:start] + "base64,AAAA" + whole[start + 20_000 :], encoding="utf-8")
    done = check(tmp_path / "page.html")
    assert done.returncode == 1
    assert "figures are not decoded" in done.stderr
