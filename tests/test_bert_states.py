"""The states that bert_add_reps.py writes: the original's batches, Hugging Face's numbers, and their rank."""

import json
import pickle

import pytest
import scipy.linalg
import torch
from conftest import LAYERS, D
from pipeline import fit_kinds, small_sizes

import config
from shortcut import Problem
from shortcut.files import formats
from shortcut.loading import pretrained


@pytest.fixture(scope="module")
def made(request, tmp_path_factory):
    with small_sizes():
        return fit_kinds(request, "bert", tmp_path_factory.mktemp("out"), ["least-squares"])[1]


def test_batches_are_those_of_the_original_code(made, bert_folder):
    tokenizer = pretrained.load_tokenizer(bert_folder, masked=True)
    with open(made.split("train"), "rb") as file:
        batches = [pickle.load(file) for _ in range(5)]
        assert not file.read(1)
    sentences = formats.load_sentences(made.sentences)
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


def test_states_and_their_read_out_equal_hugging_faces_one_sentence_at_a_time(made, bert):
    tokenized, h = formats.load_states(made.split("val"), LAYERS)
    for s, (ids, t) in enumerate(zip(tokenized.sentences, tokenized.positions.tolist(), strict=True)):
        theirs = bert.net(input_ids=ids[None], output_hidden_states=True)  # BERT's states end before any norm
        torch.testing.assert_close(h[:, s], torch.stack([x[0, t] for x in theirs.hidden_states]), rtol=0, atol=1e-5)
        torch.testing.assert_close(bert.read_out(h[-1, s]), theirs.logits[0, t], rtol=0, atol=1e-4)


def test_layer_0_has_the_rank_of_the_distinct_positions_and_scipys_minimum_norm_fit(made, capsys):
    tokenized, h = formats.load_states(made.split("train"), LAYERS)
    distinct = len(set(tokenized.positions.tolist()))
    entry = json.loads((made.matrices / "manifest.json").read_text())["files"]["0_1.pickle"]
    assert entry["rank"] == min(distinct, D - 1)  # an untrained layer norm takes one dimension
    expected, _, rank, _ = scipy.linalg.lstsq(h[0].double().numpy(), h[1].double().numpy(), cond=config.RCOND)
    assert rank == entry["rank"]
    A = formats.load_matrix(made.matrix(0, 1), D)
    torch.testing.assert_close(A, torch.from_numpy(expected.T).float(), rtol=1e-5, atol=1e-6)


def test_states_of_another_model_are_refused(made):
    with pytest.raises(Problem, match="has 3 layers above the embeddings, expected 12"):
        formats.load_states(made.split("val"), 12)
