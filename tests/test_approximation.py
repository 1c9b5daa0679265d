"""The five ways on, against blocks run one by one; and what is read out of them."""

import math

import direct
import in_memory
import pytest
import torch
from architectures import make
from conftest import LAYERS, D, as_maps, make_tokenized

from shortcut import approximation, predictions, representations, submodules
from shortcut.approximation import MODES, Maps
from shortcut.loading import pretrained
from shortcut.submodules import FEED_FORWARD, NORM
from shortcut.tokens import Tokenized


@pytest.fixture(scope="module")
def setting(gpt2, tokenized):
    g = torch.Generator().manual_seed(3)
    jumps = {(l, LAYERS): torch.eye(D) + 0.3 * torch.randn(D, D, generator=g) for l in range(LAYERS)}
    parts = {(i, a): torch.randn(D, D, generator=g) / 4 for i in range(LAYERS) for a in (1, 2, 4, 5)}
    return gpt2, tokenized, in_memory.layer_states(gpt2, tokenized, 100), Maps(as_maps(jumps), parts)


def approximate(mode, setting, batch_tokens=100):
    """From layers 0 ... L - 1, [L, n, d]."""
    model, tokenized, h, maps = setting
    go_on, finals = MODES[mode].start(model, maps), torch.empty_like(h[:-1])
    for batch in representations.batches(model, tokenized, batch_tokens):
        finals[:, batch.rows] = go_on(representations.run(model, batch))
    return finals


