"""The four scripts of BERT, in order, on a tiny random model."""

import contextlib
import io
import json
import pickle
import re
import shutil
from pathlib import Path

import pytest
from conftest import LAYERS, make_sentences, on_a_gpu
from pipeline import assert_same_up_to_rounding, problem, run, small_sizes
from played_device import PLAYED, Device

import config
from shortcut import Problem, results
from shortcut.files import formats, result_formats, store
from shortcut.files.names import Names
from shortcut.pipeline import manifest, stages, status
from shortcut.show import maps

SCRIPTS = ("bert_add_reps", "bert_add_linreg", "bert_add_plot_r2", "bert_add_results", "plot_results")

pytestmark = pytest.mark.usefixtures("small")


def run_all(out, model, scripts=SCRIPTS, *more):
    for script in scripts:
        run(script, "--out", out, "--model", model, "--dataset", "words", *more)


FIGURES = ("pre", "surp", "ee_pre1", "r2_scores", "maps", "lenses_kl", "lenses_entropy", "lenses_cross-entropy")


def with_sentences(out):
    files = Names(out, "tiny-bert_mask", "words", masked=True)
    with store.replacing(files.sentences) as file:
        store.dump(file, *make_sentences(150))
    return files


@pytest.fixture(scope="module")
def made(tmp_path_factory, bert_folder):
    files = with_sentences(tmp_path_factory.mktemp("out"))
    with small_sizes(), contextlib.redirect_stdout(io.StringIO()) as out:
        run_all(files.root, bert_folder)
    assert "r2 misleads" not in out.getvalue()
    return files


def test_every_file_of_the_design_is_there(made):
    expected = {
        made.sentences, made.split("train"), made.split("val"), made.r2_scores, made.results,
        made.predictions, made.quality,
        *(made.matrix(i, j) for i in range(LAYERS) for j in range(i + 1, LAYERS + 1)),
        *made.plots(*(f"{name}_{LAYERS}" for name in FIGURES)),
        made.summary, made.report,
    }  # fmt: skip
    data = {p for p in made.root.rglob("*") if p.is_file() and p.name not in ("manifest.json", ".lock")}
    assert data == expected
    listed = [status.outputs(stage, made, LAYERS, config) for stage in stages.pipeline(masked=True)]
    assert data == {path for paths in listed for path in paths}


def test_net_saving_is_for_whole_sentences_alone(made):
    """No token of a masked model runs by itself, with what stands before it cached."""
    costs = result_formats.load_predictions(made.predictions, 40, LAYERS).costs
    sentences = formats.load_states(made.split("val"), LAYERS)[0].sentences
    assert costs.tokens.tolist() == [len(ids) for ids in sentences]
    rows = json.loads(made.summary.read_bytes())["tables"]["layers_saved"]
    assert {name for row in rows for name in row if name.startswith("net")} == {"net, sentence"}
    page = made.report.read_text(encoding="utf-8")
    assert "for all tokens of the forward pass" in page
    assert "for one token" not in page


def test_the_fewest_sentences_of_several_positions_go_all_the_way(tmp_path, bert_folder, monkeypatch):
    for name, value in {"TRAIN": 1, "VAL": 2, "POSITIONS": 3}.items():
        monkeypatch.setattr(config, name, value)
    files = with_sentences(tmp_path)
    run_all(tmp_path, bert_folder)
    summary = json.loads(files.summary.read_bytes())
    assert (summary["sentences"], summary["positions"]) == (2, 6)
    (cost,) = summary["tables"]["costs_of_maps"]
    assert cost["cost"].startswith("1 forward pass per position for ")


