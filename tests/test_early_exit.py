"""The table of gaps against the literal loop, and the ends of the grid."""

import math

import pytest
import torch
from conftest import D, make_tokenized

import config
from shortcut import early_exit, predictions, results
from shortcut.approximation import MODES, Mode


def literal_loop(gaps, positions, lam, tau):
    """Sentence by sentence, layer by layer, as the paper writes it."""
    n_mean = sum(t + 1 for t in positions) / len(positions)
    layers = []
    for s, t in enumerate(positions):
        for layer in range(1, len(gaps)):
            if layer == len(gaps) - 1 or gaps[layer][s] > 0.9 * lam + 0.1 * math.exp(-tau * t / n_mean):
                layers.append(layer)
                break
    return layers


@pytest.mark.parametrize("lam", config.LAMBDAS["id"])
def test_look_up_equals_the_literal_loop(lam):
    g = torch.Generator().manual_seed(0)
    gaps = torch.rand(6, 200, generator=g)
    positions = torch.randint(0, 40, (200,), generator=g)
    layers = early_exit.exit_layers(gaps, early_exit.thresholds(lam, positions, config.TAU))
    assert layers.tolist() == literal_loop(gaps.double().tolist(), positions.tolist(), lam, config.TAU)


def test_ends_of_the_grid_always_and_never_exit():
    gaps, positions = torch.tensor([[1.0, 0.0]] * 4), torch.tensor([0, 30])
    first, last = min(config.LAMBDAS["mat"]), max(config.LAMBDAS["mat"])
    assert early_exit.exit_layers(gaps, early_exit.thresholds(first, positions, 4.0)).tolist() == [1, 1]
    assert early_exit.exit_layers(gaps, early_exit.thresholds(last, positions, 4.0)).tolist() == [3, 3]


def test_threshold_is_exceeded_strictly_and_layer_0_never_exits():
    gaps = torch.tensor([[0.9], [0.5], [0.5], [0.0]])
    assert early_exit.exit_layers(gaps, torch.tensor([0.5])).tolist() == [3]
    assert early_exit.exit_layers(gaps, torch.tensor([0.4])).tolist() == [1]


def test_grid_is_the_papers():
    assert len(config.LAMBDAS["mat"]) + len(config.LAMBDAS["id"]) == 35
    assert [*config.LAMBDAS["id"]] == sorted({*config.LAMBDAS["id"], *config.LAMBDAS["mat"]})
    assert config.LAMBDAS["id"][-10:-8] == (1.0112, 1.0224)
    assert config.LAMBDAS["id"][-2] == 1.1008


@pytest.fixture
def random_exits():
    g = torch.Generator().manual_seed(0)
    L, n = 12, 400
    gaps, positions = torch.rand(L + 1, n, generator=g), torch.randint(0, 30, (n,), generator=g)
    hits = torch.rand(L + 1, n, generator=g) < torch.linspace(0.1, 1, L + 1)[:, None]
    hits[L] = True
    return gaps, positions, hits, early_exit.exits(gaps, positions, config.TAU, hits)


@pytest.mark.parametrize("lam", [*torch.linspace(-1.2, 1.15, 50).tolist(), *config.LAMBDAS["id"]])
def test_the_curve_over_all_lambda_is_the_literal_loop_at_each(random_exits, lam):
    gaps, positions, hits, exits = random_exits
    layers = torch.tensor(literal_loop(gaps.double().tolist(), positions.tolist(), lam, config.TAU))
    lambdas, processed, precision, whole = exits.along()
    k = int((lambdas <= lam).sum()) - 1
    assert processed[k].item() == pytest.approx(layers.double().mean().item(), abs=1e-9)
    right = hits[layers, torch.arange(len(layers))].double().mean().item()
    assert precision[k].item() == pytest.approx(right, abs=1e-9)
    assert whole[k].item() == pytest.approx((layers == len(gaps) - 1).double().mean().item(), abs=1e-9)


