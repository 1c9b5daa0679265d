"""Models with fewer blocks: theorems on tiny random models, settings of what is saved, and refusals."""

import json

import pytest
import torch
import transformers
from architectures import D, L, make
from conftest import changed, make_gpt2, make_tokenized

from shortcut import Problem, representations, shorten
from shortcut.blocks import swapped
from shortcut.linear import Map
from shortcut.loading import pretrained
from shortcut.pipeline import shortening
from shortcut.representations import batches
from shortcut.tokens import Tokenized

FAMILIES = "gpt2 llama gpt_neox opt qwen3 bloom".split()


WITHOUT_BIAS = {"llama", "qwen3"}


def loaded(kind, folder, **changes):
    return pretrained.load(make(kind, False, folder / kind, **changes), masked=False)


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """Models by name, each loaded once."""
    models = {}

    def get(kind):
        if kind not in models:
            models[kind] = loaded(kind, tmp_path_factory.mktemp("family"))
        return models[kind]

    return get


@torch.no_grad()
def last_states(model, ids):
    """h_L at every token, [b, T, d]."""
    found = []
    with model.watch([(model.blocks[-1], "out")], lambda _, h: found.append(h.clone())):
        model.run(ids, None)
    return found[0]


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_constant_change_is_folded_into_the_bias_and_comes_back_from_the_saved_checkpoint(family, kind, tmp_path):
    """T = I, by a change that m does not explain: h_L is that of the blocks dropped, plus the constant."""
    model, drop, g = family(kind), range(1, L), torch.Generator().manual_seed(0)
    layer, ids = shorten.last_layer(model, drop), model.sample()
    c = torch.randn(D, generator=g) * (kind not in WITHOUT_BIAS)
    folded = shorten.fold(layer, torch.randn(200, D, generator=g), c.expand(200, D))
    assert (layer.bias is None) == (kind in WITHOUT_BIAS)
    with swapped(shorten.passed_over(model, drop)):
        dropped = last_states(model, ids)
    shorter = shortening.save(model, shorten.Shortened(drop, layer, folded), tmp_path / "to")
    assert shorter.n_layers == 1
    torch.testing.assert_close(last_states(shorter, ids), dropped + c, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_linear_change_is_folded_into_weight_and_bias(family, kind):
    layer, g = shorten.last_layer(family(kind), range(1, 2)), torch.Generator().manual_seed(1)
    T, m = torch.randn(D, D, generator=g), torch.randn(300, D, generator=g) + 3
    c = torch.randn(D, generator=g) * (layer.bias is not None)
    folded, x = shorten.fold(layer, m, m @ T.T + c - m), torch.randn(5, 4 * D if kind == "gpt2" else 32, generator=g)
    with torch.no_grad():
        expected = layer(x) @ T.T + c
        torch.testing.assert_close(folded(x), expected, rtol=0, atol=0.02 * expected.abs().max().item())


def test_without_a_bias_the_fit_has_no_intercept(family):
    """The best T alone for targets that need a constant, by an independent solver."""
    layer, g = shorten.last_layer(family("llama"), range(1, 2)), torch.Generator().manual_seed(2)
    m, change = torch.randn(300, D, generator=g) + 1, torch.randn(300, D, generator=g) * 0.01 + 2
    folded = shorten.fold(layer, m, change)
    T = torch.linalg.lstsq(m, m + change).solution.T
    torch.testing.assert_close(folded.weight.detach(), T @ layer.weight, rtol=0, atol=0.05)


def test_a_block_that_is_a_map_of_what_is_added_before_it_folds_into_the_whole_model(tmp_path):
    """Linear activations, norms without a scale; block 1 reads coordinates that block 0's feed-forward alone writes.

    Block 1 is then a + T m + c, with T of rank 7: the rows that read them have the sum 0, as layer norms subtract the
    mean.
    """
    folder = make_gpt2(tmp_path / "model", activation_function="linear", layer_norm_epsilon=1e12)
    own, h = slice(0, 8), "transformer.h."

    def weights(w):
        w = {name: tensor * 1e6 if "ln_" in name and "weight" in name else tensor for name, tensor in w.items()}
        for name in ("transformer.wte.weight", "transformer.wpe.weight", f"{h}0.attn.c_proj.weight"):
            w[name][:, own] = 0
        for name in ("weight", "bias"):
            w[f"{h}1.attn.c_proj.{name}"].zero_()
        read = w[f"{h}1.mlp.c_fc.weight"]
        read[8:] = 0
        read[own] -= read[own].mean(0)
        w[f"{h}1.mlp.c_fc.bias"] += 0.5
        return w

    model = pretrained.load(changed(folder, tmp_path, weights), masked=False)
    (made,) = shorten.shorten(model, [range(1, 2)], batches(model, shorten.whole(make_tokenized(200, 320)), 500))
    ids = torch.randint(5, 320, (4, 12), generator=torch.Generator().manual_seed(5))
    whole = last_states(model, ids)
    with swapped(shorten.passed_over(model, made.drop)):
        dropped = (last_states(model, ids) - whole).abs().max().item()
    with swapped(made.swaps(model)):
        folded = (last_states(model, ids) - whole).abs().max().item()
    assert dropped > 0.1 * whole.abs().max().item()
    assert folded < 0.02 * dropped  # the least penalty that is tried is a hundredth of the smallest eigenvalue


REFUSED = {
    "granite": ({"residual_multiplier": 0.5}, range(1, 2), "block 0: its feed-forward has no last linear layer whose"),
    "gemma2": ({}, range(1, 2), "unchanged, without a norm or a factor"),
    "olmo2": ({}, range(1, 2), "unchanged, without a norm or a factor"),
    "opt": ({"do_layer_norm_before": False}, range(1, 2), "unchanged, without a norm or a factor"),
    "mamba": ({}, range(1, 2), "its feed-forward has no last linear layer"),
    "mixtral": ({}, range(1, 2), "it is a mixture of experts"),
    "gpt2": ({"scale_attn_by_inverse_layer_idx": True}, range(1, 2), "it has scale_attn_by_inverse_layer_idx"),
}


@pytest.mark.filterwarnings("ignore")  # Mamba's reference implementation
@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_folded_is_refused_with_the_reason(kind, tmp_path):
    changes, drop, reason = REFUSED[kind]
    model = loaded(kind, tmp_path, **changes)
    with pytest.raises(Problem, match=reason) as caught:
        shorten.shorten(model, [drop], [])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("drop", [range(0, 1), range(0, L), range(1, 1), range(2, 1), range(1, L + 1)])
def test_the_first_block_an_empty_range_and_the_whole_model_are_refused(family, drop):
    with pytest.raises(Problem, match=rf"blocks {drop.start}:{drop.stop}: expected I:J with 1 <= I < J <= {L}$"):
        shorten.shorten(family("llama"), [drop], [])


def test_shared_blocks_and_blocks_with_something_between_them_are_refused(tmp_path, monkeypatch):
    model = loaded("llama", tmp_path)
    monkeypatch.setattr(model.blocks[2], "mlp", model.blocks[1].mlp)
    with pytest.raises(Problem, match="its blocks share weights"):
        shorten.last_layer(model, range(1, 2))
    model = loaded("qwen3", tmp_path)
    monkeypatch.setitem(model.__dict__, "is_chain", False)
    with pytest.raises(Problem, match="it computes something between its blocks"):
        shorten.last_layer(model, range(1, 2))


def random_words(*added, n=50):
    """Two positions of each sentence of random tokens, after tokens that the tokenizer adds."""
    plain = make_tokenized(n, 320)
    sentences = [torch.cat([torch.tensor(added), ids]) for ids in plain.sentences]
    return Tokenized(sentences, plain.positions + len(added), torch.arange(n) // 2, added=added)


def test_each_sentence_is_used_once_and_whole_and_never_its_added_tokens(family):
    """Rows of the fit, against a loop over the sentences one by one."""
    model, tokenized, seen = family("llama"), random_words(1), []
    whole = shorten.whole(tokenized)
    assert len(whole) == 25
    assert all(a.equal(b) for a, b in zip(whole.sentences, tokenized.sentences[1::2], strict=True))
    one = Tokenized([torch.tensor([7]), torch.tensor([7, 8])], torch.tensor([0, 0]))
    assert [ids.tolist() for ids in shorten.whole(one).sentences] == [[7, 8]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shorten, "fold", lambda layer, m, change: seen.append((m, change)))
        shorten.shorten(model, [range(1, 3)], batches(model, whole, 100))
    rows = []
    for k, ids in enumerate(whole.sentences):
        h = representations.whole(model, ids)
        rows += [h[3][t] - h[1][t] for t in range(1, len(ids)) if (t + k) % shorten.STRIDE == 0]
    ((m, change),) = seen
    assert len(rows) == len(change) == len(m) > len(whole)
    order = [x[torch.stack([*x]).sum(1).argsort()] for x in (torch.stack(rows), change)]
    torch.testing.assert_close(*order, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_perplexity_is_of_all_tokens_but_added_ones(family):
    """Against the sentences one by one, with and without added tokens at the head."""
    model = family("llama")
    for tokenized in map(shorten.whole, (random_words(1, 2), make_tokenized(20, 320))):
        nats, seconds, groups = shorten.surprisals({"own": (model, [])}, batches(model, tokenized, 100))
        assert seconds["own"] > 0
        for k, ids in enumerate(tokenized.sentences):
            first = max(1, len(tokenized.added))
            log_p = model.net(input_ids=ids[None]).logits[0, first - 1 : -1].log_softmax(-1)
            expected = -log_p.gather(1, ids[first:, None])[:, 0]
            torch.testing.assert_close(nats["own"][groups == k], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_full_map_replaces_the_blocks_but_at_added_tokens(family):
    model, g = family("llama"), torch.Generator().manual_seed(3)
    A, ids = Map(torch.randn(D, D, generator=g), "least-squares", 1, 2), torch.tensor([[1, 9, 20, 33]])
    h = [x[None] for x in representations.whole(model, ids[0])]
    expected = h[1] @ A.A.T
    expected[:, 0] = h[2][:, 0]
    for added, landed in (((1,), expected), ((), h[1] @ A.A.T)):
        with swapped(shorten.passed_over(model, range(1, 2), A, added)):
            torch.testing.assert_close(last_states(model, ids), model.go_on(2, landed, ids, None))


def saved(model, drop, folder):
    made = shorten.Shortened(drop, layer := shorten.last_layer(model, drop), layer)
    shortening.save(model, made, folder)
    return json.loads((folder / "config.json").read_text())


def test_qwen3_and_gpt_neo_come_back_with_their_own_kinds_of_attention(tmp_path):
    """Lists by block are cut, those that transformers derives too; others of the same length stay."""
    sliding = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2, "eos_token_id": [2, 3, 4]}
    qwen = loaded("qwen3", tmp_path, **sliding)
    own = json.loads((tmp_path / "qwen3" / "config.json").read_text())
    assert own["layer_types"] == ["full_attention", "full_attention", "sliding_attention"]
    own.pop("layer_types")  # as older configs: the defaults for two layers would be two times full attention
    (tmp_path / "qwen3" / "config.json").write_text(json.dumps({**own, "auto_map": {"AutoConfig": "x.X"}}))
    found = saved(qwen, range(1, 2), tmp_path / "to")
    expected = {"num_hidden_layers": 2, "layer_types": ["full_attention", "sliding_attention"]}
    assert found == own | expected
    neo = loaded("gpt_neo", tmp_path, attention_types=[[["global", "local", "local"], 1]], num_heads=4)
    found = saved(neo, range(1, 2), tmp_path / "neo")
    assert found["attention_types"] == [[["global", "local"], 1]]
    assert (found["num_layers"], found["attention_layers"]) == (2, ["global", "local"])


def test_lists_of_block_numbers_are_renumbered_and_unknown_lists_refused():
    class Known(transformers.PretrainedConfig):
        model_type = "known"

    known = Known(num_hidden_layers=4, full_attn_idxs=[0, 1, 3], no_rope_layers=[1, 1, 0, 1])
    found = shortening.settings({"auto_map": {}, "num_hidden_layers": 4}, known, [0, 2, 3])
    assert found == {"num_hidden_layers": 3, "full_attn_idxs": [0, 2], "no_rope_layers": [1, 0, 1]}
    for more in ({"block_types": ["a", "b", "a", "b"]}, {"text_config": {}}):
        with pytest.raises(Problem, match=f"cannot shorten a model with {next(iter(more))} in its config"):
            shortening.settings({}, Known(num_hidden_layers=4, **more), [0])
    mbart = transformers.MBartConfig(decoder_layers=4, encoder_layers=7)
    assert shortening.settings(mbart.to_dict(), mbart, [0, 2, 3])["decoder_layers"] == 3
