"""The real scripts, in order, on tiny random models: their files, and runs that give the same."""

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import LAYERS, D, make_sentences, on_a_gpu
from pipeline import SCRIPTS, assert_same_up_to_rounding, files, problem, run_all
from played_device import PLAYED, Device

import config
from shortcut.approximation import MODES
from shortcut.files import formats, result_formats
from shortcut.files.names import Names
from shortcut.models import Model
from shortcut.pipeline import manifest, stages, status

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.usefixtures("small")


FIGURES = (
    "pre",
    "surp",
    "parts_pre1",
    "parts_pre5",
    "parts_pre10",
    "parts_surp",
    "ee_pre1",
    "r2_scores",
    "alternation",
    "maps",
    "lenses_kl",
    "lenses_entropy",
    "lenses_cross-entropy",
)


def test_every_file_of_the_design_is_there(made):
    pairs = [(i, j) for i in range(LAYERS) for j in range(i + 1, LAYERS + 1)]
    expected = [
        made.sentences, made.split("train"), made.split("val"), made.r2_scores,
        made.results, made.predictions, made.quality,
        *(made.matrix(i, j) for i, j in pairs),
        *(made.part(i, a) for i in range(LAYERS) for a in range(1, 7)), made.submodules,
        *made.plots(*(f"{name}_{LAYERS}" for name in FIGURES)), made.summary, made.report,
    ]  # fmt: skip
    data = {path for name, path in files(made.root).items() if name.split("/")[-1] not in ("manifest.json", ".lock")}
    assert data == set(expected)
    known = replace(made, parts=manifest.load_parts(made, LAYERS))
    listed = {stage.script: status.outputs(stage, known, LAYERS, config) for stage in stages.pipeline(masked=False)}
    assert [*listed] == [f"{script}.py" for script in SCRIPTS]
    assert data == {path for paths in listed.values() for path in paths}
    assert all(path.stat().st_size for path in expected)
    assert made.part(1, 3).name == "p1_2_3.pickle"


def test_layouts_read_by_a_bare_pickle_load(made):
    with open(made.sentences, "rb") as file:
        sentences = [pickle.load(file) for _ in range(150)]
    assert set(sentences) == set(make_sentences(150))
    with open(made.split("train"), "rb") as file:
        train = pickle.load(file)
    assert len(train["tokenized_sentences"]) == len(train["token_positions"]) == 80
    with open(made.matrix(0, LAYERS), "rb") as file:
        A = pickle.load(file)
    assert A.dtype == torch.float32
    assert A.shape == (D, D)
    with open(made.r2_scores, "rb") as file:
        scores = pickle.load(file)
    assert scores.keys() == {*result_formats.SCORES}
    assert scores["score_mat"].keys() == {(i, j) for i in range(LAYERS) for j in range(i + 1, LAYERS + 1)}
    assert {type(value) for value in scores["score_id"].values()} == {float}


def test_records_of_the_results(made):
    records = result_formats.load_results(made.results)
    fixed = [r for r in records if r["info"]["type"] == "jump"]
    assert [(r["info"]["mode"], r["info"]["layer"]) for r in fixed] == [
        (mode.key, layer) for mode in MODES.values() for layer in range(LAYERS + 1)
    ]
    assert MODES["mat_ln1_ln2"].key == ("blk_mat", {"what_to_mat": {1, 4}})
    early = [r for r in records if r["info"]["type"] == "early_exit"]
    assert [r["info"]["lambda"] for r in early if r["info"]["mode"] == "mat"] == list(config.LAMBDAS["mat"])
    assert len([r for r in early if r["info"]["mode"] == "idln"]) == 22
    for record in records:
        assert record["topk"].shape == (40, 10)
        assert record["topk"].dtype == torch.int64
        assert record["surprisal"].dtype == torch.float32
        assert type(record["layers_processed"]) is float
    last = [r for r in fixed if r["info"]["layer"] == LAYERS]
    assert all(r["topk"].equal(last[0]["topk"]) for r in last)
    never = [r for r in early if r["info"]["lambda"] == max(config.LAMBDAS["mat"])]
    assert all(r["topk"].equal(last[0]["topk"]) and r["layers_processed"] == LAYERS for r in never)


def test_maps_into_the_last_layer_agree_with_the_states(made, gpt2):
    """From files alone: r2 of mat on the training sentences is no worse than that of id."""
    import in_memory

    from shortcut import metrics

    h = in_memory.layer_states(gpt2, formats.load_tokenized(made.split("train")), 100)
    for i in range(LAYERS):
        A = formats.load_matrix(made.matrix(i, LAYERS), D)
        assert metrics.r2_score(h[i] @ A.T, h[-1]).mean >= metrics.r2_score(h[i], h[-1]).mean


