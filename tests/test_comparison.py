"""The kinds of maps side by side, by the scripts on tiny models."""

import csv
import json
import shutil
from dataclasses import replace

import pytest
import safetensors.torch
import scipy.special
import scipy.stats
import torch
from conftest import LAYERS, D, make_tokenized
from pipeline import OF_KINDS, SIZES, exported, fit_kinds, problem, run

import config
from shortcut import Problem, jacobian, metrics, predictions, representations, results
from shortcut.__main__ import main as command
from shortcut.files import formats, result_formats, store
from shortcut.intervals import average
from shortcut.linear import KINDS
from shortcut.loading import pretrained
from shortcut.pipeline import manifest
from shortcut.results import Comparison, Curve
from shortcut.show import plots, table, tables

FITTED = [kind for kind, row in KINDS.items() if kind != "tuned"]
SCORED = ("least-squares", "low-rank", "jacobian")
LOGITS = 3 * torch.randn(2, 50, 11, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    for name, value in {**SIZES, **OF_KINDS}.items():
        monkeypatch.setattr(config, name, value)


@pytest.fixture(scope="module", params=["gpt2", "bert"])
def made(request, tmp_path_factory):
    """All that can be fitted of a tiny model, judged and shown."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**SIZES, **OF_KINDS}.items():
            patch.setattr(config, name, value)
        folder, names = fit_kinds(request, request.param, tmp_path_factory.mktemp("out"), FITTED)
        on, prefix = ("--model", folder, "--dataset", "words", "--out", names.root), "bert_" * names.masked
        run(f"{prefix}add_plot_r2", "--map", *SCORED, *on)
        if not names.masked:
            run("add_linreg_submodules", *on)
        run(f"{prefix}add_results", "--map", *FITTED, *on)
        run("plot_results", *on)
    return folder, names


def test_kl_entropy_and_cross_entropy_against_scipy():
    log_p, log_q = LOGITS.log_softmax(-1)
    p, q = (x.double().exp().numpy() for x in (log_p, log_q))
    assert metrics.kl(log_p, log_q).tolist() == pytest.approx(scipy.special.rel_entr(p, q).sum(1).tolist(), rel=1e-4)
    assert metrics.entropy(log_q).tolist() == pytest.approx(scipy.stats.entropy(q, axis=1).tolist(), rel=1e-4)
    actual = torch.arange(50) % 11
    actual[::5] = -1
    found = metrics.cross_entropy(log_q, actual)
    assert found.isnan().equal(actual == -1)
    expected = [scipy.stats.entropy([float(k == t) for k in range(11)], row) for t, row in zip(actual, q, strict=True)]
    there = actual >= 0
    assert found[there].tolist() == pytest.approx(
        [x for x, known in zip(expected, there, strict=True) if known], rel=1e-4
    )


def test_at_the_last_layer_every_lens_is_the_model(made):
    _, names = made
    for kind in FITTED:
        of = replace(names, map_kind=kind)
        found = result_formats.load_predictions(of.predictions, SIZES["VAL"], LAYERS)
        actual, judged = found.actual, found.modes
        for mode in ("id", "mat"):
            assert judged[mode]["kl"][-1].abs().max() < 1e-5
            assert (judged[mode]["kl"][:-1] > 0).any()
            assert judged[mode]["cross-entropy"].isnan().equal((actual < 0).expand(LAYERS + 1, -1))
        torch.testing.assert_close(judged["id"]["entropy"][-1], judged["mat"]["entropy"][-1], rtol=1e-4, atol=1e-4)


def test_what_is_judged_as_a_lens_is_what_the_map_makes_of_the_state(made):
    """From the states, the matrices and the model's own head, a kind at a time."""
    folder, names = made
    model = pretrained.load(folder, masked=names.masked)
    if names.masked:
        tokenized, h = formats.load_states(names.states("val"), LAYERS)
        expected = tokenized.masked
    else:
        tokenized = formats.load_tokenized(names.tokenized("val"))
        h = linear_states(model, tokenized)
        ends = zip(tokenized.sentences, tokenized.positions.tolist(), strict=True)
        expected = torch.tensor([ids[t + 1] if t + 1 < len(ids) else -1 for ids, t in ends])
    with torch.no_grad():
        log_p = model.read_out(h[-1]).log_softmax(-1)
        for kind in FITTED:
            of = replace(names, map_kind=kind)
            found = result_formats.load_predictions(of.predictions, SIZES["VAL"], LAYERS)
            actual, judged = found.actual, found.modes
            assert actual.equal(expected)
            log_q = model.read_out(formats.load_map(of, 1, LAYERS, D)(h[1])).log_softmax(-1)
            literal = torch.nn.functional.kl_div(log_q, log_p, log_target=True, reduction="none").sum(1)
            torch.testing.assert_close(judged["mat"]["kl"][1], literal, rtol=1e-3, atol=1e-4)


def linear_states(model, tokenized):
    h = torch.empty(LAYERS + 1, len(tokenized), D)
    for batch in representations.batches(model, tokenized, 256):
        h[:, batch.rows] = representations.run(model, batch).h
    return h


def test_kinds_are_shown_side_by_side_in_figures_tables_csv_summary_and_page(made):
    _, names = made
    summary = json.loads(names.summary.read_bytes())
    page = names.report.read_text(encoding="utf-8")
    found, costs = summary["tables"], costs_of(names)
    assert [*costs] == FITTED
    assert "2 backward passes" in costs["jacobian"]
    assert [row["layer"] for row in found["halves"] if row["jacobian"] is not None] == [*range(LAYERS)]
    for metric in ("precision@1", "kl", "entropy", "cross-entropy"):
        assert [*found[f"lenses_{metric}"][0]] == ["layer", "id", *FITTED]
        (path,) = [p for p in names.plots(f"lenses_{metric.replace('@', '')}_{LAYERS}") if p.suffix == ".csv"]
        rows = [row for row in csv.reader(path.read_text().splitlines()) if row[1] == "ridge"]
        values = [row["ridge"]["mean"] for row in found[f"lenses_{metric}"]]
        assert [float(row[3]) for row in rows] == pytest.approx(values, rel=1e-5, abs=1e-6)
        assert rows[-1][2] == "mean"
        assert f"{metrics.METRICS[metric].title} at each layer" in page
    first, apart = found["lenses_kl"][0], found["lenses_kl_minus_least_squares"][0]["id - ls"]["mean"]
    assert apart == pytest.approx(first["id"]["mean"] - first["least-squares"]["mean"], abs=2e-6)


def costs_of(names):
    """By map kind, what the summary has of the cost."""
    rows = json.loads(names.summary.read_bytes())["tables"]["costs_of_maps"]
    return {row["map kind"]: row["cost"] for row in rows}


def test_what_is_shown_does_not_depend_on_the_clock(made, tmp_path):
    """Shown anew from files that took other times on another day: page, summary and figures are the same."""
    folder, names = made
    shutil.copytree(names.root, tmp_path / "out")
    there, shown = replace(names, root=tmp_path / "out"), []
    for seconds, day in ((7, "2001-01-01T00:00:00+00:00"), (123456, "2030-12-31T23:59:59+00:00")):
        for path in there.root.rglob("manifest.json"):
            content = json.loads(path.read_bytes())
            for entry in content["files"].values():
                entry |= {"seconds": seconds, "made": day}
            path.write_text(json.dumps(content), encoding="utf-8")
        run("plot_results", "--model", folder, "--dataset", "words", "--out", there.root, "--force")
        paths = [there.summary, there.report, *(there.report.parent / "plots").rglob("*.*")]
        shown.append({path: path.read_bytes() for path in paths if path.name != "manifest.json"})
    assert len(shown[0]) > 20
    assert shown[0] == shown[1]


def test_differences_are_paired_and_leave_out_sentences_without_a_token():
    a, b = torch.rand(3, 20), torch.rand(3, 20)
    a[:, :5] = b[:, :5] = torch.nan
    of = {"id": {"kl": a.nan_to_num(), "cross-entropy": a}, "least-squares": {"kl": b.nan_to_num(), "cross-entropy": b}}
    others = dict.fromkeys(("precision@1", "precision@5", "precision@10"), torch.rand(3, 20) < 0.5)
    others |= dict.fromkeys(("surprisal", "entropy"), torch.rand(3, 20))
    curves = {name: Curve([0, 1, 2], [], others | values, n_layers=2) for name, values in of.items()}
    made = Comparison(curves, {}, {})
    assert made.differences["id"].estimates["cross-entropy"][1] == pytest.approx(average((a - b)[1, 5:].double()))
    assert curves["id"].estimates["kl"][2].mean == pytest.approx(a.nan_to_num()[2].double().mean().item())
    assert tables.heading("cross-entropy", curves.values()).endswith("over the 15 with a value")


def a_comparison(values, of=None, **metrics):
    """Lenses by name, with these values of the cross-entropy [L + 1, n] and of `metrics` (for all lenses)."""
    shape = next(iter(values.values())).shape
    others = dict.fromkeys(("precision@1", "precision@5", "precision@10"), torch.ones(shape, dtype=torch.bool))
    others |= dict.fromkeys(("surprisal", "kl", "entropy"), torch.rand(shape)) | metrics
    layers = [*range(shape[0])]
    curves = {
        name: Curve(layers, [], others | {"cross-entropy": x}, of, n_layers=layers[-1]) for name, x in values.items()
    }
    return Comparison(curves, {}, {})


def test_the_mean_over_layers_leaves_out_the_last_one():
    x = torch.tensor([[1.0, 3.0, 5.0], [2.0, 2.0, 8.0], [90.0, 60.0, 30.0]])
    made = a_comparison({"id": x, "least-squares": 2 * x})
    mean = made.curves["id"].over_layers["cross-entropy"]
    assert mean == pytest.approx(average(torch.tensor([1.5, 2.5, 6.5])))
    assert made.differences["id"].over_layers["cross-entropy"].mean == pytest.approx(-3.5)


def test_lenses_are_compared_by_sentence_where_sentences_have_several_positions():
    """Positions without a token left out: those that remain, three a sentence and alike, count as one."""
    x = torch.rand(3, 20)
    thrice = torch.cat([x.repeat_interleave(3, 1), torch.full((3, 20), torch.nan)], 1)
    of = torch.cat([torch.arange(20).repeat_interleave(3), torch.arange(20)])
    made = a_comparison({"id": thrice, "least-squares": torch.zeros_like(thrice)}, of)
    assert made.curves["id"].estimates["cross-entropy"][1] == pytest.approx(average(x[1]), abs=1e-6)
    assert made.differences["id"].estimates["cross-entropy"][1] == pytest.approx(average(x[1]), abs=1e-6)


@pytest.mark.parametrize(
    ("with_token", "groups", "there"),
    [([], None, False), ([3], None, False), ([2, 3], None, True), ([2, 3], [0, 0, 1, 1, 2, 2], False),
     ([1, 2], [0, 0, 1, 1, 2, 2], True)],
)  # fmt: skip
def test_a_cross_entropy_takes_two_sentences_with_a_token(with_token, groups, there):
    """Two positions of one sentence are not two sentences."""
    full = torch.arange(60).view(6, 10)
    records = [
        {"info": {"type": "jump", "mode": "mat", "layer": l}, "layers_processed": float(l), "topk": full}
        for l in (0, 1)
    ]
    numbers, actual, x = groups and torch.tensor(groups), torch.full((6,), -1), torch.full((2, 6), torch.nan)
    actual[with_token], x[:, with_token] = 7, torch.rand(2, len(with_token))
    tables = {**dict.fromkeys(("gap", "kl", "entropy"), torch.rand(2, 6)), "cross-entropy": x}
    costs = predictions.Costs(1.0, 1.0, 1.0, torch.ones(6, dtype=torch.int64))
    nothing = {}, torch.empty(0, 6, 10), torch.empty(0, 6)
    kept = predictions.Evaluation(False, 4.0, torch.arange(6), costs, actual, {"mat": tables}, *nothing)
    records[0] |= {} if numbers is None else {"sentence_numbers": numbers}
    curve = results.summarize(records, kept).fixed["mat"]
    assert ("cross-entropy" in curve.estimates) == there
    assert {"kl", "entropy", "precision@1"} <= curve.estimates.keys()


def test_what_is_the_same_for_any_sentences_at_the_last_layer_has_no_interval():
    """Precision@k and KL there, and differences of all metrics; entropy and cross-entropy of the model have one."""
    kl = torch.rand(3, 20)
    kl[-1] = 1e-8
    made = a_comparison({lens: torch.rand(3, 20) for lens in ("id", "ridge", "least-squares")}, kl=kl)
    ridge, apart = made.curves["ridge"], made.differences["ridge"]
    for metric, (*below, at_last) in ridge.estimates.items():
        assert (at_last.low is None) == (metric == "kl" or metric.startswith("precision"))
        assert all(point.low <= point.mean <= point.high for point in (*below, ridge.over_layers[metric]))
    for metric, (*below, at_last) in apart.estimates.items():
        assert at_last[1:] == (None, None)
        assert None not in (*apart.over_layers[metric], *below[0])
    rows = table.cells(tables.lenses(made, "20 sentences", ["kl"])[0])
    assert ["±" in row[1] for row in rows] == [True, True, False, True]
    drawn = plots.lens_figures(made, 2, "t")["lenses_kl_2"].draw().axes[0]
    assert {x for band in drawn.collections for x, _ in band.get_paths()[0].vertices} == {0, 1}


def test_a_kind_that_comes_later_is_added(made, tmp_path, capsys):
    folder, names = made
    shutil.copytree(names.root, tmp_path, dirs_exist_ok=True)
    here = replace(names, root=tmp_path)
    for path in (*here.experiment.glob("*@affine*"), *here.experiment.glob("*@ridge_results.pickle")):
        path.unlink()
    capsys.readouterr()
    run("plot_results", "--model", folder, "--dataset", "words", "--out", tmp_path)
    assert [*costs_of(here)] == ["least-squares", "low-rank", "jacobian"]
    run(
        f"{'bert_' * here.masked}add_results",
        "--map",
        "affine",
        "--model",
        folder,
        "--dataset",
        "words",
        "--out",
        tmp_path,
    )
    run("plot_results", "--model", folder, "--dataset", "words", "--out", tmp_path)
    assert "affine" in costs_of(here)


def test_each_kind_has_its_own_pages_r2_and_matrices(made):
    folder, names = made
    run("plot_results", "--map", "jacobian", "--model", folder, "--dataset", "words", "--out", names.root)
    assert replace(names, map_kind="jacobian").report.exists()
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
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "DATASET", "others")
        shutil.copytree(names.root, tmp_path, dirs_exist_ok=True)
        shutil.rmtree(replace(names, root=tmp_path, map_kind="ridge").matrices)
        there = ("--model", folder, "--dataset", "words", "--out", tmp_path)
        missing = problem(capsys, f"{prefix}add_results", "--map", "ridge", *there)
        assert f"words@ridge/0_{LAYERS}.pickle not found: run {prefix}add_linreg.py --map ridge first" in missing
    assert "run python -m shortcut import" in problem(capsys, f"{prefix}add_results", "--map", "tuned", *on)
    run(f"{prefix}add_linreg", "--map", "tuned", *on)
    assert "tuned maps are not fitted here: use python -m shortcut import" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run(f"{prefix}add_linreg", "--map", "best", *on)
    assert "expected least-squares, affine, ridge, low-rank, jacobian, tuned, got 'best'" in capsys.readouterr().err
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "MAP", ("best",))
        assert problem(capsys, f"{prefix}add_linreg", *on).startswith("MAP in config.py: expected least-squares")
        patch.undo()
        patch.setattr(config, "RANK", 2)
        other = problem(capsys, f"{prefix}add_linreg", "--map", "low-rank", *on)
    assert "was made with other settings (rank was 3, is 2)" in other


