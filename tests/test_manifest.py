"""What is made, what must be made again, what is kept of unfinished work, and who may write."""

import errno
import json
import os
import subprocess
import sys

import pytest
from stages import make, make_upstream, outputs, run, save

from shortcut import Problem
from shortcut.files import formats
from shortcut.files.names import Names
from shortcut.pipeline import manifest


@pytest.fixture
def layout(tmp_path):
    return Names(tmp_path, "m", "d")


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
    assert formats.load(layout.results) == "y"


def test_every_setting_that_differs_is_named_and_of_long_ones_what_differs(layout, said):
    settings = dict.fromkeys("abcdef", 0)
    run(layout, said, **settings, lambdas={"id": [0.0, 0.5, 1.0], "mat": [0.0]}, order=[1, 2])
    with pytest.raises(Problem) as problem:
        run(layout, said, **dict.fromkeys(settings, 1), lambdas={"id": [0.0, 0.6, 1.0], "mat": [0.0]}, order=[2, 1])
    told = "lambdas id was [0.5], is [0.6]; order was [1, 2], is [2, 1]"
    assert "; ".join(f"{name} was 0, is 1" for name in settings) + f"; {told}" in str(problem.value)


def test_many_inputs_that_differ_are_counted(layout, said):
    matrices = [layout.matrix(0, j) for j in range(1, 9)]
    for path in matrices:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"A")
    run(layout, said, reads=matrices)
    for path in matrices:
        path.write_bytes(b"B")
    with pytest.raises(Problem, match=r"was made with other settings \(other inputs: 8 files in linreg/m/d\): use"):
        run(layout, said, reads=matrices)


def test_a_file_that_is_not_ours_is_never_overwritten_unasked(layout, said):
    layout.results.parent.mkdir(parents=True)
    layout.results.write_bytes(b"mine")
    with pytest.raises(Problem, match="without a manifest entry"):
        run(layout, said)
    assert layout.results.read_bytes() == b"mine"


def test_an_interrupted_write_is_made_again(layout, said):
    with pytest.raises(KeyboardInterrupt), outputs(layout, said) as stopped, stopped.writing(layout.results):
        raise KeyboardInterrupt
    assert not layout.results.exists()
    assert run(layout, said)


def test_an_entry_holds_what_made_the_file(layout, said):
    """Its own settings, and of each file that was read the key and hash; the settings behind it follow from these."""
    sentences = make(layout, said, "get_wikipedia_sentences.py", layout.sentences, seed=5, spacy=None)
    upstream = make_upstream(layout, said, "a", reads=[sentences], seed=3, train=9)
    run(layout, said, reads=[upstream], tau=4.0)
    entries = json.loads((layout.experiment / manifest.NAME).read_text())["files"]
    entry, before = entries["d_results.pickle"], entries["d_tokenized_val.pickle"]
    assert entry["script"] == "add_results.py"
    assert entry["sha256"] == manifest.sha256(layout.results)
    assert entry["settings"] == {"tau": 4.0}
    assert entry["reads"] == {layout.relative(upstream): [before["key"], manifest.sha256(upstream)]}
    assert entry["key"] == manifest.key("add_results.py", entry["settings"], entry["reads"])
    assert entry["versions"].keys() >= {"torch", "transformers", "python"}
    behind = manifest.Provenance(layout).settings(layout.results)
    assert behind == {"tau": 4.0, "seed": 3, "train": 9, "spacy": None}


def test_a_second_run_on_the_same_folder_is_refused_naming_the_first(layout, said):
    code = (
        "import sys; from pathlib import Path; from shortcut.pipeline import outputs\n"
        "with outputs.locked(Path(sys.argv[1]), 'add_results.py'): print('held', flush=True); sys.stdin.read()"
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
        "{", "[" * 100_000, "{}", "[]", "1", '{"files": {"a": 1}}', '{"files": {"a": {"key": "x"}}}',
    ],
)  # fmt: skip
def test_a_damaged_manifest_is_one_line(layout, said, content):
    run(layout, said)
    (layout.experiment / manifest.NAME).write_text(content)
    for force in (False, True):
        with pytest.raises(Problem, match=r"manifest\.json:? is damaged .*\(.*\): remove it, and use --force$"):
            outputs(layout, said, force=force).__enter__()


def test_a_folder_in_place_of_the_manifest_is_one_line(layout, said):
    (layout.experiment / manifest.NAME).mkdir(parents=True)
    with pytest.raises(Problem, match=r"cannot read .*manifest\.json: Is a directory"):
        run(layout, said)


def test_where_all_is_made_a_folder_may_be_read_only(layout, said, monkeypatch):
    run(layout, said)

    def denied(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("filelock.FileLock.acquire", denied)
    monkeypatch.setattr("shortcut.files.store.open", denied, raising=False)
    assert not run(layout, said)
    assert "already made, skipped" in said[-1]
    layout.results.unlink()
    with pytest.raises(Problem, match=r"cannot write .*: Read-only file system"):
        run(layout, said)


def test_a_folder_that_cannot_be_written_is_one_line(layout, said):
    layout.root.joinpath("experiment").write_text("a file where a folder should be")
    with pytest.raises(Problem, match="cannot write to"):
        run(layout, said)
    assert os.listdir(layout.root) == ["experiment"]


def test_force_keeps_the_old_file_until_all_is_checked_and_then_runs_as_usual(layout, said):
    paths = [layout.matrix(0, j) for j in range(1, 5)]

    def matrices(value, stop=9, **others):
        """Which of the matrices a run makes; after `stop` of them it is stopped."""
        made = []
        with outputs(layout, said, "add_linreg.py", paths, **others) as working:
            for path in working.todo:
                if len(made) == stop:
                    raise KeyboardInterrupt
                save(working, path, value)
                made.append(paths.index(path))
        return made

    assert matrices("old", rcond=1) == [0, 1, 2, 3]
    with pytest.raises(KeyboardInterrupt):
        matrices("new", stop=0, rcond=2, force=True)
    assert [formats.load(path) for path in paths] == ["old"] * 4
    with pytest.raises(KeyboardInterrupt):
        matrices("new", stop=2, rcond=2, force=True)
    assert [path.exists() for path in paths] == [True, True, False, False]
    assert matrices("new", rcond=2) == [2, 3]
    assert [formats.load(path) for path in paths] == ["new"] * 4
    assert matrices("newer", rcond=2, force=True) == [0, 1, 2, 3]


def test_what_a_killed_run_left_is_removed(layout, said):
    layout.experiment.mkdir(parents=True)
    leftover = layout.experiment / f".{layout.results.name}.1a2b3c4d"
    leftover.write_bytes(b"half")
    run(layout, said)
    assert not leftover.exists()
