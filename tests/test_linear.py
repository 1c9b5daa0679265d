"""Fits against scipy's float64 minimum-norm solution, and theorems of least squares."""

import json

import in_memory
import pytest
import scipy.linalg
import torch
from conftest import as_map

from shortcut import linear, metrics
from shortcut.files import store
from shortcut.tokens import Tokenized

RCOND = 1.19e-7


def states(n, d, rank=None, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=g, dtype=torch.float64)
    if rank is not None:
        x = x[:, :rank] @ torch.randn(rank, d, generator=g, dtype=torch.float64)
    return x.float()


def fit(x, y):
    """The least-squares solution A."""
    return linear.least_squares(linear.factorize(x, RCOND), x, y)[0]


@pytest.mark.parametrize(("n", "d", "rank"), [(50, 8, None), (50, 8, 5), (6, 8, None), (1, 8, None), (50, 1, None)])
def test_fit_is_scipys_minimum_norm_solution(n, d, rank):
    x, y = states(n, d, rank), states(n, 3, seed=1)
    factors = linear.factorize(x, RCOND)
    expected, _, expected_rank, _ = scipy.linalg.lstsq(x.double().numpy(), y.double().numpy(), cond=RCOND)
    A = fit(x, y)
    fitted, wanted = x.double() @ A.T, x.double() @ torch.from_numpy(expected)
    assert len(factors.singular_values) == expected_rank == min(n, d, rank or d)
    assert torch.linalg.norm(fitted - wanted) <= 1e-8 * torch.linalg.norm(wanted)
    # Of all solutions the one of minimum norm; float32 rounding of x hides its null space to about 1e-7.
    assert torch.linalg.norm(A) == pytest.approx(torch.linalg.norm(torch.from_numpy(expected)).item(), rel=1e-6)


def test_rank_of_berts_layer_0_at_few_positions_is_their_number(bert):
    sentences = [torch.tensor([5, 6, 7, 8, 9]) for _ in range(60)]
    positions = torch.arange(60) % 4
    for ids, t in zip(sentences, positions.tolist(), strict=True):
        ids[t] = 4
    h = in_memory.layer_states(bert, Tokenized(sentences, positions), 100)
    factors = linear.factorize(h[0], RCOND)
    assert len(factors.singular_values) == 4
    expected, *_ = scipy.linalg.lstsq(h[0].double().numpy(), h[1].double().numpy(), cond=RCOND)
    A, _ = linear.least_squares(factors, h[0], h[1])
    torch.testing.assert_close(h[0].double() @ A.T, h[0].double() @ torch.from_numpy(expected), rtol=0, atol=1e-8)


def test_residuals_are_orthogonal_to_the_sources():
    x, y = states(60, 7), states(60, 4, seed=1)
    residual = y.double() - x.double() @ fit(x, y).T
    assert (x.double().T @ residual).abs().max() < 1e-10


def test_a_linear_map_is_found_exactly_and_applied_as_A_h():
    x, A = states(30, 6), states(6, 6, seed=2)
    found = fit(x, x.double() @ A.double().T)
    torch.testing.assert_close(found, A.double(), rtol=0, atol=1e-10)
    torch.testing.assert_close(as_map(A)(x)[3], A @ x[3])


def test_training_r2_of_the_fit_is_never_below_that_of_identity_in_any_coordinate():
    x = states(40, 6)
    y = x + 0.5 * states(40, 6, seed=3)
    fitted = x.double() @ fit(x, y).T
    for c in range(6):
        mat, identity = (metrics.r2_score(p[:, c : c + 1], y[:, c : c + 1]).mean for p in (fitted.to(y), x))
        assert mat >= identity - 1e-6


def test_one_factorization_serves_all_targets():
    h = torch.stack([states(30, 5, seed=s) for s in range(4)])
    wanted = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    lines = []
    fits = list(linear.fit_pairs(h, wanted, RCOND, "cpu", lines.append))
    assert [(made.source, made.target) for made, _ in fits] == wanted
    for made, _ in fits:
        expected, *_ = scipy.linalg.lstsq(h[made.source].double().numpy(), h[made.target].double().numpy())
        assert made.map_kind == "least-squares"
        torch.testing.assert_close(made.A, torch.from_numpy(expected.T).float())
    assert lines == ["  3 of 3 sources have full rank (5)"]


def test_fewer_sentences_than_d_is_a_notice_and_an_exact_fit():
    h, lines = torch.stack([states(4, 9), states(4, 9, seed=1)]), []
    ((made, numbers),) = linear.fit_pairs(h, [(0, 1)], RCOND, "cpu", lines.append)
    torch.testing.assert_close(made(h[0]), h[1], rtol=0, atol=1e-5)
    assert "4 training states of width 9: the expected squared error on new sentences is arbitrarily far" in lines[0]
    assert "0 of 1 sources have full rank (9); the lowest rank is 4, and its map has minimum norm" in lines[1]
    assert numbers["rank"] == 4


def bound(kind):
    """A map kind with its settings, if it has any, at 2."""
    return linear.KINDS[kind].with_settings(**dict.fromkeys(linear.KINDS[kind].settings, 2))


def told(kind, n, d):
    """The lines that fits of a kind print, but for the ranks."""
    h, lines = torch.stack([states(n, d), states(n, d, seed=1)]), []
    list(linear.fit_pairs(h, [(0, 1)], RCOND, "cpu", lines.append, bound(kind)))
    assert "sources have full rank" in lines[-1]
    return lines[:-1], lines[-1]


