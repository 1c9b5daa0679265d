"""The map kinds side by side, by the scripts on tiny models."""

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import in_memory
import pytest
import safetensors.torch
import torch
from conftest import LAYERS, D
from pipeline import SIZES, costs_of, fit_kinds, problem, run, small_sizes

import config
from shortcut import metrics
from shortcut.__main__ import main as command
from shortcut.files import formats, result_formats, store
from shortcut.files.names import Names
from shortcut.linear import KINDS
from shortcut.loading import pretrained
from shortcut.pipeline import manifest

pytestmark = pytest.mark.usefixtures("small")
SCORED = ("least-squares", "low-rank", "jacobian")
FITTED = [kind for kind, row in KINDS.items() if row.fitted_from]


def fitted(names):
    """The map kinds that can be fitted for a model."""
    return [kind for kind in FITTED if not (names.masked and kind == "jacobian-later")]


@pytest.fixture(scope="module", params=["gpt2", "bert"])
def made(request, tmp_path_factory):
    """All that can be fitted of a tiny model, judged and shown."""
    with small_sizes():
        kinds = fitted(Names(Path(), "", "", masked=request.param == "bert"))
        folder, names = fit_kinds(request, request.param, tmp_path_factory.mktemp("out"), kinds)
        on, prefix = ("--model", folder, "--dataset", "words", "--out", names.root), "bert_" * names.masked
        run(f"{prefix}add_plot_r2", "--map", *SCORED, *on)
        if not names.masked:
            run("add_linreg_submodules", *on)
        run(f"{prefix}add_results", "--map", *kinds, *on)
        run("plot_results", *on)
    return folder, names


def test_at_the_last_layer_every_lens_is_the_model(made):
    _, names = made
    for kind in fitted(names):
        of = replace(names, map_kind=kind)
        found = result_formats.load_predictions(of.predictions, SIZES["VAL"], LAYERS)
        judged, nothing = found.modes, (found.actual < 0).expand(LAYERS + 1, -1)
        for mode in ("id", "mat"):
            assert judged[mode]["kl"][-1].abs().max() < 1e-5
            assert (judged[mode]["kl"][:-1] > 0).any()
            assert judged[mode]["cross-entropy"].isnan().equal(nothing)
        torch.testing.assert_close(judged["id"]["entropy"][-1], judged["mat"]["entropy"][-1], rtol=1e-4, atol=1e-4)


def test_what_is_judged_as_a_lens_is_what_the_map_makes_of_the_state(made):
    """From the states, the matrices and the model's own head, a kind at a time."""
    folder, names = made
    model = pretrained.load(folder, masked=names.masked)
    if names.masked:
        tokenized, h = formats.load_states(names.split("val"), LAYERS)
        expected = tokenized.masked
    else:
        tokenized = formats.load_tokenized(names.split("val"))
        h = in_memory.layer_states(model, tokenized, 256)
        ends = zip(tokenized.sentences, tokenized.positions.tolist(), strict=True)
        expected = torch.tensor([ids[t + 1] if t + 1 < len(ids) else -1 for ids, t in ends])
    with torch.no_grad():
        log_p = model.read_out(h[-1]).log_softmax(-1)
        for kind in fitted(names):
            of = replace(names, map_kind=kind)
            found = result_formats.load_predictions(of.predictions, SIZES["VAL"], LAYERS)
            assert found.actual.equal(expected)
            log_q = model.read_out(formats.load_map(of, 1, LAYERS, D)(h[1])).log_softmax(-1)
            literal = torch.nn.functional.kl_div(log_q, log_p, log_target=True, reduction="none").sum(1)
            torch.testing.assert_close(found.modes["mat"]["kl"][1], literal, rtol=1e-3, atol=1e-4)


