"""The sub-modules of any block: what is found, in which states, and what the modes make of them, by hand."""

import copy
from types import SimpleNamespace

import pytest
import torch
from architectures import GEMMA4, D, L, make

from shortcut import approximation, blocks, representations, submodules
from shortcut.approximation import MODES, Maps
from shortcut.loading import pretrained
from shortcut.models import Model, Row
from shortcut.submodules import ATTENTION, FEED_FORWARD, NORM, SUM
from shortcut.tokens import Tokenized

SERIAL = {1: (NORM, 0), 2: (ATTENTION, 1), 4: (NORM, 3), 5: (FEED_FORWARD, 4)}  # norm, part, sum, twice
SANDWICH = {1: (NORM, 0), 2: (ATTENTION, 1), 3: (NORM, 2), 5: (NORM, 4), 6: (FEED_FORWARD, 5), 7: (NORM, 6)}
AFTER = {1: (ATTENTION, 0), 3: (NORM, 2), 4: (FEED_FORWARD, 3), 6: (NORM, 5)}  # as BERT
PARALLEL = {1: (NORM, 0), 2: (ATTENTION, 1), 3: (FEED_FORWARD, 1)}
FOUND = {  # by architecture, what makes each state of its second block, and from which
    "gpt2": SERIAL | {3: (SUM, 2), 6: (SUM, 5)},
    **dict.fromkeys(
        "biogpt bloom gemma gpt_bigcode granite llama mistral mixtral mpt olmo olmoe opt phi3 qwen2 qwen2_moe qwen3"
        " smollm3 stablelm starcoder2 xglm esm megatron-bert modernbert nemotron".split(),
        SERIAL,
    ),
    **dict.fromkeys("gemma2 gemma3_text glm4".split(), SANDWICH),
    **dict.fromkeys("bert camembert deberta-v2 distilbert electra mpnet rembert roberta".split(), AFTER),
    "roberta-prelayernorm": {1: (NORM, 0), 2: (ATTENTION, 1), 4: (FEED_FORWARD, 3)},  # its second norm is in the latter
    "bart": {1: (ATTENTION, 0), 3: (NORM, 2), 4: (FEED_FORWARD, 3), 6: (NORM, 5)},
    "olmo2": {1: (ATTENTION, 0), 2: (NORM, 1), 4: (FEED_FORWARD, 3), 5: (NORM, 4)},
    "gpt_neox": {1: (NORM, 0), 2: (ATTENTION, 1), 3: (NORM, 0), 4: (FEED_FORWARD, 3)},
    **dict.fromkeys("cohere falcon gptj phi".split(), PARALLEL),
}
MASKED = """bert camembert deberta-v2 distilbert electra esm megatron-bert modernbert mpnet rembert roberta
    roberta-prelayernorm""".split()


MIXER = {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 8}


def load(kind, folder):
    return pretrained.load(make(kind, kind in MASKED, folder), masked=kind in MASKED)


def block(model, i):
    return {a: of for (j, a), of in submodules.find(model).parts.items() if j == i}


@pytest.mark.parametrize("kind", FOUND)
def test_parts_are_found_in_every_order_of_states(kind, tmp_path):
    model = load(kind, tmp_path / kind)
    assert submodules.find(model).why_none is None
    assert block(model, 1) == FOUND[kind]
    assert model.is_chain
    assert {i for i, _ in submodules.find(model).parts} == {*range(L)}


@pytest.mark.parametrize(
    ("kind", "masked", "why", "changes"),
    [
        ("mamba", False, "with all sub-modules linear, a block is not linear", {}),  # its mixer is none of the three
        ("rwkv", False, "with linear attention, a block still mixes positions", {}),  # its feed-forward does
        ("mobilebert", True, "the states of its norm have another width",
         {"embedding_size": 8, "intra_bottleneck_size": 8}),
        # what stands beside their attention raises on states of width d
        ("gemma4_text", False, "with some sub-modules replaced, a block does not run (RuntimeError: ", GEMMA4),
        ("falcon_h1", False, "with some sub-modules replaced, a block does not run (RuntimeError: ",
         {"mamba_d_ssm": 32, **MIXER}),
        ("bamba", False, "the states of its norm have another width", {"attn_layer_indices": [1], **MIXER}),
    ],
)  # fmt: skip
def test_where_parts_do_not_stand_alone_there_are_none(kind, masked, why, changes, tmp_path):
    model = pretrained.load(make(kind, masked, tmp_path / kind, **changes), masked=masked)
    assert submodules.find(model).why_none.startswith(why)
    assert not submodules.find(model).parts
    assert submodules.find(model).points() == ([], {})
    assert approximation.modes_of(submodules.find(model).parts) == ["id", "mat"]