def test_two_runs_with_one_seed_give_the_same_bytes(made, tmp_path, gpt2_folder, source):
    run_all(tmp_path, gpt2_folder, source)
    first, second = files(made.root), files(tmp_path)
    assert first.keys() == second.keys()
    for name, path in first.items():
        if name.endswith((".pickle", ".pdf", ".png", ".csv", "summary.json", ".html")):
            assert path.read_bytes() == second[name].read_bytes(), name


def test_the_originals_tokens_and_matrices_lead_to_the_same_page(made, tmp_path, gpt2_folder, capsys):
    """Plain pickles without a manifest: positions as a list, sentences and matrices as views of large storages."""
    there = Names(tmp_path, "tiny-gpt2", "words")
    there.experiment.mkdir(parents=True)
    there.matrices.mkdir(parents=True)
    tokenized = formats.load_tokenized(made.split("val"))
    ids = torch.nn.utils.rnn.pad_sequence(tokenized.sentences, batch_first=True)
    rows = [row[: len(sentence)] for row, sentence in zip(ids, tokenized.sentences, strict=True)]
    value = {"tokenized_sentences": rows, "token_positions": tokenized.positions.tolist()}
    there.split("val").write_bytes(pickle.dumps(value))
    for path in made.matrices.glob("*_*.pickle"):
        A = formats.load_matrix(path, D)
        (there.matrices / path.name).write_bytes(pickle.dumps(torch.stack([A, A])[1]))
    run_all(tmp_path, gpt2_folder, None, ("add_plot_r2", "add_results", "plot_results"))
    assert capsys.readouterr().out.count("no manifest entry") == 2
    ours, theirs = (json.loads(names.summary.read_bytes()) for names in (made, there))
    for summary in (ours, theirs):  # that they fitted themselves only their manifest says, and how surely
        summary.pop("warnings", None)
        summary["tables"] = {
            k: x for k, x in summary["tables"].items() if k not in ("costs_of_maps", "halves", "quality_of_maps")
        }
    assert theirs == ours
    assert "not fitted here" in there.report.read_text(encoding="utf-8")
    for path in made.plots(*(f"{name}_{LAYERS}" for name in FIGURES if name != "maps")):
        if not path.name.endswith(".csv") or not path.name.startswith("lenses"):
            assert (tmp_path / path.relative_to(made.root)).read_bytes() == path.read_bytes(), path.name


def test_stages_3_to_7_run_on_files_made_by_hand(made, tmp_path, gpt2_folder, capsys):
    hand = Names(tmp_path, "tiny-gpt2", "words")
    hand.experiment.mkdir(parents=True)
    for split in ("train", "val"):
        hand.split(split).write_bytes(made.split(split).read_bytes())
    run_all(tmp_path, gpt2_folder, None, SCRIPTS[2:])
    assert "no manifest entry" in capsys.readouterr().out
    assert hand.results.read_bytes() == made.results.read_bytes()


def test_every_script_tells_its_settings_and_what_it_wrote(made, tmp_path, gpt2_folder, source, capsys):
    run_all(tmp_path, gpt2_folder, source, SCRIPTS[:3])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("get_wikipedia_sentences.py: ")
    assert "seed 0" in lines[1]
    assert sum(line.startswith("wrote ") for line in lines) == 3


def test_a_model_that_works_between_its_blocks_has_no_alternation(made, gpt2_folder, tmp_path, monkeypatch, capsys):
    shutil.copytree(made.root, tmp_path, dirs_exist_ok=True)
    (tmp_path / made.relative(made.predictions)).unlink()
    monkeypatch.setattr(Model, "is_chain", False)
    said = problem(capsys, "add_results", "--out", tmp_path, "--model", gpt2_folder, "--dataset", "words")
    assert said.endswith("computes between its blocks, and no jump covers that: set SCHEDULES = False")


def test_scripts_are_paragraphs():
    for script in SCRIPTS:
        assert len((ROOT / f"{script}.py").read_text().splitlines()) <= 70


def test_on_a_device_every_tensor_meets_its_like_and_the_numbers_are_the_same(made, tmp_path, gpt2_folder, source):
    with Device() as device:
        run_all(tmp_path, gpt2_folder, source, SCRIPTS, "--device", PLAYED)
    assert device.done > 5_000
    assert_same_up_to_rounding(Names(tmp_path, "tiny-gpt2", "words"), made)


@on_a_gpu
def test_on_a_gpu_the_numbers_are_the_same(made, tmp_path, gpt2_folder, source):
    run_all(tmp_path, gpt2_folder, source, SCRIPTS, "--device", "cuda")
    assert_same_up_to_rounding(Names(tmp_path, "tiny-gpt2", "words"), made)
