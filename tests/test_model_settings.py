"""Settings in a model's config.json: neutralised where they change no number, else refused."""

import pytest
import torch
from conftest import CONTEXT, changed

from shortcut import Problem, representations
from shortcut.loading import pretrained


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        ("bert", {"position_embedding_type": "relative_key"}, "has position_embedding_type 'relative_key', which"),
        ("bert", {"position_embedding_type": "alibi"}, "has position_embedding_type 'alibi', which is no longer"),
        ("bert", {"is_decoder": True}, "hidden states do not depend on following tokens, unlike in a masked model"),
        ("bert", {"is_causal": True}, "hidden states do not depend on following tokens, unlike in a masked model"),
        ("gpt2", {"is_causal": False}, "hidden states depend on following tokens"),
        ("gpt2", {"n_layer": 0}, "has num_hidden_layers 0, expected at least 1"),
        ("gpt2", {"vocab_size": 9}, "has a vocabulary of 9 tokens, expected at least 10"),
        ("gpt2", {"n_positions": CONTEXT - 1}, r"transformer.wpe.weight is \[48, 16\], expected \[47, 16\]"),
        ("gpt2", {"n_positions": None}, "cannot load.*n_positions"),
        ("gpt2", {"n_head": 0}, "cannot load.*ZeroDivisionError"),
        ("gpt2", {"activation_function": "of_its_own"}, "cannot load.*KeyError: 'of_its_own'"),
        ("bert", {"hidden_act": None}, "cannot load"),
        ("bert", {"pad_token_id": 400}, "cannot load.*AssertionError"),
        ("gpt2", {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "needs a package that is not installed"),
        ("gpt2", {"quantization_config": {"quant_method": "awq"}}, "needs a package that is not installed"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_run_as_saved_are_one_line(tmp_path, request, family, settings, message):
    folder = changed(request.getfixturevalue(f"{family}_folder"), tmp_path, **settings)
    with pytest.raises(Problem, match=message) as caught:
        pretrained.load(folder, masked=family == "bert")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("bert", {"chunk_size_feed_forward": 3}),
        ("bert", {"pad_token_id": -1, "position_embedding_type": "absolute", "is_decoder": False}),
        ("gpt2", {"return_dict": False, "output_hidden_states": True, "output_attentions": True}),
        ("gpt2", {"pad_token_id": -1, "n_ctx": 7, "task_specific_params": {"text-generation": {}}, "gradient": True}),
    ],
)
def test_settings_that_change_no_number_are_neutralised(tmp_path, request, tokenized, family, settings):
    folder = request.getfixturevalue(f"{family}_folder")
    states = []
    for one in (folder, changed(folder, tmp_path, **settings)):
        model = pretrained.load(one, masked=family == "bert")
        states.append(torch.cat([representations.run(model, batch).h for batch in batches(model, tokenized)], 1))
    assert states[0].equal(states[1])


def batches(model, tokenized):
    return representations.batches(model, tokenized, 64)
