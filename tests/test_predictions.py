"""The tables of `predictions.judge`: row l is what is read out at layer l, judged by the row of the full model."""

import pytest
import torch
from conftest import LAYERS, D

from shortcut import predictions


@pytest.mark.parametrize("rows", [1, 3, 256])
def test_a_lens_is_judged_at_its_own_layer_by_the_full_model(model, rows, monkeypatch):
    """KL, entropy and cross-entropy from their sums, for each layer alone; the full model is its own last row."""
    monkeypatch.setattr(predictions, "ROWS", rows)
    g, n = torch.Generator().manual_seed(0), 5
    states, final = torch.randn(LAYERS, n, D, generator=g), torch.randn(n, D, generator=g)
    actual = torch.tensor([9, 0, 4, 17, 200])
    lens = predictions.judge(model, states, final, torch.arange(n), actual).lens
    assert lens.shape == (LAYERS + 1, n, 3)
    with torch.no_grad():
        p = model.read_out(final).double().softmax(-1)
        for l, h in enumerate([*states, final]):
            q = model.read_out(h).double().softmax(-1)
            expected = [(p * (p / q).log()).sum(-1), -(q * q.log()).sum(-1), -q[torch.arange(n), actual].log()]
            torch.testing.assert_close(lens[l].double(), torch.stack(expected, 1), rtol=1e-4, atol=1e-4)
    assert lens[-1, :, 0].abs().max() < 1e-6
    assert (lens[:-1, :, 0] > 0).all()


def test_layers_judged_together_or_alone_are_the_same(gpt2):
    g, n = torch.Generator().manual_seed(1), 4
    states, final, actual = torch.randn(LAYERS, n, D, generator=g), torch.randn(n, D, generator=g), torch.arange(n)
    together = predictions.judge(gpt2, states, final, torch.arange(n), actual)
    for l in range(LAYERS):
        alone = predictions.judge(gpt2, states[l : l + 1], final, torch.arange(n), actual)
        for name, table in vars(together).items():
            torch.testing.assert_close(vars(alone)[name][0], table[l], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(vars(alone)[name][1], table[-1], rtol=1e-5, atol=1e-5)


def test_a_judged_lens_needs_no_more_than_its_predictions(gpt2):
    """Those that are not asked for are not there."""
    found = predictions.judge(gpt2, torch.randn(2, 4, D), torch.randn(4, D), torch.arange(4), None)
    assert found.lens is None
