"""Matrices of others: fetched as published, used as they are, refused when they are none; and ours passed on."""

import importlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import hub
import pytest
import safetensors
import stages
import torch
from conftest import LAYERS, D, make_tokenized

import config
from shortcut import Problem
from shortcut.__main__ import main
from shortcut.exchange.lenses import FORMATS
from shortcut.files import formats, result_formats, store
from shortcut.files.names import Names
from shortcut.pipeline import exchanging, manifest, outputs

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = "sashay/linear-shortcut"
PAIRS = [(i, j) for i in range(LAYERS) for j in range(i + 1, LAYERS + 1)]
OFFER = [f"{i}_{j}.pickle" for i, j in PAIRS] + [f"p{i}_0_1.pickle" for i in range(LAYERS)]
CHILD = """
import contextlib, io, json, sys, time
from shortcut import Problem
from shortcut.__main__ import main
time.sleep = lambda _: None  # the hub's client waits before it asks again
for line in sys.stdin:
    said, problem = io.StringIO(), None
    try:
        with contextlib.redirect_stdout(said):
            main(json.loads(line))
    except Problem as error:
        problem = str(error)
    print(json.dumps([problem, said.getvalue()]), flush=True)
"""


def matrix(k, d=D):
    return torch.randn(d, d, generator=torch.Generator().manual_seed(k))


def publish(folder):
    """The matrices of a tiny model as the original code writes them, among what else lies in a repository."""
    place = folder / "tiny-gpt2" / "words"
    place.mkdir(parents=True)
    for k, name in enumerate(OFFER):
        (place / name).write_bytes(pickle.dumps(matrix(k)))
    (folder / "README.md").write_text("matrices")
    (place / "notes.pickle").write_bytes(b"no matrix")
    (folder / "gpt2-xl" / "wikipedia").mkdir(parents=True)
    (folder / "gpt2-xl" / "wikipedia" / "0_48.pickle").write_bytes(pickle.dumps(matrix(0)))
    return place


class Child:
    """The command in a process of its own, which a hub is named to; asked again and again."""

    def __init__(self, url, cache, **variables):
        environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD], cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**environment, "HF_ENDPOINT": url, "HF_HOME": str(cache), **variables},
        )  # fmt: skip

    def ask(self, *arguments):
        self.process.stdin.write(json.dumps([str(argument) for argument in arguments]) + "\n")
        self.process.stdin.flush()

    def answer(self):
        problem, said = json.loads(self.process.stdout.readline())
        assert problem is None or "\n" not in problem
        return problem, said

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    (root / "empty").mkdir()
    publish(root / "published")
    lens = root / "lenses" / "of" / "tiny-gpt2"
    lens.mkdir(parents=True)
    state, config_ = FORMATS["tuned-lens"].write([matrix(l) for l in range(LAYERS)], "tiny-gpt2", {})
    torch.save(state, lens / "params.pt")
    (lens / "config.json").write_bytes(store.dump_json(config_))
    for k, name in enumerate(("one/tiny_jacobian_lens.pt", "two/lens.pt", "two/other.pt")):
        (lens.parent / name).parent.mkdir(exist_ok=True)
        J = {l: matrix(10 * k + l).half() for l in range(LAYERS - 1)}
        torch.save({"J": J, "n_prompts": 1, "source_layers": [*J], "d_model": D}, lens.parent / name)
    shutil.copytree(lens, lens.parent / "renamed")
    (lens.parent / "renamed" / "params.pt").rename(lens.parent / "renamed" / "best.pt")
    repositories = {PUBLISHED: root / "published", "some/empty": root / "empty", "some/lenses": root / "lenses"}
    with hub.serving(repositories) as playing:
        yield playing


@pytest.fixture(scope="module")
def child(played, tmp_path_factory):
    child = Child(played.url, tmp_path_factory.mktemp("cache"))
    yield child
    child.close()


@pytest.fixture
def place(played):
    """Where the hub's matrices lie, as published again after the test."""
    root = played.repositories[PUBLISHED]
    yield root / "tiny-gpt2" / "words"
    shutil.rmtree(root)
    publish(root)


@pytest.fixture
def files(tmp_path):
    return Names(tmp_path, "tiny-gpt2", "words")


@pytest.fixture
def fetch(child, played, files):
    def ask(*arguments, dataset="words"):
        played.requests.clear()
        child.ask("fetch", *arguments, "--model", "tiny-gpt2", "--dataset", dataset, "--out", files.root)
        return child.answer()

    return ask


def downloaded(played):
    return [path.rpartition("/")[2] for method, path, _ in played.requests if method == "GET" and "/resolve/" in path]


