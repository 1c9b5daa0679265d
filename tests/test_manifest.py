"""What is made, what must be made again, and what is refused."""

import errno
import json
import os
import shutil
import subprocess
import sys

import pytest

from shortcut import Problem, manifest, provenance, store
from shortcut.layout import Layout


@pytest.fixture
def layout(tmp_path):
    return Layout(tmp_path, "m", "d")


@pytest.fixture
def said():
    return []


def stage(layout, said, script="add_results.py", writes=None, reads=(), force=False, expects=None, **settings):
    """A stage; without `writes`, one that makes the results."""
    return manifest.Stage(
        layout, script, reads=list(reads), writes=writes or [layout.results], settings=settings, force=force,
        notice=said.append, expects=expects,
    )  # fmt: skip


def run(layout, said, value="x", **others):
    """A stage that makes the results; whether it had to."""
    with stage(layout, said, **others) as made:
        if made.made:
            return False
        made.save(layout.results, value)
        return True


def make(layout, said, script, path, value="x", **others):
    """Make one file, if it is not there."""
    with stage(layout, said, script, [path], **others) as made:
        if not made.made:
            made.save(path, value)
    return path


def make_upstream(layout, said, value, force=False, **settings):
    return make(layout, said, "add_tokenization.py", layout.tokenized("val"), value, force=force, **settings)


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


def test_a_file_changed_since_is_refused_as_output_and_as_input(layout, said):
    upstream = make_upstream(layout, said, "a")
    run(layout, said, reads=[upstream])
    layout.results.write_bytes(b"changed")
    with pytest.raises(Problem, match="has changed since it was made"):
        run(layout, said, reads=[upstream])
    upstream.write_bytes(b"changed")
    with pytest.raises(Problem, match=r"tokenized_val.pickle has changed since it was made: run add_tokenization.py"):
        run(layout, said, reads=[upstream])


def test_an_input_changed_while_a_stage_works_stops_it_before_it_writes(layout, said):
    upstream = make_upstream(layout, said, "a")
    with pytest.raises(Problem, match=r"_val.pickle was changed while it was in use: run it again"):  # noqa: SIM117
        with stage(layout, said, reads=[upstream]) as working:
            upstream.rename(upstream.with_suffix(".old"))
            shutil.copy(upstream.with_suffix(".old"), upstream)
            working.save(layout.results, "x")
    assert not layout.results.exists()
    assert not store.load_json(layout.experiment / manifest.NAME)["files"].get(layout.results.name)


def test_inputs_must_be_of_the_settings_in_force_as_they_were_last_set(layout, said):
    """The seed of the tokens counts, not that of the sentences they are taken from."""
    sentences = make(layout, said, "get_wikipedia_sentences.py", layout.sentences, seed=5)
    upstream = make_upstream(layout, said, "a", reads=[sentences], seed=7, train=9)
    A = make(layout, said, "add_linreg.py", layout.matrix(0, 1), reads=[upstream], weights="of the model")
    message = (
        r"0_1.pickle was made with other settings \(seed was 7, is 0; train was 9, is 8\): take those, or run add_t"
    )
    with pytest.raises(Problem, match=message):
        run(layout, said, reads=[A], expects={"seed": 0, "train": 8})
    other = Layout(layout.root, "m", "e", matrices_from="d")
    with pytest.raises(Problem, match=r"weights: run add_linreg\.py --dataset d --force"):
        make(other, said, "add_results.py", other.results, reads=[A], expects={"weights": "of another model"})
    assert make(other, said, "add_results.py", other.results, reads=[A], expects={"seed": 0})
    assert run(layout, said, reads=[A], expects={"seed": 7, "train": 9, "of no run": 1})


def test_inputs_made_anew_are_noticed(layout, said):
    upstream = make_upstream(layout, said, "a")
    run(layout, said, reads=[upstream])
    make_upstream(layout, said, "b", force=True)
    with pytest.raises(Problem, match=r"another experiment/m/d_tokenized_val.pickle"):
        run(layout, said, reads=[upstream])


def test_an_input_made_from_something_else_is_noticed_further_down(layout, said):
    upstream = make_upstream(layout, said, "a")
    run(layout, said, reads=[upstream])
    make_upstream(layout, said, "b", force=True)
    figure = layout.plot("pre_3")
    with pytest.raises(Problem, match=r"results.pickle was made from another .*: run add_results.py --force"):
        make(layout, said, "plot_results.py", figure, reads=[layout.results])


def test_an_input_made_from_something_else_is_noticed_past_a_file_that_is_gone(layout, said):
    upstream = make_upstream(layout, said, "a")
    run(layout, said, reads=[upstream])
    make(layout, said, "add_plot_r2.py", layout.r2_scores, reads=[layout.results])
    layout.results.unlink()
    make_upstream(layout, said, "b", force=True)
    with pytest.raises(Problem, match=r"r2_scores.pickle was made from another .*_val.pickle: run add_plot_r2"):
        provenance.Provenance(layout).check_inputs([layout.r2_scores], {}, said.append)


