"""The four scripts of BERT, in order, on a tiny random model."""

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import in_memory
import pytest
import scipy.linalg
import torch
import transformers
from conftest import LAYERS, D, assert_same_up_to_rounding, make_sentences, on_a_gpu
from pipeline import SIZES, problem, run
from played_device import PLAYED, Device

import config
from shortcut import Problem, results
from shortcut.files import formats, result_formats, store
from shortcut.files.names import Names
from shortcut.loading import pretrained
from shortcut.pipeline import manifest, stages, status
from shortcut.tokens import Tokenized

SCRIPTS = ("bert_add_reps", "bert_add_linreg", "bert_add_plot_r2", "bert_add_results", "plot_results")


def run_all(out, model, scripts=SCRIPTS, *more):
    for script in scripts:
        run(script, "--out", out, "--model", model, "--dataset", "words", *more)


FIGURES = ("pre", "surp", "ee_pre1", "r2_scores", "maps", "lenses_kl", "lenses_entropy", "lenses_cross-entropy")


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    for name, value in SIZES.items():
        monkeypatch.setattr(config, name, value)


def with_sentences(out):
    files = Names(out, "tiny-bert_mask", "words", masked=True)
    with store.replacing(files.sentences) as file:
        store.dump(file, *make_sentences(150))
    return files


