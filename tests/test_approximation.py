"""The five ways on, against blocks run one by one; and what is read out of them."""

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
    model, tokenized, h, jumps, parts = setting
    done = []
    finals = approximation.approximate(mode, model, tokenized, h, jumps, parts, batch_tokens, done.append)
    assert sum(done) == len(tokenized)
    return finals


@pytest.mark.parametrize("mode", ["mat_ln1_ln2", "mat_attn", "mat_ffn"])
def test_parts_equal_one_sentence_and_one_block_at_a_time(setting, mode):
    model, tokenized, _, _, parts = setting
    maps = {key: A for key, A in parts.items() if key[1] in approximation.REPLACED[mode]}
    finals = approximate(mode, setting)
    for s in range(0, len(tokenized), 7):
        t = int(tokenized.positions[s])
        hidden = model.net(input_ids=tokenized.sentences[s][None, : t + 1], output_hidden_states=True).hidden_states
        for layer in range(LAYERS):
            x = hidden[layer]
            with model.replace(maps):
                for block in model.blocks[layer:]:
                    x = block(x)
            torch.testing.assert_close(finals[layer, s], x[0, t], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", approximation.MODES)
def test_batch_size_does_not_change_approximations(setting, mode):
    a, b = approximate(mode, setting), approximate(mode, setting, batch_tokens=23)
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", approximation.MODES)
def test_every_mode_at_the_last_layer_is_the_model(setting, mode):
    model, tokenized, h, _, _ = setting
    finals = approximate(mode, setting)
    torch.testing.assert_close(finals[-1], h[-1], rtol=0, atol=1e-5)
    predictions = decoding.predict(model, finals, h[-1])
    for s in range(0, len(tokenized), 5):
        t = int(tokenized.positions[s])
        logits = model.net(input_ids=tokenized.sentences[s][None]).logits[0, t]
        assert predictions.topk[-1, s].tolist() == logits.topk(10).indices.tolist()


def test_id_and_mat_are_the_states_and_their_images(setting):
    _, _, h, jumps, _ = setting
    assert approximate("id", setting).equal(h)
    finals = approximate("mat", setting)
    for layer, A in enumerate(jumps):
        torch.testing.assert_close(finals[layer], torch.stack([A @ state for state in h[layer]]), rtol=1e-4, atol=1e-4)


def test_predictions_against_the_softmax(setting):
    model, tokenized, h, _, _ = setting
    finals = approximate("mat", setting)
    predictions = decoding.predict(model, finals, h[-1])
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
    whole = decoding.predict(model, h, h[-1])
    monkeypatch.setattr(decoding, "ROWS", 7)
    split = decoding.predict(model, h, h[-1])
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
            x = model.net.transformer.wte(ids[None, : t + 1]) + model.net.transformer.wpe.weight[: t + 1]
            for layer in range(1, LAYERS + 1):
                x = model.blocks[layer - 1](x)
                state = x[0, t] if layer == LAYERS else jumps[layer] @ x[0, t]
                top = model.read_out(state).softmax(-1).topk(10)
                gap = float(top.values[0] - top.values[1])
                if layer == LAYERS or gap > 0.9 * lam + 0.1 * torch.tensor(-4.0 * t / mean).exp():
                    break
            layers.append(layer)
            assert record["topk"][s].tolist() == top.indices.tolist()
        assert record["layers_processed"] == pytest.approx(sum(layers) / len(layers))
        exited.update(layers)
    assert exited == set(range(1, LAYERS + 1))  # the grid reaches every layer
