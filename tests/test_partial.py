"""Partial results: what was computed before a stop is not computed again, whatever stopped it."""

import errno
import os

import numpy as np
import pytest
import torch

from shortcut import Problem
from shortcut.pipeline import partial
from shortcut.pipeline.partial import Done, PartialResults
from shortcut.representations import Batch

K, N, D = 3, 10, 4
H = torch.randn(K, N, D, generator=torch.Generator().manual_seed(0))
ORDER = torch.randperm(N, generator=torch.Generator().manual_seed(1))
BATCHES = [Batch(rows, None, None, None) for rows in ORDER.split((1, 4, 2, 3))]


@pytest.fixture(autouse=True)
def _flush_after_every_batch(monkeypatch):
    monkeypatch.setattr(partial, "SECONDS", 0)


def gather(folder, stop=None, key="k", advance=lambda n: None, begin=lambda: None):
    """The results, and how many batches were computed; interrupted before batch number `stop`."""
    computed = []

    def compute(batch):
        if len(computed) == stop:
            raise KeyboardInterrupt
        computed.append(batch)
        return {"states": H[:, batch.rows], "numbers": batch.rows.expand(2, -1)}

    found = PartialResults(folder / "s", key, begin).gather(BATCHES, compute, advance, everyone=False)
    assert found.keys() == {"states", "numbers"}
    assert found["numbers"].tensor().equal(torch.arange(N).expand(2, -1))
    assert found["states"].tensor().equal(H)
    return found["states"], len(computed)


def together(monkeypatch, folder, stop=None, **options):
    """Two processes, one after the other: the second runs while the first waits for its files to be created."""
    seconds = []

    def second(value=None):
        if not seconds:
            seconds.append(1)
            monkeypatch.setattr(partial, "place", lambda: (1, 2))
            with pytest.raises((Done, KeyboardInterrupt)):
                gather(folder, stop)
            monkeypatch.setattr(partial, "place", lambda: (0, 2))
        return value

    monkeypatch.setattr(partial, "place", lambda: (0, 2))
    monkeypatch.setattr(partial, "agree", second)
    return gather(folder, stop, **options)


def room(folder):
    return sum(path.stat().st_blocks * 512 for path in (folder / "s").iterdir())


def test_results_are_read_in_the_order_of_the_sentences(tmp_path):
    done = []
    points, _ = gather(tmp_path, advance=done.append)
    assert points[1].equal(H[1])
    assert points[-1].equal(H[-1])
    assert sum(done) == N
    with pytest.raises(IndexError):
        points[K]


def test_what_is_read_is_a_copy(tmp_path):
    points, _ = gather(tmp_path)
    points[0].zero_()
    assert points[0].equal(H[0])


@pytest.mark.parametrize("stop", [0, 1, 2, 3])
def test_an_interrupted_run_goes_on_where_it_was(tmp_path, stop):
    with pytest.raises(KeyboardInterrupt):
        gather(tmp_path, stop)
    assert gather(tmp_path)[1] == len(BATCHES) - stop


def test_rows_count_as_done_only_when_they_are_on_the_disk(tmp_path, monkeypatch):
    """A run that is killed while it flushes: rows that are being written are computed again."""
    flush, flushed = np.memmap.flush, []

    def stopping(array):
        flushed.append(array)
        if len(flushed) == 5:  # the first batch takes states, numbers, done and, changed, done
            raise KeyboardInterrupt
        flush(array)

    monkeypatch.setattr(np.memmap, "flush", stopping)
    with pytest.raises(KeyboardInterrupt):
        gather(tmp_path)
    monkeypatch.setattr(np.memmap, "flush", flush)
    assert gather(tmp_path)[1] == len(BATCHES) - 1


def test_some_seconds_of_work_are_flushed_together(tmp_path, monkeypatch):
    monkeypatch.setattr(partial, "SECONDS", 1e9)
    with pytest.raises(KeyboardInterrupt):
        gather(tmp_path, 3)
    assert gather(tmp_path)[1] == len(BATCHES) - 1  # the first batch, which gives the shapes, is flushed alone


def test_results_of_another_key_are_discarded(tmp_path):
    gather(tmp_path, key="a")
    assert gather(tmp_path, key="a")[1] == 0
    assert gather(tmp_path, key="b")[1] == len(BATCHES)
    assert gather(tmp_path, key="a")[1] == len(BATCHES)


def test_a_run_that_is_killed_while_it_discards_starts_anew(tmp_path, monkeypatch):
    gather(tmp_path)

    def killed(folder, **_):
        (folder / "states.0.npy").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(partial.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            partial.discard(tmp_path / "s")
    assert gather(tmp_path)[1] == len(BATCHES)


@pytest.mark.parametrize("name", ["states.0.npy", "done.0.npy"])
def test_a_damaged_file_is_one_line(tmp_path, name):
    gather(tmp_path)
    os.truncate(tmp_path / "s" / name, 100)
    with pytest.raises(Problem, match="/s: is damaged or has another layout .*: remove it, and use --force$"):
        gather(tmp_path)


@pytest.mark.parametrize("can_allocate", [True, False])
def test_there_is_room_for_all_before_anything_is_removed(tmp_path, monkeypatch, can_allocate):
    if not can_allocate:
        monkeypatch.delattr(os, "posix_fallocate")
    wide, begun = torch.ones(1, N, 2**17), []
    results = PartialResults(tmp_path / "s", "k", lambda: begun.append(room(tmp_path)))
    results.gather(BATCHES, lambda b: {"wide": wide[:, b.rows]}, lambda n: None, everyone=False)
    assert begun[0] >= wide.nbytes


def test_a_full_disk_is_told_of_before_the_work_and_before_anything_is_removed(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(Problem, match=r"^cannot reserve 0\.0 MB for partial results in .*: No space left on device"):
        gather(tmp_path, begin=pytest.fail)
    assert not (tmp_path / "s").exists()


def test_two_processes_write_files_of_their_own_and_the_leader_reads_all(tmp_path, monkeypatch):
    done = []
    assert together(monkeypatch, tmp_path, advance=done.append)[1] == 2
    assert sum(done) == N
    assert [np.load(tmp_path / "s" / f"states.{r}.npy").shape for r in (0, 1)] == [(K, 3, D), (K, 7, D)]


def test_a_stopped_run_of_two_processes_goes_on_in_one(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        together(monkeypatch, tmp_path, stop=1)
    monkeypatch.setattr(partial, "place", lambda: (0, 1))
    assert gather(tmp_path)[1] == 2


def test_a_stopped_run_of_one_process_goes_on_in_two(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        gather(tmp_path, stop=2)
    assert together(monkeypatch, tmp_path)[1] == 2
