"""The kinds of maps that are fitted by regression beside the paper's, each against what it is by definition."""

import pytest
import torch
from conftest import as_map, states

from shortcut import linear, metrics
from shortcut.linear import KINDS

RCOND = 1.19e-7


def fitted(kind, X, Y, **more):
    return KINDS[kind].fit(KINDS[kind].factorize(X, RCOND), X, Y, **more)[0]


@pytest.fixture
def pair():
    """Sources that are not centred, and targets that are these turned a little, moved and noisy."""
    X = states(80, 6) + 2
    return X, X @ (torch.eye(6) + 0.3 * states(6, 6, 1)) + 5 + 0.5 * states(80, 6, 2)


def test_affine_is_least_squares_on_states_with_a_column_of_ones(pair):
    from sklearn.linear_model import LinearRegression

    X, Y = pair
    A = fitted("affine", X, Y)
    assert A.shape == (6, 7)
    ones = torch.cat([X, torch.ones(80, 1)], 1)
    assert A.equal(linear.least_squares(linear.factorize(ones, RCOND), ones, Y)[0])
    expected = torch.from_numpy(LinearRegression().fit(X, Y).predict(X))
    torch.testing.assert_close(as_map(A)(X), expected)


def penalized(X, Y, c):
    """Ridge regression with the penalty c, which draws to the identity."""
    factors, identity = linear.factorize(X, RCOND), torch.eye(X.shape[1]).double()
    return identity + factors.solve(factors.project(Y - X), c)


def test_ridge_is_the_map_of_its_penalty_between_least_squares_and_the_identity(pair):
    X, Y = pair
    A, told = KINDS["ridge"].fit(linear.factorize(X, RCOND), X, Y)
    torch.testing.assert_close(A, penalized(X, Y, told["penalty"]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(penalized(X, Y, 0.0), fitted("least-squares", X, Y))
    torch.testing.assert_close(penalized(X, Y, 1e15), torch.eye(6).double())


def test_where_nothing_but_noise_is_left_ridge_makes_the_identity():
    """The best penalty is far beyond the squares of the singular values: with the largest of these half would be left.

    The noise has hardly a part in the space of the sources, as if there were very many sentences.
    """
    X, R = states(40, 6), states(40, 6, 1)
    Q = torch.linalg.qr(X).Q
    R -= 0.99 * Q @ (Q.T @ R)
    A, least = fitted("ridge", X, X + R), fitted("least-squares", X, X + R)
    assert (A - torch.eye(6)).norm() < 1e-3 * (least - torch.eye(6)).norm()


def test_distance_from_identity_of_an_affine_map_of_shifted_states_is_that_of_its_matrix(pair):
    """Both through the whole fit: y = x + 5 everywhere is the identity."""
    X, _ = pair
    ((_, numbers),) = linear.fit_pairs([X, X + 5], [(0, 1)], RCOND, "cpu", lambda _: None, KINDS["affine"])
    assert numbers["distance_from_identity"] < 1e-4
    assert numbers["norm"] == pytest.approx(6**0.5, rel=1e-4)


@pytest.mark.parametrize("noise", [0.1, 3, 30])
def test_generalized_cross_validation_chooses_what_leaving_one_out_does(noise):
    """Literally: fit without each sentence in turn and judge by it. The error of the choice is the best one's."""
    X = states(40, 8) * torch.logspace(0, -1, 8)
    Y = X @ (torch.eye(8) + 0.3 * states(8, 8, 1)) + noise * 0.1 * states(40, 8, 2)
    _, told = KINDS["ridge"].fit(linear.factorize(X, RCOND), X, Y)

    def left_out(c):
        error = 0
        for k in range(40):
            rest = torch.arange(40) != k
            A = penalized(X[rest], Y[rest], c)
            error += (as_map(A)(X[k]) - Y[k]).square().sum().item()
        return error

    errors = {c: left_out(c) for c in [told["penalty"], *torch.logspace(-6, 5, 34).tolist()]}
    assert errors[told["penalty"]] <= 1.01 * min(errors.values())


def test_a_low_rank_map_at_full_rank_is_least_squares(pair):
    X, Y = pair
    torch.testing.assert_close(fitted("low-rank", X, Y, rank=6), fitted("least-squares", X, Y))


def test_no_other_map_of_its_rank_is_nearer(pair):
    """Against descent on U V^T from many starts; and r2 by rank is what is told."""
    X, Y = pair
    A, told = KINDS["low-rank"].fit(linear.factorize(X, RCOND), X, Y, 2)
    assert torch.linalg.matrix_rank(A - torch.eye(6), atol=1e-9) == 2
    best = (as_map(A)(X) - Y).square().sum().item()
    for seed in range(3):
        U, V = (states(6, 2, seed + k).requires_grad_() for k in (10, 20))
        descent = torch.optim.LBFGS([U, V], max_iter=500, line_search_fn="strong_wolfe", tolerance_change=1e-14)

        def error(U=U, V=V, descent=descent):
            descent.zero_grad()
            loss = (X + X @ V @ U.T - Y).square().sum()
            loss.backward()
            return loss

        descent.step(error)
        assert best <= error().item() + 1e-6
    for r, r2 in told["r2_by_rank"].items():
        made = as_map(fitted("low-rank", X, Y, rank=int(r)) if r != "0" else torch.eye(6).double())(X)
        assert metrics.r2_score(made, Y).weighted == pytest.approx(r2, abs=1e-5)
