"""Matrices and lenses of others on the hub: fetched as published, and refused when they are none."""

import pickle
import re
import shutil
from pathlib import Path

import hub
import pytest
import stages
import torch
from conftest import LAYERS, D
from published import OFFER, PUBLISHED, Child, matrix, publish

from shortcut.exchange.lenses import FORMATS
from shortcut.files import formats, store
from shortcut.files.names import Names
from shortcut.pipeline import manifest, outputs

ROOT = Path(__file__).resolve().parent.parent


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