def test_matrices_of_two_kinds_are_refused_together(layout, said):
    """As after a change of settings and a run with --force that was stopped half-way."""
    paths = [layout.matrix(0, 1), layout.matrix(0, 2)]
    for path, rcond in zip(paths, (1e-7, 1e-3), strict=True):
        make(layout, said, "add_linreg.py", path, rcond=rcond)
    message = (
        r"0_1.pickle and linreg/m/d/0_2.pickle were not made alike \(rcond was 1e-07, is 0.001\): run add_linreg.py"
    )
    with pytest.raises(Problem, match=message):
        run(layout, said, reads=paths)


def test_train_and_val_of_two_splits_are_noticed_through_the_matrices(layout, said):
    """As after a change of TRAIN and a run of add_tokenization.py --force that was stopped between its files."""
    for split, train in (("train", 110), ("val", 80)):
        make(layout, said, "add_tokenization.py", layout.tokenized(split), split, train=train)
    make(layout, said, "add_linreg.py", layout.matrix(0, 1), reads=[layout.tokenized("train")])
    with pytest.raises(Problem, match=r"not made alike \(train was \d+, is \d+\): run add_tokenization.py --force"):
        run(layout, said, reads=[layout.tokenized("val"), layout.matrix(0, 1)])


def test_files_of_two_models_or_of_an_older_format_are_refused(layout, said, monkeypatch):
    make(layout, said, "add_plot_r2.py", layout.r2_scores, weights="a")
    make(layout, said, "add_tokenization.py", layout.tokenized("val"), weights="b")
    with pytest.raises(Problem, match=r"are of two models \(weights\): run .*\.py --force"):
        run(layout, said, reads=[layout.r2_scores, layout.tokenized("val")])
    monkeypatch.setattr(manifest, "FORMAT", manifest.FORMAT + 1)
    with pytest.raises(Problem, match=r"r2_scores.pickle was made with format 1, now 2: run add_plot_r2.py --force"):
        run(layout, said, reads=[layout.r2_scores])


@pytest.mark.parametrize(
    "name", ["/dev/zero", "experiment/../../x", "linreg/" + "x" * 5_000, "experiment/\x1b[31m", "x"]
)
def test_inputs_that_are_no_files_of_ours_are_not_followed(layout, said, name):
    make_upstream(layout, said, "a")
    path = layout.experiment / manifest.NAME
    written = json.loads(path.read_text())
    next(iter(written["runs"].values()))["inputs"] = {name: "x"}
    path.write_text(json.dumps(written))
    with pytest.raises(Problem, match="not the form of a manifest"):
        run(layout, said, reads=[layout.tokenized("val")])


def test_what_is_no_regular_file_or_its_own_input_is_one_line(layout, said):
    upstream = make_upstream(layout, said, "a")
    path = layout.experiment / manifest.NAME
    written = json.loads(path.read_text())
    made = next(iter(written["runs"].values()))
    made["inputs"] = {layout.relative(upstream): written["files"][upstream.name]["sha256"]}
    path.write_text(json.dumps(written))
    assert run(layout, said, reads=[upstream])
    upstream.unlink()
    os.mkfifo(upstream)
    with pytest.raises(Problem, match=r"_val.pickle is not a regular file"):
        run(layout, said, reads=[upstream])


def test_a_missing_input_names_the_script_that_makes_it(layout, said):
    with pytest.raises(
        Problem, match=r"^experiment/m/d_tokenized_val.pickle not found: run add_tokenization.py first$"
    ):
        run(layout, said, reads=[layout.tokenized("val")])
    with pytest.raises(Problem, match=r"linreg/m/d/0_3.pickle not found: run add_linreg.py first"):
        run(layout, said, reads=[layout.matrix(0, 3)])


def test_data_without_an_entry_is_read_with_one_notice(layout, said):
    for i in range(3):
        layout.part(i, 1).parent.mkdir(parents=True, exist_ok=True)
        layout.part(i, 1).write_bytes(b"by hand")
    run(layout, said, reads=[layout.part(i, 1) for i in range(3)])
    assert [line for line in said if "no manifest entry" in line] == [
        "no manifest entry (made by hand or by other code), read as it is: 3 files in linreg/m/d"
    ]


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


def test_an_input_of_another_model_is_refused(layout, said):
    path = make(layout, said, "add_linreg.py", layout.matrix(0, 1), weights="a")
    assert run(layout, said, reads=[path], weights="a")
    with pytest.raises(Problem, match=r"0_1.pickle was made with another model's weights: run add_linreg.py --force"):
        run(layout, said, reads=[path], weights="b", force=True)


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
