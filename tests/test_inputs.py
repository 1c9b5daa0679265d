"""What inputs are held against: their entries, what they were made from, and the settings in force."""

import os
import shutil

import pytest
from stages import make, make_upstream, outputs, run, save

from shortcut import Problem
from shortcut.files.names import Names
from shortcut.pipeline import manifest


@pytest.fixture
def layout(tmp_path):
    return Names(tmp_path, "m", "d")


@pytest.fixture
def said():
    return []


def test_a_file_changed_since_is_refused_as_output_and_as_input(layout, said):
    upstream = make_upstream(layout, said, "a")
    run(layout, said, reads=[upstream])
    layout.results.write_bytes(b"changed")
    with pytest.raises(Problem, match="has changed since it was made"):
        run(layout, said, reads=[upstream])
    upstream.write_bytes(b"changed")
    with pytest.raises(
        Problem,
        match=r"tokenized_val.pickle has changed since it was made: run .* add_tokenization.py --model m --dataset d",
    ):
        run(layout, said, reads=[upstream])


def test_an_input_changed_while_a_stage_works_stops_it_before_it_writes(layout, said):
    upstream = make_upstream(layout, said, "a")
    with pytest.raises(Problem, match=r"_val.pickle was changed while it was in use: run the script again"):  # noqa: SIM117
        with outputs(layout, said, reads=[upstream]) as working:
            upstream.rename(upstream.with_suffix(".old"))
            shutil.copy(upstream.with_suffix(".old"), upstream)
            save(working, layout.results, "x")
    assert not layout.results.exists()
    assert layout.results.name not in manifest.load(layout.experiment)


def test_inputs_and_all_behind_them_must_be_of_the_settings_in_force(layout, said):
    sentences = make(layout, said, "get_wikipedia_sentences.py", layout.sentences, spacy=None)
    upstream = make_upstream(layout, said, "a", reads=[sentences], seed=7, train=9)
    A = make(layout, said, "add_linreg.py", layout.matrix(0, 1), reads=[upstream], weights="of the model")
    message = (
        r"^experiment/m/d_tokenized_val.pickle was made with other settings \(seed was 7, is 0; train was 9, is 8\): "
        r"restore those settings, or run .venv/bin/python add_tokenization.py --model m --dataset d --out .* --force$"
    )
    with pytest.raises(Problem, match=message):
        run(layout, said, reads=[A], expects={"seed": 0, "train": 8})
    with pytest.raises(
        Problem, match=r"20K-sentences.pickle was made with other settings \(spacy was null, is \"en\"\)"
    ):
        run(layout, said, reads=[A], expects={"spacy": "en"})
    other = Names(layout.root, "m", "e", matrices_from="d")
    with pytest.raises(
        Problem, match=r"weights: run .* add_linreg\.py --model m --dataset d --map least-squares --out .* --force"
    ):
        make(other, said, "add_results.py", other.results, reads=[A], expects={"weights": "of another model"})
    assert make(other, said, "add_results.py", other.results, reads=[A], expects={"seed": 0})
    assert run(layout, said, reads=[A], expects={"seed": 7, "train": 9, "of no run": 1})


def test_inputs_made_anew_are_noticed(layout, said):
    upstream = make_upstream(layout, said, "a")
    run(layout, said, reads=[upstream])
    make_upstream(layout, said, "b", force=True)
    with pytest.raises(Problem, match=r"other inputs: experiment/m/d_tokenized_val.pickle"):
        run(layout, said, reads=[upstream])


def test_an_input_made_from_something_else_is_noticed_further_down(layout, said):
    upstream = make_upstream(layout, said, "a")
    run(layout, said, reads=[upstream])
    make_upstream(layout, said, "b", force=True)
    figure = layout.plot("pre_3")
    with pytest.raises(
        Problem,
        match=r"results.pickle was made with other settings \(other inputs: .*_val.pickle\): run .* add_results.py",
    ):
        make(layout, said, "plot_results.py", figure, reads=[layout.results])


def test_an_input_made_from_something_else_is_noticed_past_a_file_that_is_gone(layout, said):
    upstream = make_upstream(layout, said, "a")
    run(layout, said, reads=[upstream])
    make(layout, said, "add_plot_r2.py", layout.r2_scores, reads=[layout.results])
    layout.results.unlink()
    make_upstream(layout, said, "b", force=True)
    with pytest.raises(
        Problem,
        match=r"results.pickle was made with other settings \(other inputs: .*_val.pickle\): run .* add_results",
    ):
        manifest.Provenance(layout).check([layout.r2_scores], said.append)


def test_matrices_of_two_settings_are_refused_together(layout, said):
    """As after a change of settings and a run with --force that was stopped half-way."""
    paths = [layout.matrix(0, 1), layout.matrix(0, 2)]
    for path, rcond in zip(paths, (1e-7, 1e-3), strict=True):
        make(layout, said, "add_linreg.py", path, rcond=rcond)
    message = (
        r"0_1.pickle was made with other settings \(rcond was 1e-07, is 0.001\): restore those settings, or run .* add"
    )
    with pytest.raises(Problem, match=message):
        run(layout, said, reads=paths, expects={"rcond": 1e-3})


