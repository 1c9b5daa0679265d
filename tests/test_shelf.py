"""States on the disk: they are what was put there, whatever interrupted the putting."""

import errno

import pytest
import torch

from shortcut import Problem, shelf
from shortcut.shelf import Shelf

K, N, D = 3, 10, 4
H = torch.randn(K, N, D, generator=torch.Generator().manual_seed(0))
ORDER = torch.randperm(N, generator=torch.Generator().manual_seed(1))
SIZES = (1, 4, 2, 3)


def make(folder, key="k"):
    return Shelf(folder, key, (K, N, D), ORDER)


def batches(start=0, stop=None):
    """The states in the order of gathering, from sentence `start` on; interrupted at `stop`."""
    place = 0
    for size in SIZES:
        if place >= start:
            if place == stop:
                raise KeyboardInterrupt
            yield H[:, ORDER[place : place + size]]
        place += size


def test_what_was_gathered_is_read_in_the_order_of_the_sentences(tmp_path):
    kept, done = make(tmp_path / "s"), []
    kept.gather(batches(), done.append)
    assert kept.tensor().equal(H)
    assert kept[1].equal(H[1])
    assert kept[-1].equal(H[-1])
    assert len(kept) == K
    assert done == list(SIZES)
    with pytest.raises(IndexError):
        kept[K]


@pytest.mark.parametrize("stop", [0, 1, 5, 7])
def test_an_interrupted_run_goes_on_where_it_was(tmp_path, monkeypatch, stop):
    monkeypatch.setattr(shelf, "SAVE_EVERY", 0)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "s").gather(batches(0, stop), lambda _: None)
    again = make(tmp_path / "s")
    assert again.gathered == stop
    again.gather(batches(stop), lambda _: None)
    assert again.tensor().equal(H)


def test_what_was_not_noted_is_gathered_again(tmp_path, monkeypatch):
    monkeypatch.setattr(shelf, "SAVE_EVERY", 1e9)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "s").gather(batches(0, 7), lambda _: None)
    assert make(tmp_path / "s").gathered == 0


@pytest.mark.parametrize("spoil", ["key", "short", "gone", '"7"', "-5", "true", "[1]", "1e999", "99"])
def test_states_of_another_kind_or_size_are_dropped(tmp_path, spoil):
    make(tmp_path / "s").gather(batches(), lambda _: None)
    data = tmp_path / "s" / "states"
    if spoil == "short":
        data.write_bytes(data.read_bytes()[:-4])
    if spoil == "gone":
        data.unlink()
    if spoil not in ("key", "short", "gone"):
        note = tmp_path / "s" / "gathered.json"
        note.write_text(note.read_text().replace(f'"sentences": {len(H[0])}', f'"sentences": {spoil}'))
    again = make(tmp_path / "s", "other" if spoil == "key" else "k")
    assert again.gathered == 0
    again.gather(batches(), lambda _: None)
    assert again.tensor().equal(H)


def test_a_full_disk_is_told_of_before_the_work(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(Problem, match=r"no room for 0\.0 GB of states in .*No space left"):
        make(tmp_path / "s")
    assert not list((tmp_path / "s").iterdir())
