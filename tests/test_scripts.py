"""The real scripts, in order, on tiny random models."""

import json
import pickle
import re
import shutil
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
import torch
from conftest import LAYERS, D, assert_same_up_to_rounding, make_gpt2, make_sentences, on_a_gpu
from pipeline import ACTS_ON, SCRIPTS, SIZES, files, problem, run
from played_device import PLAYED, Device

import config
from shortcut import Problem, early_exit, representations, results
from shortcut.approximation import MODES
from shortcut.files import formats, result_formats, store, unpickle
from shortcut.files.names import Names
from shortcut.models import Model
from shortcut.pipeline import evaluation, manifest, partial, stages, status
from shortcut.show import report, table, tables

ROOT = Path(__file__).resolve().parent.parent
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


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    for name, value in SIZES.items():
        monkeypatch.setattr(config, name, value)


def run_all(out, model, source, scripts=SCRIPTS, *more):
    for script in scripts:
        says = ["--source", source] if script == SCRIPTS[0] else ["--model", model]
        run(script, "--out", out, "--dataset", "words", *says, *(more if accepts(script, more) else ()))


def accepts(script, options):
    """Whether a script acts on such options."""
    return not options or options[0] == "--seed" or "device" in ACTS_ON[script]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "words.txt"
    path.write_text("".join(make_sentences(150)))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory, gpt2_folder, source):
    """Everything the seven scripts make, once."""
    out = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SIZES.items():
            patch.setattr(config, name, value)
        run_all(out, gpt2_folder, source)
    return Names(out, "tiny-gpt2", "words")


@pytest.mark.parametrize(("val", "positions"), [(2, 1), (2, 3), (3, 2)])
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


def test_another_model_of_the_same_name_is_refused_until_it_has_an_out_of_its_own(tmp_path, made, gpt2_folder, capsys):
    shutil.copytree(made.root, tmp_path, dirs_exist_ok=True)
    other = make_gpt2(tmp_path / "other" / "tiny-gpt2", initializer_range=0.1)
    here = ("--out", tmp_path, "--model", other, "--dataset", "words")
    message = problem(capsys, "add_linreg", *here)
    assert "linreg/tiny-gpt2/words/0_1.pickle was made with another model's weights: use --force" in message
    assert "use another --out for another model of that name" in message
    message = problem(capsys, "add_plot_r2", *here)
    assert re.search(
        "made with another model's weights: run .* add_linreg.py .* --force, or use another --out", message
    )


def test_every_file_of_the_design_is_there(made):
    pairs = [(i, j) for i in range(LAYERS) for j in range(i + 1, LAYERS + 1)]
    expected = [
        made.sentences, made.tokenized("train"), made.tokenized("val"), made.r2_scores,
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
    with open(made.tokenized("train"), "rb") as file:
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

    h = in_memory.layer_states(gpt2, formats.load_tokenized(made.tokenized("train")), 100)
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
    tokenized = formats.load_tokenized(made.tokenized("val"))
    ids = torch.nn.utils.rnn.pad_sequence(tokenized.sentences, batch_first=True)
    rows = [row[: len(sentence)] for row, sentence in zip(ids, tokenized.sentences, strict=True)]
    value = {"tokenized_sentences": rows, "token_positions": tokenized.positions.tolist()}
    there.tokenized("val").write_bytes(pickle.dumps(value))
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


def test_another_seed_gives_other_sentences_and_positions(made, tmp_path, gpt2_folder, source):
    run_all(tmp_path, gpt2_folder, source, SCRIPTS[:2], "--seed", 1)
    other = Names(tmp_path, "tiny-gpt2", "words")
    assert list(unpickle.load_all(made.sentences)) != list(unpickle.load_all(other.sentences))


def test_stages_3_to_7_run_on_files_made_by_hand(made, tmp_path, gpt2_folder, capsys):
    hand = Names(tmp_path, "tiny-gpt2", "words")
    hand.experiment.mkdir(parents=True)
    for split in ("train", "val"):
        hand.tokenized(split).write_bytes(made.tokenized(split).read_bytes())
    run_all(tmp_path, gpt2_folder, None, SCRIPTS[2:])
    assert "no manifest entry" in capsys.readouterr().out
    assert hand.results.read_bytes() == made.results.read_bytes()


def test_a_second_run_makes_nothing_and_loads_nothing(made, gpt2_folder, source, capsys, monkeypatch):
    monkeypatch.setattr("shortcut.loading.pretrained.load", lambda *a, **k: pytest.fail("loaded a model"))
    before = {name: path.stat().st_mtime_ns for name, path in files(made.root).items() if ".lock" not in name}
    run_all(made.root, gpt2_folder, source)
    assert capsys.readouterr().out.count("already made, skipped") == len(SCRIPTS)
    assert {name: path.stat().st_mtime_ns for name, path in files(made.root).items() if ".lock" not in name} == before


def test_what_is_read_must_be_of_the_seed_split_tokenizer_and_model_in_force(
    made, tmp_path, gpt2_folder, capsys, monkeypatch
):
    def message(script, folder, *more):
        return problem(capsys, script, "--out", made.root, "--model", folder, "--dataset", "words", *more)

    other = shutil.copytree(gpt2_folder, tmp_path / "tiny-gpt2")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    (other / "tokenizer.json").write_text(json.dumps(tokenizer, indent=1))
    for script in SCRIPTS[2:6]:
        tokens = f"tokenized_{'train' if 'linreg' in script else 'val'}.pickle was made with"
        remake = f"run .venv/bin/python add_tokenization.py --model {gpt2_folder} --dataset words"
        said = message(script, gpt2_folder, "--seed", 7)
        assert f"{tokens} other settings (seed was 0, is 7): restore those settings, or {remake}" in said
        assert said.endswith(" --force")
        with monkeypatch.context() as patch:
            patch.setattr(config, "TRAIN", 81)
            assert f"{tokens} other settings (train was 80, is 81)" in message(script, gpt2_folder)
        assert f"{tokens} another model's tokenizer: run .venv/bin/python add_tokenization.py" in message(script, other)
    assert "words_tokenized_val.pickle was made with another model's tokenizer" in message("plot_results", other)
    shutil.copy(Path(gpt2_folder) / "tokenizer.json", other)
    settings = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**settings, "n_positions": 47}))
    assert "context was 48, is 47" in message("add_tokenization", other)
    assert "results.pickle was made with another model's weights" in message("plot_results", other)