@pytest.mark.parametrize("made", ["gpt2"], indirect=True)  # tuned-lens knows no masked model
def test_what_was_imported_is_judged_as_any_other_kind(made, tmp_path):
    folder, names = made
    there = exported(made, "affine", "tuned-lens")
    shutil.copytree(names.root, tmp_path, dirs_exist_ok=True)
    command(
        ["import", str(there), "--from", "tuned-lens", "--model", folder, "--dataset", "words", "--out", str(tmp_path)]
    )
    on = ("--model", folder, "--dataset", "words", "--out", tmp_path)
    run("add_plot_r2", "--map", "tuned", *on)  # of their fit nothing is known, and nothing is shown
    maps = result_formats.load_quality(replace(names, root=tmp_path, map_kind="tuned").quality)
    assert maps["spectrum"] == maps["effective_rank"] == {}
    assert len(maps["gain"]) == LAYERS
    run("add_results", "--map", "tuned", *on)
    run("plot_results", *on)
    there = replace(names, root=tmp_path)
    assert costs_of(there)["tuned"] == "not fitted here"
    rows = json.loads(there.summary.read_bytes())["tables"]["lenses_kl"]
    assert [row["tuned"]["mean"] for row in rows] == pytest.approx([row["affine"]["mean"] for row in rows], abs=1e-5)


