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


def make(folder, key="k", notice=None):
    return Shelf(folder, key, K, D, ORDER.split(SIZES), notice or pytest.fail)


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


def test_states_gathered_under_another_key_are_dropped(tmp_path):
    make(tmp_path / "s").gather(batches(), lambda _: None)
    assert make(tmp_path / "s", "other").gathered == 0


def cut(data, note):
    data.write_bytes(data.read_bytes()[:-4])


def lose(data, note):
    data.unlink()


def flip(data, note):
    content = bytearray(data.read_bytes())
    content[4 * D * N + 9] ^= 1
    data.write_bytes(content)


def put_a_folder(data, note):
    data.unlink()
    (data / "x").mkdir(parents=True)


def cut_the_note(data, note):
    note.write_text(note.read_text()[:-9])


def say(sentences):
    def say_in_the_note(data, note):
        note.write_text(note.read_text().replace(f'"sentences": {N}', f'"sentences": {sentences}'))

    return say_in_the_note


@pytest.mark.parametrize(
    "spoil",
    [cut, lose, flip, put_a_folder, cut_the_note, *map(say, ["7", "6", '"7"', "-5", "true", "[1]", "1e999", "99"])],
)
def test_states_that_are_not_what_was_gathered_are_dropped_with_one_notice(tmp_path, spoil):
    """7 is the end of a batch, 6 is not; in either case the checksums are those of all ten."""
    make(tmp_path / "s").gather(batches(), lambda _: None)
    spoil(tmp_path / "s" / "states", tmp_path / "s" / "gathered.json")
    said = []
    again = make(tmp_path / "s", notice=said.append)
    assert again.gathered == 0
    assert said == [f"states gathered before are damaged or incomplete, so they are gathered anew: {tmp_path / 's'}"]
    again.gather(batches(), lambda _: None)
    assert again.tensor().equal(H)


def test_a_full_disk_is_told_of_before_the_work(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(Problem, match=r"no room for 0\.5 kB of states in .*No space left"):
        make(tmp_path / "s")
    assert not list((tmp_path / "s").iterdir())
