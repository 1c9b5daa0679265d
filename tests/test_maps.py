"""The kinds of maps beside the paper's, each against what it is by definition."""

import pytest
import torch
from conftest import LAYERS, D, make_tokenized

from shortcut import jacobian, linear, metrics, representations
from shortcut.linear import KINDS

RCOND = 1.19e-7


def states(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fitted(kind, X, Y, **more):
    return KINDS[kind].fit(linear.factorize(KINDS[kind].sources(X), RCOND), X, Y, **more)[0]


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
    assert A.equal(linear.factorize(ones, RCOND).fit(Y))
    expected = torch.from_numpy(LinearRegression().fit(X, Y).predict(X))
    torch.testing.assert_close(linear.apply(A, X), expected)


def test_ridge_without_a_penalty_is_least_squares_and_with_an_infinite_one_the_identity(pair):
    X, Y = pair
    torch.testing.assert_close(fitted("ridge", X, Y, penalty=0.0), fitted("least-squares", X, Y))
    torch.testing.assert_close(fitted("ridge", X, Y, penalty=1e15), torch.eye(6).double())


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
            A = fitted("ridge", X[rest], Y[rest], penalty=c)
            error += (linear.apply(A, X[k]) - Y[k]).square().sum().item()
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
    best = (linear.apply(A, X) - Y).square().sum().item()
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
        made = linear.apply(fitted("low-rank", X, Y, rank=int(r)) if r != "0" else torch.eye(6).double(), X)
        assert metrics.r2_score(made, Y).weighted == pytest.approx(r2, abs=1e-5)


def test_probes_are_orthogonal_in_blocks_of_d():
    V = jacobian.probes(8, 10, 4, seed=0).double().view(40, 8)
    for block in V.split(8):
        torch.testing.assert_close(block.T @ block, 8 * torch.eye(8).double(), rtol=0, atol=1e-4)
    assert not V[:8].equal(V[8:16])


@pytest.mark.parametrize("n", [16, 24])
def test_the_jacobian_of_a_linear_network_is_exact(n):
    """h_L = A h_l for every sentence: the gradient of v . h_L is A^T v, and n P = 2 n probes are whole blocks."""
    A, V = states(8, 8), jacobian.probes(8, n, 2, seed=0)
    J, *_ = jacobian.average(V, [v.double() @ A for v in V])
    torch.testing.assert_close(J, A, rtol=0, atol=1e-5)


def exact_average(model, batch, l):
    """The Jacobian of h_L by h_l at the chosen token, a row of it at a time, going on from h_l at all positions."""
    seen = representations.run(model, batch)
    with torch.enable_grad():
        h = seen.entering[l].clone().requires_grad_()
        last = batch.at_chosen(model.go_on(l, h, batch.ids, batch.mask))
        rows = [batch.at_chosen(torch.autograd.grad(last[:, k].sum(), h, retain_graph=True)[0]) for k in range(model.d)]
    return torch.stack(rows, 1).double().mean(0)  # [b, d, d]: row k is the gradient of coordinate k


def test_the_jacobian_of_a_model_is_within_its_error_of_the_exact_average(model):
    tokenized = make_tokenized(64, 320)
    batches = representations.batches(model, tokenized, 256)
    V = jacobian.probes(D, len(tokenized), 8, seed=1)
    found = torch.empty(LAYERS + 1 + 8 * LAYERS, len(tokenized), D)
    for batch in batches:
        found[:, batch.rows] = jacobian.gradients(model, batch, V[:, batch.rows])
        states = representations.run(model, batch).h
        torch.testing.assert_close(found[: LAYERS + 1, batch.rows], states, rtol=1e-4, atol=1e-4)
    for l in range(LAYERS):
        exact = sum(len(b.rows) * exact_average(model, b, l) for b in batches) / len(tokenized)
        J, *halves = jacobian.average(V, [found[LAYERS + 1 + k * LAYERS + l] for k in range(8)])
        error = (halves[0] - halves[1]).norm()
        assert (J - exact).norm() <= error
        assert error < 1.2 * exact.norm()