class Leaky(torch.nn.Module):
    """norm, attention, sum; what it adds besides is `leak`'s."""

    def __init__(self, leak):
        super().__init__()
        self.norm, self.attention = torch.nn.LayerNorm(D), torch.nn.Linear(D, D)
        self.leak = leak

    def forward(self, hidden_states):
        return hidden_states + self.attention(self.norm(hidden_states)) + self.leak(hidden_states)


@pytest.mark.parametrize(
    ("leak", "why"),
    [
        (torch.zeros_like, None),
        (lambda h: 0.1 * torch.tanh(h), "with all sub-modules linear, a block is not linear"),
        (lambda h: torch.full_like(h, 0.5), "with all sub-modules linear, a block is not linear"),  # f(0) is not 0
        (lambda h: 0.1 * h, "without its sub-modules, a block does not return its input"),
        (lambda h: h - h.flip(1), "without its sub-modules, a block does not return its input"),
    ],
)
def test_each_proof_sees_what_it_is_for(leak, why):
    torch.manual_seed(0)
    module, h = Leaky(leak), torch.randn(2, 4, D)
    form = blocks.Form(module(h))
    model = SimpleNamespace(calls=[submodules.Call(module, form, ((h,), {}))], row=Row())
    assert submodules.SubModules(model).why_none == why


def test_equal_norms_of_one_input_are_two_states(tmp_path):
    """GPT-NeoX' two norms are equal before training; each part has its own."""
    model = load("gpt_neox", tmp_path / "neox")
    one, other = model.blocks[0].input_layernorm, model.blocks[0].post_attention_layernorm
    assert one.weight.equal(other.weight)
    assert block(model, 0) == FOUND["gpt_neox"]


@pytest.fixture(scope="module", params=["llama", "gpt_neox", "gemma2", "bert"])
def setting(request, tmp_path_factory):
    """A model in float64 whose norms are of random weights, a map for each of its parts, and two sentences."""
    kind = request.param
    net = copy.deepcopy(load(kind, tmp_path_factory.mktemp("parts") / kind).net).double()
    g = torch.Generator().manual_seed(5)
    for name, weights in net.named_parameters():
        if "norm" in name.lower():
            weights.data = torch.rand(weights.shape, generator=g, dtype=torch.float64)
    model = Model(net, kind in MASKED)
    maps = {key: torch.randn(D, D, generator=g, dtype=torch.float64) / 4 for key in submodules.find(model).parts}
    sentences = [torch.randint(5, 320, (length,), generator=g) for length in (6, 4)]
    return model, maps, Tokenized(sentences, torch.tensor([4, 1]))


def by_hand(model, i, maps, kind, x):
    """Block i of one sentence, x [1, T, d] to [1, T, d], with x -> A x for the parts of a kind."""
    b, T = model.blocks[i], x.shape[1]
    positions = torch.arange(T)[None]
    found = iter(sorted(a for (j, a), (of, _) in submodules.find(model).parts.items() if j == i and of == kind))

    def part(of, module, h):
        if of == kind:
            return h @ maps[i, next(found)].T
        return module(h)

    if model.net.config.model_type == "bert":
        a, out = b.attention, b.output
        mixed = part(ATTENTION, lambda h: a.output.dense(a.self(h)[0]), x)
        h = part(NORM, a.output.LayerNorm, mixed + x)
        return part(NORM, out.LayerNorm, part(FEED_FORWARD, lambda y: out.dense(b.intermediate(y)), h) + h)
    base = model.net.base_model
    rotary = base.rotary_emb(x, positions)
    mask = torch.full((T, T), -torch.inf, dtype=x.dtype).triu(1)[None, None]
    if model.net.config.model_type == "gpt_neox":
        attention = lambda h: b.attention(h, attention_mask=mask, position_embeddings=rotary)[0]  # noqa: E731
        first = part(NORM, b.input_layernorm, x)
        second = part(NORM, b.post_attention_layernorm, x)
        return x + part(ATTENTION, attention, first) + part(FEED_FORWARD, b.mlp, second)
    attention = lambda h: b.self_attn(h, attention_mask=mask, position_embeddings=rotary)[0]  # noqa: E731
    if model.net.config.model_type == "llama":
        h = x + part(ATTENTION, attention, part(NORM, b.input_layernorm, x))
        return h + part(FEED_FORWARD, b.mlp, part(NORM, b.post_attention_layernorm, h))
    y = part(ATTENTION, attention, part(NORM, b.input_layernorm, x))
    h = x + part(NORM, b.post_attention_layernorm, y)
    y = part(FEED_FORWARD, b.mlp, part(NORM, b.pre_feedforward_layernorm, h))
    return h + part(NORM, b.post_feedforward_layernorm, y)


