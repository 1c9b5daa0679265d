"""The contract every family keeps."""

from contextlib import ExitStack

import pytest
import torch
import transformers
from conftest import LAYERS, D

from shortcut import approximation, representations, submodules
from shortcut.blocks import swapped
from shortcut.models import Model, Row


def run_seeing(model, points, ids):
    seen = [None] * len(points)
    with torch.inference_mode(), model.watch(points, seen.__setitem__):
        model.run(ids, None)
    return seen


def ids_for(model):
    return torch.arange(12).reshape(2, 6) + 5


def test_layers_equal_hugging_faces_hidden_states(model):
    ids = ids_for(model)
    seen = run_seeing(model, model.layer_points(), ids)
    theirs = model.net(input_ids=ids, output_hidden_states=True).hidden_states
    assert len(seen) == len(theirs) == LAYERS + 1
    # Their last entry comes after the final norm for GPT-2, so it is not compared.
    for ours, expected in zip(seen[:-1], theirs[:-1], strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


def test_reading_out_the_last_state_gives_the_models_logits(model):
    ids = ids_for(model)
    *_, final = run_seeing(model, model.layer_points(), ids)
    torch.testing.assert_close(model.read_out(final), model.net(input_ids=ids).logits, rtol=0, atol=1e-5)


def test_hooks_are_gone_after_watching_even_after_an_error(model):
    def hooks():
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.net.modules())

    before = hooks()
    with pytest.raises(RuntimeError, match="stop"), model.watch(model.layer_points(), lambda k, h: None):
        assert hooks() > before
        raise RuntimeError("stop")
    assert hooks() == before


def test_gpt2_gelu_is_fused_without_changing_the_function(gpt2, gpt2_folder):
    plain = transformers.AutoModelForCausalLM.from_pretrained(gpt2_folder, dtype=torch.float32)
    ids = ids_for(gpt2)
    torch.testing.assert_close(gpt2.net(input_ids=ids).logits, plain(input_ids=ids).logits, rtol=0, atol=1e-4)


def test_states_inside_a_block_are_those_of_a_block_written_by_hand(gpt2):
    points, place = submodules.find(gpt2).points()
    assert place == {(i, a): 6 * i + a for i in range(LAYERS) for a in range(6 + (i == LAYERS - 1))} | {
        (i, 6): 6 * (i + 1) for i in range(LAYERS)
    }
    seen = run_seeing(gpt2, points, ids_for(gpt2))
    assert len(seen) == 6 * LAYERS + 1
    for i, block in enumerate(gpt2.blocks):
        x = seen[6 * i]
        hand = [x, block.ln_1(x)]
        hand.append(block.attn(hand[1])[0])
        hand.append(hand[2] + x)
        hand.append(block.ln_2(hand[3]))
        hand.append(block.mlp(hand[4]))
        hand.append(hand[5] + hand[3])
        for a in range(7):
            torch.testing.assert_close(seen[6 * i + a], hand[a], rtol=0, atol=1e-4)


@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.parametrize("states", [(1, 4), (2,), (5,), (1, 2), (4, 5), (1, 2, 4, 5)])
def test_replaced_parts_equal_a_block_written_by_hand(gpt2, states, folded):
    """Also where its row names no linear layer that takes a map into its weights."""
    model = gpt2 if folded else Model(gpt2.net, masked=False)
    if not folded:
        model.row = Row()
    g = torch.Generator().manual_seed(1)
    maps = {(i, a): torch.randn(D, D, generator=g) for i in range(LAYERS) for a in states}
    h = torch.randn(2, 5, D, generator=g)
    for i, block in enumerate(gpt2.blocks):

        def part(a, x, i=i, block=block):
            if a in states:
                return x @ maps[i, a].T
            return {1: block.ln_1, 2: lambda y: block.attn(y)[0], 4: block.ln_2, 5: block.mlp}[a](x)

        middle = h + part(2, part(1, h))
        expected = middle + part(5, part(4, middle))
        with swapped(approximation.replacing(model, maps)):
            replaced = gpt2.blocks[i](h)
        torch.testing.assert_close(replaced, expected, rtol=1e-5, atol=1e-4)


def test_replaced_parts_are_put_back_even_after_an_error(gpt2):
    def forwards():
        return {name: module.__dict__.get("forward") for name, module in gpt2.net.named_modules()}

    before, swaps = (
        forwards(),
        approximation.replacing(gpt2, {(0, 1): torch.eye(D), (0, 2): torch.eye(D), (1, 4): torch.eye(D)}),
    )
    with pytest.raises(RuntimeError, match="stop"), swapped(swaps):
        assert forwards() != before
        raise RuntimeError("stop")
    assert forwards() == before


def test_what_nobody_reads_is_spared_without_a_trace(model, tokenized):
    """Narrowed, h_L at the chosen positions is the same, and it differs elsewhere: something was spared."""
    (batch,) = representations.batches(model, tokenized, 10_000)
    finals = []
    for narrowed in (False, True):
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            if narrowed:
                stack.enter_context(model.narrowed(batch.chosen))
            stack.enter_context(model.watch([(model.blocks[-1], "out")], lambda _, h: finals.append(h)))
            model.run(batch.ids, batch.mask)
    whole, spared = finals
    torch.testing.assert_close(batch.at_chosen(spared), batch.at_chosen(whole), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(spared, whole)
