"""Schedules of blocks and jumps: which are best, against all there are; what they make, against the products."""

from dataclasses import replace

import pytest
import torch
from architectures import make
from conftest import LAYERS, D, as_maps, make_tokenized

from shortcut import alternation, approximation, intervals, representations, results
from shortcut.approximation import MODES, Maps
from shortcut.blocks import Form
from shortcut.loading import pretrained
from shortcut.show import tables
from shortcut.tokens import Tokenized


def every_schedule(L):
    """All that never jump twice in a row."""

    def go(layer, jumped, so_far):
        if layer == L:
            yield so_far
            return
        yield from go(layer + 1, False, so_far)
        if not jumped:
            for j in range(layer + 1, L + 1):
                yield from go(j, True, (*so_far, (layer, j)))

    return [*go(0, False, ())]


@pytest.mark.parametrize("seed", range(8))
def test_the_r2_informed_choice_is_the_best_of_all_schedules(seed):
    L, g = 6, torch.Generator().manual_seed(seed)
    r2 = {(i, j): 1.2 * torch.rand((), generator=g).item() - 0.2 for i in range(L) for j in range(i + 1, L + 1)}
    if seed == 7:  # ties everywhere: the later jump
        r2 = dict.fromkeys(r2, 0.5)
    if seed == 6:  # nothing explains anything
        r2 = dict.fromkeys(r2, -1.0)

    def product(schedule):
        total = 1.0
        for jump in schedule:
            total *= max(0.0, r2[jump])
        return total

    found = alternation.r2_informed(r2, L)
    assert found.keys() == {*range(L + 1)}
    for k, schedule in found.items():
        rivals = [s for s in every_schedule(L) if alternation.executed(s, L) == k]
        assert schedule == max(rivals, key=lambda s: (product(s), s))


@pytest.mark.parametrize(("L", "count"), [(12, 44), (24, 104), (36, 82), (48, 106)])
def test_round_robin_has_every_period_that_divides_the_layers(L, count):
    found = alternation.round_robin(L)
    assert len(found) == count
    for (first, a, b), schedule in found.items():
        layers, layer = [], 0
        while layer < L:
            for kind, length in (("run", a), ("jump", b)) if first == "blocks" else (("jump", b), ("run", a)):
                layers.append((kind, layer, layer + length))
                layer += length
        assert schedule == tuple((i, j) for kind, i, j in layers if kind == "jump")
        assert alternation.executed(schedule, L) == L * a // (a + b)


@pytest.fixture(scope="module")
def setting(gpt2, tokenized):
    g = torch.Generator().manual_seed(3)
    pairs = [(i, j) for i in range(LAYERS) for j in range(i + 1, LAYERS + 1)]
    maps = {pair: torch.eye(D) + 0.3 * torch.randn(D, D, generator=g) for pair in pairs}
    (batch,) = representations.batches(gpt2, tokenized, 10_000)
    return gpt2, batch, representations.run(gpt2, batch), maps