@pytest.mark.parametrize("mode", ["mat_ln1_ln2", "mat_attn", "mat_ffn"])
@torch.no_grad()
def test_modes_are_blocks_written_by_hand(setting, mode):
    """Block by block from what really enters block l, one sentence at a time, in running order of the parts."""
    model, maps, tokenized = setting
    (batch,) = representations.batches(model, tokenized, 500)
    entering, h = {}, torch.empty(L + 1, 2, D, dtype=torch.float64)
    with model.watch(model.layer_points(), lambda k, x: entering.update({k: x.clone()})):
        model.run(batch.ids, batch.mask)
    for k, states in entering.items():
        h[k] = batch.at_chosen(states)
    seen = representations.Pass(batch, h, [entering[k] for k in range(L)])

    ours = MODES[mode].start(model, Maps({}, maps))(seen)
    tolerance = 1e-10 if model.net.config.model_type in ("gpt_neox", "bert") else 1e-5  # of norms in float32
    for row, s in enumerate(batch.rows.tolist()):
        t = int(tokenized.positions[s])
        T = len(tokenized.sentences[s]) if model.masked else t + 1
        for l in range(L):
            x = entering[l][row : row + 1, :T]
            for i in range(l, L):
                x = by_hand(model, i, maps, MODES[mode].replaces, x)
            torch.testing.assert_close(ours[l, row], x[0, t], rtol=0, atol=tolerance * x.abs().max().item())


@torch.no_grad()
def test_states_seen_are_what_enters_and_leaves_each_part(setting):
    model, _, tokenized = setting
    points, place = submodules.find(model).points()
    for batch in representations.batches(model, tokenized, 500):
        h = representations.run(model, batch, points).h.double()
        layers = representations.run(model, batch).h.double()
        for i, b in enumerate(model.blocks):
            torch.testing.assert_close(h[place[i, 0]], layers[i])
            for (j, a), (kind, s) in submodules.find(model).parts.items():
                if j == i and kind == NORM:
                    norm = submodules.find(model).numberings[i].made[a][0].last
                    torch.testing.assert_close(h[place[i, a]], norm(h[place[i, s]]), rtol=1e-5, atol=1e-5)
            assert b is model.blocks[i]


def test_a_convolution_between_blocks_is_no_part_of_either(tmp_path):
    """DeBERTa's: what enters the second block is not what leaves the first."""
    relative = {"relative_attention": True, "pos_att_type": ["c2p"]}
    folder = make("deberta-v2", True, tmp_path / "conv", conv_kernel_size=3, **relative)
    model = pretrained.load(folder, masked=True)
    assert block(model, 0) == block(model, 1) == AFTER
    h, out = {}, {}
    with model.watch([*model.layer_points(), (model.blocks[0], "out")], lambda k, x: out.update({k: x.clone()})):
        logits = model.net(input_ids=torch.arange(5, 17).reshape(2, 6)).logits
    h = {k: out[k] for k in range(L + 1)}
    assert not torch.allclose(h[1], out[L + 1], atol=1e-2)
    assert not model.is_chain
    for layer in range(L + 1):
        with model.going_on(layer, h[layer]):
            ours = model.net(input_ids=torch.arange(5, 17).reshape(2, 6)).logits
        torch.testing.assert_close(ours, logits, rtol=1e-4, atol=1e-4)
