"""Fits on too few sentences: what the scripts say of them, and where."""

import contextlib
import io
import json
from dataclasses import replace

import pytest
import torch
from conftest import LAYERS, D
from pipeline import SIZES, fit_kinds, run

import config
from shortcut import map_quality
from shortcut.files import formats, result_formats
from shortcut.pipeline import manifest
from shortcut.show import maps, table

KINDS = ["least-squares", "ridge", "jacobian"]
FEW = {**SIZES, "TRAIN": 12, "PROBES": 4}  # of states of width 16, with one of 48 probes
EXACT = f"12 training states of width {D}: the expected squared error on new sentences is arbitrarily far"


@pytest.fixture(scope="module", params=["gpt2", "bert"])
def made(request, tmp_path_factory):
    """Maps of a tiny model, and r2; of BERT the results and the page too. What each script prints, by its name."""
    printed = {}

    def told(script, *options):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            run(script, *options)
        printed[script.removeprefix("bert_")] = out.getvalue()

    with pytest.MonkeyPatch.context() as patch:
        for name, value in FEW.items():
            patch.setattr(config, name, value)
        with contextlib.redirect_stdout(io.StringIO()) as out:
            folder, names = fit_kinds(request, request.param, tmp_path_factory.mktemp("out"), KINDS)
        printed["add_linreg"] = out.getvalue()
        on, prefix = ("--model", folder, "--dataset", "words", "--out", names.root), "bert_" * names.masked
        told(f"{prefix}add_plot_r2", *on)
        run(f"{prefix}add_plot_r2", "--map", *KINDS[1:], *on)
        if names.masked:
            run("bert_add_results", "--map", *KINDS, *on)
            told("plot_results", *on)
    return names, printed


def entries(names, kind="least-squares"):
    """The manifest's entries of the maps of a kind into the last layer, in the order of their layers."""
    of = replace(names, map_kind=kind)
    return [manifest.load(of.matrices)[of.matrix(l, LAYERS).name] for l in range(LAYERS)]


def test_the_warning_of_a_fit_stands_in_the_manifest_and_under_the_tables_of_r2(made):
    names, printed = made
    assert EXACT in printed["add_linreg"]
    assert all(entry["warning"].startswith(EXACT) for entry in entries(names))
    assert not any("warning" in entry for entry in entries(names, "ridge"))
    shown = printed["add_plot_r2"].split("r2 from each layer")[1]
    assert shown.count(f"least-squares maps: {EXACT}") == 1
    assert "the loss of two jumps has no meaning" in shown


def test_the_warning_of_a_fit_stands_under_the_results_in_the_summary_and_on_the_page(made):
    """That of every kind that is shown, few probes too; ridge has none."""
    names, printed = made
    if not names.masked:
        pytest.skip("results are made of BERT")
    told = json.loads(names.summary.read_bytes())["warnings"]
    rough = f"jacobian maps: 48 probes for states of width {D} give a rough estimate"
    assert [line[: len(start)] for line, start in zip(told, (f"least-squares maps: {EXACT}", rough), strict=True)] == [
        f"least-squares maps: {EXACT}",
        rough,
    ]
    page = names.report.read_text(encoding="utf-8").split("<h2>Numbers</h2>")[1].split("<details>")[0]
    for line in told:
        assert line in printed["plot_results"]
        assert line.replace("'", "&#39;") in page


def test_what_two_jumps_lose_is_left_out_where_every_fit_is_exact(made):
    names, _ = made
    found = {
        kind: result_formats.load_quality(replace(names, map_kind=kind).quality) for kind in ("least-squares", "ridge")
    }
    assert found["least-squares"]["composition_loss"] == {}
    assert found["ridge"]["composition_loss"].keys() == {(i, k) for k in range(LAYERS) for i in range(k)}
    rows = table.cells(maps.quality_table(found["least-squares"]))
    assert all(row[3] == "-" for row in rows)


@pytest.mark.parametrize("kind", ["least-squares", "jacobian"])
def test_spectra_come_from_the_training_states(made, kind):
    """Those in the manifest are those that are shown, and the validation states have others."""
    names, _ = made
    if not names.masked:
        pytest.skip("BERT's states are in files")
    shown = result_formats.load_quality(replace(names, map_kind=kind).quality)
    h = {split: formats.load_states(names.split(split), LAYERS)[1] for split in ("train", "val")}
    for l, entry in enumerate(entries(names, kind)):
        A = formats.load_map(replace(names, map_kind=kind), l, LAYERS, D)
        train, val = (map_quality.Directions(h[split][l]).spectrum(A) for split in ("train", "val"))
        torch.testing.assert_close(torch.tensor(entry["spectrum"]).double(), train, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(train, val, rtol=1e-2)
        assert entry["effective_rank"] == pytest.approx(map_quality.effective_rank(train), rel=1e-4)
        assert (shown["spectrum"][l], shown["effective_rank"][l]) == (entry["spectrum"], entry["effective_rank"])
    assert not any("spectrum" in entry for name, entry in manifest.load(names.matrices).items() if name == "0_1.pickle")