def test_every_schedule_is_blocks_and_products_one_after_another(setting):
    model, batch, seen, maps = setting
    schedules = every_schedule(LAYERS)
    finals = approximation.alternate(model, seen, schedules, as_maps(maps))
    for schedule, final in zip(schedules, finals, strict=True):
        h, layer = seen.entering[0], 0
        while layer < LAYERS:
            jump = next((jump for jump in schedule if jump[0] == layer), None)
            with torch.no_grad():
                h = h @ maps[jump].T if jump else model.blocks[layer](h)
            layer = jump[1] if jump else layer + 1
        torch.testing.assert_close(final, batch.at_chosen(h), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@torch.no_grad()
def test_after_a_jump_added_tokens_have_their_true_states(setting, kind, gpt2, tmp_path):
    """Every schedule, one sentence at a time: what stands at the head never leaves the model's own way."""
    *_, maps = setting
    model = gpt2 if kind == "gpt2" else pretrained.load(make(kind, False, tmp_path / kind), masked=False)
    plain, head = make_tokenized(6, 320, longest=7), (5, 9)
    sentences = [torch.tensor([*head, *ids.tolist()]) for ids in plain.sentences]
    tokenized = Tokenized(sentences, plain.positions + len(head), added=head)
    (batch,) = representations.batches(model, tokenized, 10_000)
    schedules = every_schedule(LAYERS)
    finals = approximation.alternate(model, representations.run(model, batch), schedules, as_maps(maps))
    for row, s in enumerate(batch.rows.tolist()):
        t = int(tokenized.positions[s])
        ids, h = tokenized.sentences[s][None, : t + 1], []
        with model.watch(model.layer_points(), lambda _, x, h=h: h.append(x.clone())):
            model.net(input_ids=ids)
        named = {}
        if kind == "llama":
            named["position_embeddings"] = model.net.model.rotary_emb(h[0], torch.arange(t + 1)[None])
        for schedule, final in zip(schedules, finals, strict=True):
            x, layer = h[0], 0
            while layer < LAYERS:
                jump = next((jump for jump in schedule if jump[0] == layer), None)
                layer = jump[1] if jump else layer + 1
                x = x @ maps[jump].T if jump else model.blocks[layer - 1](x, **named)
                x = torch.cat([h[layer][:, : len(head)], x[:, len(head) :]], 1)
            torch.testing.assert_close(final[row], x[0, t], rtol=1e-4, atol=1e-4)


def test_no_jump_is_the_model_and_blocks_first_to_the_end_the_direct_jump(setting):
    model, _, seen, maps = setting
    found = alternation.round_robin(LAYERS)
    direct = [("blocks", k, LAYERS - k) for k in range(1, LAYERS)]
    finals = approximation.alternate(model, seen, [(), *(found[key] for key in direct)], as_maps(maps))
    torch.testing.assert_close(finals[0], seen.h[-1], rtol=1e-5, atol=1e-5)
    jumps = {(l, LAYERS): maps[l, LAYERS] for l in range(LAYERS)}
    mat = MODES["mat"].start(model, Maps(as_maps(jumps), {}))(seen)
    torch.testing.assert_close(finals[1:], mat[1:], rtol=1e-5, atol=1e-5)


def test_two_jumps_are_the_product_of_their_matrices(setting):
    """In float64, on maps of no meaning."""
    model, batch, seen, maps = setting
    exact = {pair: A.double() for pair, A in maps.items()}
    seen = replace(seen, h=seen.h.double(), entering=[h.double() for h in seen.entering])
    (final,) = approximation.alternate(model, seen, [((0, 1), (1, LAYERS))], as_maps(exact))
    product = exact[1, LAYERS] @ exact[0, 1]
    torch.testing.assert_close(final, batch.at_chosen(seen.entering[0]) @ product.T, rtol=1e-12, atol=1e-12)


def test_schedules_that_begin_alike_share_their_blocks(setting):
    """And those before any jump have run already, but for the last, whose other positions nobody kept."""
    model, _, seen, maps = setting
    schedules, ran = every_schedule(LAYERS), []
    entered = Form.entered

    def counting(form, forward, h):
        ran.append(form)
        return entered(form, forward, h)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Form, "entered", counting)
        approximation.alternate(model, seen, schedules, as_maps(maps))
    steps = set()  # the jumps before, and the layer
    for schedule in schedules:
        jumped = {layer for i, j in schedule for layer in range(i, j)}
        layers = [layer for layer in range(LAYERS) if layer not in jumped]
        steps |= {(tuple(jump for jump in schedule if jump[1] <= layer), layer) for layer in layers}
    steps -= {((), layer) for layer in range(LAYERS - 1)}
    assert len(ran) == len(steps) < sum(alternation.executed(s, LAYERS) for s in schedules)


