"""The context of a model: where sentences are cut, tokens that are added, rotary embeddings of long ones."""

import copy
import json
import shutil
import types
from pathlib import Path

import pytest
import torch
import transformers
from architectures import CONTEXT, D, L, make
from conftest import make_sentences
from tokenizers.processors import TemplateProcessing

from shortcut import Problem, blocks, representations, tokens
from shortcut.loading import checkpoint, pretrained
from shortcut.tokens import Tokenized


@pytest.mark.parametrize(("limit", "longest"), [(None, CONTEXT), (10, 10)])
def test_sentences_are_cut_at_the_models_context_and_never_above_the_tokenizers(tmp_path, gpt2_folder, limit, longest):
    """And RoBERTa's table begins behind its padding token: 62 of 64 are for text."""
    shutil.copytree(gpt2_folder, tmp_path / "m")
    settings = tmp_path / "m" / "tokenizer_config.json"
    found = json.loads(settings.read_text(encoding="utf-8")) | ({"model_max_length": limit} if limit else {})
    settings.write_text(json.dumps(found), encoding="utf-8")
    tokenizer = pretrained.load_tokenizer(str(tmp_path / "m"), masked=False)
    assert min(CONTEXT, tokenizer.model_max_length) == longest
    roberta = make("roberta", True, tmp_path / "roberta")
    assert checkpoint.dimensions(roberta, masked=True)[1] == CONTEXT - 1  # whose padding token is 0; RoBERTa's own is 1


@pytest.mark.parametrize(
    ("settings", "longest"),
    [
        ({"max_position_embeddings": 9, "n_ctx": 5}, 9),
        ({"max_position_embeddings": None, "n_positions": 7}, 7),
        ({"max_position_embeddings": -1, "max_seq_len": 7}, 7),
        ({"seq_length": 7}, 7),
        ({"max_sequence_length": 7}, 7),
        ({}, blocks.UNLIMITED),
    ],
)
def test_the_context_length_goes_by_several_names(settings, longest):
    config = types.SimpleNamespace(model_type="x", pad_token_id=1, **settings)
    assert blocks.context(config) == longest


def test_the_context_of_mpt_and_bloom_is_in_their_configs(tmp_path):
    """Under max_seq_len, and seq_length, which transformers has no field for."""
    for kind, name in (("mpt", "max_seq_len"), ("bloom", "seq_length")):
        folder = make(kind, False, tmp_path / kind)
        settings = Path(folder, "config.json")
        settings.write_text(json.dumps(json.loads(settings.read_text(encoding="utf-8")) | {name: 10}), encoding="utf-8")
        assert checkpoint.dimensions(folder, masked=False)[1] == 10
        model = pretrained.load(folder, masked=False)
        with pytest.raises(Problem, match="11 tokens to run, the model takes 10"):
            representations.batches(model, Tokenized([torch.full((11,), 7)], torch.tensor([10])), 100)


def longrope(original, **more):
    factors = {"short_factor": [1.0, 1.0], "long_factor": [20.0, 60.0]}
    return {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": original,
            **factors, **more}  # fmt: skip


def test_one_long_sentence_changes_no_other_where_rotary_embeddings_depend_on_the_longest(tmp_path):
    """Phi-3's: states, in batches of any size, are those of each sentence that runs alone."""
    changes = {"rope_parameters": longrope(8), "original_max_position_embeddings": 8, "max_position_embeddings": 32}
    model = pretrained.load(make("phi3", False, tmp_path / "phi3", **changes), masked=False)
    assert model.rotary_limits == {8}
    g = torch.Generator().manual_seed(0)
    lengths = [5, 6, 7, 8, 8, 9, 9, 12, 20]
    sentences = [torch.randint(5, 320, (length,), generator=g) for length in lengths]
    tokenized = Tokenized(sentences, torch.tensor(lengths) - 1)
    h = torch.empty(L + 1, len(lengths), D)
    batches = representations.batches(model, tokenized, 10_000)
    for batch in batches:
        h[:, batch.rows] = representations.run(model, batch).h
    assert [len(batch.rows) for batch in batches] == [5, 4]
    apart = []
    for s, ids in enumerate(sentences):
        seen = {}
        with torch.no_grad(), model.watch(model.layer_points(), seen.__setitem__):
            model.net(input_ids=ids[None])
        torch.testing.assert_close(h[:, s], torch.stack([seen[l][0, -1] for l in range(L + 1)]), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(representations.whole(model, ids)[L][-1], seen[L][0, -1], rtol=1e-4, atol=1e-4)
        with torch.no_grad(), model.watch(model.layer_points(), seen.__setitem__):
            model.net(input_ids=torch.nn.functional.pad(ids, (0, 20 - len(ids)), value=7)[None])
        apart.append((h[L, s] - seen[L][0, len(ids) - 1]).abs().max().item())
    assert max(apart[5:]) < 1e-3 < min(apart[:5])  # beside the longest the short ones would be others


@pytest.mark.parametrize(
    ("rope", "limits"),
    [
        (None, set()),
        ({"rope_type": "default", "rope_theta": 1.0}, set()),
        ({"rope_type": "yarn", "original_max_position_embeddings": 8}, set()),  # the same at any length
        ({"rope_type": "dynamic", "factor": 2.0}, set()),
        ({"full_attention": longrope(8), "sliding_attention": {"rope_type": "default"}}, {8}),
        ({"full_attention": longrope(8), "sliding_attention": longrope(4)}, {4, 8}),
    ],
)
def test_rotary_limits_are_those_of_every_type_of_block(rope, limits):
    assert blocks.rotary_limits(types.SimpleNamespace(rope_parameters=rope)) == limits


def test_added_tokens_are_never_chosen_of_a_causal_model(gpt2_folder):
    """They stay in the prefix; of a masked model [CLS] and [SEP] may be drawn, as in the paper."""
    plain = transformers.AutoTokenizer.from_pretrained(gpt2_folder)
    with_head = copy.deepcopy(plain)
    end = plain.eos_token
    with_head.backend_tokenizer.post_processor = TemplateProcessing(f"{end} $A", None, [(end, plain.eos_token_id)])
    sentences, sizes = make_sentences(200), {"train": 150, "val": 50}

    def drawn(tokenizer, added):
        drawing = tokens.Drawing(48, 0, added=added)
        return tokens.tokenize(sentences, sizes, tokenizer, drawing, lambda _: None)["train"]

    without, causal, masked = drawn(plain, False), drawn(with_head, False), drawn(with_head, True)
    assert causal.positions.equal(without.positions + 1)
    assert all(ids[0] == plain.eos_token_id for ids in causal.sentences)
    assert (masked.positions == 0).any()
    assert drawn(plain, True).positions.equal(without.positions)
    assert causal.added == (plain.eos_token_id,)
    assert without.added == masked.added == ()  # a masked model's are tokens like any other
    two = f"{end} {plain.convert_ids_to_tokens(7)}"
    special = [(token, plain.convert_tokens_to_ids(token)) for token in two.split()]
    with_head.backend_tokenizer.post_processor = TemplateProcessing(f"{two} $A {end}", None, special)
    assert drawn(with_head, False).added == (plain.eos_token_id, 7)  # what is added at the end is in no prefix
