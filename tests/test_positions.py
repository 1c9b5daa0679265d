"""Several positions of a sentence in one pass give what a pass for each of them gives."""

import pytest
import torch
from architectures import make
from conftest import D, as_maps, make_tokenized

from shortcut import representations, submodules
from shortcut.approximation import MODES, Maps, alternate, modes_of
from shortcut.loading import pretrained
from shortcut.tokens import Tokenized

HEAD = (5, 9)  # tokens in front of every sentence, as a tokenizer adds them


@pytest.fixture(scope="module", params=["gpt2", "llama", "bloom"])
def model(request, tmp_path_factory, gpt2):
    if request.param == "gpt2":
        return gpt2
    folder = tmp_path_factory.mktemp("positions") / request.param
    return pretrained.load(make(request.param, False, folder), masked=False)


@pytest.fixture(scope="module")
def tokenized():
    """15 sentences with one to three positions each, some of them the same text under another number."""
    plain, rows = make_tokenized(12, 320, longest=9), []
    for number, ids in enumerate([*plain.sentences, *plain.sentences[:3]]):
        sentence = torch.cat([torch.tensor(HEAD), ids])
        rows += [(sentence, len(HEAD) + t, number) for t in sorted({0, len(ids) // 2, len(ids) - 1})]
    sentences, positions, numbers = zip(*rows, strict=True)
    return Tokenized([*sentences], torch.tensor(positions), torch.tensor(numbers), added=HEAD)


def everything(model, tokenized, **how):
    """States, approximations in all modes, and h_L by schedules, by position."""
    g, L = torch.Generator().manual_seed(3), model.n_layers
    matrices = {(i, j): torch.eye(D) + torch.randn(D, D, generator=g) / 5 for j in range(L + 1) for i in range(j)}
    parts = submodules.find(model).parts
    maps = Maps(as_maps(matrices), {part: torch.randn(D, D, generator=g) / 4 for part in parts})
    ways = {mode: MODES[mode].start(model, maps) for mode in modes_of(parts)}
    schedules = [((0, 1),), ((1, L),), ((0, 1), (L - 1, L)), ()]
    ways |= {"states": lambda seen: seen.h, "schedules": lambda seen: alternate(model, seen, schedules, maps.jumps)}
    found = {}
    for batch in representations.batches(model, tokenized, 60, **how):
        seen = representations.run(model, batch)
        for name, way in ways.items():
            made = way(seen)
            found.setdefault(name, torch.empty(len(made), len(tokenized), D))[:, batch.rows] = made
    return found


def test_one_pass_over_all_positions_equals_a_pass_for_each(model, tokenized):
    together, apart = everything(model, tokenized), everything(model, tokenized, together=False)
    assert {"id", "mat", "states", "schedules"} < together.keys()
    for name, h in together.items():
        scale = apart[name].norm(dim=-1, keepdim=True)  # random maps make large states in some modes
        torch.testing.assert_close(h / scale, apart[name] / scale, rtol=0, atol=2e-5)


def test_a_sentence_runs_once_up_to_its_last_position(model, tokenized):
    for batch_tokens in (1, 10_000):
        found = representations.batches(model, tokenized, batch_tokens)
        assert sum(len(batch.ids) for batch in found) == 15
        assert sorted(torch.cat([batch.rows for batch in found]).tolist()) == [*range(len(tokenized))]
    unnumbered = Tokenized(tokenized.sentences, tokenized.positions, added=HEAD)
    assert sum(len(batch.ids) for batch in representations.batches(model, unnumbered, 60)) == len(tokenized)


@pytest.mark.parametrize("limit", [3, 6])
def test_positions_on_both_sides_of_a_rotary_limit_run_apart(model, tokenized, monkeypatch, limit):
    """A sequence as long as the limit is on its lower side: so it is where limit - 1 is a chosen position."""
    monkeypatch.setattr(model, "rotary_limits", [limit])
    for batch in representations.batches(model, tokenized, 10_000):
        assert len({int(t) >= limit for t in batch.chosen[1]}) == 1