def test_results_made_anew_while_they_are_drawn_stop_the_drawing(made, tmp_path, capsys, monkeypatch):
    shutil.copytree(made.root, tmp_path, dirs_exist_ok=True)
    there = Names(tmp_path, "tiny-gpt2", "words")
    there.report.unlink()
    text = report.page

    def late(*args):
        there.results.rename(tmp_path / "moved")
        shutil.copy(tmp_path / "moved", there.results)
        return text(*args)

    monkeypatch.setattr(report, "page", late)
    message = problem(capsys, "plot_results", "--out", tmp_path, "--model", "tiny-gpt2", "--dataset", "words")
    assert message == f"{there.results} was changed while it was in use: run the script again"
    assert not there.report.exists()


def test_a_lost_matrix_alone_is_made_again(made, gpt2_folder, source, capsys):
    path = made.matrix(1, 2)
    content = path.read_bytes()
    path.unlink()
    run_all(made.root, gpt2_folder, source, ["add_linreg"])
    assert "wrote linreg/tiny-gpt2/words/1_2.pickle" in capsys.readouterr().out
    assert path.read_bytes() == content


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


def test_tables_hold_the_numbers_of_the_records(made):
    r = results.summarize(result_formats.load_results(made.results))
    text = table.text(tables.of_results(r, None))
    assert f"{100 * r.fixed['mat'].estimates['precision@1'][0].mean:.1f} ±" in text
    assert "mat - id" in text
    assert "95%" in text
    assert all(curve.estimates["precision@1"][-1].mean == 1 for curve in r.fixed.values())


def test_scripts_are_paragraphs():
    for script in SCRIPTS:
        assert len((ROOT / f"{script}.py").read_text().splitlines()) <= 70


def test_a_dataset_may_have_a_split_of_its_own(tmp_path, gpt2_folder, bert_folder, monkeypatch):
    assert config.SPLITS["news"] == (9_000, 1_000)  # as the paper's other corpus
    monkeypatch.setattr(config, "SPLITS", {"news": (30, 7)})
    (tmp_path / "news.txt").write_text("".join(make_sentences(37)))
    here = ("--out", tmp_path, "--dataset", "news")
    run("get_wikipedia_sentences", *here, "--source", tmp_path / "news.txt")
    run("add_tokenization", *here, "--model", gpt2_folder)
    run("bert_add_reps", *here, "--model", bert_folder)
    causal, masked = Names(tmp_path, "tiny-gpt2", "news"), Names(tmp_path, "tiny-bert_mask", "news", masked=True)
    assert [len(formats.load_tokenized(causal.tokenized(split))) for split in ("train", "val")] == [30, 7]
    assert [len(formats.load_states(masked.states(split), LAYERS)[0]) for split in ("train", "val")] == [30, 7]


