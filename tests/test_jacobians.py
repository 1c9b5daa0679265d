"""Jacobian maps: probes, means and errors in theory; those of a model against autograd."""

from dataclasses import replace

import pytest
import torch
import transformers
from conftest import CONTEXT, LAYERS, D, as_map, make_tokenized, states

from shortcut import Problem, jacobian, representations
from shortcut.loading import pretrained


def by_sentence(V):
    """The probes V [P, n, d] as rows [n P, d], sentence after sentence."""
    return V.transpose(0, 1).flatten(0, 1).double()


def gradients_of(V, J):
    """The gradients of v . J_s h by h, P times [n, d], where sentence s has the Jacobian J_s; J is [n, d, d]."""
    return [torch.einsum("nd,nde->ne", v.double(), J) for v in V]


@pytest.mark.parametrize(("n", "several"), [(10, 4), (10, 3)])
def test_probes_are_orthogonal_in_blocks_of_d_that_hold_sentences_with_all_their_probes(n, several):
    V = jacobian.probes(8, n, several, seed=0)
    assert V.shape == (several, n, 8)
    for block in by_sentence(V).split(8)[: n * several // 8]:
        torch.testing.assert_close(block.T @ block, 8 * torch.eye(8).double(), rtol=0, atol=1e-4)
    assert not V[0, 0].equal(V[0, 8 // several])


def test_probes_are_as_likely_as_their_negatives():
    """A QR factorization alone has one sign on the whole diagonal of Q."""
    first = torch.stack([jacobian.probes(6, 6, 1, seed)[0].diagonal() for seed in range(200)])
    assert ((first > 0).double().mean(0) - 0.5).abs().max() < 0.15


@pytest.mark.parametrize(("n", "several"), [(16, 2), (24, 2), (16, 3), (2, 8), (19, 2), (11, 3)])
def test_a_linear_network_leaves_nothing_to_chance(n, several):
    """h_L = A h_l for every sentence: J is exact, its halves too, and there is no error. Rows that fill no block do
    not spoil that.
    """
    A, V = states(8, 8), jacobian.probes(8, n, several, seed=0)
    J, error, halves = jacobian.average(V, gradients_of(V, A.expand(n, 8, 8)))
    for found in (J, *halves):
        torch.testing.assert_close(found, A, rtol=0, atol=1e-5)
    assert error < 1e-5


@pytest.mark.parametrize("n", [5, 8, 15])
def test_fewer_than_two_blocks_tell_no_error_and_no_halves(n):
    """The estimate is there still: from less than a block the mean of v g^T, which is A on average alone."""
    A, V = states(8, 8), jacobian.probes(8, n, 1, seed=0)
    J, error, halves = jacobian.average(V, gradients_of(V, A.expand(n, 8, 8)))
    assert error is None
    assert halves == []
    rows = by_sentence(V)
    torch.testing.assert_close(J, rows.T @ rows @ A / n if n < 8 else A, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("n", "several", "between"), [(40, 4, 1.0), (64, 1, 0.1), (30, 3, 1.0), (37, 2, 0.1)])
def test_the_error_of_a_jacobian_is_the_true_spread_of_repeated_draws(n, several, between):
    """Over draws of the sentences, whose Jacobians are `between` apart, and of the probes: neither too large nor small.

    The Jacobian of the population is A.
    """
    A, g = states(8, 8), torch.Generator().manual_seed(1)
    told, true = [], []
    for draw in range(300):
        J = A + between * torch.randn(n, 8, 8, generator=g, dtype=torch.float64)
        V = jacobian.probes(8, n, several, seed=draw)
        found, error, _ = jacobian.average(V, gradients_of(V, J))
        told.append(error**2)
        true.append((found - A).square().sum().item())
    assert sum(told) / 300 == pytest.approx(sum(true) / 300, rel=0.1)


def test_the_error_of_a_jacobian_is_that_of_the_means_of_its_blocks():
    """Against the formula with all block means at once, and the halves against those of the sentences."""
    V = jacobian.probes(8, 20, 4, seed=0)
    J_of = states(8, 8) + torch.randn(20, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    g = gradients_of(V, J_of)
    J, error, halves = jacobian.average(V, g)
    blocks = zip(by_sentence(V).split(8), torch.stack(g, 1).flatten(0, 1).split(8), strict=True)
    M = torch.stack([v.T @ x / 8 for v, x in blocks])
    assert error == pytest.approx((M.var(0).sum() / len(M)).sqrt().item())
    torch.testing.assert_close(J, M.mean(0))
    for half, sentences in zip(halves, (slice(10), slice(10, None)), strict=True):
        alone = jacobian.average(V[:, sentences], [x[sentences] for x in g])[0]
        torch.testing.assert_close(half, alone)


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
        J, error, _ = jacobian.average(V, [found[LAYERS + 1 + k * LAYERS + l] for k in range(8)])
        assert 0.4 * error < (J - exact).norm() < error
        assert error < 0.5 * exact.norm()


def test_a_state_that_is_not_finite_is_not_called_a_gradient(gpt2, monkeypatch):
    (batch,) = representations.batches(gpt2, make_tokenized(4, 320), 10_000)
    weight = gpt2.blocks[1].mlp.c_proj.bias
    monkeypatch.setattr(weight, "data", torch.full_like(weight, torch.nan))
    with pytest.raises(
        Problem, match=r"the state at layer 2 for sentence \d .* is not finite: the checkpoint is broken"
    ):
        jacobian.gradients(gpt2, batch, jacobian.probes(D, 4, 1, seed=0))


def test_a_gradient_that_is_not_finite_names_layer_and_sentence(gpt2):
    (batch,) = representations.batches(gpt2, make_tokenized(4, 320), 10_000)
    V = jacobian.probes(D, 4, 1, seed=0)
    V[0, 2] = torch.inf
    with pytest.raises(Problem, match=r"a gradient at layer 0 for sentence \d \(counted from 0\) is not finite"):
        jacobian.gradients(gpt2, batch, V)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_jacobian_later_sums_the_derivatives_of_the_chosen_and_all_later_positions(name, request, tmp_path):
    """Exactly: with all d unit vectors as probes, against autograd on each sentence alone, without padding."""
    model, tokenized = request.getfixturevalue("gpt2"), make_tokenized(5, 320)
    if name == "llama":  # whose tokenizer would add a token
        model, sentences = tiny_llama(tmp_path), [torch.cat([torch.tensor([1]), ids]) for ids in tokenized.sentences]
        tokenized = replace(tokenized, sentences=sentences, positions=tokenized.positions + 1, added=(1,))
    ends = torch.tensor([*map(len, tokenized.sentences)]) - 1
    assert len(set(ends.tolist())) > 1
    (batch,) = representations.batches(model, replace(tokenized, positions=ends), 10_000)
    chosen = tokenized.positions[batch.rows]
    assert (chosen < batch.chosen[1]).any()
    found = jacobian.gradients(model, batch, torch.eye(D)[:, None].expand(D, 5, D), chosen)
    for k, row in enumerate(batch.rows.tolist()):
        ids, t = tokenized.sentences[row], int(chosen[k])
        h = representations.whole(model, ids)
        torch.testing.assert_close(found[: LAYERS + 1, k], torch.stack([x[t] for x in h]), rtol=1e-4, atol=1e-4)
        for l in range(LAYERS):
            start = h[l][None].clone().requires_grad_()
            with torch.enable_grad():
                end = model.go_on(l, start, ids[None], None)[0]
                rows = [torch.autograd.grad(end[t:, c].sum(), start, retain_graph=True)[0][0, t] for c in range(D)]
            of_layer = found[LAYERS + 1 + l :: LAYERS, k]
            torch.testing.assert_close(of_layer, torch.stack(rows), rtol=1e-4, atol=1e-5)


def tiny_llama(folder):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=320, hidden_size=D, intermediate_size=2 * D, num_hidden_layers=LAYERS, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=CONTEXT, initializer_range=0.3,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder / "llama")
    return pretrained.load(str(folder / "llama"), masked=False)


def test_at_the_last_position_both_jacobians_are_the_same(gpt2):
    tokenized = make_tokenized(6, 320)
    ends = torch.tensor([*map(len, tokenized.sentences)]) - 1
    (batch,) = representations.batches(gpt2, replace(tokenized, positions=ends), 10_000)
    V = jacobian.probes(D, 6, 2, seed=0)[:, batch.rows]
    same, later = (jacobian.gradients(gpt2, batch, V, at) for at in (None, batch.chosen[1]))
    torch.testing.assert_close(later, same, rtol=1e-4, atol=1e-5)


def test_jacobian_affine_is_the_tangent_at_the_mean_state():
    """It takes the mean of h_l to that of h_L and has the derivative J; of a linear network with a bias it is that."""
    J, h, final = states(5, 5), states(30, 5, 1).float(), states(30, 5, 2).float()
    A = as_map(jacobian.tangent(J, h, final))
    torch.testing.assert_close(A(h.double().mean(0)), final.double().mean(0))
    torch.testing.assert_close(torch.func.jacrev(A)(states(1, 5, 3)[0]), J)
    exact = as_map(jacobian.tangent(J, h, h.double() @ J.T + 3))
    torch.testing.assert_close(exact(h.double()), h.double() @ J.T + 3)
