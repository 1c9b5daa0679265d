"""Intervals against SciPy, differences against a loop, and what is read off a curve."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch

from shortcut import Problem, alternation, intervals, results
from shortcut.results import Curve
from shortcut.show import tables


def curve(layers, hits, **more):
    return Curve(layers, [], {"precision@1": torch.tensor(hits, dtype=torch.bool)}, **more)


def records(hits, surprisals):
    """Jumps of mat and id at three layers: whether each sentence is hit at layers 0 and 1; all are at 2."""
    n = len(next(iter(hits.values())))
    full = torch.arange(n)[:, None] * 100 + torch.arange(10)
    made = []
    for mode, key in (("mat", "mat"), ("id", "idln")):
        for layer in range(3):
            hit = torch.tensor(hits[mode], dtype=torch.bool) if layer < 2 else torch.ones(n, dtype=torch.bool)
            topk = full.clone()
            topk[:, 0] = torch.where(hit, full[:, 0], -1)
            info = {"type": "jump", "mode": key, "layer": layer}
            made.append({"info": info, "layers_processed": float(layer), "topk": topk, "surprisal": surprisals[mode]})
    return made


@pytest.mark.parametrize(("hits", "n"), [(0, 40), (1, 40), (17, 40), (40, 40), (2950, 3000)])
def test_interval_of_a_share_is_scipys_wilson_interval(hits, n):
    ours = intervals.proportion(torch.arange(n) < hits)
    theirs = scipy.stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert ours == pytest.approx((hits / n, theirs.low, theirs.high), abs=1e-7)


def test_interval_of_a_mean_is_the_normal_one():
    values = torch.rand(50, generator=torch.Generator().manual_seed(0)) * 7
    ours = intervals.average(values)
    error = scipy.stats.sem(values.double().numpy())
    low, high = scipy.stats.norm.interval(0.95, loc=values.double().mean().item(), scale=error)
    assert ours == pytest.approx((values.double().mean().item(), low, high), rel=1e-6)


def test_difference_is_paired_over_the_sentences():
    g = torch.Generator().manual_seed(0)
    surprisals = {mode: torch.rand(6, generator=g) for mode in ("mat", "id")}
    r = results.summarize(records({"mat": [1, 1, 1, 0, 1, 1], "id": [0, 0, 1, 0, 0, 1]}, surprisals))
    d = np.array([1, 1, 0, 0, 1, 0])
    half = 1.959964 * d.std(ddof=1) / np.sqrt(6)
    assert r.apart.estimates["precision@1"][0] == pytest.approx((d.mean(), d.mean() - half, d.mean() + half))
    assert r.apart.estimates["precision@1"][2] == (0, None, None)
    d = surprisals["mat"].double().numpy() - surprisals["id"].double().numpy()
    half = 1.959964 * d.std(ddof=1) / np.sqrt(6)
    assert r.apart.estimates["surprisal"][1] == pytest.approx((d.mean(), d.mean() - half, d.mean() + half))


def test_mean_over_layers_leaves_out_the_last_one():
    r = results.summarize(
        records({"mat": [1, 1, 1, 0], "id": [0, 0, 1, 0]}, dict.fromkeys(("mat", "id"), torch.ones(4)))
    )
    assert r.fixed["mat"].over_layers["precision@1"].mean == 0.75
    assert r.fixed["id"].over_layers["precision@1"].mean == 0.25


def test_a_file_that_the_original_code_wrote_twice_is_read_once_and_one_of_two_runs_refused():
    made = records({"mat": [1, 1, 1, 0], "id": [0, 0, 1, 0]}, dict.fromkeys(("mat", "id"), torch.ones(4)))
    again = [{**r, "info": {**r["info"], "mode": {"idln": "id"}.get(r["info"]["mode"], "mat")}} for r in made]
    r = results.summarize(made + again)
    assert r.fixed["id"].layers == [0, 1, 2]
    for mode, curve in results.summarize(made).fixed.items():
        assert r.fixed[mode].over_layers == curve.over_layers
    again[1]["topk"] = again[1]["topk"] + 1
    with pytest.raises(Problem, match="two jumps of mat at 1 that differ: keep one run's file"):
        results.summarize(made + again)


def test_a_mode_that_lacks_layers_has_no_mean_over_them_and_one_layer_alone_is_none():
    made = records({"mat": [1, 1, 1, 0], "id": [0, 0, 1, 0]}, dict.fromkeys(("mat", "id"), torch.ones(4)))
    r = results.summarize(made[1:])
    assert r.whole.keys() == {"id"}
    assert tables.change(r, r, "own", "other").rows == []
    with pytest.raises(Problem, match="no jumps at layers above 0"):
        results.summarize(made[:1])


def test_a_change_is_that_of_other_maps_minus_own_paired_over_the_sentences():
    ones = dict.fromkeys(("mat", "id"), torch.ones(4))
    own = results.summarize(records({"mat": [1, 1, 1, 0], "id": [0, 0, 1, 0]}, ones))
    other = results.summarize(records({"mat": [1, 0, 0, 0], "id": [0, 0, 1, 0]}, ones))
    ((mode, *means, change),) = tables.change(other, own, "own", "other").rows
    d = np.array([0, -1, -1, 0])
    half = 1.959964 * d.std(ddof=1) / np.sqrt(4)
    assert (mode, *(mean.mean for mean in means)) == ("mat", 0.75, 0.25)
    assert change == pytest.approx((-0.5, -0.5 - half, -0.5 + half))
    assert tables.change(own, other, "other", "own").rows[0][-1].mean == 0.5
    with pytest.raises(Problem, match="for different sentences"):
        tables.change(other, results.summarize(records({"mat": [1, 1], "id": [0, 0]}, ones)), "own", "other")


def test_layers_saved_are_those_that_are_not_needed():
    mat, identity = (curve([1, 3], hits, n_layers=8) for hits in ([[0, 1], [1, 1]], [[0, 0], [0, 1]]))
    early = {"mat": mat, "id": identity}
    saved = results.Results(8, torch.zeros(2, 10), {}, early).saved["layers"]
    for share in results.SHARES:
        assert saved["mat"][share] == (pytest.approx(8 - (1 + 2 * (share - 0.5) / 0.5)), None, None)
    assert [*saved["id"].values()] == [None] * 3


def needed(curve, share):
    """Of 8 layers."""
    saved = replace(curve, n_layers=8).saved(share)
    return saved and 8 - saved.mean


def test_layers_needed_by_interpolation():
    half = curve([0, 2, 4], [[0, 0], [0, 1], [1, 1]])
    assert needed(half, 0.75) == 3
    assert needed(half, 0.5) == 2
    assert needed(curve([0, 2], [[0, 0], [0, 1]]), 0.5) == 2  # reached by the last point, and by one before a dip
    assert needed(curve([0, 1, 3, 4], [[0, 0], [0, 1], [0, 0], [1, 1]]), 0.5) == 1
    assert needed(curve([1, 2], [[0, 0], [0, 1]]), 0.9) is None
    assert needed(curve([1, 2], [[1, 1], [1, 1]]), 0.9) == 1


def test_one_sentence_has_no_interval():
    with pytest.raises(Problem, match="1 sentence, expected at least 2"):
        results.summarize(records({"mat": [1], "id": [0]}, dict.fromkeys(("mat", "id"), torch.ones(1))))
    of_one = records({"mat": [1, 0, 1], "id": [0, 0, 1]}, dict.fromkeys(("mat", "id"), torch.ones(3)))
    with pytest.raises(Problem, match="1 sentence, expected at least 2"):  # whatever the number of its positions
        results.summarize([of_one[0] | {"sentence_numbers": torch.tensor([7, 7, 7])}, *of_one[1:]])
    of_two = results.summarize([of_one[0] | {"sentence_numbers": torch.tensor([7, 7, 9])}, *of_one[1:]])
    assert all(p.low < p.high for p in (x.over_layers["precision@1"] for x in of_two.fixed.values()))


def test_means_that_are_the_same_for_any_sentences_have_no_interval():
    """At layer L: Precision@k, which is 1, and every difference of two approximations; the surprisal is none of them.

    So has an early exit at which all run to L none, and a point below L has one, even if it happens to be 1.
    """
    nats = torch.rand(4, generator=torch.Generator().manual_seed(0))
    made = records({"mat": [1, 1, 1, 1], "id": [0, 0, 1, 0]}, dict.fromkeys(("mat", "id"), nats))
    for of in (made[0], made[2]):
        info = {"type": "early_exit", "mode": "mat", "lambda": of["layers_processed"]}
        made.append({**of, "info": info})
    r = results.summarize(made)
    for metric in ("precision@1", "precision@5", "precision@10"):
        *below, at_last = r.fixed["mat"].estimates[metric]
        assert at_last == (1, None, None)
        assert [point.mean for point in below] == [1, 1]
        assert all(point.low < point.high for point in below)
    assert all(point.low < nats.mean() < point.high for point in r.fixed["id"].estimates["surprisal"])
    first, all_run = r.early["mat"].estimates["precision@1"]
    assert first.low < first.high
    assert all_run == (1, None, None)
    apart = r.apart.estimates
    assert {metric: points[2] for metric, points in apart.items()} == dict.fromkeys(
        r.fixed["mat"].values, (0, None, None)
    )
    assert apart["precision@1"][0].low < apart["precision@1"][0].high


def test_of_one_sentence_in_the_half_that_is_shown_no_schedule_is_chosen():
    """Of three sentences the second; of its two positions there is no more to say than of one."""
    n, of = 6, torch.arange(3).repeat_interleave(2)
    full = torch.arange(n)[:, None] * 100 + torch.arange(10)
    made = {("blocks", 1, 1): ((0, 1),), ("jumps", 1, 1): ((0, 1),)}
    direct = torch.ones(3, n, dtype=torch.bool)
    assert [j.first for j in alternation.judge(made, full[None], full, direct, of)] == ["blocks", "jumps"]
    five = torch.arange(5).repeat_interleave(2)[:n]
    assert [j.first for j in alternation.judge(made, full[None], full, direct, five)] == ["blocks", "jumps"]
    four = torch.tensor([0, 1, 1, 2, 3, 3])
    assert [j.first for j in alternation.judge(made, full[None], full, direct, four)] == ["blocks", "jumps", "chosen"]
    (all_blocks,) = alternation.judge({("blocks", 1, 1): ()}, full[None], full, direct, of)
    assert (all_blocks.precision, all_blocks.difference) == ((1, None, None), (0, None, None))


def test_intervals_with_several_positions_a_sentence_are_by_sentence():
    """Of equal positions they are those of the sentences; of independent ones about those of the positions."""
    g = torch.Generator().manual_seed(0)
    values, of = torch.randn(400, generator=g), torch.arange(400).repeat_interleave(3)
    alike = intervals.average(values.repeat_interleave(3), of)
    assert alike == pytest.approx(intervals.average(values), abs=1e-7)
    hits = values > 0.5
    assert intervals.proportion(hits.repeat_interleave(3), of) == pytest.approx(intervals.proportion(hits), abs=2e-4)
    free = torch.randn(3 * 4000, generator=g)
    of = torch.arange(4000).repeat_interleave(3)
    ours, single = intervals.average(free, of), intervals.average(free)
    assert ours.high - ours.low == pytest.approx(single.high - single.low, rel=0.05)
    third = intervals.proportion(torch.tensor([True, False, False] * 39), torch.arange(39).repeat_interleave(3))
    assert third == pytest.approx(
        intervals.proportion(torch.arange(39) < 13)
    )  # the same in each tells no more than that
    nothing = intervals.proportion(torch.ones(30, dtype=torch.bool), torch.arange(10).repeat_interleave(3))
    assert nothing == intervals.proportion(torch.ones(10, dtype=torch.bool))


def test_intervals_hold_the_mean_over_all_sentences_that_could_be_drawn():
    """The standard error by sentence against the spread of means over draws whose positions are alike within one.

    So the interval holds the mean over all, which is 0, in 95% of the draws, and that of another draw in 83%.
    """
    g = torch.Generator().manual_seed(1)
    means, widths = [], []
    for _ in range(1500):
        sizes = torch.randint(1, 5, (150,), generator=g)
        of = torch.arange(150).repeat_interleave(sizes)
        values = torch.randn(150, generator=g)[of] + 0.5 * torch.randn(len(of), generator=g)
        found = intervals.average(values, of)
        means.append(found.mean)
        widths.append((found.high - found.low) / 2 / intervals.Z)
    assert np.mean(widths) == pytest.approx(np.std(means), rel=0.1)
    half = intervals.Z * np.array(widths)
    assert np.mean(np.abs(means) < half) == pytest.approx(0.95, abs=0.02)
    assert np.mean(np.abs(np.diff(means)) < half[1:]) == pytest.approx(0.83, abs=0.03)


def test_the_interval_by_sentence_is_that_of_the_sentences_means():
    """Three sentences of two positions, by SciPy."""
    values, of = torch.tensor([1.0, 3.0, 4.0, 4.0, 9.0, 11.0]), torch.arange(3).repeat_interleave(2)
    found, error = intervals.average(values, of), scipy.stats.sem([2.0, 4.0, 10.0])
    assert (found.low, found.high) == pytest.approx((found.mean - 1.959964 * error, found.mean + 1.959964 * error))


def test_the_best_constant_is_chosen_on_the_other_half_of_the_sentences():
    """By hand: the even sentences' favourite is token 7, the odd ones' 9; k = 5 and 10 have a token that all share."""
    n = 12
    full = 100 * torch.arange(1, n + 1)[:, None] + torch.arange(10)
    full[::2, 0] = torch.tensor([7, 7, 7, 7, 9, 5])
    full[1::2, 0] = torch.tensor([9, 9, 9, 7, 7, 3])
    full[:, 4] = 1
    full[:8, 9] = 2
    r = results.Results(2, full, {}, {})
    assert r.floor["precision@1"].mean == pytest.approx((1 + 2) / 12)  # one 9 among the even, two 7 among the odd
    assert r.floor["precision@5"].mean == r.floor["precision@10"].mean == 1
    twice = results.Results(2, full.repeat_interleave(2, 0), {}, {}, torch.arange(n).repeat_interleave(2))
    assert twice.floor["precision@1"].mean == pytest.approx(r.floor["precision@1"].mean)