@pytest.fixture(scope="module")
def made(tmp_path_factory, bert_folder):
    files = with_sentences(tmp_path_factory.mktemp("out"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SIZES.items():
            patch.setattr(config, name, value)
        run_all(files.root, bert_folder)
    return files


def test_every_file_of_the_design_is_there(made):
    expected = {
        made.sentences, made.states("train"), made.states("val"), made.r2_scores, made.results,
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
    sentences = formats.load_states(made.states("val"), LAYERS)[0].sentences
    assert costs.tokens.tolist() == [len(ids) for ids in sentences]
    rows = json.loads(made.summary.read_bytes())["tables"]["layers_saved"]
    assert {name for row in rows for name in row if name.startswith("net")} == {"net, sentence"}
    page = made.report.read_text(encoding="utf-8")
    assert "for all tokens of the forward pass" in page
    assert "for one token" not in page


@pytest.mark.parametrize("val", [2, 3])
def test_the_fewest_sentences_of_several_positions_go_all_the_way(tmp_path, bert_folder, monkeypatch, val):
    for name, value in {"TRAIN": 1, "VAL": val, "POSITIONS": 3}.items():
        monkeypatch.setattr(config, name, value)
    files = with_sentences(tmp_path)
    run_all(tmp_path, bert_folder)
    summary = json.loads(files.summary.read_bytes())
    assert (summary["sentences"], summary["positions"]) == (val, 3 * val)


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


def test_batches_are_those_of_the_original_code(made, bert_folder):
    from shortcut.loading import pretrained

    tokenizer = pretrained.load_tokenizer(bert_folder, masked=True)
    with open(made.states("train"), "rb") as file:
        batches = [pickle.load(file) for _ in range(5)]
        assert not file.read(1)
    sentences = make_sentences(150)
    for k, batch in enumerate(batches):
        assert batch.keys() == {"tokenized_sentences", "token_positions", "masked_tokens", *range(LAYERS + 1)}
        for b, ids in enumerate(batch["tokenized_sentences"]):
            whole = tokenizer(sentences[16 * k + b].rstrip())["input_ids"]
            differing = [t for t, (a, c) in enumerate(zip(whole, ids.tolist(), strict=True)) if a != c]
            assert differing in ([int(batch["token_positions"][b])], [])
            t = int(batch["token_positions"][b])
            assert batch["masked_tokens"][b] == (-1 if t in (0, len(whole) - 1) else whole[t])
            assert ids[batch["token_positions"][b]] == tokenizer.mask_token_id
            assert (ids == tokenizer.mask_token_id).sum() == 1
        assert all(batch[layer].shape == (16, D) and batch[layer].dtype == torch.float32 for layer in range(LAYERS + 1))


def test_states_equal_hugging_faces_at_every_layer_one_sentence_at_a_time(made, bert):
    tokenized, h = formats.load_states(made.states("val"), LAYERS)
    for s, (ids, t) in enumerate(zip(tokenized.sentences, tokenized.positions.tolist(), strict=True)):
        theirs = bert.net(input_ids=ids[None], output_hidden_states=True).hidden_states  # BERT's end before any norm
        torch.testing.assert_close(h[:, s], torch.stack([x[0, t] for x in theirs]), rtol=0, atol=1e-5)


def test_reading_out_the_last_state_gives_the_logits_at_the_mask(made, bert):
    tokenized, h = formats.load_states(made.states("val"), LAYERS)
    for s, (ids, t) in enumerate(zip(tokenized.sentences, tokenized.positions.tolist(), strict=True)):
        logits = bert.net(input_ids=ids[None]).logits[0, t]
        torch.testing.assert_close(bert.read_out(h[-1, s]), logits, rtol=0, atol=1e-4)


def test_layer_0_has_the_rank_of_the_distinct_positions_and_scipys_minimum_norm_fit(made, capsys):
    import json

    tokenized, h = formats.load_states(made.states("train"), LAYERS)
    distinct = len(set(tokenized.positions.tolist()))
    entry = json.loads((made.matrices / "manifest.json").read_text())["files"]["0_1.pickle"]
    assert entry["rank"] == min(distinct, D - 1)  # an untrained layer norm takes one dimension
    expected, _, rank, _ = scipy.linalg.lstsq(h[0].double().numpy(), h[1].double().numpy(), cond=config.RCOND)
    assert rank == entry["rank"]
    A = formats.load_matrix(made.matrix(0, 1), D)
    torch.testing.assert_close(A, torch.from_numpy(expected.T).float(), rtol=1e-5, atol=1e-6)


def test_rank_of_few_positions_is_their_number(bert):
    import in_memory

    from shortcut import linear

    sentences = [torch.tensor([5, 6, 7, 8, 9]) for _ in range(60)]
    positions = torch.arange(60) % 4
    for ids, t in zip(sentences, positions.tolist(), strict=True):
        ids[t] = 4
    h = in_memory.layer_states(bert, Tokenized(sentences, positions), 100)
    factors = linear.factorize(h[0], config.RCOND)
    assert factors.rank == 4
    expected, *_ = scipy.linalg.lstsq(h[0].double().numpy(), h[1].double().numpy(), cond=config.RCOND)
    A = factors.fit(h[1])
    torch.testing.assert_close(h[0].double() @ A.T, h[0].double() @ torch.from_numpy(expected), rtol=0, atol=1e-8)


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
        tokenized, h = formats.load_states(made.states(split), LAYERS)
        whole = {layer: h[layer] for layer in range(LAYERS + 1)}
        with open(hand.states(split), "wb") as file:
            for start in range(0, len(tokenized), 7):  # views of large storages, plain pickle, another batch size
                rows = slice(start, start + 7)
                batch = {"tokenized_sentences": tokenized.sentences[rows], "token_positions": tokenized.positions[rows]}
                pickle.dump(batch | {layer: x[rows] for layer, x in whole.items()}, file)
    run_all(tmp_path, bert_folder, SCRIPTS[1:])
    assert hand.results.read_bytes() == made.results.read_bytes()


@pytest.mark.parametrize("dead", [0.0, 1e-30, None])
def test_coordinates_that_hardly_vary_are_told_of_in_one_line(made, tmp_path, bert_folder, capsys, dead):
    """Three of them, in all layers but the first; the paper's mean stays, and beside it stands the one by variance."""
    files = Names(tmp_path, "tiny-bert_mask", "words")
    shutil.copytree(made.matrices, files.matrices, ignore=shutil.ignore_patterns("manifest.json"))
    tokenized, h = formats.load_states(made.states("val"), LAYERS)
    if dead is not None:
        h[1:, :, :3] *= dead
    with store.replacing(files.states("val")) as file:
        store.dump(file, *formats.state_batches(tokenized, h))
    run("bert_add_plot_r2", "--out", tmp_path, "--model", bert_folder, "--dataset", "words")
    told, r2 = capsys.readouterr().out, result_formats.load_r2(files.r2_scores)
    assert told.count("r2 misleads") == (dead is not None)
    assert dead is None or "r2 misleads in 6 of 6 jumps: coordinates that hardly vary count as much" in told
    assert (r2["score_id"][0, 1] < -1e40) == (dead == 1e-30)
    sse, sst = (h[1] - h[0]).double().square().sum(0), (h[1].double() - h[1].double().mean(0)).square().sum(0)
    assert r2["score_id_weighted"][0, 1] == pytest.approx(1 - (sse[sst > 0].sum() / sst.sum()).item())
    assert "weighted by variance, so that" in told


def test_two_runs_with_one_seed_give_the_same_bytes(made, tmp_path, bert_folder):
    files = with_sentences(tmp_path)
    run_all(tmp_path, bert_folder)
    for path in (files.states("train"), files.matrix(0, 1), files.results, files.plot(f"pre_{LAYERS}")):
        assert path.read_bytes() == (made.root / path.relative_to(tmp_path)).read_bytes()


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
        ("bert_add_reps", "run get_wikipedia_sentences.py first"),
        ("bert_add_linreg", r"words_train.pickle not found: run bert_add_reps.py first"),
        ("bert_add_plot_r2", r"words_val.pickle not found: run bert_add_reps.py first"),
        ("bert_add_results", r"words_val.pickle not found: run bert_add_reps.py first"),
    ):
        with pytest.raises(Problem, match=message):
            run(script, *here)
    with pytest.raises(Problem, match="no masked language model of transformers: use the scripts without bert_"):
        run("bert_add_linreg", "--out", tmp_path, "--model", gpt2_folder)
    with pytest.raises(Problem, match="no causal language model of transformers: use the bert_ scripts"):
        run("add_linreg", *here)


def test_states_of_another_model_are_refused(made):
    with pytest.raises(Problem, match="has 3 layers above the embeddings, expected 12"):
        formats.load_states(made.states("val"), 12)


def test_scripts_are_paragraphs():
    for script in SCRIPTS:
        assert len((Path(config.__file__).parent / f"{script}.py").read_text().splitlines()) <= 70


def test_on_a_device_every_tensor_meets_its_like_and_the_numbers_are_the_same(made, tmp_path, bert_folder):
    files = with_sentences(tmp_path)
    with Device() as device:
        run_all(tmp_path, bert_folder, SCRIPTS, "--device", PLAYED)
    assert device.done > 2_000
    assert_same_up_to_rounding(files, made)


@on_a_gpu
def test_on_a_gpu_the_numbers_are_the_same(made, tmp_path, bert_folder):
    files = with_sentences(tmp_path)
    run_all(tmp_path, bert_folder, SCRIPTS, "--device", "cuda")
    assert_same_up_to_rounding(files, made)


def test_an_encoder_without_a_head_has_states_maps_and_r2(tmp_path, bert_folder, monkeypatch, capsys):
    for name, value in {"SENTENCES": 60, "TRAIN": 30, "VAL": 20, "SPLITS": {}}.items():
        monkeypatch.setattr(config, name, value)
    folder = shutil.copytree(bert_folder, tmp_path / "encoder")
    transformers.BertModel.from_pretrained(bert_folder).save_pretrained(folder)
    files = replace(with_sentences(tmp_path), model="encoder_mask")
    there = ("--out", tmp_path, "--dataset", "words", "--model", folder)
    for script in ("bert_add_reps", "bert_add_linreg", "bert_add_plot_r2"):
        run(script, *there)
    assert files.r2_scores.exists()
    said = problem(capsys, "bert_add_results", *there)
    assert said.endswith("is an encoder without a masked-LM head, so it predicts nothing: only its states, maps"
                         " and r2 can be computed")  # fmt: skip
    whole, own = (pretrained.load(str(f), masked=True) for f in (bert_folder, folder))
    tokenized = formats.load_states(files.states("train"), LAYERS)[0]
    states = [in_memory.layer_states(model, tokenized, 100) for model in (whole, own)]
    assert states[0].equal(states[1])
