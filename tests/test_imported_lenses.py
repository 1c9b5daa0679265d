"""Lenses from other tools beside maps fitted here; Jacobians depend on the seed of their probes."""

import json
import re
import shutil
from dataclasses import replace

import pytest
from conftest import LAYERS
from pipeline import costs_of, exported, fit_kinds, problem, run, small_sizes

import config
from shortcut import Problem
from shortcut.__main__ import main as command
from shortcut.files import formats, result_formats
from shortcut.pipeline import manifest

pytestmark = pytest.mark.usefixtures("small")


@pytest.fixture(scope="module")
def fitted_here(request, tmp_path_factory):
    """Tokens and maps of a tiny GPT-2: its folder and files."""
    out = tmp_path_factory.mktemp("out")
    with small_sizes():
        folder, names = fit_kinds(request, "gpt2", out, ("least-squares", "affine", "jacobian"))
        run("add_linreg_submodules", "--model", folder, "--dataset", "words", "--out", out)
    return folder, names


def test_lenses_imported_in_both_formats_are_judged_and_shown_as_any_other_kind(fitted_here, tmp_path, monkeypatch):
    monkeypatch.setattr(config, "SCHEDULES", False)  # which need the r2 of all jumps first
    folder, names = fitted_here
    shutil.copytree(names.root, tmp_path, dirs_exist_ok=True)
    here, on = replace(names, root=tmp_path), ("--model", folder, "--dataset", "words", "--out", tmp_path)
    for kind, to in (("affine", "tuned-lens"), ("jacobian", "jlens")):
        command([str(x) for x in ("import", exported(fitted_here, kind, to), "--from", to, *on, "--force")])
    run("add_linreg", "--map", "tuned", "jacobian", *on[:-1], names.root)  # neither is made anew, or removed
    run("add_plot_r2", "--map", "tuned", *on)  # of their fit nothing is known, and nothing is shown
    maps = result_formats.load_quality(replace(here, map_kind="tuned").quality)
    assert maps["spectrum"] == maps["effective_rank"] == {}
    assert len(maps["gain"]) == LAYERS
    run("add_results", "--map", "least-squares", "affine", "tuned", "jacobian", *on)
    run("plot_results", *on)
    warnings = json.loads(here.summary.read_bytes())["warnings"]
    unchanged = "jlens has no map from the embeddings: the state of layer 0 is used unchanged"
    assert [line for line in warnings if "layer 0" in line] == [f"jacobian maps: {unchanged}"]
    run("plot_results", "--map", "tuned", *on)
    page = replace(here, map_kind="tuned").report.read_text("utf-8")
    (trained_on,) = re.findall("<dt>Sentences for training.*?<dd>(.*?)</dd>", page)
    assert trained_on == str(len(formats.load_tokenized(here.split("train"))))
    assert costs_of(here)["tuned"] == costs_of(here)["jacobian"] == "not fitted here"
    rows = json.loads(here.summary.read_bytes())["tables"]["lenses_kl"]
    assert [row["tuned"]["mean"] for row in rows] == pytest.approx([row["affine"]["mean"] for row in rows], abs=1e-5)
    with pytest.raises(Problem, match="tuned maps are not fitted here"):
        run("add_linreg", "--map", "tuned", *on, "--force")
    assert replace(here, map_kind="tuned").matrix(0, LAYERS).exists()


def test_jacobians_from_other_probes_are_refused(fitted_here, tmp_path, capsys):
    """The seed of the probes is in the key of the maps, and the tokens here have no entry that would tell."""
    folder, names = fitted_here
    shutil.copytree(names.root, tmp_path, dirs_exist_ok=True)
    (replace(names, root=tmp_path).experiment / manifest.NAME).write_text('{"files": {}}', encoding="utf-8")
    on = ("--model", folder, "--dataset", "words", "--out", tmp_path, "--map", "jacobian")
    run("add_linreg", *on, "--force")
    assert "seed was 0, is 1" in problem(capsys, "add_linreg", *on, "--seed", 1)
