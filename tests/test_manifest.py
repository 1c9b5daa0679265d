"""What is made, what must be made again, what is kept of unfinished work, and who may write."""

import errno
import json
import os
import subprocess
import sys

import pytest
from stages import make_upstream, run, stage

from shortcut import Problem, manifest, provenance, store
from shortcut.layout import Layout


@pytest.fixture
def layout(tmp_path):
    return Layout(tmp_path, "m", "d")


@pytest.fixture
def said():
    return []


def test_the_same_settings_skip_and_say_so(layout, said):
    assert run(layout, said, seed=0)
    assert not run(layout, said, seed=0)
    assert "already made, skipped: experiment/m/d_results.pickle" in said[-1]


def test_other_settings_are_refused_by_name_until_forced(layout, said):
    run(layout, said, seed=0, rcond=1e-7)
    with pytest.raises(Problem, match=r"seed was 0, is 1.*--force"):
        run(layout, said, seed=1, rcond=1e-7)
    assert run(layout, said, value="y", force=True, seed=1, rcond=1e-7)
    assert store.load(layout.results) == "y"


def test_every_setting_that_differs_is_named_and_of_long_ones_what_differs(layout, said):
    settings = dict.fromkeys("abcdef", 0)
    run(layout, said, **settings, lambdas={"id": [0.0, 0.5, 1.0], "mat": [0.0]}, order=[1, 2])
    with pytest.raises(Problem) as problem:
        run(layout, said, **dict.fromkeys(settings, 1), lambdas={"id": [0.0, 0.6, 1.0], "mat": [0.0]}, order=[2, 1])
    told = "lambdas id was without 0.6 and with 0.5; order was [1, 2], is [2, 1]"
    assert "; ".join(f"{name} was 0, is 1" for name in settings) + f"; {told}" in str(problem.value)


def test_of_many_inputs_that_differ_some_are_named(layout, said):
    matrices = [layout.matrix(0, j) for j in range(1, 9)]
    for path in matrices:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"A")
    run(layout, said, reads=matrices)
    for path in matrices:
        path.write_bytes(b"B")
    with pytest.raises(Problem, match=r"another linreg/m/d/0_1.pickle; another linreg/m/d/0_2.pickle; .*; 5 more"):
        run(layout, said, reads=matrices)


def test_a_file_that_is_not_ours_is_never_overwritten_unasked(layout, said):
    layout.results.parent.mkdir(parents=True)
    layout.results.write_bytes(b"mine")
    with pytest.raises(Problem, match="without a manifest entry"):
        run(layout, said)
    assert layout.results.read_bytes() == b"mine"


def test_an_interrupted_write_is_made_again(layout, said):
    with pytest.raises(KeyboardInterrupt), stage(layout, said) as stopped, stopped.writing(layout.results):
        raise KeyboardInterrupt
    assert not layout.results.exists()
    assert run(layout, said)


def test_an_entry_holds_what_made_the_file(layout, said):
    upstream = make_upstream(layout, said, "a")
    run(layout, said, reads=[upstream], seed=3)
    written = json.loads((layout.experiment / manifest.NAME).read_text())
    entry = written["files"]["d_results.pickle"]
    made = written["runs"][entry["run"]]
    assert entry["sha256"] == provenance.sha256(layout.results)
    assert made["script"] == "add_results.py"
    assert made["settings"] == {"format": manifest.FORMAT, "seed": 3}
    assert made["inputs"] == {"experiment/m/d_tokenized_val.pickle": provenance.sha256(upstream)}
    assert made["versions"].keys() >= {"torch", "transformers", "python"}
    (behind,) = made["upstream"]
    assert behind["made"] == ["experiment/m/d_tokenized_val.pickle"]
    assert (behind["script"], behind["settings"], behind["upstream"]) == (
        "add_tokenization.py", {"format": manifest.FORMAT}, [],
    )  # fmt: skip


