"""Figures of made-up records: curves, colours, legends, titles, heat maps; and what does not reach them."""

import io
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
import torch
from made_up import L, make_records, quality, scores

from shortcut import results
from shortcut.approximation import MODES, Mode
from shortcut.files import result_formats
from shortcut.files.names import Names
from shortcut.pipeline import showing
from shortcut.show import canvas, figures, maps, plots, table, tables

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("title", ["$x^{ on $y_{", "模型 on \x1b[31m\n", "a$b$c"])
def test_titles_are_drawn_as_they_are_whatever_characters_a_name_holds(title, tmp_path, drawn):
    r = results.summarize(result_formats.load_results(drawn.results))
    for plot in (maps.r2_heat_maps(scores(), title), plots.all_figures(r, title)[f"surp_{L}"]):
        assert plot.render("png")
        assert plot.render("pdf")


PREFERRED = {
    "text.usetex": True, "savefig.bbox": "tight", "figure.dpi": 37, "font.family": "no such font", "lines.marker": "o",
    "axes.prop_cycle": matplotlib.cycler(color=["red"]), "savefig.transparent": True, "pdf.compression": 0,
    "axes.formatter.use_mathtext": True, "figure.facecolor": "black",
}  # fmt: skip


@pytest.mark.usefixtures("figures_as_users_have_them")
def test_every_figure_has_room_for_its_labels(made):
    """matplotlib warns of a layout that does not fit, and warnings are errors."""
    r, r2 = results.summarize(make_records()), scores()
    shown = [*plots.all_figures(r, "t").values(), *showing.of_maps(made, L, r2, quality()).values()]
    assert len(shown) == 9
    assert all(plot.render("png") for plot in shown)


@pytest.mark.usefixtures("figures_as_users_have_them")
def test_settings_of_the_person_do_not_reach_the_figures():
    plot = plots.all_figures(results.summarize(make_records()), "t")[f"pre_{L}"]
    whole = {ending: plot.render(ending) for ending in ("png", "pdf")}
    with matplotlib.rc_context(PREFERRED):
        assert {ending: plot.render(ending) for ending in whole} == whole
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
@pytest.mark.usefixtures("figures_as_users_have_them")
def test_surroundings_do_not_decide_whether_figures_are_drawn(drawn, tmp_path, variables, settings):
    """A backend that is not installed, settings files that are broken: in the folder, and named by a variable."""
    shutil.copytree(drawn.root, tmp_path, dirs_exist_ok=True)
    picture = Names(tmp_path, drawn.model, drawn.dataset).plot(f"surp_{L}", "png")
    picture.unlink()
    for name in ("matplotlibrc", "other"):
        (tmp_path / name).write_bytes(settings)
    asked = ["--out", tmp_path, "--model", drawn.model, "--dataset", "words"]
    command = [sys.executable, ROOT / "plot_results.py", *asked]
    env = os.environ | variables
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    plot = plots.all_figures(results.summarize(result_formats.load_results(drawn.results)), drawn.title)[f"surp_{L}"]
    assert picture.read_bytes() == plot.render("png")


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


def test_curves_have_the_papers_colours_and_bands(drawn):
    r = results.summarize(result_formats.load_results(drawn.results))
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
    assert "lose up to 0.02 in r² against one jump" in lost.alt
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


def test_a_mode_without_a_look_of_its_own_gets_a_free_one(drawn, monkeypatch):
    """A row of the table is all that a way to go on needs to be shown."""
    monkeypatch.setitem(MODES, "half", Mode("half", "halved", None))
    records = result_formats.load_results(drawn.results)
    records += [{**r, "info": {**r["info"], "mode": "halved"}} for r in records if r["info"]["mode"] == "mat"]
    r = results.summarize(records)
    ax = plots.all_figures(r, "t")[f"parts_pre1_{L}"].draw().axes[0]
    assert "half" in [line.get_label() for line in ax.lines]
    assert len({(line.get_color(), str(line._dash_pattern)) for line in ax.lines}) == len(ax.lines) == 5 + 1
    assert "half" in [column.name for column in tables.of_results(r, None)[0].columns]
