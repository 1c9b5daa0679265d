"""States at the chosen token: equal to Hugging Face's, whatever the batch, the order and the padding."""

import in_memory
import pytest
import torch
from conftest import LAYERS, make_tokenized

from shortcut import Problem, representations
from shortcut.tokens import Tokenized


def alone(model, tokenized):
    """One whole sentence at a time, without hooks and without padding: layers 0 ... L - 1."""
    rows = []
    for ids, t in zip(tokenized.sentences, tokenized.positions.tolist(), strict=True):
        hidden = model.net(input_ids=ids[None].to(model.device), output_hidden_states=True).hidden_states
        rows.append(torch.stack([h[0, t] for h in hidden[:-1]]))
    return torch.stack(rows, dim=1)


def test_states_equal_hugging_faces_on_whole_sentences(model, tokenized):
    h = in_memory.layer_states(model, tokenized, 100)
    assert h.shape == (LAYERS + 1, len(tokenized), model.d)
    torch.testing.assert_close(h[:-1], alone(model, tokenized), rtol=0, atol=1e-5)


@pytest.mark.parametrize("batch_tokens", [1, 37, 10_000])
def test_batch_size_and_padding_do_not_change_states(model, tokenized, batch_tokens):
    expected = in_memory.layer_states(model, tokenized, 100)
    h = in_memory.layer_states(model, tokenized, batch_tokens)
    torch.testing.assert_close(h, expected, rtol=0, atol=1e-5)


def test_order_of_the_sentences_does_not_change_states(model, tokenized):
    order = torch.randperm(len(tokenized), generator=torch.Generator().manual_seed(0))
    shuffled = Tokenized([tokenized.sentences[k] for k in order.tolist()], tokenized.positions[order])
    expected = in_memory.layer_states(model, tokenized, 100)[:, order]
    torch.testing.assert_close(in_memory.layer_states(model, shuffled, 100), expected, rtol=0, atol=1e-5)


def test_what_follows_the_chosen_token_does_not_matter_to_a_causal_model(gpt2, tokenized):
    prefixes = [
        ids[: t + 1] for ids, t in zip(tokenized.sentences, tokenized.positions.tolist(), strict=True)
    ]  # fmt: skip
    cut = Tokenized(prefixes, tokenized.positions)
    expected = in_memory.layer_states(gpt2, tokenized, 100)
    torch.testing.assert_close(in_memory.layer_states(gpt2, cut, 100), expected, rtol=0, atol=0)


def test_what_follows_the_chosen_token_matters_to_a_masked_model(bert):
    whole = Tokenized([torch.tensor([5, 6, 7, 8])], torch.tensor([1]))
    cut = Tokenized([torch.tensor([5, 6])], torch.tensor([1]))
    a, b = (in_memory.layer_states(bert, t, 100)[-1] for t in (whole, cut))
    assert (a - b).abs().max() > 1e-3


def test_part_states_hold_the_layer_states(gpt2, tokenized):
    parts = in_memory.part_states(gpt2, tokenized, 100)
    layers = in_memory.layer_states(gpt2, tokenized, 100)
    assert len(parts) == 6 * LAYERS + 1
    torch.testing.assert_close(parts[::6], layers, rtol=0, atol=0)


def test_batches_keep_to_the_budget_and_hold_every_sentence_once(model, tokenized):
    found = representations.batches(model, tokenized, 64)
    assert all(batch.ids.numel() <= 64 for batch in found)
    assert sorted(torch.cat([batch.rows for batch in found]).tolist()) == list(range(len(tokenized)))


def test_a_pass_holds_the_states_and_what_enters_every_block(model, tokenized):
    h = in_memory.layer_states(model, tokenized, 64)
    for batch in representations.batches(model, tokenized, 64):
        seen = representations.run(model, batch)
        assert seen.h.equal(h[:, batch.rows])
        assert torch.stack([batch.at_chosen(states) for states in seen.entering]).equal(h[:-1, batch.rows])


def test_sentences_of_another_tokenizer_are_refused(model):
    with pytest.raises(Problem, match="holds token 320, the model knows 320"):
        in_memory.layer_states(model, Tokenized([torch.tensor([320])], torch.tensor([0])), 100)
    with pytest.raises(Problem, match="49 tokens to run, the model takes 48"):
        in_memory.layer_states(model, Tokenized([torch.full((49,), 7)], torch.tensor([48])), 100)


def test_a_state_that_is_not_finite_names_layer_and_sentence(gpt2):
    tokenized = make_tokenized(5, 320)
    rows = []

    def spoil(module, args, out):
        rows.append(1)
        return out * float("inf")

    handle = gpt2.blocks[1].register_forward_hook(spoil)
    try:
        with pytest.raises(Problem, match=r"layer 2 .* sentence \d+ .*not finite"):
            in_memory.layer_states(gpt2, tokenized, 1000)
    finally:
        handle.remove()
    assert rows
