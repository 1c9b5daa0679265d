"""Maps of another corpus, only those into the last layer, and datasets with splits of their own."""

import json
import re
import shutil

import pytest
from conftest import LAYERS, D, make_sentences
from pipeline import SCRIPTS, problem, run, run_all

import config
from shortcut import results
from shortcut.files import formats, result_formats, unpickle
from shortcut.files.names import Names

pytestmark = pytest.mark.usefixtures("small")


@pytest.mark.parametrize(("val", "positions"), [(2, 1), (3, 2)])
def test_the_fewest_sentences_one_at_a_time_go_all_the_way(tmp_path, gpt2_folder, source, monkeypatch, val, positions):
    """Of two or three sentences one is in the half on which schedules are shown, whatever its positions."""
    sizes = {"SENTENCES": val + 1, "TRAIN": 1, "VAL": val, "BATCH_SIZE": 1, "POSITIONS": positions}
    for name, value in sizes.items():
        monkeypatch.setattr(config, name, value)
    run_all(tmp_path, gpt2_folder, source)
    there = Names(tmp_path, "tiny-gpt2", "words")
    assert results.summarize(result_formats.load_results(there.results)).n == val * positions
    summary = json.loads(there.summary.read_bytes())
    assert (summary["sentences"], summary["positions"]) == (val, val * positions)
    assert there.report.exists()


def test_another_seed_gives_other_sentences_and_positions(made, tmp_path, gpt2_folder, source):
    run_all(tmp_path, gpt2_folder, source, SCRIPTS[:2], "--seed", 1)
    other = Names(tmp_path, "tiny-gpt2", "words")
    assert list(unpickle.load_all(made.sentences)) != list(unpickle.load_all(other.sentences))


def test_a_dataset_may_have_a_split_of_its_own(tmp_path, gpt2_folder, bert_folder, monkeypatch):
    assert config.SPLITS["news"] == (9_000, 1_000)  # as the paper's other corpus
    monkeypatch.setattr(config, "SPLITS", {"news": (30, 7)})
    (tmp_path / "news.txt").write_text("".join(make_sentences(37)))
    here = ("--out", tmp_path, "--dataset", "news")
    run("get_wikipedia_sentences", *here, "--source", tmp_path / "news.txt")
    run("add_tokenization", *here, "--model", gpt2_folder)
    run("bert_add_reps", *here, "--model", bert_folder)
    causal, masked = Names(tmp_path, "tiny-gpt2", "news"), Names(tmp_path, "tiny-bert_mask", "news", masked=True)
    assert [len(formats.load_tokenized(causal.split(split))) for split in ("train", "val")] == [30, 7]
    assert [len(formats.load_states(masked.split(split), LAYERS)[0]) for split in ("train", "val")] == [30, 7]


def test_only_the_jumps_into_the_last_layer(made, tmp_path, gpt2_folder, source, capsys, monkeypatch):
    """Enough for add_results.py; add_plot_r2.py says so; what is missing without that setting is an error."""
    monkeypatch.setattr(config, "LAST_ONLY", True)
    run_all(tmp_path, gpt2_folder, source)
    there = Names(tmp_path, "tiny-gpt2", "words")
    assert sorted(path.name for path in there.matrices.glob("[0-9]*.pickle")) == [
        f"{i}_{LAYERS}.pickle" for i in range(LAYERS)
    ]
    assert f"LAST_ONLY in config.py: {LAYERS} of 6 jumps, those into layer {LAYERS}" in capsys.readouterr().out
    assert there.results.read_bytes() == made.results.read_bytes()
    scores, all_scores = result_formats.load_r2(there.r2_scores), result_formats.load_r2(made.r2_scores)
    for name, of_pairs in scores.items():
        assert of_pairs == {pair: all_scores[name][pair] for pair in ((i, LAYERS) for i in range(LAYERS))}
    monkeypatch.setattr(config, "LAST_ONLY", False)
    here = ("--out", tmp_path, "--model", gpt2_folder, "--dataset", "words")
    assert "0_1.pickle not found: run .venv/bin/python add_linreg.py" in problem(
        capsys, "add_plot_r2", *here, "--force"
    )