def test_sub_modules_are_judged_where_they_were_fitted(made, bert_folder, tmp_path, capsys):
    """Beyond the paper: without them the pipeline is the paper's, with them its results are made anew."""
    shutil.copytree(made.root, tmp_path, dirs_exist_ok=True)
    there = ("--out", tmp_path, "--model", bert_folder, "--dataset", "words")
    run("add_linreg_submodules", *there)
    before, said = tmp_path / made.relative(made.results), problem(capsys, "bert_add_results", *there)
    assert "was made with other settings" in said
    paper = result_formats.load_results(before)
    run("bert_add_results", *there, "--force")
    after = result_formats.load_results(before)
    for record, other in zip(paper, [r for r in after if type(r["info"]["mode"]) is str], strict=True):
        assert record["info"] == other["info"]
        assert record["topk"].equal(other["topk"])
    assert len(after) == len(paper) + 3 * (LAYERS + 1)
    run("plot_results", *there, "--force")
    files = Names(tmp_path, made.model, made.dataset, masked=True)
    assert files.plot(f"parts_pre1_{LAYERS}").exists()
    parts = manifest.load_parts(files, LAYERS)
    assert {a: of for (i, a), of in parts.items() if i == 1} == {
        1: ("attention", 0), 3: ("norm", 2), 4: ("feed-forward", 3), 6: ("norm", 5)
    }  # fmt: skip
    entry = manifest.load(files.matrices)["p1_2_3.pickle"]
    assert (entry["kind"], entry["state"]) == ("norm", 2)
    files.submodules.write_text('{"0": {"1": ["norm"]}}', encoding="utf-8")
    assert "submodules.json is damaged: remove it" in problem(capsys, "bert_add_results", *there)


def test_records_of_the_results(made):
    records = result_formats.load_results(made.results)
    assert {str(r["info"]["mode"]) for r in records} == {"idln", "mat"}
    assert len(records) == 2 * (LAYERS + 1) + 35
    assert all("surprisal" in r and "layers_processed" in r for r in records)
    last = [r for r in records if r["info"].get("layer") == LAYERS]
    assert last[0]["topk"].equal(last[1]["topk"])


def test_records_of_the_original_code_are_read_without_what_they_lack(made, tmp_path, bert_folder, capsys):
    records = result_formats.load_results(made.results)
    for record in records:
        del record["layers_processed" if record["info"]["type"] == "jump" else "surprisal"]
    records = [{**r, "layers_processed": 2.0} if r["info"]["type"] == "early_exit" else r for r in records]
    other = Names(tmp_path, "tiny-bert_mask", "words", masked=True)
    with store.replacing(other.results) as file:
        store.dump(file, *records)
    r = results.summarize(result_formats.load_results(other.results))
    assert r.fixed["mat"].layers == [float(layer) for layer in range(LAYERS + 1)]
    assert "surprisal" not in r.early["mat"].values
    run("plot_results", "--out", tmp_path, "--model", "tiny-bert_mask", "--dataset", "words")
    assert other.plot(f"ee_pre1_{LAYERS}").exists()
    capsys.readouterr()


def test_states_made_by_hand_work_from_the_second_script_on(made, tmp_path, bert_folder):
    hand = Names(tmp_path, "tiny-bert_mask", "words", masked=True)
    hand.experiment.mkdir(parents=True)
    for split in ("train", "val"):
        tokenized, h = formats.load_states(made.split(split), LAYERS)
        whole = {layer: h[layer] for layer in range(LAYERS + 1)}
        with open(hand.split(split), "wb") as file:
            for start in range(0, len(tokenized), 7):  # views of large storages, plain pickle, another batch size
                rows = slice(start, start + 7)
                batch = {"tokenized_sentences": tokenized.sentences[rows], "token_positions": tokenized.positions[rows]}
                pickle.dump(batch | {layer: x[rows] for layer, x in whole.items()}, file)
    run_all(tmp_path, bert_folder, SCRIPTS[1:])
    for path in (hand.matrix(0, 1), hand.results, hand.plot(f"pre_{LAYERS}")):  # a second run, and the same bytes
        assert path.read_bytes() == (made.root / path.relative_to(tmp_path)).read_bytes()


