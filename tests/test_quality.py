"""How good the maps are, where it is known: identical halves, linear networks, states in a plane."""

import pytest
import torch
from conftest import as_map

from shortcut import linear, map_quality

RCOND = 1.19e-7


def states(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fit(X, Y):
    return linear.least_squares(linear.factorize(X, RCOND), X, Y)[0]


def test_identical_halves_agree_wholly():
    X, Y = states(40, 6), states(40, 6, 1)
    assert map_quality.split_half(X.repeat(2, 1), Y.repeat(2, 1), RCOND) == pytest.approx(1, abs=1e-12)


def test_halves_agree_as_the_maps_of_each_do():
    """Against scikit-learn on the same halves, and the less the more noise there is."""
    from sklearn.linear_model import LinearRegression
    from sklearn.metrics import r2_score

    X, noise = states(400, 6), states(400, 6, 1)
    found = []
    for much in (0.1, 1, 10):
        Y = X @ states(6, 6, 2) + much * noise
        made = [LinearRegression(fit_intercept=False).fit(X[s], Y[s]).predict(X) for s in (slice(200), slice(200, 400))]
        found.append(map_quality.split_half(X, Y, RCOND))
        assert found[-1] == pytest.approx((r2_score(*made) + r2_score(*made[::-1])) / 2, abs=1e-9)
    assert found == sorted(found, reverse=True)


def test_a_linear_network_loses_nothing_by_two_jumps():
    h = [states(60, 5)]
    for k in (1, 2):
        h.append(h[-1] @ states(5, 5, k))
    A = {(i, j): as_map(fit(h[i], h[j]), i, j) for i, j in ((0, 1), (1, 2), (0, 2))}
    direct, composed = map_quality.r2(A[0, 2], h[0], h[2]), map_quality.r2(A[1, 2].after(A[0, 1]), h[0], h[2])
    assert direct == pytest.approx(1, abs=1e-9)
    assert direct - composed == pytest.approx(0, abs=1e-9)


def test_where_the_layer_on_the_way_forgets_two_jumps_lose_what_it_forgot():
    """h_1 has but the first coordinate, and h_2 is h_0 again, as a residual stream beside it would have it."""
    h = [states(500, 4), None, states(500, 4)]
    h[1] = h[0] * torch.tensor([1.0, 0, 0, 0])
    A = {(i, j): as_map(fit(h[i], h[j]), i, j) for i, j in ((0, 1), (1, 2), (0, 2))}
    lost = map_quality.r2(A[0, 2], h[0], h[2]) - map_quality.r2(A[1, 2].after(A[0, 1]), h[0], h[2])
    assert lost == pytest.approx(3 / 4, abs=0.01)


def test_spectrum_and_effective_rank_against_the_literal_root_of_the_covariance():
    X, A = states(300, 5) @ states(5, 5, 1) + 7, states(5, 5, 2)
    C = torch.cov(X.T, correction=0)
    values, V = torch.linalg.eigh(C)
    literal = torch.linalg.svdvals(A @ V @ values.sqrt().diag() @ V.T)
    torch.testing.assert_close(map_quality.Directions(X).spectrum(as_map(A)), literal)
    assert map_quality.effective_rank(torch.tensor([3.0, 3, 3, 0])) == pytest.approx(3)
    p = literal / literal.sum()
    assert map_quality.effective_rank(literal) == pytest.approx(
        torch.distributions.Categorical(p).entropy().exp().item()
    )


def test_states_near_a_plane_make_maps_of_large_gain_which_half_precision_ruins():
    """The constant along the normal of the plane is taken for an intercept."""
    torch.manual_seed(0)
    X = torch.nn.functional.layer_norm(torch.randn(2000, 64), (64,)).double()
    X += 1e-5 * torch.ones(64)  # what is left of the mean
    Y = X @ states(64, 64, 1) / 8 + 3 * states(1, 64, 2)
    A = as_map(fit(X, Y).float())
    gain = map_quality.Directions(X).gain(A)
    normal = torch.ones(64) / 8
    assert gain == pytest.approx((A.A @ normal).norm().item(), rel=1e-3)
    assert gain > map_quality.LARGE
    assert map_quality.r2(A, X, Y) > 0.99
    assert map_quality.r2(A.to(torch.float16).to(torch.float32), X, Y) < 0.9
    assert map_quality.Directions(states(300, 8)).gain(as_map(A.A[:8, :8])) == 0


@pytest.mark.parametrize(("sd", "counts"), [(1e-5, True), (4e-4, True), (4e-3, False)])
def test_gain_is_the_largest_over_all_directions_that_have_a_thousandth_of_the_usual_deviation(sd, counts):
    """Five of 20 directions have `sd`, in a rotated basis; A takes two orthogonal ones of them to 3 and 5 times itself.

    The largest gain within their span is 5, neither the root of 9 + 25 nor what A does elsewhere, 100.
    """
    Q = torch.linalg.qr(states(20, 20, 3)).Q
    X = states(4000, 20) * torch.cat([torch.ones(15), torch.full((5,), sd)]) @ Q.T
    stretch = torch.tensor([100.0] * 15 + [3, 5, 0, 0, 0]).double()
    gain = map_quality.Directions(X).gain(as_map(Q * stretch @ Q.T))
    assert gain == (pytest.approx(5, rel=0.02) if counts else 0)


def test_effective_rank_of_many_directions_needs_as_many_states():
    """That of validation states is below their number, whatever the map is."""
    X, A = states(2000, 60), torch.eye(60).double()
    ranks = {n: map_quality.effective_rank(map_quality.Directions(X[:n]).spectrum(as_map(A))) for n in (20, 2000)}
    assert ranks[20] <= 19.01
    assert ranks[2000] > 59
