"""Metrics against scikit-learn and small cases made by hand."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import sklearn.metrics
import torch

from shortcut import metrics
from shortcut.show import figures


@pytest.mark.parametrize("noise", [0.0, 0.1, 3.0])
def test_r2_is_scikit_learns(noise):
    g = torch.Generator().manual_seed(0)
    target = torch.randn(50, 6, generator=g) * 100 + 1000
    prediction = target + noise * torch.randn(50, 6, generator=g)
    for kind, ours in zip(("uniform_average", "variance_weighted"), metrics.r2_score(prediction, target), strict=False):
        theirs = sklearn.metrics.r2_score(target.double().numpy(), prediction.double().numpy(), multioutput=kind)
        assert ours == pytest.approx(theirs, abs=1e-12)


def test_r2_of_constant_coordinates_is_scikit_learns():
    target = torch.tensor([[1.0, 2.0, 5.0], [1.0, 2.0, 7.0]])
    prediction = torch.tensor([[1.0, 3.0, 5.0], [1.0, 2.0, 7.0]])  # exact, wrong, exact
    assert metrics.r2_score(prediction, target).mean == pytest.approx(2 / 3)
    assert metrics.r2_score(prediction, target).weighted == 1  # the wrong coordinate has no variance, so no weight
    assert metrics.r2_score(prediction[:, :2], target[:, :2])[:2] == (0.5, 0.5)
    for kind, ours in zip(("uniform_average", "variance_weighted"), metrics.r2_score(prediction, target), strict=False):
        assert ours == pytest.approx(sklearn.metrics.r2_score(target.numpy(), prediction.numpy(), multioutput=kind))


@pytest.mark.parametrize("deviation", [0.0, 1e-30, 1e-5, 1e-2])
def test_r2_says_where_coordinates_that_hardly_vary_decide_its_mean(deviation):
    """What the others explain is left in the weighted score; a constant is one in float64 too."""
    g = torch.Generator().manual_seed(0)
    target = torch.randn(200, 40, generator=g)
    target[:, :3] = deviation * target[:, :3] + (0.1 if deviation in (0, 1e-2) else 0)
    prediction = target + 0.5 * torch.randn(200, 40, generator=g)
    score = metrics.r2_score(prediction, target)
    assert score.misleads
    assert score.flat == 3 * (deviation < 1e-3)
    assert math.isfinite(score.mean)
    assert score.mean < (0.7 if deviation == 0 else -100)
    assert score.weighted == pytest.approx(0.73, abs=0.03)


@pytest.mark.parametrize("scale", [1, 1e3])
def test_r2_of_ordinary_states_misleads_nobody(scale):
    """Those of a few coordinates a thousand times as large too, as language models have them."""
    g = torch.Generator().manual_seed(0)
    target = torch.randn(200, 40, generator=g)
    target[:, :2] *= scale
    for prediction in (target + 0.5 * torch.randn(200, 40, generator=g), target / 10, 3 * target):
        assert not metrics.r2_score(prediction, target).misleads


@pytest.mark.parametrize("hardly", [1, 25, 35])
def test_coordinates_that_hardly_vary_are_found_though_most_are_such(hardly):
    """What varies as a tenth of the coordinates do is usual, not what half of them do."""
    target = torch.randn(200, 40, generator=torch.Generator().manual_seed(0))
    target[:, :hardly] *= 1e-5
    assert metrics.r2_score(target, target).flat == hardly


@pytest.mark.parametrize(
    ("mean", "weighted", "misleads"), [(-4, -1, False), (-18.9, -1, False), (-19.1, -1, True), (-0.9, 0.99, False),
                                       (-1.1, 0.99, True), (-1.1, 0.5, False)],
)  # fmt: skip
def test_a_map_that_is_bad_everywhere_does_not_mislead_and_one_that_only_seems_so_does(mean, weighted, misleads):
    """Below -1 the plain mean misleads where its error is ten times that weighted by variance."""
    assert metrics.R2(mean, weighted, 0).misleads == misleads


@pytest.mark.parametrize(
    ("approximation", "k", "expected"),
    [(7, 1, 1.0), (5, 1, 0.0), (5, 2, 1.0), (3, 2, 0.0), (3, 3, 1.0), (9, 3, 0.0)],
)
def test_precision_counts_the_best_token_among_the_full_models_k(approximation, k, expected):
    full = torch.tensor([[7, 5, 3]])
    assert metrics.hits_at_k(torch.tensor([[approximation, 7, 7]]), full, k).tolist() == [expected == 1]


def test_precision_is_the_mean_over_sentences():
    full = torch.tensor([[1, 2], [1, 2], [1, 2], [1, 2]])
    approximation = torch.tensor([[1], [2], [3], [1]])
    assert metrics.hits_at_k(approximation, full, 1).double().mean() == 0.5
    assert metrics.hits_at_k(approximation, full, 2).double().mean() == 0.75


def test_surprisal_in_nats_also_where_the_softmax_is_zero():
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, 500.0]])
    values = metrics.surprisal(logits.log_softmax(-1), torch.tensor([0, 0]))
    np.testing.assert_allclose(values.numpy(), [math.log(4.0), 500.0], rtol=1e-6)


def test_gap_between_the_two_most_probable_tokens():
    logits = torch.tensor([[0.0, math.log(3.0), -1e9], [2.0, 2.0, -1e9]])
    gap = metrics.top_two_gap(logits, logits.topk(2).values)
    np.testing.assert_allclose(gap.numpy(), [0.5, 0.0], atol=1e-6)


def test_kl_entropy_and_cross_entropy_against_scipy():
    log_p, log_q = (3 * torch.randn(2, 50, 11, generator=torch.Generator().manual_seed(0))).log_softmax(-1)
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


def test_the_table_of_figures_names_every_metric_in_its_order():
    assert (tuple(metrics.METRICS), metrics.LENS) == (figures.ALL_MODES + figures.LENS, figures.LENS)
