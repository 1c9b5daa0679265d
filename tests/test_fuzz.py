"""Damaged and hostile files: refused in one line or read as what they should be, and never obeyed."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import damaged
import fuzz
import pytest
import stages

from shortcut import Problem
from shortcut.files import formats, store, unpickle
from shortcut.files.names import Names


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """What happened in the process that read them all."""
    done = subprocess.run(
        [sys.executable, fuzz.__file__, tmp_path_factory.mktemp("fuzz")],
        capture_output=True, text=True, check=False, timeout=500, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_every_file_is_refused_in_one_line_that_names_it_or_fits_its_layout(report):
    assert report["wrong"] == []
    assert report["cases"] >= 3_000
    assert report["hostile"] > 90
    assert 100 < report["read"] < report["cases"] / 4  # the damage is neither lost on the reader nor all of one kind


def test_nothing_is_run_imported_opened_or_written(report):
    """As Python's audit hooks have it: the file itself is opened to be read, and that is all."""
    assert report["seen"] == []
    assert report["left"] == ["x.pickle"]


def test_the_watch_would_have_seen_it(tmp_path):
    """The same process, with a reader that obeys: what it does is noticed."""
    code = """
import os, pickle, sys
sys.path.insert(0, sys.argv[1])
import fuzz
watch = fuzz.Watch("x")
content = dict(fuzz.hostile())["os.system"]
watch.armed = True
pickle.loads(content)
watch.armed = False
print(*watch.seen, sep="\\n")
"""
    done = subprocess.run(
        [sys.executable, "-c", code, Path(fuzz.__file__).parent],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "os.system (b'mkdir pwned',)" in done.stdout
    assert os.listdir(tmp_path) == ["pwned"]


@pytest.mark.parametrize("kind", ["sentences", "tokenized", "states", "matrix", "r2", "results"])
def test_one_changed_bit_in_a_file_with_an_entry_is_seen_before_it_is_read(tmp_path, monkeypatch, kind):
    files = Names(tmp_path, "m_mask" if kind == "states" else "m", "d", masked=kind == "states")
    path = {
        "sentences": files.sentences, "tokenized": files.split("val"), "states": files.split("val"),
        "matrix": files.matrix(0, 1), "r2": files.r2_scores, "results": files.results,
    }[kind]  # fmt: skip
    whole = dict(damaged.valid_files())[kind]

    with stages.outputs(files, [], "x.py", [path]) as made, made.writing(path) as file:
        file.write(whole)
    monkeypatch.setattr(formats, "load_all", None)  # nothing may be read
    rng = random.Random(0)
    for _ in range(20):
        at = rng.randrange(len(whole))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :])
        message = rf"^{files.relative(path)} has changed since it was made: run \S+python x\.py .* --force$"
        with pytest.raises(Problem, match=message), stages.outputs(files, [], "x.py", [files.plot("x")], [path]):
            pass


def test_what_cannot_be_opened_is_one_line(tmp_path):
    with pytest.raises(Problem, match=r"^cannot read .*: Is a directory$"):
        formats.load(tmp_path)
    with pytest.raises(Problem, match=r"x\.pickle: No such file or directory$"):
        formats.load(tmp_path / "x.pickle")


def test_a_reader_keeps_nothing_of_what_it_has_passed_on(tmp_path):
    """Batches of states are large: the second is read when the first may have gone."""
    path = tmp_path / "x.pickle"
    with open(path, "wb") as file:
        store.dump(file, *(damaged.a_batch() for _ in range(2)))
    values = unpickle.load_all(path)
    first = next(values)
    h = first[0]
    del first
    assert sys.getrefcount(h) == 2
    assert len(list(values)) == 1
