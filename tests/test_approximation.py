"""The five ways on, against blocks run one by one; and what is read out of them."""

import math

import direct
import pytest
import torch
from conftest import LAYERS, D

from shortcut import approximation, decoding, representations, results


@pytest.fixture(scope="module")
def setting(gpt2, tokenized):
    g = torch.Generator().manual_seed(3)
    jumps = [torch.eye(D) + 0.3 * torch.randn(D, D, generator=g) for _ in range(LAYERS)]
    parts = {(i, a): torch.randn(D, D, generator=g) / 4 for i in range(LAYERS) for a in (1, 2, 4, 5)}
    return gpt2, tokenized, representations.layer_states(gpt2, tokenized, 100), jumps, parts


def approximate(mode, setting, batch_tokens=100):
    """From layers 0 ... L - 1, [L, n, d]."""
    model, tokenized, h, jumps, parts = setting
    if mode == "id":
        return h[:-1]
    if mode == "mat":
        return approximation.jump(jumps, h, model.device)
    swaps = approximation.replaced(mode, model, parts)
    if mode == "mat_attn":
        return approximation.go_on_alone(model, swaps, h, batch_tokens)
    finals = torch.empty_like(h[:-1])
    for batch in representations.batches(model, tokenized, batch_tokens):
        finals[:, batch.rows] = approximation.go_on(model, [swaps], batch)
    return finals


@pytest.mark.parametrize("mode", ["mat_ln1_ln2", "mat_attn", "mat_ffn"])
def test_parts_equal_one_sentence_and_one_block_at_a_time(setting, mode):
    model, tokenized, _, _, parts = setting
    maps = {key: A for key, A in parts.items() if key[1] in approximation.REPLACED[mode]}
    finals = approximate(mode, setting)
    for s in range(0, len(tokenized), 7):
        ids, t = tokenized.sentences[s], int(tokenized.positions[s])
        for layer in range(LAYERS):
            expected = direct.approximation(model, ids, t, layer, maps)
            torch.testing.assert_close(finals[layer, s], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", approximation.MODES)
def test_batch_size_does_not_change_approximations(setting, mode):
    a, b = approximate(mode, setting), approximate(mode, setting, batch_tokens=23)
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_modes_that_share_a_pass_get_what_they_get_alone(setting):
    model, tokenized, _, _, parts = setting
    swaps = [approximation.replaced(mode, model, parts) for mode in approximation.SEQUENCE_MODES]
    for batch in representations.batches(model, tokenized, 100):
        together = approximation.go_on(model, swaps, batch)
        assert together.equal(torch.cat([approximation.go_on(model, [of_a_mode], batch) for of_a_mode in swaps]))


def test_every_mode_at_the_last_layer_is_the_model(setting):
    model, tokenized, h, _, _ = setting
    predictions = decoding.predict(model, h[:-1], h[-1])
    assert predictions.surprisal.shape == (LAYERS + 1, len(tokenized))
    for s in range(0, len(tokenized), 5):
        t = int(tokenized.positions[s])
        logits = model.net(input_ids=tokenized.sentences[s][None]).logits[0, t]
        assert predictions.topk[-1, s].tolist() == logits.topk(10).indices.tolist()


def test_mat_is_the_image_of_the_states(setting):
    _, _, h, jumps, _ = setting
    finals = approximate("mat", setting)
    for layer, A in enumerate(jumps):
        torch.testing.assert_close(finals[layer], torch.stack([A @ state for state in h[layer]]), rtol=1e-4, atol=1e-4)


def test_predictions_against_the_softmax(setting):
    model, tokenized, h, _, _ = setting
    finals = approximate("mat", setting)
    predictions = decoding.predict(model, finals, h[-1])
    finals = torch.cat([finals, h[-1:]])
    full = model.read_out(h[-1]).double().softmax(-1)
    for layer in range(LAYERS + 1):
        p = model.read_out(finals[layer]).double().softmax(-1)
        best = p.sort(descending=True)
        assert predictions.topk[layer].equal(best.indices[:, :10])
        torch.testing.assert_close(predictions.gap[layer].double(), best.values[:, 0] - best.values[:, 1],
                                   rtol=0, atol=1e-5)  # fmt: skip
        expected = -full[torch.arange(len(tokenized)), best.indices[:, 0]].log()
        torch.testing.assert_close(predictions.surprisal[layer].double(), expected, rtol=1e-4, atol=1e-4)


def test_number_of_rows_read_out_together_does_not_change_predictions(setting, monkeypatch):
    model, _, h, _, _ = setting
    whole = decoding.predict(model, h[:-1], h[-1])
    monkeypatch.setattr(decoding, "ROWS", 7)
    split = decoding.predict(model, h[:-1], h[-1])
    assert whole.topk.equal(split.topk)
    torch.testing.assert_close(whole.surprisal, split.surprisal)


def test_early_exit_from_the_table_equals_running_the_model_for_every_sentence(setting):
    """The literal loop: block after block, read out, compare, stop."""
    model, tokenized, h, jumps, _ = setting
    predictions = decoding.predict(model, approximate("mat", setting), h[-1])
    mean = sum(t + 1 for t in tokenized.positions.tolist()) / len(tokenized)
    exited = set()
    for lam in (-1.112, 0.02, 0.1, 0.3, 1.112):
        (record,) = results.early_exits("mat", predictions, tokenized.positions, [lam], tau=4.0)
        layers = []
        for s, (ids, t) in enumerate(zip(tokenized.sentences, tokenized.positions.tolist(), strict=True)):
            threshold = 0.9 * lam + 0.1 * math.exp(-4.0 * t / mean)
            layer, topk = direct.early_exit(model, ids, t, threshold, jumps)
            layers.append(layer)
            assert record["topk"][s].tolist() == topk.tolist()
        assert record["layers_processed"] == pytest.approx(sum(layers) / len(layers))
        exited.update(layers)
    assert exited == set(range(1, LAYERS + 1))  # the grid reaches every layer