def test_maps_of_another_corpus(made, tmp_path, gpt2_folder, capsys):
    """Judged on these sentences beside their own, which stay as they are; the change is told."""
    shutil.copytree(made.root, tmp_path, dirs_exist_ok=True)
    (tmp_path / "other.txt").write_text("".join(make_sentences(150, seed=9)))
    model = ("--out", tmp_path, "--model", gpt2_folder)
    run("get_wikipedia_sentences", "--out", tmp_path, "--dataset", "other", "--source", tmp_path / "other.txt")
    for script in ("add_tokenization", "add_linreg", "add_linreg_submodules"):
        run(script, *model, "--dataset", "other")
    before = made.results.read_bytes()
    capsys.readouterr()
    for script in ("add_plot_r2", "add_results", "plot_results"):
        run(script, *model, "--dataset", "words", "--matrices-from", "other")
    there = Names(tmp_path, "tiny-gpt2", "words", "other")
    assert there.own.results.read_bytes() == before
    assert there.results.name == "words_maps_of_other_results.pickle"
    assert there.plot(f"pre_{LAYERS}").parent.name == "words_maps_of_other"
    A, h = formats.load_matrix(there.matrix(1, 2), D), result_formats.load_r2(there.r2_scores)
    assert A.equal(formats.load_matrix(Names(tmp_path, "tiny-gpt2", "other").matrix(1, 2), D))
    assert h["score_mat"] != result_formats.load_r2(made.r2_scores)["score_mat"]
    assert h["score_id"] == result_formats.load_r2(made.r2_scores)["score_id"]

    def mean_precision(path):
        jumps = [r for r in result_formats.load_results(path) if r["info"].get("layer", LAYERS) < LAYERS]
        full = next(r["topk"][:, 0] for r in result_formats.load_results(path) if r["info"].get("layer") == LAYERS)
        hits = [(r["topk"][:, 0] == full).double().mean() for r in jumps if r["info"]["mode"] == "mat"]
        return 100 * float(sum(hits) / LAYERS)

    own, other = mean_precision(made.results), mean_precision(there.results)
    told = capsys.readouterr().out
    assert told.count("with the maps of each dataset") == 2
    row = next(line for line in told.splitlines() if line.split()[:1] == ["mat"])
    assert row.split()[1::2] == [f"{own:.1f}", f"{other:.1f}", f"{other - own:+.1f}"]
    change = json.loads(there.summary.read_text())["tables"]["change"][0]["change"]["mean"]
    assert change == pytest.approx((other - own) / 100, abs=1e-5)
    assert "with the maps of each dataset" in there.report.read_text()
    message = problem(capsys, "add_results", *model, "--dataset", "words", "--matrices-from", "nowhere")
    assert message.startswith(
        "linreg/tiny-gpt2/nowhere/0_3.pickle not found: run .venv/bin/python add_linreg.py --model "
    )
    assert f" --dataset nowhere --map least-squares --out {there.root} first; datasets here: " in message


def test_maps_of_another_corpus_say_what_they_are_to_be_held_against(made, tmp_path, gpt2_folder, capsys):
    shutil.copytree(made.root, tmp_path, dirs_exist_ok=True)
    for name in ("linreg/tiny-gpt2/words", "experiment/tiny-gpt2"):
        (tmp_path / name / "manifest.json").unlink()
    (tmp_path / "linreg/tiny-gpt2/words").rename(tmp_path / "linreg/tiny-gpt2/other")
    made_here = Names(tmp_path, "tiny-gpt2", "words")
    made_here.results.unlink()
    run("add_results", "--out", tmp_path, "--model", gpt2_folder, "--dataset", "words", "--matrices-from", "other")
    assert re.search("also run .* add_results.py .* --dataset words --map least-squares", capsys.readouterr().out)