@pytest.mark.parametrize("dead", [0.0, 1e-30])
def test_coordinates_that_hardly_vary_are_told_of_in_one_line(made, tmp_path, bert_folder, capsys, dead):
    """Three of them, in all layers but the first; the paper's mean stays, and beside it stands the one by variance."""
    files = Names(tmp_path, "tiny-bert_mask", "words", masked=True)
    shutil.copytree(made.matrices, files.matrices, ignore=shutil.ignore_patterns("manifest.json"))
    tokenized, h = formats.load_states(made.split("val"), LAYERS)
    h[1:, :, :3] *= dead
    with store.replacing(files.split("val")) as file:
        store.dump(file, *formats.state_batches(tokenized, h))
    run("bert_add_plot_r2", "--out", tmp_path, "--model", bert_folder, "--dataset", "words")
    told, r2 = capsys.readouterr().out, result_formats.load_r2(files.r2_scores)
    assert re.search("mat next +mat last +id next +id last", told)
    assert told.count("r2 misleads in 6 of 6 jumps: coordinates that hardly vary count as much") == 1
    assert (r2["score_id"][0, 1] < -1e40) == (dead == 1e-30)
    sse, sst = (h[1] - h[0]).double().square().sum(0), (h[1].double() - h[1].double().mean(0)).square().sum(0)
    assert r2["score_id_weighted"][0, 1] == pytest.approx(1 - (sse[sst > 0].sum() / sst.sum()).item())
    assert [each.name for each in maps.r2_tables(r2)] == ["r2_by_layer", "r2_weighted_by_layer"]


def test_two_runs_with_one_seed_give_the_same_states(made, tmp_path, bert_folder):
    files = with_sentences(tmp_path)
    run_all(tmp_path, bert_folder, SCRIPTS[:1])
    assert files.split("train").read_bytes() == made.split("train").read_bytes()


def test_plots_are_found_by_name_folder_and_name_of_the_results_folder(made, bert_folder, capsys):
    for name in (bert_folder, "tiny-bert", "tiny-bert_mask"):
        run("plot_results", "--out", made.root, "--model", name, "--dataset", "words")
        assert "already made, skipped" in capsys.readouterr().out


@pytest.mark.parametrize("script", SCRIPTS[:-1])
def test_help_says_what_is_read_and_written(script, capsys):
    with pytest.raises(SystemExit):
        run(script, "--help")
    text = capsys.readouterr().out
    assert "Reads " in text
    assert "Writes " in text


def test_problems_are_one_line(tmp_path, bert_folder, gpt2_folder, made):
    here = ("--out", tmp_path, "--model", bert_folder, "--dataset", "words")
    for script, message in (
        ("bert_add_reps", "run .* get_wikipedia_sentences.py .* first"),
        ("bert_add_linreg", r"words_train.pickle not found: run .* bert_add_reps.py .* first"),
        ("bert_add_plot_r2", r"words_val.pickle not found: run .* bert_add_reps.py .* first"),
        ("bert_add_results", r"words_val.pickle not found: run .* bert_add_reps.py .* first"),
    ):
        with pytest.raises(Problem, match=message):
            run(script, *here)
    with pytest.raises(Problem, match="no masked language model of transformers: use the scripts without bert_"):
        run("bert_add_linreg", "--out", tmp_path, "--model", gpt2_folder)
    with pytest.raises(Problem, match="no causal language model of transformers: use the bert_ scripts"):
        run("add_linreg", *here)


def test_scripts_are_paragraphs():
    for script in SCRIPTS:
        assert len((Path(config.__file__).parent / f"{script}.py").read_text().splitlines()) <= 70


def test_on_a_device_every_tensor_meets_its_like_and_the_numbers_are_the_same(made, tmp_path, bert_folder):
    files = with_sentences(tmp_path)
    with Device() as device:
        run_all(tmp_path, bert_folder, SCRIPTS[:-1], "--device", PLAYED)
    assert device.done > 2_000
    assert_same_up_to_rounding(files, made)


@on_a_gpu
def test_on_a_gpu_the_numbers_are_the_same(made, tmp_path, bert_folder):
    files = with_sentences(tmp_path)
    run_all(tmp_path, bert_folder, SCRIPTS[:-1], "--device", "cuda")
    assert_same_up_to_rounding(files, made)
