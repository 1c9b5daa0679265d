"""Any model of the library: what holds of all of them, by structure alone, on tiny random ones."""

import copy
import dataclasses
import json
import shutil
import types
from pathlib import Path

import direct
import pytest
import safetensors.torch
import torch
import transformers
from conftest import as_maps, make_sentences, make_tokenized
from pipeline import problem, run
from tokenizers.processors import TemplateProcessing

import config
from shortcut import Problem, approximation, blocks, jacobian, representations, results, submodules, tokens
from shortcut.approximation import MODES
from shortcut.files import formats, result_formats
from shortcut.files.names import Names
from shortcut.loading import checkpoint, pretrained
from shortcut.models import Model
from shortcut.tokens import Tokenized

L, D, CONTEXT = 3, 16, 64
SMALL = {  # by the names that configs have for them
    "vocab_size": 320, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.3,
    "hidden_size": D, "n_embd": D, "d_model": D, "dim": D, "embedding_size": D, "word_embed_proj_dim": 8,
    "num_hidden_layers": L, "num_layers": L, "n_layer": L, "n_layers": L, "decoder_layers": L, "encoder_layers": 2,
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "decoder_attention_heads": 4, "encoder_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 4, "rotary_dim": 4, "intermediate_size": 32, "ffn_dim": 32, "d_ff": 32,
    "hidden_dim": 32, "decoder_ffn_dim": 32, "encoder_ffn_dim": 32, "max_position_embeddings": CONTEXT,
    "n_positions": CONTEXT, "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
}  # fmt: skip
CAUSAL = """bart biogpt bloom cohere falcon gemma gemma2 gemma3_text glm4 gpt2 gpt_bigcode gpt_neox gptj granite llama
    mamba mistral mixtral mpt olmo olmo2 olmoe opt phi phi3 qwen2 qwen2_moe qwen3 smollm3 stablelm starcoder2
    xglm""".split()
MASKED = """bert camembert deberta-v2 distilbert electra esm megatron-bert modernbert mpnet rembert
    roberta""".split()
GEMMA4 = {  # with inputs of each block beside the states
    "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 320, "num_kv_shared_layers": 0,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
}  # fmt: skip
KINDS = [*((kind, False) for kind in CAUSAL), *((kind, True) for kind in MASKED)]


def make(kind, masked, folder, **changes):
    """A random model of an architecture, saved as a folder."""
    cls = transformers.models.auto.configuration_auto.CONFIG_MAPPING[kind]
    names, other = {f.name for f in dataclasses.fields(cls)}, getattr(cls, "attribute_map", {})
    torch.manual_seed(0)
    auto = transformers.AutoModelForMaskedLM if masked else transformers.AutoModelForCausalLM
    small = {key: value for key, value in SMALL.items() if key in names and key not in other}
    net = auto.from_config(cls(**small | changes))
    net.save_pretrained(folder)
    return str(folder)


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


def half(kind, folder):
    """A random model whose checkpoint is in bfloat16."""
    make(kind, kind in MASKED, folder)
    auto = transformers.AutoModelForMaskedLM if kind in MASKED else transformers.AutoModelForCausalLM
    auto.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("kind", "llama gpt2 gpt_neox gemma2 mixtral opt qwen3 bert modernbert".split())
def test_a_checkpoint_in_half_precision_runs_as_it_is(kind, tmp_path):
    """Read-outs of its own states are its logits, its best tokens mostly those of the same weights in float32."""
    folder, masked = half(kind, tmp_path / kind), kind in MASKED
    model, full = (pretrained.load(folder, masked=masked, dtype=dtype) for dtype in ("auto", "float32"))
    assert {w.dtype for w in model.net.parameters()} == {torch.bfloat16}
    assert submodules.find(model).parts == submodules.find(full).parts
    tokenized, best, expected = make_tokenized(200, 320, longest=9), [], []
    for batch in representations.batches(model, tokenized, 500):
        h = representations.run(model, batch).h
        assert h.dtype == torch.float32
        with torch.no_grad():
            own = batch.at_chosen(model.net(input_ids=batch.ids, attention_mask=batch.mask).logits)
        assert model.read_out(h[-1]).equal(own)
        best.append(own.argmax(-1))
        expected.append(full.read_out(representations.run(full, batch).h[-1]).argmax(-1))
    assert (torch.cat(best) == torch.cat(expected)).double().mean() >= 0.95


