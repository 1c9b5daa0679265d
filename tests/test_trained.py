"""The trained lens against the optimum that another optimizer finds, and by what must not change it."""

import in_memory
import pytest
import torch
from conftest import LAYERS, D, as_map, make_tokenized

from shortcut import Problem, metrics, trained

RCOND = 1.19e-7


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def made_case(n):
    """States of width 6 and targets that they explain in part, far from 0; a linear read-out to 12 tokens."""
    x = 3 * normal(n, 6, seed=0) + 5
    y = x @ normal(6, 6, seed=1) + 4 * normal(n, 6, seed=2) - 7
    U = 0.1 * normal(12, 6, seed=3)
    return (lambda h: h @ U.to(h).T), x, y, trained.hold_out(torch.arange(n), 0)


@pytest.fixture(scope="module")
def case():
    return made_case(1500)


def mean_kl(read_out, made, y):
    return metrics.kl(read_out(y).log_softmax(-1), read_out(made).log_softmax(-1)).mean()


def optimum(read_out, x, y):
    """The least mean KL of an affine map on all states at once, by L-BFGS. The problem is convex."""
    ones = torch.cat([x, torch.ones(len(x), 1)], 1).double()
    W = torch.linalg.lstsq(ones, y.double()).solution.requires_grad_()
    descent = torch.optim.LBFGS([W], max_iter=3000, line_search_fn="strong_wolfe", tolerance_change=1e-14)

    def loss():
        descent.zero_grad()
        value = mean_kl(read_out, ones @ W, y.double())
        value.backward()
        return value

    start = loss().item()
    descent.step(loss)
    return start, loss().item()


def test_training_reaches_the_optimum_that_lbfgs_finds_on_the_full_batch():
    read_out, x, y, held_out = made_case(6000)
    ((layer, A, _),) = trained.train(read_out, {3: x}, y, held_out, RCOND, 0)
    x, y = x[~held_out], y[~held_out]
    start, best = optimum(read_out, x, y)
    found = mean_kl(read_out, as_map(A)(x.double()), y.double()).item()
    assert layer == 3
    assert best - 1e-6 <= found <= best + 0.05 * (start - best)
    assert start > 1.1 * best  # least squares on the states is another objective


def test_on_held_out_sentences_no_map_is_worse_than_its_start_and_the_stored_one_is_the_best(case):
    read_out, x, y, held_out = case
    for source in (x, normal(1500, 6, seed=5)):  # the second explains nothing
        ((_, A, told),) = trained.train(read_out, {0: source}, y, held_out, RCOND, 0)
        stored = mean_kl(read_out, as_map(A)(source[held_out].double()), y[held_out].double()).item()
        assert stored == pytest.approx(told["kl_held_out"], rel=1e-5)
        assert told["kl_held_out"] <= told["kl_at_start"]
        assert told["epochs"] == min(trained.EPOCHS, told["kept_epoch"] + trained.PATIENCE)


def test_the_start_is_ridge_on_centred_states_without_the_held_out_sentences(case, monkeypatch):
    read_out, x, y, held_out = case
    monkeypatch.setattr(trained, "EPOCHS", 0)
    ((_, A, told),) = trained.train(read_out, {0: x}, y, held_out, RCOND, 0)
    X, Y = x[~held_out].double(), y[~held_out].double()
    mx, my = X.mean(0), Y.mean(0)
    scale = ((Y - my).square().mean() / (X - mx).square().mean()).sqrt()  # the identity in units of the deviations
    penalty = told["penalty"] * (X - mx).square().mean()
    gram = (X - mx).T @ (X - mx) + penalty * torch.eye(6)
    residual = Y - my - scale * (X - mx)
    expected = scale * torch.eye(6) + torch.linalg.solve(gram, (X - mx).T @ residual).T
    torch.testing.assert_close(A[:, :6], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(as_map(A)(mx), my, rtol=1e-5, atol=1e-4)


def test_scaling_and_moving_the_states_changes_no_prediction(case):
    read_out, x, y, held_out = case
    ((_, A, told),) = trained.train(read_out, {0: x}, y, held_out, RCOND, 0)
    ((_, B, other),) = trained.train(read_out, {0: 20 * x - 3}, y, held_out, RCOND, 0)
    assert other["kept_epoch"] == told["kept_epoch"] > 0
    torch.testing.assert_close(as_map(B)(20 * x.double() - 3), as_map(A)(x.double()), rtol=1e-3, atol=1e-3)


def test_a_map_depends_on_the_seed_and_not_on_the_other_layers(case):
    read_out, x, y, held_out = case

    def train(sources, seed):
        return {l: A for l, A, _ in trained.train(read_out, sources, y, held_out, RCOND, seed)}

    alone, both = train({1: x}, 0), train({0: x.square(), 1: x}, 0)
    assert [*both] != [*alone]
    assert both[1].equal(alone[1])
    assert not train({1: x}, 1)[1].equal(alone[1])


def test_a_tenth_of_the_sentences_is_held_out_with_all_their_positions():
    sentences = torch.arange(40).repeat_interleave(3)[torch.randperm(120)]
    held_out = trained.hold_out(sentences, 0)
    assert len(sentences[held_out].unique()) == 4
    assert held_out.sum() == 12
    assert not held_out.equal(trained.hold_out(sentences, 1))
    assert trained.hold_out(torch.arange(10), 0).sum() == 1
    with pytest.raises(Problem, match="at least 10 training sentences, got 9"):
        trained.hold_out(torch.arange(9), 0)


def test_through_a_model_the_kl_falls_and_its_weights_stay(model):
    tokenized = make_tokenized(400, 320)
    h = in_memory.layer_states(model, tokenized, 1000)
    before = {name: x.clone() for name, x in model.net.state_dict().items()}
    held_out = trained.hold_out(torch.arange(400), 0)
    found = [*trained.train(model.read_out, dict(enumerate(h[:-1])), h[-1], held_out, RCOND, 0)]
    assert sorted(l for l, _, _ in found) == [*range(LAYERS)]
    assert all(A.shape == (D, D + 1) for _, A, _ in found)
    gains = [told["kl_held_out"] / told["kl_at_start"] for _, _, told in found]
    assert max(gains) <= 1
    assert min(gains) < 0.99
    assert all(x.equal(before[name]) for name, x in model.net.state_dict().items())
    assert all(weights.grad is None for weights in model.net.parameters())


def test_a_read_out_that_is_not_finite_is_named_by_layer(case):
    _, x, y, held_out = case
    with pytest.raises(Problem, match="predictions from layer 2 are not finite"):
        [*trained.train(lambda h: h * torch.inf, {2: x}, y, held_out, RCOND, 0)]