def test_layers_needed_are_those_of_the_first_lambda_that_reaches_the_share(random_exits):
    gaps, positions, hits, exits = random_exits
    lambdas, *_ = exits.along()
    for share in (0.3, 0.9, 1.0):
        for lam in lambdas.tolist():
            layers = early_exit.exit_layers(gaps, early_exit.thresholds(lam + 1e-12, positions, config.TAU))
            if hits[layers, torch.arange(len(layers))].double().mean() >= share:
                break
        assert exits.needed([share]).item() == pytest.approx(layers.double().mean().item(), abs=1e-9)


def test_sentences_that_count_twice_are_there_twice(random_exits):
    gaps, positions, hits, exits = random_exits
    twice = torch.cat([torch.arange(200), torch.arange(200)])
    weights = torch.zeros(400).index_add(0, twice, torch.ones(400))
    N = (positions.double() + 1).mean()
    own = positions[twice]
    assert (own.double() + 1).mean() != N  # the thresholds are those of all sentences, so gaps carry the difference
    moved = gaps[:, twice].double() - 0.1 * torch.exp(-config.TAU * own.double() / N)
    moved += 0.1 * torch.exp(-config.TAU * own.double() / (own.double() + 1).mean())
    again = early_exit.exits(moved, own, config.TAU, hits[:, twice])
    T = torch.randint(1, 40, (400,), generator=torch.Generator().manual_seed(1))
    for share in (0.5, 0.95):
        assert exits.needed([share], weights).item() == pytest.approx(again.needed([share]).item(), abs=1e-6)
        net, net_again = (early_exit.Costs(10.0, 7.0, 0.5, tokens) for tokens in (T, T[twice]))
        expected = again.needed([share], None, net_again).item()
        assert exits.needed([share], weights, net).item() == pytest.approx(expected, abs=1e-6)


def test_sentences_whose_gaps_tie_move_on_together():
    """Gaps of few values, as in half precision: each point of the curve is the literal loop at its lambda."""
    g = torch.Generator().manual_seed(0)
    gaps, positions = torch.randint(1, 9, (6, 200), generator=g) / 8, torch.full((200,), 7)
    hits = torch.rand(6, 200, generator=g) < 0.5
    hits[-1] = True
    lambdas, layers, precision, _ = early_exit.exits(gaps, positions, config.TAU, hits).along()
    assert (lambdas.diff() > 0).all()
    assert len(lambdas) == 1 + 8
    for lam, processed, right in zip(*(x[1:].tolist() for x in (lambdas, layers, precision)), strict=True):
        e = torch.tensor(literal_loop(gaps.double().tolist(), positions.tolist(), lam + 1e-12, config.TAU))
        assert processed == pytest.approx(e.double().mean().item())
        assert right == pytest.approx(hits[e, torch.arange(200)].double().mean().item())


def test_the_interval_of_what_is_saved_is_95_percent_wide():
    """Sentences that leave at layers 1 and 4 whatever is drawn: the normal interval of their mean, up to the draws."""
    told = early_exit.saved({"mat": alone([1, 4] * 200)}, [0.9], {"mat": None}, torch.arange(400))["mat"][0.9]
    half = 1.96 * 1.5 / 20
    assert (told.mean, told.low, told.high) == pytest.approx((1.5, 1.5 - half, 1.5 + half), abs=0.1 * half)