def test_sentences_know_what_they_were_taken_from(tmp_path, gpt2_folder, bert_folder, capsys, monkeypatch):
    here = ("--out", tmp_path, "--dataset", "words", "--source", tmp_path / "words.txt")
    (tmp_path / "words.txt").write_text("".join(make_sentences(150)))
    run("get_wikipedia_sentences", *here)
    (tmp_path / "words.txt").write_text("".join(make_sentences(160)))
    assert "made with other settings (content of the source" in problem(capsys, "get_wikipedia_sentences", *here)
    monkeypatch.setattr(config, "DOCSTRING_PACKAGES", ("tqdm",))
    monkeypatch.setattr(config, "SENTENCES", 20)
    docs = ("--out", tmp_path, "--dataset", "docs", "--source", "docstrings")
    run("get_wikipedia_sentences", *docs)
    monkeypatch.setattr(config, "TRAIN", 5)
    assert "train was 80, is 5" in problem(capsys, "get_wikipedia_sentences", *docs)
    for script, model in (("add_tokenization", gpt2_folder), ("bert_add_reps", bert_folder)):
        message = problem(capsys, script, "--out", tmp_path, "--dataset", "docs", "--model", model)
        assert (
            "docs_20K-sentences.pickle was made with other settings (train was 80, is 5): restore those settings, or "
            in message
        )
    monkeypatch.setattr(config, "SPLITS", {"docs": (6, 2)})
    assert "train was 80, is 6" in problem(capsys, "get_wikipedia_sentences", *docs)


def test_on_a_device_every_tensor_meets_its_like_and_the_numbers_are_the_same(made, tmp_path, gpt2_folder, source):
    with Device() as device:
        run_all(tmp_path, gpt2_folder, source, SCRIPTS, "--device", PLAYED)
    assert device.done > 5_000
    assert_same_up_to_rounding(Names(tmp_path, "tiny-gpt2", "words"), made)


@on_a_gpu
def test_on_a_gpu_the_numbers_are_the_same(made, tmp_path, gpt2_folder, source):
    run_all(tmp_path, gpt2_folder, source, SCRIPTS, "--device", "cuda")
    assert_same_up_to_rounding(Names(tmp_path, "tiny-gpt2", "words"), made)


def test_states_collected_before_a_stop_are_not_collected_again(made, tmp_path, gpt2_folder, capsys, monkeypatch):
    shutil.copytree(made.root / "experiment", tmp_path / "experiment")
    there = Names(tmp_path, "tiny-gpt2", "words")
    here = ("--out", tmp_path, "--model", gpt2_folder, "--dataset", "words", "--batch-size", 60)
    monkeypatch.setattr(partial, "SECONDS", 0)
    compute, seen = representations.run, []

    def stopping(model, batch, points):
        if len(seen) == 5:
            raise KeyboardInterrupt
        seen.append(batch.rows.tolist())
        return compute(model, batch, points)

    monkeypatch.setattr(representations, "run", stopping)
    with pytest.raises(KeyboardInterrupt):
        run("add_linreg", *here)
    first, seen[:] = sorted(chain(*seen)), []
    monkeypatch.setattr(representations, "run", lambda m, b, p: seen.append(b.rows.tolist()) or compute(m, b, p))
    run("add_linreg", *here)
    assert first
    assert sorted([*first, *chain(*seen)]) == list(range(80))
    A, B = (formats.load_matrix(f.matrix(0, 1), D) for f in (there, made))
    torch.testing.assert_close(A, B, rtol=1e-3, atol=1e-3)  # in other batches, so up to rounding


def test_partial_results_serve_the_next_run_of_the_same_kind_and_no_other(
    made, tmp_path, gpt2_folder, capsys, monkeypatch
):
    shutil.copytree(made.root / "experiment", tmp_path / "experiment")
    here = ("--out", tmp_path, "--model", gpt2_folder, "--dataset", "words", "--batch-size", 100)
    monkeypatch.setattr(partial, "SECONDS", 0)
    compute, seen = representations.run, []

    def stopped(*more, rcond=config.RCOND):
        """How many batches a run computes that is stopped before it writes."""
        monkeypatch.setattr(config, "RCOND", rcond)
        monkeypatch.setattr(representations, "run", lambda *args: seen.append(1) or compute(*args))
        monkeypatch.setattr("add_linreg.fits", lambda *_, **__: 1 / 0)
        seen.clear()
        with pytest.raises(ZeroDivisionError):
            run("add_linreg", *here, *more)
        return len(seen)

    every = stopped()
    assert every > 5
    assert stopped() == 0
    assert stopped("--batch-size", 50) > every
    assert stopped(rcond=1e-6) == every
    assert stopped(rcond=1e-6) == 0
    assert stopped("--force", rcond=1e-6) == every  # to make anew is to begin anew
    assert stopped(rcond=1e-6) == 0
    monkeypatch.undo()
    capsys.readouterr()


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