INFINITE = "arbitrarily far above"


@pytest.mark.parametrize(
    ("kind", "n", "above"),
    [
        *(("least-squares", n, INFINITE) for n in (2, 4, 5, 6)),
        *(("least-squares", n, above) for n, above in ((12, "83% above"), (25, "26% above"), (26, ""))),
        *(("affine", n, INFINITE) for n in (5, 6, 7)),
        *(("affine", n, above) for n, above in ((8, "600% above"), (30, "26% above"), (31, ""))),
        *(("low-rank", n, INFINITE) for n in (2, 5, 6)),
        *(("low-rank", n, "") for n in (7, 12)),
        *(("ridge", n, "") for n in (2, 5, 6, 7, 12)),
    ],
)
def test_too_few_sentences_are_warned_of_the_more_the_fewer_they_are_and_ridge_is_the_way_out(kind, n, above):
    """p / (n - p - 1) above, with p = 5 parameters, or 6 with the intercept; without bound for n <= p + 1."""
    lines, _ = told(kind, n, 5)
    expected = (
        f"  {n} training states of width 5: the expected squared error on new sentences is {above} the best map's."
    )
    assert [line[: len(expected)] for line in lines] == ([expected] if above else [])
    assert all("--map ridge" in line for line in lines)


@pytest.mark.parametrize(("kind", "parameters"), [("least-squares", 5), ("affine", 6)])
def test_that_two_jumps_lose_nothing_has_no_meaning_where_a_fit_is_exact(kind, parameters):
    """Two maps in a row go through every training state then, as the direct one does, whatever the model is."""
    of = linear.KINDS[kind]
    for n in (parameters - 1, parameters, parameters + 1):
        h = [states(n, 5, seed=seed).double() for seed in range(3)]
        A = {
            (i, j): as_map(of.fit(of.factorize(h[i], RCOND), h[i], h[j])[0], i, j) for i, j in ((0, 1), (1, 2), (0, 2))
        }
        lost = [(B(h[0]) - h[2]).norm() for B in (A[0, 2], A[1, 2].after(A[0, 1]))]
        assert (max(lost) < 1e-6) == of.is_exact(n, 5) == (n <= parameters)
        assert ("has no meaning" in of.warning(n, 5)) == (n <= parameters)
    assert not any(bound(name).is_exact(2, 5) for name in ("ridge", "low-rank"))


@pytest.mark.parametrize("kind", ["least-squares", "affine", "ridge", "low-rank"])
def test_only_least_squares_is_said_to_be_of_minimum_norm(kind):
    assert ("minimum norm" in told(kind, 3, 5)[1]) == (kind in ("least-squares", "affine"))


def test_the_error_on_new_sentences_is_as_much_above_as_is_told():
    """d / (n - d - 1) = 5 / 6 on average over draws of the sources and of the noise."""
    g = torch.Generator().manual_seed(0)
    above = []
    for _ in range(2_000):
        x, noise = torch.randn(12, 5, generator=g, dtype=torch.float64), torch.randn(12, 1, generator=g)
        above.append(fit(x, noise).square().sum().item())  # of the best map, 0, it is 1
    assert sum(above) / 2_000 == pytest.approx(5 / 6, rel=0.1)


def test_a_penalty_makes_ridge_regression_against_its_normal_equations():
    x, y, c = states(30, 5), states(30, 3, seed=1), 2.5
    factors = linear.factorize(x, RCOND)
    gram = x.double().T @ x.double() + c * torch.eye(5, dtype=torch.float64)
    expected = torch.linalg.solve(gram, x.double().T @ y.double()).T
    torch.testing.assert_close(factors.solve(factors.project(y), c), expected, rtol=0, atol=1e-10)


def test_sources_of_rank_0_have_no_condition_that_json_could_not_hold():
    ((_, numbers),) = linear.fit_pairs(torch.zeros(2, 6, 4), [(0, 1)], RCOND, "cpu", lambda _: None)
    assert numbers["rank"] == 0
    assert json.loads(store.dump_json(numbers))["condition"] is None


@pytest.mark.parametrize("intercept", [None, 0.0, 100.0])
def test_numbers_of_a_fit_leave_the_intercept_out(intercept):
    factors = linear.factorize(torch.diag(torch.tensor([2.0, 1, 1, 1])), RCOND)
    A = torch.eye(4) * 3
    A = A if intercept is None else torch.cat([A, torch.full((4, 1), intercept)], 1)
    assert linear.numbers(as_map(A), factors) == {
        "states": 4,
        "rank": 4,
        "condition": 2.0,
        "norm": 6.0,
        "distance_from_identity": 4.0,
    }


@pytest.mark.parametrize("intercept", [0, 1])
def test_a_map_after_another_does_what_the_two_do_one_after_the_other(intercept):
    A, B = (as_map(states(5, 5 + intercept, seed=k).double(), k, k + 1) for k in (0, 1))
    x, made = states(7, 5, seed=2).double(), B.after(A)
    torch.testing.assert_close(made(x), B(A(x)))
    assert (made.source, made.target) == (0, 2)


def test_a_map_with_an_intercept_moves_every_state_by_it():
    A, x = states(5, 6), states(7, 5, seed=2)
    torch.testing.assert_close(as_map(A)(x), x @ A[:, :5].T + A[:, 5])
    assert as_map(A).matrix.equal(A[:, :5])