def test_a_judged_lens_needs_no_more_than_its_predictions(gpt2):
    """Those that are not asked for are not there."""
    found = predictions.judge(gpt2, torch.randn(2, 4, D), torch.randn(4, D), torch.arange(4))
    assert found.lens is None


def test_a_stale_kind_is_left_out_with_the_command_that_mends_it(made, tmp_path, capsys):
    folder, names = made
    shutil.copytree(names.root, tmp_path, dirs_exist_ok=True)
    here, prefix = replace(names, root=tmp_path), "bert_" * names.masked
    on = ("--model", folder, "--dataset", "words", "--out", tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "RANK", 2)
        run(f"{prefix}add_linreg", "--map", "low-rank", *on, "--force")
    capsys.readouterr()
    run("plot_results", *on)
    told = capsys.readouterr().out
    assert "left out of the comparison, experiment/" in told
    assert f"run {prefix}add_results.py --map low-rank --force" in told
    assert "low-rank" not in costs_of(here)
    ridge = replace(here, map_kind="ridge")  # as other code would have it: of other sentences, and without an entry
    records = [
        record | {name: record[name][1:] for name in ("topk", "surprisal")}
        for record in result_formats.load_results(ridge.results)
    ]
    with store.replacing(ridge.results) as file:
        store.dump(file, *records)
    manifest.save(here.experiment, {k: v for k, v in manifest.load(here.experiment).items() if k != ridge.results.name})
    run("plot_results", *on)
    assert "words@ridge_results.pickle: evaluated on other sentences" in capsys.readouterr().out
    assert "ridge" not in costs_of(here)
    behind = manifest.Provenance(names).settings(replace(names, map_kind="low-rank").results)
    assert (behind["map"], behind["rank"]) == ("low-rank", 3)