def test_predictions_of_another_run_than_the_results_are_not_shown(made, gpt2_folder, tmp_path, capsys):
    """Results of other code stand by themselves, whatever lies beside them; ours not made alike are refused."""
    shutil.copytree(made.root, tmp_path, dirs_exist_ok=True)
    files = Names(tmp_path, made.model, "words")
    options = ("--out", tmp_path, "--model", gpt2_folder, "--dataset", "words")
    manifest_file = files.experiment / "manifest.json"
    whole = json.loads(manifest_file.read_text(encoding="utf-8"))
    other = json.loads(manifest_file.read_text(encoding="utf-8"))
    other["files"][files.predictions.name]["settings"]["tau"] = 5.0
    manifest_file.write_text(json.dumps(other), encoding="utf-8")
    assert "predictions.pickle was made with other settings (tau was 5.0" in problem(capsys, "plot_results", *options)
    del whole["files"][files.results.name]
    manifest_file.write_text(json.dumps(whole), encoding="utf-8")
    run("plot_results", *options, "--force")
    said = capsys.readouterr().out
    assert "interpolated between the lambdas" in said
    assert "Alternation" not in said


def test_the_curve_over_all_lambda_passes_through_the_records_of_the_grid(made):
    r = results.summarize(result_formats.load_results(made.results))
    kept = result_formats.load_predictions(made.predictions, r.n, LAYERS)
    assert r.early.keys() == {"id", "mat"}
    for mode, curve in r.early.items():
        assert len(curve.lambdas) == len(config.LAMBDAS[mode])
        exits = early_exit.exits(kept.modes[mode]["gap"], kept.positions, kept.tau, r.fixed[mode].values["precision@1"])
        lambdas, layers, precision, _ = exits.along()
        for lam, processed, hits in zip(curve.lambdas, curve.layers, curve.values["precision@1"], strict=True):
            k = int((lambdas <= lam).sum()) - 1
            assert layers[k].item() == pytest.approx(processed, abs=1e-9)
            assert precision[k].item() == pytest.approx(hits.double().mean().item(), abs=1e-9)


@pytest.mark.parametrize(("ties", "told"), [(1, None), (2, "up to 1.0% of the sentences"), (200, "up to 100.0%")])
def test_the_share_of_sentences_whose_best_two_tokens_tie_is_told_of_above_half_a_percent(ties, told):
    """Of 200 sentences, at the layer and in the mode that have most."""
    said, gap = [], torch.rand(LAYERS + 1, 200) + 0.1
    gap[1, :ties] = 0
    held = type("Held", (), {"__init__": lambda self, x: setattr(self, "tensor", lambda: x)})
    tables = {"topk": torch.zeros(LAYERS + 1, 200, 10, dtype=torch.int64), "surprisal": torch.zeros(LAYERS + 1, 200)}
    found = {"id": tables | {"gap": gap + 1}, "mat": tables | {"gap": gap}}
    named = {f"{mode} {name}": held(x) for mode, tables in found.items() for name, x in tables.items()}
    assert list(evaluation._by_mode(named, said.append)) == ["id", "mat"]
    assert len(said) == (told is not None)
    assert told is None or told in said[0]


def test_net_saving_is_for_one_token_and_for_all(made):
    summary = json.loads(made.summary.read_bytes())
    rows = summary["tables"]["layers_saved"]
    assert {name for row in rows for name in row if name.startswith("net")} == {"net, token", "net, sentence"}
    positions = formats.load_tokenized(made.tokenized("val")).positions
    costs = result_formats.load_predictions(made.predictions, 40, LAYERS).costs
    assert costs.tokens.equal(positions + 1)
    assert summary["costs"]["tokens"] == pytest.approx(costs.tokens.double().mean().item())


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [("costs", {"tokens": torch.zeros(39, dtype=torch.int64)}, r"tokens of costs is int64 \[39\]"),
     ("positions", torch.zeros(39, dtype=torch.int64), r"positions is int64 \[39\], expected int64 \[40\]"),
     ("actual", torch.full((40,), -2), "actual is .* none below -1"),
     ("modes", {"id": {}}, "another layout .*KeyError: 'gap'"),
     ("modes", {"id": dict.fromkeys(("gap", "kl", "entropy", "cross-entropy"), torch.zeros(3, 40))}, "gap of id is"),
     ("topk", torch.zeros(1, 40, 10, dtype=torch.int64), "topk is"), ("more", 1, "another layout .*TypeError")],
)  # fmt: skip
def test_predictions_that_do_not_fit_are_refused_in_one_line(made, tmp_path, field, value, told):
    whole = formats.load(made.predictions)
    if field == "costs":
        value = whole["costs"] | value
    with store.replacing(tmp_path / "x_predictions.pickle") as file:
        store.dump(file, whole | {field: value})
    with pytest.raises(Problem, match=rf"x_predictions.pickle.*{told}"):
        result_formats.load_predictions(tmp_path / "x_predictions.pickle", 40, LAYERS)