def test_all_stages_in_half_precision_with_several_positions(tmp_path, gpt2_folder, monkeypatch, capsys):
    """Two positions a sentence, and weights as they are; then the first setting again, which refuses both."""
    settings = {"SENTENCES": 60, "TRAIN": 30, "VAL": 20, "SPLITS": {}, "DTYPE": "auto", "POSITIONS": 2}
    for name, value in settings.items():
        monkeypatch.setattr(config, name, value)
    folder = half("llama", tmp_path / "llama")
    transformers.AutoTokenizer.from_pretrained(gpt2_folder).save_pretrained(folder)
    source = tmp_path / "words.txt"
    source.write_text("".join(make_sentences(60)), encoding="utf-8")
    there = ("--out", tmp_path, "--dataset", "words")
    run("get_wikipedia_sentences", *there, "--source", source)
    for script in "add_tokenization add_linreg add_plot_r2 add_linreg_submodules add_results plot_results".split():
        run(script, *there, "--model", folder)
    said, files = capsys.readouterr().out, Names(tmp_path, "llama", "words")
    assert "40 positions of 20 sentences" in said
    assert torch.bincount(formats.load_tokenized(files.tokenized("train")).numbers).tolist() == [2] * 30
    found = results.summarize(result_formats.load_results(files.results))
    assert [*found.fixed] == [*MODES]
    assert found.sample == "40 positions of 20 sentences"
    modes = result_formats.load_predictions(files.predictions, 40, found.n_layers).modes
    ties = max(tables["gap"].eq(0).double().mean(1).max().item() for tables in modes.values())
    assert 0 < ties <= float(said.split("tie in up to ")[1].split("%")[0]) / 100  # logits are rounded to eight bits
    for name, value, script, what in [
        ("DTYPE", "float32", "add_results", 'dtype was "auto", is "float32"'),
        ("POSITIONS", 1, "add_tokenization", "positions was 2, is 1"),
    ]:
        monkeypatch.setattr(config, name, value)
        assert what in problem(capsys, script, *there, "--model", folder)
        monkeypatch.setattr(config, name, settings[name])


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