def test_a_second_run_on_the_same_folder_is_refused_naming_the_first(layout, said):
    code = (
        "import sys; from pathlib import Path; from shortcut import manifest\n"
        "with manifest.locked(Path(sys.argv[1]), 'add_results.py'): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, layout.experiment], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        with pytest.raises(Problem, match=rf"in use by add_results.py \(process {other.pid}\)"):
            run(layout, said)
        other.kill()
        other.wait()
        assert run(layout, said)  # the lock of a killed run does not block


@pytest.mark.parametrize(
    "content",
    [
        "{", "[]", "1", "[" * 100_000, '{"runs": []}', '{"files": {"a": 1}}', '{"runs": {"r": {"settings": {}}}}',
        '{"files": {"a": {"sha256": "x", "run": "r", "made": "now"}}}',
        '{"files": {"a": {"sha256": "x", "run": [], "made": "now"}}}',
        '{"runs": {"r": {"script": 1, "settings": {}, "inputs": {}}}}',
        '{"runs": {"r": {"script": "x.py", "settings": {}, "inputs": {}, "upstream": {}}}}',
        '{"runs": {"r": {"script": "x.py", "settings": {}, "inputs": {}, "upstream": [{"made": ["a"]}]}}}',
        '{"runs": {"r": {"script": "x", "settings": {}, "inputs": {}, "upstream": [{"script": "x", "settings": {},'
        ' "inputs": {}, "made": [1]}]}}}',
        '{"runs": {"r": {"script": "x.py; rm y", "settings": {}, "inputs": {}}}}',
        '{"runs": {"r": {"script": "x.py\\n", "settings": {}, "inputs": {}}}}',
        '{"runs": {"r": {"script": "x.py", "settings": {"a": {"\\u001b[2J": 1}}, "inputs": {}}}}',
        '{"runs": {"r": {"script": "x.py", "settings": {"a": [{"\\n": 1}]}, "inputs": {}}}}',
        '{"runs": {"r": {"script": "x.py", "settings": {}, "inputs": {}}},'
        ' "files": {"a": {"sha256": "x", "run": "r", "made": "\\n"}}}',
    ],
)  # fmt: skip
def test_a_damaged_manifest_is_one_line(layout, said, content):
    run(layout, said)
    (layout.experiment / manifest.NAME).write_text(content)
    with pytest.raises(Problem, match=r"manifest\.json is damaged \(.*\): remove it, and use --force$"):
        run(layout, said)


def test_a_folder_in_place_of_the_manifest_is_one_line(layout, said):
    (layout.experiment / manifest.NAME).mkdir(parents=True)
    with pytest.raises(Problem, match=r"cannot read .*manifest\.json: Is a directory"):
        run(layout, said)


def test_where_all_is_made_a_folder_may_be_read_only(layout, said, monkeypatch):
    run(layout, said)

    def denied(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("os.open", denied)
    assert not run(layout, said)
    assert "already made, skipped" in said[-1]
    layout.results.unlink()
    with pytest.raises(Problem, match=r"cannot write to .*: Read-only file system"):
        run(layout, said)


def test_a_folder_that_cannot_be_written_is_one_line(layout, said):
    layout.root.joinpath("experiment").write_text("a file where a folder should be")
    with pytest.raises(Problem, match="cannot write to"):
        run(layout, said)
    assert os.listdir(layout.root) == ["experiment"]


def test_force_keeps_the_old_file_until_the_new_one_is_whole(layout, said):
    run(layout, said, value="old")
    with pytest.raises(RuntimeError, match="before anything was written"), stage(layout, said, force=True):
        raise RuntimeError("before anything was written")
    assert store.load(layout.results) == "old"


def test_force_on_a_full_disk_keeps_the_old_file(layout, said, monkeypatch):
    run(layout, said, value="old")
    original = os.fdopen

    def full(handle, *mode):
        if manifest.NAME in os.readlink(f"/proc/self/fd/{handle}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(handle, *mode)

    monkeypatch.setattr("os.fdopen", full)
    with pytest.raises(Problem, match=r"manifest\.json: No space left"):
        run(layout, said, value="new", force=True)
    assert store.load(layout.results) == "old"
    monkeypatch.undo()
    assert not run(layout, said)


def test_what_a_killed_run_left_is_removed(layout, said):
    layout.experiment.mkdir(parents=True)
    leftover = layout.experiment / f".{layout.results.name}.abc123"
    leftover.write_bytes(b"half")
    run(layout, said)
    assert not leftover.exists()


def stopped(layout, said, **others):
    """A run that is stopped with unfinished work; whether an earlier one's was there."""
    with pytest.raises(KeyboardInterrupt), stage(layout, said, **others) as working:
        part = working.parts(layout.results) / "one.pickle"
        before = part.exists()
        part.write_bytes(b"")
        raise KeyboardInterrupt
    return before


def test_unfinished_work_serves_the_next_run_of_the_same_kind_and_no_other(layout, said):
    assert not stopped(layout, said, seed=0)
    assert stopped(layout, said, seed=0)
    assert not stopped(layout, said, seed=1)
    assert not stopped(layout, said, seed=0)
    assert not stopped(layout, said, seed=0, force=True)  # to make anew is to begin anew
    assert stopped(layout, said, seed=0, force=True)
    assert stopped(layout, said, seed=0)
    assert stopped(layout, said, seed=0, force=True)
    assert not stopped(layout, said, seed=1, force=True)
    run(layout, said, seed=1)
    assert not list(layout.experiment.glob("*.parts"))


def test_a_stopped_run_with_force_goes_on_with_force_and_keeps_what_it_made(layout, said):
    paths = [layout.matrix(0, j) for j in range(1, 5)]

    def matrices(value, stop=9, **others):
        """Which of the matrices a run makes; after `stop` of them it is stopped."""
        made = []
        with stage(layout, said, "add_linreg.py", paths, **others) as working:
            for path in working.todo:
                if len(made) == stop:
                    raise KeyboardInterrupt
                working.save(path, value)
                made.append(paths.index(path))
        return made

    assert matrices("old", rcond=1) == [0, 1, 2, 3]
    with pytest.raises(KeyboardInterrupt):
        matrices("new", stop=2, rcond=2, force=True)
    with pytest.raises(Problem, match="0_3.pickle was made with other settings .*: --force makes it anew"):
        matrices("new", rcond=2)
    with pytest.raises(KeyboardInterrupt):
        matrices("new", stop=1, rcond=2, force=True)
    assert matrices("new", rcond=2, force=True) == [3]
    assert "goes on with the run with --force that was stopped (begun 20" in said[-2]
    assert [store.load(path) for path in paths] == ["new"] * 4
    assert not list(layout.matrices.glob("*.parts"))
    assert matrices("newer", rcond=2, force=True) == [0, 1, 2, 3]


def test_unfinished_work_of_a_finished_file_is_removed(layout, said):
    """As after a kill between the last file and the clean-up."""
    run(layout, said, seed=0)
    parts = layout.results.with_name(f"{layout.results.name}.parts")
    parts.mkdir()
    assert not run(layout, said, seed=0)
    assert not parts.exists()