def test_what_was_chosen_on_half_of_the_sentences_is_shown_on_the_other():
    """Among schedules that are all coins the best of half has on the other half what any has; of each a difference."""
    L, n, g = 12, 4000, torch.Generator().manual_seed(0)
    full = torch.arange(10).repeat(n, 1)  # token 1 is the second best, and no hit
    direct = torch.rand(L + 1, n, generator=g) < 0.5
    of = alternation.round_robin(L)
    topk = (torch.rand(len(of), n, 10, generator=g) < 0.5).long()
    found = alternation.judge(of, topk, full, direct, None)
    chosen = {judged.k: judged for judged in found if judged.first == "chosen"}
    assert chosen.keys() == {*range(1, 12)}
    for k, judged in chosen.items():
        rivals = {key: s for s, key in enumerate(of) if alternation.executed(of[key], L) == k}
        best = max(rivals, key=lambda key: (topk[rivals[key], ::2, 0] == 0).double().mean())
        hits = topk[rivals[best], 1::2, 0] == 0
        assert judged.precision == intervals.proportion(hits)
        assert judged.difference == intervals.average(hits.double() - direct[k, 1::2].double())
    assert abs(sum(j.difference.mean for j in chosen.values()) / 11) < 0.01
    one = next(judged for judged in found if judged.name == "blocks 1, jumps 2")
    hits = topk[[*of].index(("blocks", 1, 2)), :, 0] == 0
    assert (one.k, one.schedule) == (4, ((1, 3), (4, 6), (7, 9), (10, 12)))
    assert one.difference == intervals.average(hits.double() - direct[4].double())


def same(judged, other):
    """Equal up to rounding."""
    assert (judged.name, judged.first, judged.k, judged.schedule) == (other.name, other.first, other.k, other.schedule)
    assert judged.precision == pytest.approx(other.precision, abs=1e-12)
    assert judged.difference == pytest.approx(other.difference, abs=1e-12)


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_position_repeated_within_its_sentence_changes_no_number(shuffled):
    """Halves are halves of the sentences, and intervals count sentences; also where these are not in order."""
    L, n, g = 6, 90, torch.Generator().manual_seed(1)
    full = torch.zeros(n, 10, dtype=torch.int64)
    direct = torch.rand(L + 1, n, generator=g) < 0.5
    schedules = alternation.round_robin(L)
    topk = (torch.rand(len(schedules), n, 10, generator=g) < 0.5).long()
    numbers = torch.arange(n).repeat_interleave(2)
    if shuffled:
        numbers = numbers[torch.randperm(2 * n, generator=g)]

    def judged(rows, groups):
        return alternation.judge(schedules, topk[:, rows], full[rows], direct[:, rows], groups)

    once, twice = judged(torch.arange(n), torch.arange(n)), judged(numbers, numbers)
    assert len(once) == len(twice)
    assert {"chosen", "blocks", "jumps"} == {j.first for j in once}
    for one, two in zip(once, twice, strict=True):
        same(one, two)


def test_the_table_has_for_each_number_of_blocks_the_direct_jump_and_what_the_schedules_give():
    L, n, g = 4, 40, torch.Generator().manual_seed(0)
    full, direct = torch.arange(10).repeat(n, 1), torch.rand(L + 1, n, generator=g) < 0.5
    schedules = alternation.schedules({(i, j): 1 - 0.1 * (j - i) ** 2 for j in range(L + 1) for i in range(j)}, L)
    topk = torch.randint(2, (len(alternation.distinct(schedules)), n, 10), generator=g)
    found = alternation.judge(schedules, topk, full, direct, None)
    mat = results.Curve([*range(L + 1)], [], {"precision@1": direct}, n_layers=L)
    (table,) = tables.alternation(results.Results(L, full, {"mat": mat}, {}, alternation=found))
    judged = {(one.first, one.k): one for one in found}
    for k, row in enumerate(table.rows):
        r2, chosen = judged["r2", k], judged.get(("chosen", k))
        others = (chosen.precision, chosen.difference, chosen.name) if chosen else (None, None, None)
        assert row == [k, mat.estimates["precision@1"][k], r2.precision, r2.difference, *others]
    assert len(table.rows) == L + 1
    assert {k for first, k in judged if first == "chosen"} == {1, 2, 3}
