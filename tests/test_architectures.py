"""Any model of the library: what holds of all of them, by structure alone, on tiny random ones."""

import copy

import direct
import pytest
import torch
from architectures import KINDS, D, L, make
from conftest import as_maps, make_tokenized

from shortcut import approximation, jacobian, representations
from shortcut.loading import pretrained
from shortcut.models import Model


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind[0])
def any_model(request, tmp_path_factory):
    kind, masked = request.param
    return pretrained.load(make(kind, masked, tmp_path_factory.mktemp("any") / kind), masked=masked)


def double(model):
    """The same model in float64."""
    net = copy.deepcopy(model.net).double()
    net.config._experts_implementation = "eager"  # the fused product of experts knows no float64
    return Model(net, model.masked)


@torch.no_grad()
def test_reading_out_and_going_on_from_every_layer_are_the_model_itself(any_model):
    model = any_model if any_model.net.config.model_type == "xglm" else double(any_model)  # its mask is float32's
    tight = {"rtol": 1e-10, "atol": 1e-10}
    ids = torch.randint(5, 320, (3, 7), generator=torch.Generator().manual_seed(0))
    h = {}
    with model.watch(model.layer_points(), h.__setitem__):
        logits = model.net(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    exact = h[0].dtype == torch.float64 and (model.read_out(h[L]) - logits).abs().max() < 1e-10
    tight = tight if exact else {"rtol": 1e-4, "atol": 1e-4}  # the library computes norms or experts in float32
    torch.testing.assert_close(model.read_out(h[L]), logits, **tight)
    for layer in range(L + 1):
        with model.going_on(layer, h[layer]):
            ours = model.net(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        torch.testing.assert_close(ours, logits, **tight)
    assert model.n_layers == L


def test_blocks_run_one_by_one_and_gradients_reach_every_layer(any_model):
    """With no jump the alternation is the model's own pass; along v the gradient is what a step in h_l changes."""
    model, tokenized = any_model, make_tokenized(6, 320, longest=7)
    (batch,) = representations.batches(model, tokenized, 500)
    seen = representations.run(model, batch)
    if not model.masked and model.is_chain:
        maps = as_maps({(0, L): torch.eye(D)})
        finals = approximation.alternate(model, seen, [(), ((0, L),)], maps)
        torch.testing.assert_close(finals[0], seen.h[L], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(finals[1], seen.h[0], rtol=1e-4, atol=1e-4)
    kinks = model.net.config.model_type == "opt"  # its rectifiers', within larger steps; others have float32 inside
    model, size = (double(model), 1e-6) if kinks else (model, 1e-3)
    seen, V = representations.run(model, batch), jacobian.probes(D, 6, 1, seed=0)[:, batch.rows]
    found = jacobian.gradients(model, batch, V)
    torch.testing.assert_close(found[: L + 1], seen.h, rtol=1e-4, atol=1e-4)
    assert found.shape == (L + 1 + L, 6, D)
    step, moved = size * torch.randn(6, D, generator=torch.Generator().manual_seed(1)), []
    for sign in (1, -1):
        h = seen.entering[1].clone().reshape(*batch.ids.shape, D)
        h[batch.chosen] += sign * step
        with torch.no_grad():
            moved.append(batch.at_chosen(model.go_on(1, h.reshape(seen.entering[1].shape), batch.ids, batch.mask)))
    change = ((moved[0] - moved[1]) / (2 * size) * V[0]).sum(1).float()
    linear = (found[L + 2] * step / size).sum(1)
    assert (change - linear).norm() < 0.05 * linear.norm() + 0.02


SCHEDULES = [((0, 1),), ((0, 2),), ((1, 2),), ((0, 1), (2, 3)), ((1, 3),), ((0, 1), (1, 3)), ((0, 1), (1, 2)), ()]


def test_blocks_after_a_jump_are_the_librarys_own_pass_with_that_state(any_model):
    """Sentence by sentence, with hooks that hand A_ij h_i on: in a batch every schedule gives the same h_L."""
    model = any_model
    if model.masked or not model.is_chain:
        pytest.skip("schedules are for causal models whose blocks follow each other")
    tokenized, g = make_tokenized(5, 320, longest=7), torch.Generator().manual_seed(2)
    maps = {(i, j): torch.eye(D) + 0.3 * torch.randn(D, D, generator=g) for i in range(L) for j in range(i + 1, L + 1)}
    (batch,) = representations.batches(model, tokenized, 500)
    finals = approximation.alternate(model, representations.run(model, batch), SCHEDULES, as_maps(maps))
    for schedule, final in zip(SCHEDULES, finals, strict=True):
        for row, s in enumerate(batch.rows.tolist()):
            t = int(tokenized.positions[s])
            expected = direct.alternation(model, tokenized.sentences[s], t, schedule, maps)
            torch.testing.assert_close(final[row], expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


def test_states_do_not_depend_on_the_batch_and_are_those_of_the_library(any_model):
    tokenized = make_tokenized(12, 320, longest=9)
    one, many = (
        torch.cat([representations.run(any_model, batch).h[:, batch.rows.argsort()] for batch in batches], 1)
        for batches in (
            representations.batches(any_model, tokenized, 1),
            representations.batches(any_model, tokenized, 500),
        )
    )
    order = torch.cat([batch.rows for batch in representations.batches(any_model, tokenized, 1)])
    torch.testing.assert_close(one[:, order.argsort()], many, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        ids = tokenized.sentences[0] if any_model.masked else tokenized.sentences[0][: tokenized.positions[0] + 1]
        out = any_model.net(input_ids=ids[None], output_hidden_states=True)
    own = [h[0, tokenized.positions[0]] for h in out.hidden_states or ()]
    if any_model.net.config.model_type in ("mamba", "opt"):  # counts otherwise, or projects what it hands out
        return
    for l in range(L):
        torch.testing.assert_close(many[l, 0], own[l], rtol=1e-4, atol=1e-4)