@pytest.mark.parametrize("made", ["gpt2"], indirect=True)  # tuned-lens knows no masked model
def test_lenses_imported_in_both_formats_are_shown_together(made, tmp_path, capsys):
    folder, names = made
    shutil.copytree(names.root, tmp_path, dirs_exist_ok=True)
    on = ("--model", folder, "--dataset", "words", "--out", tmp_path)
    for kind, to in (("affine", "tuned-lens"), ("jacobian", "jlens")):
        there = exported(made, kind, to)
        command([str(x) for x in ("import", there, "--from", to, *on, "--force")])
    run("add_linreg", "--map", "tuned", "jacobian", *on[:-1], names.root)  # neither is made anew, or removed
    run("add_results", "--map", "tuned", "jacobian", *on, "--force")
    run("plot_results", *on)
    costs = costs_of(replace(names, root=tmp_path))
    assert costs["tuned"] == costs["jacobian"] == "not fitted here"
    run("add_linreg", "--map", "tuned", *on, "--force")
    assert replace(names, root=tmp_path, map_kind="tuned").matrix(0, LAYERS).exists()
    capsys.readouterr()


def test_a_grid_of_another_kind_alone_is_drawn_and_its_matrices_exported(made, tmp_path, capsys):
    folder, names = made
    sentence = "the model [MASK] early" if names.masked else "the model reads"
    on = ("--model", folder, "--dataset", "words", "--out", names.root)
    run("plot_results", "--map", "affine", "--sentence", sentence, *on)
    assert [*names.experiment.glob("plots/words/sentence_*@affine.png")]
    command(["export", "--map", "affine", "--model", names.model, "--dataset", "words", "--out", str(names.root)])
    whole = safetensors.torch.load_file(replace(names, map_kind="affine").matrices / "matrices.safetensors")
    A = formats.load_map(replace(names, map_kind="affine"), 0, 1, D).A
    assert whole["0_1"].equal(A)
    capsys.readouterr()