@pytest.mark.parametrize("mode", ["mat_ln1_ln2", "mat_attn", "mat_ffn"])
def test_parts_equal_one_sentence_and_one_block_at_a_time(setting, mode):
    model, tokenized, _, maps = setting
    replaced = {key: A for key, A in maps.parts.items() if submodules.find(model).parts[key][0] == MODES[mode].replaces}
    finals = approximate(mode, setting)
    for s in range(0, len(tokenized), 7):
        ids, t = tokenized.sentences[s], int(tokenized.positions[s])
        for layer in range(LAYERS):
            expected = direct.approximation(model, ids, t, layer, replaced)
            torch.testing.assert_close(finals[layer, s], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_batch_size_does_not_change_approximations(setting, mode):
    a, b = approximate(mode, setting), approximate(mode, setting, batch_tokens=23)
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_modes_leave_the_model_as_it_was(setting):
    model, tokenized, h, _ = setting
    for mode in MODES:
        approximate(mode, setting)
    assert in_memory.layer_states(model, tokenized, 100).equal(h)


def test_the_table_names_the_maps_that_each_mode_needs():
    jumps = [(0, 3), (1, 3), (2, 3)]
    parts = {(0, 1): ("norm", 0), (0, 2): ("sum", 1), (1, 2): ("feed-forward", 0)}
    assert approximation.needed({}, 3) == (jumps, [])
    assert approximation.modes_of({}) == ["id", "mat"]
    assert approximation.needed(parts, 3) == (jumps, [(0, 1), (1, 2)])
    assert approximation.modes_of(parts) == ["id", "mat", "mat_ln1_ln2", "mat_ffn"]
    keys = [mode.key for mode in MODES.values()]
    assert [approximation.mode_of(key) for key in keys] == list(MODES)
    assert approximation.mode_of("id") == "id"
    assert approximation.mode_of("matt") is None


def judge(setting, finals):
    model, tokenized, h, _ = setting
    return predictions.judge(model, finals, h[-1], torch.arange(len(tokenized)), None)


def test_every_mode_at_the_last_layer_is_the_model(setting):
    model, tokenized, h, _ = setting
    found = judge(setting, h[:-1])
    assert found.surprisal.shape == (LAYERS + 1, len(tokenized))
    for s in range(0, len(tokenized), 5):
        t = int(tokenized.positions[s])
        logits = model.net(input_ids=tokenized.sentences[s][None]).logits[0, t]
        assert found.topk[-1, s].tolist() == logits.topk(10).indices.tolist()


def test_mat_is_the_image_of_the_states(setting):
    _, _, h, maps = setting
    finals = approximate("mat", setting)
    for (layer, _), A in maps.jumps.items():
        expected = torch.stack([A.A @ state for state in h[layer]])
        torch.testing.assert_close(finals[layer], expected, rtol=1e-4, atol=1e-4)


def test_predictions_against_the_softmax(setting):
    model, tokenized, h, _ = setting
    finals = approximate("mat", setting)
    found = judge(setting, finals)
    finals = torch.cat([finals, h[-1:]])
    full = model.read_out(h[-1]).double().softmax(-1)
    for layer in range(LAYERS + 1):
        p = model.read_out(finals[layer]).double().softmax(-1)
        best = p.sort(descending=True)
        assert found.topk[layer].equal(best.indices[:, :10])
        torch.testing.assert_close(found.gap[layer].double(), best.values[:, 0] - best.values[:, 1],
                                   rtol=0, atol=1e-5)  # fmt: skip
        expected = -full[torch.arange(len(tokenized)), best.indices[:, 0]].log()
        torch.testing.assert_close(found.surprisal[layer].double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_number_of_rows_read_out_together_does_not_change_a_bit(setting, monkeypatch, rows):
    """Nor do sentences read out one by one: a product of few rows would be rounded otherwise."""
    _, _, h, _ = setting
    whole = judge(setting, h[:-1])
    monkeypatch.setattr(predictions, "ROWS", rows)
    split = judge(setting, h[:-1])
    for name in ("topk", "surprisal", "gap"):
        assert getattr(whole, name).equal(getattr(split, name))


def test_early_exit_from_the_table_equals_running_the_model_for_every_sentence(setting):
    """The literal loop: block after block, read out, compare, stop."""
    model, tokenized, _, maps = setting
    found, jumps = judge(setting, approximate("mat", setting)), [A.A for A in maps.jumps.values()]
    mean = sum(t + 1 for t in tokenized.positions.tolist()) / len(tokenized)
    exited = set()
    for lam in (-1.112, 0.02, 0.1, 0.3, 1.112):
        *_, record = predictions.records({"mat": found}, tokenized, {"mat": [lam]}, tau=4.0)
        layers = []
        for s, (ids, t) in enumerate(zip(tokenized.sentences, tokenized.positions.tolist(), strict=True)):
            threshold = 0.9 * lam + 0.1 * math.exp(-4.0 * t / mean)
            layer, topk = direct.early_exit(model, ids, t, threshold, jumps)
            layers.append(layer)
            assert record["topk"][s].tolist() == topk.tolist()
        assert record["layers_processed"] == pytest.approx(sum(layers) / len(layers))
        exited.update(layers)
    assert exited == set(range(1, LAYERS + 1))  # the grid reaches every layer


@pytest.fixture(scope="module", params=["llama", "opt", "gpt2"])
def with_head(request, tmp_path_factory, gpt2):
    """A model (OPT's blocks work on [b T, d] inside, GPT-2's maps go into weights), and sentences behind two tokens."""
    kind = request.param
    folder = tmp_path_factory.mktemp("head") / kind
    large = {"init_std": 0.3} if kind == "opt" else {}
    model = gpt2 if kind == "gpt2" else pretrained.load(make(kind, False, folder, **large), masked=False)
    plain, head = make_tokenized(12, 320, longest=7), (5, 9)
    sentences = [torch.tensor([*head, *ids.tolist()]) for ids in plain.sentences]
    return model, Tokenized(sentences, plain.positions + len(head), added=head)


def own_states(model, ids):
    """h_0 ... h_L at all positions of one sentence, [1, T, d] each, by the model's own forward pass."""
    seen = {}
    with torch.no_grad(), model.watch(model.layer_points(), lambda k, h: seen.update({k: h.clone()})):
        model.net(input_ids=ids[None])
    return seen


def but_at_the_head(part, A, k):
    """Hooks: A x for what a part makes of x, but at the first k positions of a sentence that runs alone."""
    taken = []

    def made(module, args, out):
        return torch.cat([out.reshape(-1, D)[:k], taken.pop().reshape(-1, D)[k:] @ A.T]).view(out.shape)

    return [
        part.first.register_forward_pre_hook(lambda module, args: taken.append(args[0].clone())),
        part.last.register_forward_hook(made),
    ]


@pytest.mark.parametrize("kind", [NORM, FEED_FORWARD])
@pytest.mark.parametrize("budget", [500, 20])
def test_added_tokens_at_the_head_keep_the_models_own_sub_modules(with_head, kind, budget):
    """Against one sentence at a time whose own modules run everywhere, their outputs exchanged behind the head."""
    model, tokenized = with_head
    k, g = len(tokenized.added), torch.Generator().manual_seed(4)
    of_kind = {
        key: submodules.find(model).numberings[key[0]].made[key[1]][0]
        for key, (of, _) in submodules.find(model).parts.items()
        if of == kind
    }
    maps = {key: torch.randn(D, D, generator=g) / 4 for key in of_kind}
    mode = next(mode for mode in MODES.values() if mode.replaces == kind)
    go_on, found = mode.start(model, Maps({}, maps)), torch.empty(LAYERS, len(tokenized), D)
    for batch in representations.batches(model, tokenized, budget):
        found[:, batch.rows] = go_on(representations.run(model, batch))
    for s in range(len(tokenized)):
        t = int(tokenized.positions[s])
        ids = tokenized.sentences[s][: t + 1]
        seen = own_states(model, ids)
        for layer in range(LAYERS):
            later = {key: part for key, part in of_kind.items() if key[0] >= layer}
            hooks = [hook for key, part in later.items() for hook in but_at_the_head(part, maps[key], k)]
            try:
                with torch.no_grad():
                    final = model.go_on(layer, seen[layer], ids[None], None)[0, t]
            finally:
                for hook in hooks:
                    hook.remove()
            torch.testing.assert_close(found[layer, s], final, rtol=1e-4, atol=1e-4)


def test_without_added_tokens_the_maps_act_at_every_position(with_head):
    """The same sentences from a file that does not name them: other numbers."""
    model, tokenized = with_head
    unnamed = Tokenized(tokenized.sentences, tokenized.positions)
    maps = {key: torch.eye(D) / 2 for key, (of, _) in submodules.find(model).parts.items() if of == NORM}
    go_on = MODES["mat_ln1_ln2"].start(model, Maps({}, maps))
    (a,), (b,) = (representations.batches(model, found, 10_000) for found in (tokenized, unnamed))
    assert (go_on(representations.run(model, a)) - go_on(representations.run(model, b))).abs().max() > 1e-3
