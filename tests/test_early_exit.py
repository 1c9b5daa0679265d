"""The table of gaps against the literal loop, and the ends of the grid."""

import math

import pytest
import torch

import config
from shortcut import early_exit


def literal_loop(gaps, positions, lam, tau):
    """Sentence by sentence, layer by layer, as the paper writes it."""
    n_mean = sum(t + 1 for t in positions) / len(positions)
    layers = []
    for s, t in enumerate(positions):
        for layer in range(1, len(gaps)):
            if layer == len(gaps) - 1 or gaps[layer][s] > 0.9 * lam + 0.1 * math.exp(-tau * t / n_mean):
                layers.append(layer)
                break
    return layers


@pytest.mark.parametrize("lam", config.LAMBDAS["id"])
def test_look_up_equals_the_literal_loop(lam):
    g = torch.Generator().manual_seed(0)
    gaps = torch.rand(6, 200, generator=g)
    positions = torch.randint(0, 40, (200,), generator=g)
    layers = early_exit.exit_layers(gaps, early_exit.thresholds(lam, positions, config.TAU))
    assert layers.tolist() == literal_loop(gaps.double().tolist(), positions.tolist(), lam, config.TAU)


def test_ends_of_the_grid_always_and_never_exit():
    gaps, positions = torch.tensor([[1.0, 0.0]] * 4), torch.tensor([0, 30])
    first, last = min(config.LAMBDAS_MAT), max(config.LAMBDAS_MAT)
    assert early_exit.exit_layers(gaps, early_exit.thresholds(first, positions, 4.0)).tolist() == [1, 1]
    assert early_exit.exit_layers(gaps, early_exit.thresholds(last, positions, 4.0)).tolist() == [3, 3]


def test_threshold_is_exceeded_strictly_and_layer_0_never_exits():
    gaps = torch.tensor([[0.9], [0.5], [0.5], [0.0]])
    assert early_exit.exit_layers(gaps, torch.tensor([0.5])).tolist() == [3]
    assert early_exit.exit_layers(gaps, torch.tensor([0.4])).tolist() == [1]


def test_grid_is_the_papers():
    assert len(config.LAMBDAS["mat"]) + len(config.LAMBDAS["id"]) == 35
    assert [*config.LAMBDAS["id"]] == sorted({*config.LAMBDAS["id"], *config.LAMBDAS["mat"]})
    assert config.LAMBDAS["id"][-10:-8] == (1.0112, 1.0224)
    assert config.LAMBDAS["id"][-2] == 1.1008


def test_gaps_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        early_exit.exit_layers(torch.tensor([[0.1], [float("nan")]]), torch.tensor([0.5]))