@pytest.mark.parametrize("made", ["gpt2"], indirect=True)
def test_jacobians_from_other_probes_are_refused(made, tmp_path, capsys):
    """The seed of the probes is in the key of the maps, and the tokens here have no entry that would tell."""
    folder, names = made
    shutil.copytree(names.root, tmp_path, dirs_exist_ok=True)
    here = replace(names, root=tmp_path)
    (here.experiment / manifest.NAME).write_text('{"files": {}}', encoding="utf-8")
    on = ("--model", folder, "--dataset", "words", "--out", tmp_path, "--map", "jacobian")
    run("add_linreg", *on, "--force")
    assert "seed was 0, is 1" in problem(capsys, "add_linreg", *on, "--seed", 1)


def test_a_state_that_is_not_finite_is_not_called_a_gradient(gpt2, monkeypatch):
    (batch,) = representations.batches(gpt2, make_tokenized(4, 320), 10_000)
    weight = gpt2.blocks[1].mlp.c_proj.bias
    monkeypatch.setattr(weight, "data", torch.full_like(weight, torch.nan))
    with pytest.raises(
        Problem, match=r"the state at layer 2 for sentence \d .* is not finite: the checkpoint is broken"
    ):
        jacobian.gradients(gpt2, batch, jacobian.probes(D, 4, 1, seed=0))


def test_a_gradient_that_is_not_finite_names_layer_and_sentence(gpt2):
    (batch,) = representations.batches(gpt2, make_tokenized(4, 320), 10_000)
    V = jacobian.probes(D, 4, 1, seed=0)
    V[0, 2] = torch.inf
    with pytest.raises(Problem, match=r"a gradient at layer 0 for sentence \d \(counted from 0\) is not finite"):
        jacobian.gradients(gpt2, batch, V)
