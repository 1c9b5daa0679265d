"""A map kind with a setting of its own: a row of `linear.KINDS`, a name among the options, a function, a setting."""

import json
from dataclasses import replace

import torch
from conftest import LAYERS, D
from pipeline import SIZES, fit_kinds, problem, run

import config
from shortcut.files import formats
from shortcut.linear import KINDS, Kind
from shortcut.pipeline import manifest


def shrunk(factors, X, Y, shrinkage):
    """Least squares, part of the way back to the identity."""
    A = factors.solve(factors.project(Y))
    return A + shrinkage * (torch.eye(len(A)).to(A) - A), {"shrunk_by": shrinkage}


def test_a_map_kind_with_a_setting_of_its_own_is_fitted_scored_judged_and_shown(tmp_path, request, monkeypatch, capsys):
    for name, value in {**SIZES, "SCHEDULES": False}.items():
        monkeypatch.setattr(config, name, value)
    monkeypatch.setattr(config, "SHRINKAGE", 0.5, raising=False)
    monkeypatch.setitem(KINDS, "shrunk", Kind("shrunk", shrunk, settings=("shrinkage",)))
    folder, names = fit_kinds(request, "gpt2", tmp_path, ("least-squares", "shrunk"))
    files = replace(names, map_kind="shrunk")
    on = ("--model", folder, "--dataset", "words", "--out", tmp_path)
    run("add_linreg_submodules", *on)
    run("add_plot_r2", "--map", "shrunk", *on)
    run("add_results", "--map", "least-squares", "shrunk", *on)
    run("plot_results", *on)
    for l in range(LAYERS):
        A, least = (formats.load_map(of, l, LAYERS, D).A for of in (files, names))
        torch.testing.assert_close(A, (least + torch.eye(D)) / 2)
    entry = manifest.load(files.matrices)[f"0_{LAYERS}.pickle"]
    assert (entry["shrunk_by"], entry["settings"]["shrinkage"], entry["settings"]["map"]) == (0.5, 0.5, "shrunk")
    assert 0 < entry["split_half_r2"] <= 1
    costs = json.loads(names.summary.read_bytes())["tables"]["costs_of_maps"]
    assert "shrunk" in [row["map kind"] for row in costs]
    monkeypatch.setattr(config, "SHRINKAGE", 0.25)
    assert "shrinkage" in problem(capsys, "add_linreg", "--map", "shrunk", *on)
    assert "shrinkage" in problem(capsys, "add_results", "--map", "shrunk", *on)