def test_train_and_val_of_two_splits_are_noticed_through_the_matrices(layout, said):
    """As after a change of TRAIN and a run of add_tokenization.py --force that was stopped between its files."""
    for split, train in (("train", 110), ("val", 80)):
        make(layout, said, "add_tokenization.py", layout.split(split), split, train=train)
    make(layout, said, "add_linreg.py", layout.matrix(0, 1), reads=[layout.split("train")])
    with pytest.raises(Problem, match=r"tokenized_train.pickle was made with other settings \(train was 110, is 80\)"):
        run(layout, said, reads=[layout.split("val"), layout.matrix(0, 1)], expects={"train": 80})


def test_files_of_two_models_are_refused_where_the_model_is_not_known(layout, said):
    make(layout, said, "add_plot_r2.py", layout.r2_scores, weights="a")
    make(layout, said, "add_linreg.py", layout.matrix(0, 1), weights="b")
    with pytest.raises(
        Problem, match=r"0_1.pickle was made with another model's weights: run .* add_linreg.py .* --force"
    ):
        run(layout, said, reads=[layout.r2_scores, layout.matrix(0, 1)])


def test_files_made_anew_with_the_same_bytes_but_other_settings_count_as_others(layout, said):
    """The key that was recorded counts, not the bytes alone."""
    upstream = make_upstream(layout, said, "a", seed=0)
    run(layout, said, reads=[upstream])
    make_upstream(layout, said, "a", force=True, seed=1)
    with pytest.raises(
        Problem, match=r"was made with other settings \(other inputs: experiment/m/d_tokenized_val.pickle\)"
    ):
        run(layout, said, reads=[upstream])


def test_what_is_made_from_others_is_made_anew_where_it_is_only_shown(layout, said):
    upstream = make_upstream(layout, said, "a")
    for value, n in (("a", 1), ("a", 0), ("b", 1)):
        make_upstream(layout, said, value, force=value == "b")
        with outputs(layout, said, reads=[upstream], renew=True) as made:
            assert len(made.todo) == n
            for path in made.todo:
                save(made, path, value)
    (layout.experiment / manifest.NAME).write_text('{"files": {}}')
    with pytest.raises(Problem, match="without a manifest entry"), outputs(layout, said, renew=True):
        pass


def test_what_is_no_regular_file_is_one_line(layout, said):
    upstream = make_upstream(layout, said, "a")
    upstream.unlink()
    os.mkfifo(upstream)
    with pytest.raises(Problem, match=r"_val.pickle is not a regular file"):
        run(layout, said, reads=[upstream])


def test_one_that_is_gone_is_one_line(layout, said):
    with pytest.raises(Problem, match=r"^cannot read .*_val.pickle: No such file"):
        run(layout, said, reads=[layout.split("val")])


def test_data_without_an_entry_is_read_with_one_notice(layout, said):
    for i in range(3):
        layout.part(i, 1).parent.mkdir(parents=True, exist_ok=True)
        layout.part(i, 1).write_bytes(b"by hand")
    run(layout, said, reads=[layout.part(i, 1) for i in range(3)])
    assert [line for line in said if "no manifest entry" in line] == [
        "no manifest entry (made by hand or by other code), used unchecked: 3 files in linreg/m/d"
    ]


@pytest.mark.parametrize(
    ("now", "told"),
    [
        ({"torch": "9.1.0"}, "made with torch {torch} (here: 9.1.0), so numbers may differ: linreg/m/d/0_1.pickle, "),
        (
            {"torch": "9.1", "transformers": "9.2"},
            "torch {torch} (here: 9.1) and transformers {transformers} (here: 9.2)",
        ),
        ({"torch": "{torch}.post1", "numpy": "9.0"}, None),
    ],
)
def test_other_versions_behind_what_is_read_are_told_of_once_a_stage(layout, said, monkeypatch, now, told):
    """Of the packages that states and predictions come from, but for a patch."""
    paths = [make(layout, said, "add_linreg.py", layout.matrix(0, j)) for j in range(1, 4)]
    made = {package: manifest.version(package) for package in ("torch", "transformers")}
    here = {package: version.format(**made) for package, version in now.items()}
    monkeypatch.setattr(manifest, "version", lambda package: here.get(package, made.get(package)))
    provenance, lines = manifest.Provenance(layout), []
    for some in (paths[:2], paths):
        provenance.check(some, lines.append)
    assert len(lines) == (told is not None)
    assert told is None or told.format(**made) in lines[0]


def test_an_input_of_another_model_is_refused(layout, said):
    path = make(layout, said, "add_linreg.py", layout.matrix(0, 1), weights="a")
    assert run(layout, said, reads=[path], expects={"weights": "a"})
    with pytest.raises(
        Problem, match=r"0_1.pickle was made with another model's weights: run .* add_linreg.py .* --force"
    ):
        run(layout, said, reads=[path], expects={"weights": "b"}, force=True)