def visible(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_published_matrices_are_fetched_as_they_are_and_get_no_entry(fetch, files, place, played):
    problem, said = fetch()
    assert problem is None
    assert f"wrote {len(OFFER)} matrices [{D}, {D}] to linreg/tiny-gpt2/words, from {PUBLISHED} at" in said
    assert visible(files.matrices) == sorted(OFFER)
    assert downloaded(played) == OFFER
    for name in OFFER:
        assert (files.matrices / name).read_bytes() == (place / name).read_bytes()


def test_what_is_there_is_kept_and_only_what_is_missing_is_fetched(fetch, files, place, played):
    fetch()
    (files.matrices / OFFER[1]).unlink()
    (files.matrices / OFFER[0]).write_bytes(pickle.dumps(matrix(99)))
    problem, said = fetch()
    assert problem is None
    assert downloaded(played) == [OFFER[1]]
    assert f"kept {len(OFFER) - 1} existing matrices" in said
    assert formats.load_matrix(files.matrices / OFFER[0], D).equal(matrix(99))
    assert fetch()[0] is None
    assert downloaded(played) == []
    assert fetch("--force")[0] is None
    assert downloaded(played) == OFFER
    assert formats.load_matrix(files.matrices / OFFER[0], D).equal(matrix(0))


def test_force_leaves_no_entry_beside_a_file_that_it_did_not_make(fetch, files, played):
    ours, other = files.matrix(0, 1), files.matrix(2, 7)
    with stages.outputs(files, [], "add_linreg.py", [ours, other]) as made:
        stages.save(made, ours, matrix(5))
        stages.save(made, other, matrix(6))
    assert fetch()[0] is None
    assert formats.load_matrix(ours, D).equal(matrix(5))
    assert fetch("--force")[0] is None
    assert formats.load_matrix(ours, D).equal(matrix(0))
    assert [*manifest.load(files.matrices)] == [other.name]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(matrix(0, 7)), rf"holds float32 \[7, 7\], expected a float32 matrix \[{D}, {D}\]"),
        (pickle.dumps(matrix(0).double()), "holds float64"),
        (pickle.dumps(matrix(0)[:, :3]), "holds float32"),
        (pickle.dumps(matrix(0) / 0 * 0), "not finite"),
        (pickle.dumps(matrix(0))[:-100], "is damaged"),
        (b"cos\nsystem\n(X\x04\x00\x00\x00truetR.", "refused: it asks for os.system"),
        (b"<html>Sorry</html>", "refused: it uses|damaged"),
    ],
)  # fmt: skip
def test_what_is_no_matrix_is_named_and_not_put_in_place(fetch, files, place, played, content, message):
    (place / OFFER[2]).write_bytes(content)
    problem, _ = fetch()
    assert problem.startswith(f"tiny-gpt2/words/{OFFER[2]} from {PUBLISHED} was not stored: ")
    assert re.search(message, problem)
    assert len(problem) < 400
    assert [name for name in visible(files.matrices) if name.endswith(".pickle")] == sorted(OFFER[:2])
    (place / OFFER[2]).write_bytes(pickle.dumps(matrix(2)))
    assert fetch()[0] is None
    assert downloaded(played) == OFFER[2:]  # the first two were finished
    assert visible(files.matrices) == sorted(OFFER)


def test_a_repository_or_folder_that_is_not_there_is_one_line(fetch, files):
    for name in ("no/such", "no//such"):
        problem, _ = fetch(name)
        assert problem.startswith(f"cannot list {name} on the Hugging Face hub (")
        assert "give OWNER/NAME of a public repository" in problem
    assert fetch("some/empty")[0] == "some/empty on the Hugging Face hub holds no matrices in tiny-gpt2/words"
    problem, _ = fetch(dataset="wikipedia")
    assert problem.endswith("it has matrices in gpt2-xl/wikipedia, tiny-gpt2/words: use --model and --dataset")
    assert not files.matrices.exists()


def test_without_a_network_it_is_one_line_with_the_ways_out(tmp_path):
    started = [
        Child("http://127.0.0.1:9", tmp_path / "a"),
        Child("http://127.0.0.1:9", tmp_path / "b", HF_HUB_OFFLINE="1"),
    ]
    for child in started:
        child.ask("fetch", "--out", tmp_path / "out")
    for child in started:
        problem, _ = child.answer()
        child.close()
        assert problem.startswith(f"cannot list {PUBLISHED} on the Hugging Face hub (")
        assert problem.endswith("unset HF_HUB_OFFLINE, set HF_ENDPOINT to a mirror, or run add_linreg.py")
        assert len(problem) < 400


def test_a_folder_in_use_is_one_line(fetch, files):
    with outputs.locked(files.matrices, "add_linreg.py"):
        assert "is in use by add_linreg.py" in fetch()[0]


