"""A lens is exported unless rounding lowers its scores."""

import pytest
import sklearn.metrics
import torch
from conftest import LAYERS, D, as_map, make_tokenized

from shortcut import Problem, representations
from shortcut.exchange import lenses


def test_rounding_that_ruins_a_map_is_refused_by_its_layer(gpt2):
    """A gain of 40,000 along a direction that the states of eight sentences, of width 16, have nothing of."""
    tokenized = make_tokenized(8, 320)
    (batch,) = representations.batches(gpt2, tokenized, 10_000)
    h = representations.run(gpt2, batch).h
    normal = torch.linalg.svd(h[1]).Vh[-1]
    maps = [torch.eye(D) for _ in range(LAYERS)]
    maps[1] = maps[1] + 10_000 * torch.outer(torch.ones(D), normal)
    exact = [as_map(A, l, LAYERS) for l, A in enumerate(maps)]
    rounded = [A.to(torch.float16).to(torch.float32) for A in exact]
    unchanged = [as_map(torch.eye(D), l, LAYERS) for l in range(LAYERS)]
    own, its, identity = (lenses.judge(gpt2, h, of) for of in (exact, rounded, unchanged))
    assert own[0, 1].mean().item() == pytest.approx(identity[0, 1].mean().item(), abs=0.02)
    with pytest.raises(Problem, match=r"^not exported: .* jlens lowers the scores at layers 1 \(r2 [^,]*, [^,]*$"):
        lenses.check(own, its, None, "jlens")
    lenses.check(own, own, None, "jlens")


def losing(r2, hits):
    """Scores of maps of two layers at 100 positions; the second layer loses so much at each."""
    ones = torch.ones(2, 2, 100, dtype=torch.float64)
    ones[0, 1] -= r2
    ones[1, 1] -= hits
    return ones


def first(n, value=1.0):
    """100 losses, of which the first n are not zero."""
    return torch.tensor([value] * n + [0.0] * (100 - n), dtype=torch.float64)


@pytest.mark.parametrize(
    ("r2", "hits", "groups", "refused"),
    [
        (0, first(1), None, False),  # one flips: 1 point, 95% interval -1 to 3
        (0, first(6), None, True),  # 1.3 to 10.7
        (0, first(6), torch.arange(100) // 10, False),  # all of them in one sentence of ten
        (0, first(6) - first(5), None, False),  # as many flip back
        (first(1, 2.0), 0, None, False),
        (first(100, 0.01), 0, None, True),
        (first(100, 0.004), 0, None, False),  # surely lost, but less than half a point
        (first(1, torch.nan), 0, None, True),
    ],
)
def test_a_lens_is_refused_where_its_loss_is_beyond_chance_and_half_a_point(r2, hits, groups, refused):
    own, its = losing(0, 0), losing(r2, hits)
    if refused:
        with pytest.raises(Problem, match=r"lowers the scores at layers 1 \(r2 1.000 to "):
            lenses.check(own, its, groups, "jlens")
        lenses.check(own.flip(1), its.flip(1), groups, "jlens")  # it has no map for layer 0
    else:
        lenses.check(own, its, groups, "jlens")


def test_r2_is_the_mean_over_positions_of_their_shares(gpt2):
    h, A = torch.randn(LAYERS + 1, 30, D, generator=torch.Generator().manual_seed(0)), torch.randn(D, D)
    r2, _ = lenses.judge(gpt2, h, [as_map(A, 1, LAYERS)])
    expected = sklearn.metrics.r2_score(h[-1].double(), (h[1] @ A.T).double())
    assert r2.mean().item() == pytest.approx(expected, rel=1e-6)
    h[-1, :, 3] = 1.0  # this coordinate does not vary
    r2, _ = lenses.judge(gpt2, h, [as_map(A, 1, LAYERS)])
    others = [c for c in range(D) if c != 3]
    expected = sklearn.metrics.r2_score(h[-1].double()[:, others], (h[1] @ A.T).double()[:, others])
    assert r2.mean().item() == pytest.approx(expected, rel=1e-6)
