"""Predictions and what is computed from them: early exit at every lambda, costs, ties, tables."""

import json

import pytest
import torch
from conftest import LAYERS

import config
from shortcut import Problem, early_exit, results
from shortcut.files import formats, result_formats, store
from shortcut.pipeline import evaluation
from shortcut.show import table, tables


def test_tables_hold_the_numbers_of_the_records(made):
    r = results.summarize(result_formats.load_results(made.results))
    text = table.text(tables.of_results(r, None))
    assert f"{100 * r.fixed['mat'].estimates['precision@1'][0].mean:.1f} ±" in text
    assert "mat - id" in text
    assert "95%" in text
    assert all(curve.estimates["precision@1"][-1].mean == 1 for curve in r.fixed.values())


def test_the_curve_over_all_lambda_passes_through_the_records_of_the_grid(made):
    r = results.summarize(result_formats.load_results(made.results))
    kept = result_formats.load_predictions(made.predictions, r.n, LAYERS)
    assert r.early.keys() == {"id", "mat"}
    for mode, curve in r.early.items():
        assert len(curve.lambdas) == len(config.LAMBDAS[mode])
        exits = early_exit.exits(kept.modes[mode]["gap"], kept.positions, kept.tau, r.fixed[mode].values["precision@1"])
        lambdas, layers, precision, _ = exits.along()
        for lam, processed, hits in zip(curve.lambdas, curve.layers, curve.values["precision@1"], strict=True):
            k = int((lambdas <= lam).sum()) - 1
            assert layers[k].item() == pytest.approx(processed, abs=1e-9)
            assert precision[k].item() == pytest.approx(hits.double().mean().item(), abs=1e-9)


@pytest.mark.parametrize(("ties", "told"), [(1, None), (2, "up to 1.0% of the sentences"), (200, "up to 100.0%")])
def test_the_share_of_sentences_whose_best_two_tokens_tie_is_told_of_above_half_a_percent(ties, told):
    """Of 200 sentences, at the layer and in the mode that have most."""
    said, gap = [], torch.rand(LAYERS + 1, 200) + 0.1
    gap[1, :ties] = 0
    held = type("Held", (), {"__init__": lambda self, x: setattr(self, "tensor", lambda: x)})
    tables = {"topk": torch.zeros(LAYERS + 1, 200, 10, dtype=torch.int64), "surprisal": torch.zeros(LAYERS + 1, 200)}
    found = {"id": tables | {"gap": gap + 1}, "mat": tables | {"gap": gap}}
    named = {f"{mode} {name}": held(x) for mode, tables in found.items() for name, x in tables.items()}
    assert list(evaluation._by_mode(named, said.append)) == ["id", "mat"]
    assert len(said) == (told is not None)
    assert told is None or told in said[0]


def test_net_saving_is_for_one_token_and_for_all(made):
    summary = json.loads(made.summary.read_bytes())
    rows = summary["tables"]["layers_saved"]
    assert {name for row in rows for name in row if name.startswith("net")} == {"net, token", "net, sentence"}
    positions = formats.load_tokenized(made.split("val")).positions
    costs = result_formats.load_predictions(made.predictions, 40, LAYERS).costs
    assert costs.tokens.equal(positions + 1)
    assert summary["costs"]["tokens"] == pytest.approx(costs.tokens.double().mean().item())


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [("costs", {"tokens": torch.zeros(39, dtype=torch.int64)}, r"tokens of costs is int64 \[39\]"),
     ("positions", torch.zeros(39, dtype=torch.int64), r"positions is int64 \[39\], expected int64 \[40\]"),
     ("actual", torch.full((40,), -2), "actual is .* none below -1"),
     ("modes", {"id": {}}, "another layout .*KeyError: 'gap'"),
     ("modes", {"id": dict.fromkeys(("gap", "kl", "entropy", "cross-entropy"), torch.zeros(3, 40))}, "gap of id is"),
     ("topk", torch.zeros(1, 40, 10, dtype=torch.int64), "topk is"), ("more", 1, "another layout .*TypeError")],
)  # fmt: skip
def test_predictions_that_do_not_fit_are_refused_in_one_line(made, tmp_path, field, value, told):
    whole = formats.load(made.predictions)
    if field == "costs":
        value = whole["costs"] | value
    with store.replacing(tmp_path / "x_predictions.pickle") as file:
        store.dump(file, whole | {field: value})
    with pytest.raises(Problem, match=rf"x_predictions.pickle.*{told}"):
        result_formats.load_predictions(tmp_path / "x_predictions.pickle", 40, LAYERS)
