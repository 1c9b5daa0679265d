"""Curves of lenses and their differences: intervals, constants, and sentences without a token."""

import pytest
import torch

from shortcut import early_exit, predictions, results
from shortcut.intervals import average
from shortcut.results import Comparison, Curve, Results
from shortcut.show import plots, table, tables

RESULTS = Results(2, torch.zeros(20, 10, dtype=torch.int64), {}, {})  # without modes, for 20 sentences and 2 layers


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
    shown = tables.map_kinds(Comparison(curves | {"ridge": curves["id"]}, {}, {}), "20 sentences")
    titles = {x.name: x.title for x in shown}
    assert "over the 15 with a value, 20 sentences" in titles["lenses_cross-entropy"]
    assert "with a value" not in titles["lenses_kl"]


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
    costs = early_exit.Costs(1.0, 1.0, 1.0, torch.ones(6, dtype=torch.int64))
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
    (shown,) = (x for x in tables.map_kinds(made, "20 sentences") if x.name == "lenses_kl")
    rows = table.cells(shown)
    assert ["±" in row[1] for row in rows] == [True, True, False, True]
    figure = plots.lens_figures(made, RESULTS, "t")["lenses_kl_2"].draw()
    drawn = figure.axes[0]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["id", "ridge", "mat (least squares)"]
    assert {x for band in drawn.collections for x, _ in band.get_paths()[0].vertices} == {0, 1}


@pytest.mark.parametrize(("first", "marked"), [(16.83, "↑ id at layer 0: 16.8"), (2.0, "")])
def test_a_value_beyond_the_axis_is_marked_with_its_number(first, marked):
    kl = torch.tensor([[2.1], [1.0], [0.0]]).expand(3, 20)
    made = a_comparison({"id": kl, "least-squares": kl})
    made.curves["id"].values["kl"] = torch.tensor([[first], [1.0], [0.0]]).expand(3, 20)
    made.curves["least-squares"].values["kl"] = kl
    ax = plots.lens_figures(made, RESULTS, "t")["lenses_kl_2"].draw().axes[0]
    assert ax.get_title(loc="left") == marked
    assert (first > ax.get_ylim()[1]) == bool(marked)