def test_kinds_are_shown_side_by_side_in_figures_tables_csv_summary_and_page(made):
    _, names = made
    page = names.report.read_text(encoding="utf-8")
    found, costs = json.loads(names.summary.read_bytes())["tables"], costs_of(names)
    assert [*costs] == fitted(names)
    assert "2 backward passes per position" in costs["jacobian"]
    assert "epochs of training in all" in costs["trained"]
    assert [row["layer"] for row in found["halves"] if row["jacobian"] is not None] == [*range(LAYERS)]
    for metric in ("precision@1", "kl", "entropy", "cross-entropy"):
        assert [*found[f"lenses_{metric}"][0]] == ["layer", "id", *fitted(names)]
        (path,) = [p for p in names.plots(f"lenses_{metric.replace('@', '')}_{LAYERS}") if p.suffix == ".csv"]
        rows = [row for row in csv.reader(path.read_text().splitlines()) if row[1] == "ridge"]
        values = [row["ridge"]["mean"] for row in found[f"lenses_{metric}"]]
        assert [float(row[3]) for row in rows] == pytest.approx(values, rel=1e-5, abs=1e-6)
        assert rows[-1][2] == "mean"
        assert f"{metrics.METRICS[metric].title} at each layer" in page
    titles = re.findall("<summary>(.*?)</summary>", page, re.DOTALL)
    assert len(titles) == len({*titles}) > 15
    first, apart = found["lenses_kl"][0], found["lenses_kl_minus_least_squares"][0]["id - ls"]["mean"]
    assert apart == pytest.approx(first["id"]["mean"] - first["least-squares"]["mean"], abs=2e-6)


@pytest.mark.parametrize("made", ["gpt2"], indirect=True)
def test_what_is_shown_does_not_depend_on_the_clock(made, tmp_path):
    """Shown anew from files that took other times on another day: the same files, but for the day on the page."""
    folder, names = made
    shutil.copytree(names.root, tmp_path, dirs_exist_ok=True)
    there = replace(names, root=tmp_path)
    for path in there.root.rglob("manifest.json"):
        content = json.loads(path.read_bytes())
        for entry in content["files"].values():
            day, entry["made"], entry["seconds"] = entry["made"][:10], "2030-12-31T23:59:59+00:00", 123456
        path.write_text(json.dumps(content), encoding="utf-8")
    run("plot_results", "--model", folder, "--dataset", "words", "--out", there.root, "--force")
    drawn = [path for path in there.experiment.glob("plots/words/*.*") if path.name != "manifest.json"]
    shown = [there.summary, there.report, *drawn]
    assert len(shown) > 20
    for path in shown:
        before = (names.root / path.relative_to(tmp_path)).read_bytes()
        dated = f"Results of {day},".encode(), b"Results of 2030-12-31,"
        assert before.count(dated[0]) == (path == there.report)
        assert path.read_bytes() == before.replace(*dated)


@pytest.mark.parametrize("made", ["bert"], indirect=True)
def test_each_kind_has_its_own_page(made):
    folder, names = made
    run("plot_results", "--map", "jacobian", "--model", folder, "--dataset", "words", "--out", names.root)
    assert replace(names, map_kind="jacobian").report.exists()


def test_each_kind_has_its_own_r2_and_matrices(made):
    _, names = made
    for kind in SCORED[1:]:
        of = replace(names, map_kind=kind)
        assert all(path.exists() for path in (of.r2_scores, of.quality, of.results, of.predictions))
        entry = manifest.load(of.matrices)[of.matrix(0, LAYERS).name]
        assert entry["settings"]["map"] == kind
        assert result_formats.load_quality(of.quality)["split_half_r2"][0] <= 1
        into_last = {(l, LAYERS) for l in range(LAYERS)}
        assert (result_formats.load_r2(of.r2_scores)["score_mat"].keys() == into_last) == (kind == "jacobian")
    entries = manifest.load(replace(names, map_kind="ridge").matrices).values()
    assert all(entry["penalty"] > 0 for entry in entries)
    low_rank = replace(names, map_kind="low-rank")
    assert manifest.load(low_rank.matrices)["0_1.pickle"]["settings"]["rank"] == 3
    curve = dict(map(tuple, result_formats.load_quality(low_rank.quality)["r2_by_rank"][0]))
    assert [*curve] == [0, 1, 2, 3, 4, 8, 16]
    assert [*curve.values()] == sorted(curve.values())


def test_bad_input_is_one_line_each(made, tmp_path, capsys):
    folder, names = made
    on = ("--model", folder, "--dataset", "words", "--out", names.root)
    prefix = "bert_" * names.masked
    shutil.copytree(names.root, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(replace(names, root=tmp_path, map_kind="ridge").matrices)
    missing = problem(capsys, f"{prefix}add_results", "--map", "ridge", *on[:-1], tmp_path)
    assert f"words@ridge/0_{LAYERS}.pickle not found: run .venv/bin/python {prefix}add_linreg.py" in missing
    assert "--map ridge --out" in missing
    assert "run .venv/bin/python -m shortcut import" in problem(capsys, f"{prefix}add_results", "--map", "tuned", *on)
    where = "tuned maps are not fitted here: run .venv/bin/python -m shortcut import LENS --from tuned-lens --model "
    assert where in problem(capsys, f"{prefix}add_linreg", "--map", "tuned", *on)
    run(f"{prefix}add_linreg", "--map", "least-squares", "tuned", *on)
    assert where in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run(f"{prefix}add_linreg", "--map", "best", *on)
    assert f"expected {', '.join(KINDS)}, got 'best'" in capsys.readouterr().err
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "MAP", ("best",))
        assert problem(capsys, f"{prefix}add_linreg", *on).startswith("MAP in config.py: expected least-squares")
        patch.undo()
        patch.setattr(config, "RANK", 2)
        other = problem(capsys, f"{prefix}add_linreg", "--map", "low-rank", *on)
    assert "was made with other settings (rank was 3, is 2)" in other