def of_others(files, d=D):
    """Everything that the scripts read of a tiny model, without an entry: plain pickles of other code."""
    parts = [files.part(i, a) for i in range(LAYERS) for a in range(1, 7)]
    files.matrices.mkdir(parents=True)
    for k, path in enumerate([*(files.matrix(i, j) for i, j in PAIRS), *parts]):
        path.write_bytes(pickle.dumps(matrix(k, d)))
    with store.replacing(files.tokenized("val")) as file:
        store.dump(file, formats.tokenized_dict(make_tokenized(12, 320)))


def test_sub_modules_with_two_digits_are_exported_too(tmp_path):
    """A block with many norms has a map p0_9_10."""
    files = Names(tmp_path, "m", "d")
    files.matrices.mkdir(parents=True)
    for k, path in enumerate((files.part(0, 9), files.part(0, 10), files.part(12, 10))):
        path.write_bytes(pickle.dumps(matrix(k)))
    export(files)
    with safetensors.safe_open(files.matrices / exchanging.SAFETENSORS, "pt") as exported:
        assert {*exported.keys()} == {"p0_8_9", "p0_9_10", "p12_9_10"}


def export(files):
    exchanging.export(files)


def run(script, files, model):
    importlib.import_module(script).main(["--out", str(files.root), "--model", model, "--dataset", "words"])


def test_published_matrices_are_used_as_they_are_with_one_notice(files, gpt2_folder, capsys):
    of_others(files)
    run("add_plot_r2", files, gpt2_folder)
    said = capsys.readouterr().out
    assert said.count("no manifest entry (made by hand or by other code), used unchecked: 7 files in") == 1
    assert said.count("no manifest entry") == 1
    assert result_formats.load_r2(files.r2_scores)["score_mat"].keys() == {*PAIRS}


@pytest.mark.parametrize(
    ("script", "name"), [("add_plot_r2", "1_2"), ("add_results", f"1_{LAYERS}"), ("add_results", "p1_4_5")]
)
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (matrix(0, 7), rf"holds float32 \[7, 7\], expected a float32 matrix \[{D}, {D}\] for this model"),
        (matrix(0).half(), rf"holds float16 \[{D}, {D}\], expected a float32 matrix"),
        (matrix(0) / 0 * 0, "holds values that are not finite"),
        ({"A": 1}, "holds dict, expected a float32 matrix"),
    ],
)  # fmt: skip
def test_a_matrix_that_does_not_fit_is_named_by_the_scripts_that_use_it(
    files, gpt2_folder, capsys, monkeypatch, script, name, value, message
):
    monkeypatch.setattr(config, "SCHEDULES", False)  # which need the r2 of all jumps first
    of_others(files)
    (files.matrices / f"{name}.pickle").write_bytes(pickle.dumps(value))
    with pytest.raises(Problem, match=rf"/{name}\.pickle: {message}"):
        run(script, files, gpt2_folder)


@pytest.mark.parametrize(
    ("script", "name", "message"),
    [
        ("add_plot_r2", "1_2", r"/1_2\.pickle: its predictions from the states of layer 1 are not finite"),
        ("add_results", f"1_{LAYERS}", r"tiny-gpt2: the logits at layer 1 for sentence \d+ .* are not finite"),
        ("add_results", "p1_4_5", r"tiny-gpt2: the logits at layer 0 for sentence \d+ .* are not finite"),
    ],
)
def test_a_matrix_that_makes_numbers_overflow_stops_the_stage(files, gpt2_folder, monkeypatch, script, name, message):
    monkeypatch.setattr(config, "SCHEDULES", False)
    of_others(files)
    (files.matrices / f"{name}.pickle").write_bytes(pickle.dumps(torch.full((D, D), 3e38)))
    with pytest.raises(Problem, match=message):
        run(script, files, gpt2_folder)
    assert not files.r2_scores.exists()
    assert not files.results.exists()


def test_a_bit_that_changed_in_a_file_with_an_entry_is_seen_before_it_is_read(files, monkeypatch):
    path = files.matrix(0, 1)
    with stages.outputs(files, [], "add_linreg.py", [path]) as made:
        stages.save(made, path, matrix(0))
    whole = path.read_bytes()
    monkeypatch.setattr(formats, "load_all", None)  # nothing may be read
    for at in range(0, len(whole), 97):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        with pytest.raises(
            Problem, match=r"^linreg/tiny-gpt2/words/0_1.pickle has changed since it was made: run .* add_"
        ):
            export(files)