def test_samples_are_of_sentences_not_of_positions(random_exits):
    """Three positions that are alike give the interval of one; of unlike numbers of positions none has too much."""
    gaps, positions, hits, exits = random_exits
    of = torch.arange(400).repeat_interleave(3)
    thrice = early_exit.exits(*(x[..., of] for x in (gaps, positions)), config.TAU, hits[:, of])
    T = torch.randint(1, 40, (400,), generator=torch.Generator().manual_seed(1))
    for once, again in ((None, None), (early_exit.Costs(10.0, 7.0, 0.5, tokens) for tokens in (T, T[of]))):
        one = early_exit.saved({"mat": exits}, [0.9], {"mat": once}, torch.arange(400))
        three = early_exit.saved({"mat": thrice}, [0.9], {"mat": again}, of)
        assert three["mat"][0.9] == pytest.approx(one["mat"][0.9])
    uneven = torch.arange(4).repeat_interleave(torch.tensor([1, 2, 3, 9]))
    constant = early_exit.saved({"mat": alone([2] * 15)}, [0.9], {"mat": None}, uneven)["mat"][0.9]
    assert constant == pytest.approx((2, 2, 2))


@pytest.mark.parametrize("L", [1, 2])
def test_the_shallowest_models_have_few_exits(L):
    gaps, positions, hits = torch.rand(L + 1, 20), torch.arange(20), torch.ones(L + 1, 20, dtype=torch.bool)
    _, layers, precision, whole = early_exit.exits(gaps, positions, config.TAU, hits).along()
    assert layers[0] == 1
    assert layers[-1] == L
    assert whole[-1] == 1
    assert precision.eq(1).all()


def test_what_is_saved_net_charges_every_readout_but_the_last_and_every_matrix_below_the_last_layer():
    """Three sentences by hand, L = 4: they leave at layers 1, 3 and 4 whatever lambda below 1 is."""
    gaps = torch.zeros(5, 3)
    gaps[1:, 0] = gaps[3:, 1] = 2.0
    exits = early_exit.exits(gaps, torch.tensor([50, 50, 50]), 4.0, torch.ones(5, 3, dtype=torch.bool))
    costs = early_exit.Costs(block=10.0, read_out=20.0, matrix=5.0, tokens=torch.tensor([2, 4, 6]))
    lambdas, layers, _, whole = exits.along()
    k = int((lambdas <= 1).sum()) - 1
    assert (layers[k].item(), whole[k].item()) == pytest.approx((8 / 3, 1 / 3))
    r, m = 2.0, 0.5
    by_hand = [4 - 1 - m * 1, 4 - 3 - r * 2 - m * 3, 4 - 4 - r * 3 - m * 3]
    net = 4 - (layers[k] + r * (layers[k] - 1) + m * (layers[k] - whole[k]))
    assert net.item() == pytest.approx(sum(by_hand) / 3)
    assert costs.of(0, "token").matrix == 0
    assert 4 - exits.needed([0.0], None, costs.of(1, "token")).item() == pytest.approx(3 - m)  # all leave at layer 1


def alone(layers, L=4):
    """The exits of sentences that are sure and right from these layers on, and neither before."""
    gaps = torch.zeros(L + 1, len(layers))
    hits = torch.zeros(L + 1, len(layers), dtype=torch.bool)
    for s, e in enumerate(layers):
        gaps[e:, s], hits[e:, s] = 0.5, True
    return early_exit.exits(gaps, torch.full((len(layers),), 50), 4.0, hits)


def net(exits, shares, costs, maps=1, unit="sentence"):
    """By share the net saving, in blocks."""
    found = early_exit.saved({"mat": exits}, shares, {"mat": costs.of(maps, unit)}, torch.arange(len(costs.tokens)))[
        "mat"
    ]
    return {share: estimate.mean for share, estimate in found.items()}


def test_blocks_saved_for_a_sentence_count_as_often_as_it_has_tokens():
    """By hand, L = 4: one token that runs through all layers, 19 tokens that leave at layer 1, three read-outs."""
    costs = early_exit.Costs(block=10.0, read_out=20.0, matrix=0.0, tokens=torch.tensor([1, 19]))
    assert net(alone([4, 1]), [1.0], costs)[1.0] == pytest.approx((10 * 19 * 3 - 20 * 3) / (10 * 20)) == 2.55
    swapped = early_exit.Costs(block=10.0, read_out=20.0, matrix=0.0, tokens=torch.tensor([19, 1]))
    assert net(alone([4, 1]), [1.0], swapped)[1.0] == pytest.approx((10 * 3 - 20 * 3) / (10 * 20))
    assert net(alone([4, 1]), [1.0], costs, unit="token")[1.0] == pytest.approx((3 - 2 * 3) / 2)