@pytest.mark.parametrize(
    ("kind", "masked", "message"),
    [
        ("bert", False, "hidden states depend on following tokens"),
        ("xlm", True, "the logits read out of h_L differ"),
        ("albert", True, "this albert model has no list of 3 modules that run once and in order"),
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
    "kind",
    ["llama", "gemma2", "gpt_neox", "opt", "qwen3", "olmo2", "gemma4_text", "roberta", "distilbert", "modernbert"],
)
def test_all_stages_of_other_architectures(kind, tmp_path, gpt2_folder, bert_folder, monkeypatch):
    """With the tokenizer of a GPT-2 or a BERT; without modes of sub-modules where these cannot be replaced."""
    for name, value in {"SENTENCES": 60, "TRAIN": 30, "VAL": 20, "SPLITS": {}}.items():
        monkeypatch.setattr(config, name, value)
    masked = kind in MASKED
    folder = make(kind, masked, tmp_path / kind, **GEMMA4 if kind == "gemma4_text" else {})
    tokenizer = transformers.AutoTokenizer.from_pretrained(bert_folder if masked else gpt2_folder)
    tokenizer.save_pretrained(folder)
    source = tmp_path / "words.txt"
    source.write_text("".join(make_sentences(60)), encoding="utf-8")
    there = ("--out", tmp_path, "--dataset", "words")
    run("get_wikipedia_sentences", *there, "--source", source)
    causal = "add_tokenization add_linreg add_plot_r2 add_linreg_submodules add_results".split()
    bert = "bert_add_reps bert_add_linreg bert_add_plot_r2 add_linreg_submodules bert_add_results".split()
    for script in [*(bert if masked else causal), "plot_results"]:
        run(script, *there, "--model", folder)
    files = Names(tmp_path, f"{kind}_mask" if masked else kind, "words", masked=masked)
    found = results.summarize(result_formats.load_results(files.results))
    assert [*found.fixed] == (["id", "mat"] if kind == "gemma4_text" else [*MODES])
    assert files.report.exists()


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


@pytest.mark.parametrize(("limit", "longest"), [(None, CONTEXT), (10, 10)])
def test_sentences_are_cut_at_the_models_context_and_never_above_the_tokenizers(tmp_path, gpt2_folder, limit, longest):
    """And RoBERTa's table begins behind its padding token: 62 of 64 are for text."""
    shutil.copytree(gpt2_folder, tmp_path / "m")
    settings = tmp_path / "m" / "tokenizer_config.json"
    found = json.loads(settings.read_text(encoding="utf-8")) | ({"model_max_length": limit} if limit else {})
    settings.write_text(json.dumps(found), encoding="utf-8")
    tokenizer = pretrained.load_tokenizer(str(tmp_path / "m"), masked=False)
    assert min(CONTEXT, tokenizer.model_max_length) == longest
    roberta = make("roberta", True, tmp_path / "roberta")
    assert checkpoint.dimensions(roberta, masked=True)[1] == CONTEXT - 1  # whose padding token is 0; RoBERTa's own is 1


@pytest.mark.parametrize(
    ("settings", "longest"),
    [
        ({"max_position_embeddings": 9, "n_ctx": 5}, 9),
        ({"max_position_embeddings": None, "n_positions": 7}, 7),
        ({"max_position_embeddings": -1, "max_seq_len": 7}, 7),
        ({"seq_length": 7}, 7),
        ({"max_sequence_length": 7}, 7),
        ({}, blocks.UNLIMITED),
    ],
)
def test_the_context_length_goes_by_several_names(settings, longest):
    config = types.SimpleNamespace(model_type="x", pad_token_id=1, **settings)
    assert blocks.context(config) == longest


def test_the_context_of_mpt_and_bloom_is_in_their_configs(tmp_path):
    """Under max_seq_len, and seq_length, which transformers has no field for."""
    for kind, name in (("mpt", "max_seq_len"), ("bloom", "seq_length")):
        folder = make(kind, False, tmp_path / kind)
        settings = Path(folder, "config.json")
        settings.write_text(json.dumps(json.loads(settings.read_text(encoding="utf-8")) | {name: 10}), encoding="utf-8")
        assert checkpoint.dimensions(folder, masked=False)[1] == 10
        model = pretrained.load(folder, masked=False)
        with pytest.raises(Problem, match="11 tokens to run, the model takes 10"):
            representations.batches(model, Tokenized([torch.full((11,), 7)], torch.tensor([10])), 100)


def longrope(original, **more):
    factors = {"short_factor": [1.0, 1.0], "long_factor": [20.0, 60.0]}
    return {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": original,
            **factors, **more}  # fmt: skip


def test_one_long_sentence_changes_no_other_where_rotary_embeddings_depend_on_the_longest(tmp_path):
    """Phi-3's: states, in batches of any size, are those of each sentence that runs alone."""
    changes = {"rope_parameters": longrope(8), "original_max_position_embeddings": 8, "max_position_embeddings": 32}
    model = pretrained.load(make("phi3", False, tmp_path / "phi3", **changes), masked=False)
    assert model.rotary_limits == {8}
    g = torch.Generator().manual_seed(0)
    lengths = [5, 6, 7, 8, 8, 9, 9, 12, 20]
    sentences = [torch.randint(5, 320, (length,), generator=g) for length in lengths]
    tokenized = Tokenized(sentences, torch.tensor(lengths) - 1)
    h = torch.empty(L + 1, len(lengths), D)
    batches = representations.batches(model, tokenized, 10_000)
    for batch in batches:
        h[:, batch.rows] = representations.run(model, batch).h
    assert [len(batch.rows) for batch in batches] == [5, 4]
    apart = []
    for s, ids in enumerate(sentences):
        seen = {}
        with torch.no_grad(), model.watch(model.layer_points(), seen.__setitem__):
            model.net(input_ids=ids[None])
        torch.testing.assert_close(h[:, s], torch.stack([seen[l][0, -1] for l in range(L + 1)]), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(representations.whole(model, ids)[L][-1], seen[L][0, -1], rtol=1e-4, atol=1e-4)
        with torch.no_grad(), model.watch(model.layer_points(), seen.__setitem__):
            model.net(input_ids=torch.nn.functional.pad(ids, (0, 20 - len(ids)), value=7)[None])
        apart.append((h[L, s] - seen[L][0, len(ids) - 1]).abs().max().item())
    assert max(apart[5:]) < 1e-3 < min(apart[:5])  # beside the longest the short ones would be others


@pytest.mark.parametrize(
    ("rope", "limits"),
    [
        (None, set()),
        ({"rope_type": "default", "rope_theta": 1.0}, set()),
        ({"rope_type": "yarn", "original_max_position_embeddings": 8}, set()),  # the same at any length
        ({"rope_type": "dynamic", "factor": 2.0}, set()),
        ({"full_attention": longrope(8), "sliding_attention": {"rope_type": "default"}}, {8}),
        ({"full_attention": longrope(8), "sliding_attention": longrope(4)}, {4, 8}),
    ],
)
def test_rotary_limits_are_those_of_every_type_of_block(rope, limits):
    assert blocks.rotary_limits(types.SimpleNamespace(rope_parameters=rope)) == limits


def test_added_tokens_are_never_chosen_of_a_causal_model(gpt2_folder):
    """They stay in the prefix; of a masked model [CLS] and [SEP] may be drawn, as in the paper."""
    plain = transformers.AutoTokenizer.from_pretrained(gpt2_folder)
    with_head = copy.deepcopy(plain)
    end = plain.eos_token
    with_head.backend_tokenizer.post_processor = TemplateProcessing(f"{end} $A", None, [(end, plain.eos_token_id)])
    sentences, sizes = make_sentences(200), {"train": 150, "val": 50}

    def drawn(tokenizer, added):
        drawing = tokens.Drawing(48, 0, added=added)
        return tokens.tokenize(sentences, sizes, tokenizer, drawing, lambda _: None)["train"]

    without, causal, masked = drawn(plain, False), drawn(with_head, False), drawn(with_head, True)
    assert causal.positions.equal(without.positions + 1)
    assert all(ids[0] == plain.eos_token_id for ids in causal.sentences)
    assert (masked.positions == 0).any()
    assert drawn(plain, True).positions.equal(without.positions)
    assert causal.added == (plain.eos_token_id,)
    assert without.added == masked.added == ()  # a masked model's are tokens like any other
    two = f"{end} {plain.convert_ids_to_tokens(7)}"
    special = [(token, plain.convert_tokens_to_ids(token)) for token in two.split()]
    with_head.backend_tokenizer.post_processor = TemplateProcessing(f"{two} $A {end}", None, special)
    assert drawn(with_head, False).added == (plain.eos_token_id, 7)  # what is added at the end is in no prefix
