"""One run for several map kinds: the model runs once, `id` is read out once, and the files are those of single runs."""

import shutil

import pytest
from conftest import LAYERS, make_sentences
from pipeline import SIZES, run

import config
from shortcut import linear, predictions, representations
from shortcut.files.names import Names
from shortcut.pipeline import states

KINDS = ("affine", "ridge")
SETTINGS = {**SIZES, "BATCH_SIZE": 60}


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    for name, value in SETTINGS.items():
        monkeypatch.setattr(config, name, value)


@pytest.fixture(scope="module")
def alone(tmp_path_factory, gpt2_folder):
    """The files of runs for one map kind each."""
    out = tmp_path_factory.mktemp("alone")
    (out / "words.txt").write_text("".join(make_sentences(150)))
    here = ("--out", out, "--model", gpt2_folder, "--dataset", "words")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SETTINGS.items():
            patch.setattr(config, name, value)
        run("get_wikipedia_sentences", "--out", out, "--dataset", "words", "--source", out / "words.txt")
        for script in ("add_tokenization", "add_linreg_submodules"):
            run(script, *here)
        for map_kind in ("least-squares", *KINDS):
            for script in ("add_linreg", "add_plot_r2", "add_results"):
                run(script, *here, "--map", map_kind)
    return out


@pytest.fixture
def calls(monkeypatch):
    """How often the model ran on a batch and was loaded, and how many states were read out."""
    found = {"run": 0, "load": 0, "read": 0}
    compute, load, judge = representations.run, states.pretrained.load, predictions.judge

    def counting(name, function, size=lambda *_: 1):
        def counted(*args, **named):
            found[name] += size(*args)
            return function(*args, **named)

        return counted

    monkeypatch.setattr(representations, "run", counting("run", compute))
    monkeypatch.setattr(states.pretrained, "load", counting("load", load))
    monkeypatch.setattr(predictions, "judge", counting("read", judge, lambda model, h, *_: h.shape[:2].numel()))
    return found


def copied(alone, tmp_path, without="no such file"):
    """A copy of the files, without those that match."""
    shutil.copytree(alone, tmp_path, dirs_exist_ok=True)
    for path in tmp_path.glob(without):
        path.unlink()
    return tmp_path


def assert_same(alone, out):
    names = {path.relative_to(alone) for path in alone.rglob("*.pickle")}
    assert names == {path.relative_to(out) for path in out.rglob("*.pickle")}
    for name in names:
        assert (alone / name).read_bytes() == (out / name).read_bytes(), name
    assert not [*out.rglob("*.unfinished")]


def test_states_are_collected_once_for_all_fits_and_once_for_all_scores(alone, tmp_path, gpt2_folder, calls):
    out = copied(alone, tmp_path)
    here = ("--out", out, "--model", gpt2_folder, "--dataset", "words")
    run("add_linreg", *here, "--map", KINDS[0], "--force")
    once, calls["run"], calls["load"] = calls["run"], 0, 0
    run("add_linreg", *here, "--map", *KINDS, "--force")
    assert (calls["run"], calls["load"]) == (once, 1)
    calls["run"] = 0
    run("add_plot_r2", *here, "--map", *KINDS, "--force")
    assert 0 < calls["run"] < once
    assert_same(alone, out)


@pytest.mark.parametrize("first", [(), ("least-squares",)])
def test_the_model_and_id_are_run_once_for_all_results(alone, tmp_path, gpt2_folder, calls, first):
    """The modes that go on through the blocks, of least squares alone, need a pass of their own."""
    kinds, out = (*first, *KINDS), copied(alone, tmp_path)
    here = ("--out", out, "--model", gpt2_folder, "--dataset", "words")
    run("add_results", *here, "--map", KINDS[0], "--force")
    single = dict(calls)
    calls.update(dict.fromkeys(calls, 0))
    run("add_results", *here, "--map", *kinds, "--force")
    assert calls["load"] == 1
    assert calls["run"] == single["run"] * (2 if first else 1)
    if not first:
        assert calls["read"] == single["read"] // 2 * (1 + len(KINDS))  # id, and mat of each kind
    assert_same(alone, out)


def stop_at(patch, map_kind):
    """Stop the next fit of a map kind."""
    fit = linear.fit_pairs
    patch.setattr(linear, "fit_pairs", lambda *args: 1 / 0 if args[-1].name == map_kind else fit(*args))
    return pytest.raises(ZeroDivisionError)


def test_states_live_until_the_last_kind_is_fitted(alone, tmp_path, gpt2_folder, calls, monkeypatch):
    out = copied(alone, tmp_path, without="linreg/*/words@*/*.pickle")
    here = ("--out", out, "--model", gpt2_folder, "--dataset", "words", "--map", *KINDS)
    with monkeypatch.context() as patch, stop_at(patch, KINDS[1]):
        run("add_linreg", *here)
    assert Names(out, "tiny-gpt2", "words", map_kind=KINDS[0]).matrix(0, LAYERS).exists()
    calls["run"] = 0
    run("add_linreg", *here)
    assert calls["run"] == 0
    assert_same(alone, out)


def test_states_of_other_sentences_are_not_used(alone, tmp_path, gpt2_folder, calls, monkeypatch):
    """The inner words of each sentence change places: all lengths and positions stay."""
    out = copied(alone, tmp_path, without="linreg/*/words@*/*.pickle")
    on = ("--out", out, "--dataset", "words")
    with monkeypatch.context() as patch, stop_at(patch, KINDS[0]):
        run("add_linreg", *on, "--model", gpt2_folder, "--map", *KINDS)
    once, calls["run"] = calls["run"], 0
    swapped = [" ".join([*words[:1], *words[-2:0:-1], words[-1]]) for words in map(str.split, make_sentences(150))]
    (out / "words.txt").write_text("\n".join(swapped))
    run("get_wikipedia_sentences", *on, "--source", out / "words.txt", "--force")
    run("add_tokenization", *on, "--model", gpt2_folder, "--force")
    run("add_linreg", *on, "--model", gpt2_folder, "--map", *KINDS)
    assert calls["run"] == once > 1