def test_a_mode_is_charged_for_the_maps_that_it_applies(monkeypatch):
    """By hand at layers 4 and 1: a map is applied at layers 1 to 3 and at 1; another mode applies two."""
    costs = early_exit.Costs(block=10.0, read_out=20.0, matrix=5.0, tokens=torch.tensor([1, 19]))
    charged = [net(alone([4, 1]), [1.0], costs, maps)[1.0] for maps in (0, 1, 2)]
    assert charged == pytest.approx([2.55, 2.55 - 5 * 4 / 200, 2.55 - 2 * 5 * 4 / 200])
    curves = {name: results.Curve([], [], {}, exits=alone([4, 1])) for name in ("id", "mat", "twice")}
    monkeypatch.setitem(MODES, "twice", Mode("twice", "twice", lambda model, maps: None, maps=2))
    told = results.Results(4, torch.zeros(2, 10), {}, curves, costs=costs).saved
    assert [told["sentence"][name][0.98].mean for name in curves] == pytest.approx(charged)
    assert [told["token"][name][0.98].mean for name in curves] == pytest.approx([-1.5, -2.5, -3.5])
    masked = results.Results(4, torch.zeros(2, 10), {}, curves, costs=costs, masked=True).saved
    assert masked.keys() == {"layers", "sentence"}


def test_net_and_plain_saving_are_at_the_same_lambda(random_exits):
    gaps, positions, hits, exits = random_exits
    lambdas, *_ = exits.along()
    L, r, m = len(gaps) - 1, 0.7, 0.05
    T = torch.randint(1, 40, (len(positions),), generator=torch.Generator().manual_seed(1))
    for share in (0.3, 0.9):
        for lam in lambdas.tolist():
            e = early_exit.exit_layers(gaps, early_exit.thresholds(lam + 1e-12, positions, config.TAU))
            if hits[e, torch.arange(len(e))].double().mean() >= share:
                break
        e = e.double()
        for tokens in (None, T):
            t = 1 if tokens is None else tokens
            saved = t * (L - e) - r * (e - 1) - m * e.clamp_max(L - 1)
            literal = saved.sum().item() / (len(e) if tokens is None else t.sum().item())
            unit = "token" if tokens is None else "sentence"
            cost, free = (early_exit.Costs(10.0, 10 * r, 10 * m, T).of(maps, unit) for maps in (1, 0))
            assert L - exits.needed([share], None, cost).item() == pytest.approx(literal, abs=1e-9)
            of = torch.arange(len(T))
            told = early_exit.saved({"mat": exits, "id": exits}, [share], {"mat": cost, "id": free}, of)
            assert told["mat"][share].mean == pytest.approx(literal, abs=1e-9)
            assert told["mat"][share].low < literal < told["mat"][share].high
            apart = -m * e.clamp_max(L - 1).sum().item() / (len(e) if tokens is None else t.sum().item())
            assert told["mat - id"][share].mean == pytest.approx(apart)


def test_costs_are_the_multiplications_of_one_token(gpt2, bert):
    tokenized = make_tokenized(20, 320)
    costs = predictions.costs(gpt2, tokenized)
    assert (costs.block, costs.read_out, costs.matrix) == (12 * D**2, 320 * D, D**2)
    assert costs.tokens.equal(tokenized.positions + 1)
    costs = predictions.costs(bert, tokenized)
    assert (costs.block, costs.read_out, costs.matrix) == (12 * D**2, 320 * D + D**2, D**2)
    assert costs.tokens.tolist() == [len(ids) for ids in tokenized.sentences]
