"""Models that are not as most: wrappers, constants from older versions, an architecture of one's own; and refusals."""

import dataclasses

import pytest
import safetensors.torch
import torch
import transformers
from architectures import CONTEXT, SMALL, D, L, make
from conftest import make_tokenized

from shortcut import Problem, representations
from shortcut.loading import pretrained
from shortcut.models import Model


@pytest.mark.parametrize(
    ("kind", "masked", "message"),
    [
        ("bert", False, "hidden states depend on following tokens"),
        ("xlm", True, "the logits read out of h_L differ"),
        ("albert", True, "it has no list of 3 modules that run once and in order"),
        ("fnet", True, "the hidden states of padded sentences differ"),
        ("xlnet", False, "cannot run with its blocks skipped"),  # its states are [T, b, d]
        ("gemma3n_text", False, "cannot run with its blocks skipped"),  # four streams of them
    ],
)
def test_what_cannot_be_proven_is_refused_in_one_line(kind, masked, message, tmp_path):
    changes = {"num_kv_shared_layers": 0, "activation_sparsity_pattern": [0.0] * L} if "3n" in kind else {}
    folder = make(kind, masked, tmp_path / kind, **changes)
    with pytest.raises(Problem, match=message) as caught:
        pretrained.load(folder, masked=masked)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["Gemma3", "Llava"])
def test_a_wrapper_whose_vision_tower_is_as_deep_as_its_text_runs_as_text(kind, tmp_path):
    text_type, vision_type = {
        "Gemma3": (transformers.Gemma3TextConfig, transformers.SiglipVisionConfig),
        "Llava": (transformers.LlamaConfig, transformers.CLIPVisionConfig),
    }[kind]
    small = {"image_size": 28, "patch_size": 14, "hidden_size": D, "intermediate_size": 32, "num_hidden_layers": L,
             "num_attention_heads": 4, "projection_dim": D}  # fmt: skip
    vision = {key: value for key, value in small.items() if key in {f.name for f in dataclasses.fields(vision_type)}}
    names, other = {f.name for f in dataclasses.fields(text_type)}, text_type.attribute_map
    text = text_type(**{key: value for key, value in SMALL.items() if key in names and key not in other})
    torch.manual_seed(0)
    whole = getattr(transformers, f"{kind}Config")(text_config=text, vision_config=vision_type(**vision))
    whole.image_token_index = whole.image_token_id = 9
    net = getattr(transformers, f"{kind}ForConditionalGeneration")(whole)
    net.save_pretrained(tmp_path / kind)
    model = pretrained.load(str(tmp_path / kind), masked=False)
    assert model.n_layers == L
    assert any(model.blocks is module for module in model.net.base_model.language_model.modules())


def test_a_model_that_uses_what_its_blocks_return_beside_the_states_is_refused_in_one_line():
    """With its blocks passed over nothing is there: AttributeError."""

    class Uses(transformers.LlamaForCausalLM):
        def __init__(self, config):
            super().__init__(config)
            self.model.layers = torch.nn.ModuleList(Beside() for _ in range(L))

        def forward(self, input_ids, attention_mask=None):
            h = self.model.embed_tokens(input_ids)
            for block in self.model.layers:
                h, beside = block(h)
                h = h + beside.mean(-1, keepdim=True)
            return transformers.modeling_outputs.CausalLMOutput(logits=self.lm_head(h))

    class Beside(torch.nn.Module):
        def forward(self, hidden_states):
            return hidden_states * 1.1, hidden_states

    small = {
        key: value
        for key, value in SMALL.items()
        if key in {f.name for f in dataclasses.fields(transformers.LlamaConfig)}
    }
    net = Uses(transformers.LlamaConfig(**small)).eval()
    with pytest.raises(Problem, match=r"cannot run with its blocks skipped \(AttributeError"):
        pretrained._prove(Model(net, masked=False))


class Block(torch.nn.Module):
    """h + tanh(W mean of h so far), and something beside it."""

    def __init__(self):
        super().__init__()
        self.mix = torch.nn.Linear(D, D)

    def forward(self, *, hidden_states):
        total = hidden_states.cumsum(1) / torch.arange(1, hidden_states.shape[1] + 1)[None, :, None]
        return [hidden_states + torch.tanh(self.mix(total)), "something"]


def test_an_architecture_of_ones_own_runs_with_no_line_added():
    class OwnConfig(transformers.PretrainedConfig):
        model_type = "own"
        vocab_size, hidden_size, num_hidden_layers, max_position_embeddings, pad_token_id = 50, D, L, CONTEXT, None

    class Own(transformers.PreTrainedModel):
        config_class, base_model_prefix = OwnConfig, "inner"

        def __init__(self, config):
            super().__init__(config)
            self.embed, self.head = torch.nn.Embedding(50, D), torch.nn.Linear(D, 50)
            self.vision = torch.nn.ModuleList(torch.nn.Linear(D, D) for _ in range(L))  # as deep, and not run
            self.layers = torch.nn.ModuleList(Block() for _ in range(L))

        def forward(self, input_ids, attention_mask=None):
            h = self.embed(input_ids)
            for block in self.layers:
                h = block(hidden_states=h)[0] * 1.0
            return transformers.modeling_outputs.CausalLMOutput(logits=self.head(torch.tanh(h)))

    torch.manual_seed(0)
    model = Model(Own(OwnConfig()).eval().requires_grad_(False), masked=False)
    pretrained._prove(model)
    assert model.blocks is model.net.layers
    tokenized = make_tokenized(5, 50)
    (batch,) = representations.batches(model, tokenized, 500)
    assert representations.run(model, batch).h.shape == (L + 1, 5, D)


@pytest.mark.parametrize(
    ("kind", "constant"),
    [
        ("gpt_neox", "gpt_neox.layers.0.attention.bias"),  # as Pythia's files have it
        ("gpt_neox", "gpt_neox.layers.0.attention.rotary_emb.inv_freq"),
        ("llama", "model.layers.1.self_attn.rotary_emb.inv_freq"),
        ("gptj", "transformer.h.0.attn.masked_bias"),
        ("opt", "model.decoder.version"),
    ],
)
def test_constants_that_older_versions_saved_are_no_weights(kind, constant, tmp_path):
    folder = make(kind, False, tmp_path / kind)
    file = f"{folder}/model.safetensors"
    tensors = safetensors.torch.load_file(file) | {constant: torch.ones(3)}
    safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})
    lines = []
    pretrained.load(folder, masked=False, notice=lines.append)
    assert not lines
