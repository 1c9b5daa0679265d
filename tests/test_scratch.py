"""Unfinished work on the disk: it is what was put there, whatever interrupted the putting."""

import pytest
import torch

from shortcut import Problem
from shortcut.files.scratch import Points, Scratch
from shortcut.representations import Batch
from shortcut.run import gathering

K, N, D = 3, 10, 4
H = torch.randn(K, N, D, generator=torch.Generator().manual_seed(0))
ORDER = torch.randperm(N, generator=torch.Generator().manual_seed(1))
BATCHES = [Batch(rows, None, None, None) for rows in ORDER.split((1, 4, 2, 3))]


@pytest.fixture(autouse=True)
def _a_unit_a_batch(monkeypatch):
    monkeypatch.setattr(gathering, "SECONDS", 0)


def scratch(folder, key="k", notice=None):
    return Scratch(folder / "s", key, notice or pytest.fail)


def gather(kept, stop=None, done=None, **key):
    """All states in units; interrupted before batch number `stop`."""
    computed = []

    def compute(batch):
        if len(computed) == stop:
            raise KeyboardInterrupt
        computed.append(batch)
        return {"states": H[:, batch.rows]}

    points = gathering.gather(BATCHES, compute, kept, (done if done is not None else []).append, **key)["states"]
    return points, len(computed)


def test_what_was_gathered_is_read_in_the_order_of_the_sentences(tmp_path):
    done = []
    points, _ = gather(scratch(tmp_path), done=done)
    assert points.tensor().equal(H)
    assert points[1].equal(H[1])
    assert points[-1].equal(H[-1])
    assert len(points) == K
    assert sum(done) == N
    with pytest.raises(IndexError):
        points[K]


@pytest.mark.parametrize("stop", [0, 1, 2, 3])
def test_an_interrupted_run_goes_on_where_it_was(tmp_path, stop):
    with pytest.raises(KeyboardInterrupt):
        gather(scratch(tmp_path), stop)
    points, computed = gather(scratch(tmp_path))
    assert computed == len(BATCHES) - stop
    assert points.tensor().equal(H)


def test_some_seconds_of_work_are_a_unit_not_a_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(gathering, "SECONDS", 1e9)
    gather(scratch(tmp_path), of="a")
    assert len(scratch(tmp_path).units(of="a")) == 2  # the first batch, by which the size of all is known, and the rest
    monkeypatch.setattr(gathering, "BYTES", 3 * 4 * K * D)
    gather(scratch(tmp_path), of="b")
    assert len(scratch(tmp_path).units(of="b")) == 3


def test_units_of_another_kind_or_stage_do_not_serve(tmp_path):
    gather(scratch(tmp_path), of="train", tokens=1024)
    assert gather(scratch(tmp_path), of="val", tokens=1024)[1] == len(BATCHES)
    assert gather(scratch(tmp_path), of="train", tokens=512)[1] == len(BATCHES)
    assert gather(scratch(tmp_path, "other"), of="train", tokens=1024)[1] == len(BATCHES)
    scratch(tmp_path).tidy()
    assert gather(scratch(tmp_path), of="train", tokens=1024)[1] == 0
    assert not scratch(tmp_path, "other").units(of="train", tokens=1024)


def cut(path, other):
    path.write_bytes(path.read_bytes()[:-4])


def flip(path, other):
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


def put_a_folder(path, other):
    path.unlink()
    (path / "x").mkdir(parents=True)


def take_anothers_place(path, other):
    path.write_bytes(other.read_bytes())


@pytest.mark.parametrize("spoil", [cut, flip, put_a_folder, take_anothers_place])
def test_a_unit_that_is_not_what_was_put_is_made_again_with_one_notice(tmp_path, spoil):
    gather(scratch(tmp_path))
    first, second, *_ = scratch(tmp_path).units()
    spoil(first, second)
    said = []
    points, computed = gather(scratch(tmp_path, notice=said.append))
    assert computed == 1
    assert points.tensor().equal(H)
    assert said == [f"unfinished work is damaged, so it is done again: {first}"]


def test_a_full_disk_is_told_of_before_the_work_and_before_anything_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100}))
    with pytest.raises(Problem, match=r"no room for 0\.0 MB of unfinished work in "):
        gathering.gather(
            BATCHES, lambda batch: {"states": H[:, batch.rows]}, scratch(tmp_path), lambda _: None, pytest.fail
        )
    assert not (tmp_path / "s").exists()


def test_what_is_kept_under_a_key_is_made_once(tmp_path):
    made = []

    def make():
        made.append(1)
        return b"%d" % len(made)

    assert [scratch(tmp_path).keep(make, group=group) for group in (1, 1, 2, 1)] == [b"1", b"1", b"2", b"1"]
    assert scratch(tmp_path).keep(lambda: b"", group=3) == b""


def test_points_of_no_batch_twice(tmp_path):
    gather(scratch(tmp_path))
    assert Points.rows(scratch(tmp_path).units()) == set(range(N))