def test_every_matrix_is_exported_by_its_name_and_read_by_safetensors(files, capsys):
    of_others(files)
    main(["export", "--model", "models/tiny-gpt2", "--dataset", "words", "--out", str(files.root)])
    assert "wrote linreg/tiny-gpt2/words/matrices.safetensors" in capsys.readouterr().out
    with safetensors.safe_open(files.matrices / exchanging.SAFETENSORS, "pt") as exported:
        assert exported.metadata() == {
            "format": "pt", "model": "tiny-gpt2", "dataset": "words", "estimator": "least-squares",
        }  # fmt: skip
        names = [path.stem for path in files.matrices.glob("*.pickle")]
        assert sorted(exported.keys()) == sorted(names)
        for name in names:
            assert exported.get_tensor(name).equal(formats.load_matrix(files.matrices / f"{name}.pickle", D))


def test_an_export_with_a_wrong_matrix_leaves_the_old_one(files, capsys):
    of_others(files)
    export(files)
    before = (files.matrices / exchanging.SAFETENSORS).read_bytes()
    files.matrix(1, 2).write_bytes(pickle.dumps(matrix(0, D + 1)))
    with pytest.raises(Problem, match=rf"1_2\.pickle: holds float32 \[{D + 1}, {D + 1}\]"):
        export(files)
    assert (files.matrices / exchanging.SAFETENSORS).read_bytes() == before


def test_the_command_says_what_it_can_do_and_what_is_missing(tmp_path):
    def command(*arguments):
        return subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)

    done = command("shortcut", "export", "--model", "m", "--dataset", "d", "--out", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "shortcut: linreg/m/d holds no matrix: run .venv/bin/python add_linreg.py --model m --dataset d"
        f" --map least-squares --out {tmp_path} first, or fetch published ones\n"
    )


@pytest.mark.parametrize("arguments", [["feed"], [], ["export"], ["fetch", "--dataset", "../up"]])
def test_a_command_that_makes_no_sense_is_answered_with_the_usage(arguments, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert "usage: python -m shortcut " in capsys.readouterr().err


def test_help_names_both_commands(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert {"fetch", "export"} <= {*capsys.readouterr().out.split()}


def test_a_lens_of_another_tool_is_fetched_from_a_folder_of_a_repository(child, gpt2_folder, tmp_path):
    on = ("--from", "tuned-lens", "--model", gpt2_folder, "--dataset", "words", "--out", tmp_path)
    child.ask("fetch", "some/lenses/of/tiny-gpt2", *on)
    problem, said = child.answer()
    assert problem is None
    assert "wrote 3 files in linreg/tiny-gpt2/words@tuned" in said
    for l in range(LAYERS):
        A = formats.load_map(Names(tmp_path, "tiny-gpt2", "words", map_kind="tuned"), l, LAYERS, D)
        torch.testing.assert_close(A.A, torch.cat([matrix(l), torch.zeros(D, 1)], 1))
    child.ask("fetch", "some/lenses", *on)
    assert child.answer()[0] == "some/lenses on the hub holds 0 .pt files [], expected one lens: name its file"
    child.ask("fetch", "some/lenses/of/tiny-gpt2/best.pt", *on)
    assert "cannot fetch of/tiny-gpt2/best.pt from some/lenses on the hub" in child.answer()[0]
    child.ask("fetch", "nothing", *on)
    assert child.answer()[0] == "fetch --from tuned-lens takes [spaces/]OWNER/NAME[/FOLDER][/FILE.pt], got nothing"


@pytest.mark.parametrize(
    ("source", "to", "first"),
    [("one/tiny_jacobian_lens.pt", "jlens", 0), ("one", "jlens", 0), ("two/other.pt", "jlens", 20),
     ("renamed/best.pt", "tuned-lens", 1), ("renamed", "tuned-lens", 1)],
)  # fmt: skip
def test_the_file_named_on_the_hub_is_the_file_fetched(child, gpt2_folder, tmp_path, source, to, first):
    on = ("--from", to, "--model", gpt2_folder, "--dataset", "words", "--out", tmp_path)
    child.ask("fetch", f"some/lenses/of/{source}", *on)
    assert child.answer()[0] is None
    kind = FORMATS[to].map_kinds[0]
    A = formats.load_map(Names(tmp_path, "tiny-gpt2", "words", map_kind=kind), 1, LAYERS, D)
    torch.testing.assert_close(A.matrix, matrix(first), rtol=1e-3, atol=1e-3)


def test_several_lenses_in_a_folder_of_the_hub_are_named(child, gpt2_folder, tmp_path):
    on = ("--from", "jlens", "--model", gpt2_folder, "--dataset", "words", "--out", tmp_path)
    child.ask("fetch", "some/lenses/of/two", *on)
    assert "of/two on the hub holds 2 .pt files ['lens.pt', 'other.pt'], expected one lens" in child.answer()[0]