@pytest.mark.parametrize("made", ["bert"], indirect=True)
def test_stale_kinds_are_left_out_with_the_command_that_mends_them_and_later_ones_are_added(made, tmp_path, capsys):
    folder, names = made
    shutil.copytree(names.root, tmp_path, dirs_exist_ok=True)
    here, on = replace(names, root=tmp_path), ("--model", folder, "--dataset", "words", "--out", tmp_path)
    ridge = replace(here, map_kind="ridge")
    for path in (*here.experiment.glob("*@affine*"), ridge.results):
        path.unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "RANK", 2)
        run("bert_add_linreg", "--map", "low-rank", *on, "--force")
        capsys.readouterr()
        run("plot_results", *on)
    told = capsys.readouterr().out
    assert "left out of the comparison, experiment/" in told
    assert re.search("run .* bert_add_results.py .* --map low-rank .* --force", told)
    run("plot_results", *on)  # the first stage that is stale now, though the results are stale, too
    assert re.search("run .* bert_add_linreg.py .* --map low-rank .* --force", capsys.readouterr().out)
    rest = ["jacobian", "jacobian-affine", "trained"]
    assert [*costs_of(here)] == ["least-squares", *rest]
    run("bert_add_results", "--map", "affine", *on)
    records = [  # as other code would have it: of other sentences, and without an entry
        record | {name: record[name][1:] for name in ("topk", "surprisal")}
        for record in result_formats.load_results(replace(names, map_kind="ridge").results)
    ]
    with store.replacing(ridge.results) as file:
        store.dump(file, *records)
    manifest.save(here.experiment, {k: v for k, v in manifest.load(here.experiment).items() if k != ridge.results.name})
    run("plot_results", *on)
    assert "words@ridge_results.pickle: evaluated on other sentences" in capsys.readouterr().out
    assert [*costs_of(here)] == ["least-squares", "affine", *rest]
    behind = manifest.Provenance(names).settings(replace(names, map_kind="low-rank").results)
    assert (behind["map"], behind["rank"]) == ("low-rank", 3)


def test_a_grid_of_another_kind_alone_is_drawn_and_its_matrices_exported(made):
    (folder, names), files = made, replace(made[1], map_kind="affine")
    sentence = "the model [MASK] early" if names.masked else "the model reads"
    on = ("--model", folder, "--dataset", "words", "--out", names.root)
    run("plot_results", "--map", "affine", "--sentence", sentence, *on)
    assert [*names.experiment.glob("plots/words/sentence_*@affine.png")]
    command(["export", "--map", "affine", "--model", names.model, "--dataset", "words", "--out", str(names.root)])
    whole = safetensors.torch.load_file(files.matrices / "matrices.safetensors")
    assert whole["0_1"].equal(formats.load_map(files, 0, 1, D).A)


@pytest.mark.parametrize("made", ["bert"], indirect=True)
def test_a_masked_model_has_no_later_positions(made, capsys):
    folder, names = made
    on = ("--model", folder, "--dataset", "words", "--out", names.root)
    assert "jacobian-later maps are for causal models" in problem(
        capsys, "bert_add_linreg", "--map", "jacobian-later", *on
    )


def test_the_manifest_tells_of_the_training_and_the_affine_jacobian_is_the_other_with_a_constant(made, capsys):
    _, names = made
    for l in range(LAYERS):
        trained, affine, same = (replace(names, map_kind=kind) for kind in ("trained", "jacobian-affine", "jacobian"))
        entry = manifest.load(trained.matrices)[trained.matrix(l, LAYERS).name]
        assert entry["kl_held_out"] <= entry["kl_at_start"]
        assert entry["kept_epoch"] <= entry["epochs"] <= 100
        A, J = (formats.load_map(files, l, LAYERS, D) for files in (affine, same))
        assert A.matrix.equal(J.A)
        assert A.A[:, -1].norm() > 0
