"""`shortcut.Lens` of a model, a tokenizer and maps in memory."""

import contextlib

import pytest
import torch
import transformers
from conftest import LAYERS, D, maps

import shortcut
from shortcut import Problem, sentence_grid
from shortcut.files import store
from shortcut.files.names import Names
from shortcut.loading import pretrained

EAGER = {"output_attentions": True, "attn_implementation": "eager"}
SENTENCE = "the model reads early state"


@pytest.fixture
def names(tmp_path, gpt2_folder):
    """Maps into the last layer for the tiny GPT-2, without a manifest."""
    files = Names(tmp_path, "tiny-gpt2", "words", given=gpt2_folder)
    for l, A in enumerate(maps()):
        with store.replacing(files.matrix(l, LAYERS)) as file:
            store.dump(file, A.A)
    return files


def in_training(folder, **changes):
    """A model as a user has it in the middle of training, with heavy dropout."""
    more = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.5)
    return transformers.GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32, **more, **changes).train()


@pytest.mark.parametrize(
    "changes", [{}, {"return_dict": False}, {"use_cache": False}, {"output_hidden_states": True}, EAGER]
)
def test_a_lens_of_a_model_in_memory_is_the_lens_of_its_folder(names, gpt2_folder, tokenizer, changes):
    loaded = shortcut.Lens.load(gpt2_folder, "words", out=names.root)
    lens = shortcut.Lens(in_training(gpt2_folder, **changes), tokenizer, names.matrices)
    assert repr(lens) == repr(loaded)
    own = lens.model.net.config
    assert (own.return_dict, own.output_hidden_states, own.output_attentions) == (True, False, False)
    h = loaded.states(SENTENCE)
    torch.testing.assert_close(lens.states(SENTENCE), h, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(lens.read_out(h[2]), loaded.read_out(h[2]), rtol=1e-4, atol=1e-4)
    assert lens.transport(h[1], 1).equal(loaded.transport(h[1], 1))
    assert lens.predict(SENTENCE).ids == loaded.predict(SENTENCE).ids


def test_chunks_of_the_feed_forward_do_not_limit_the_length_of_a_text(bert_folder):
    """transformers refuses a sequence that is no multiple of the chunk; blocks keep what they were built with."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(bert_folder)
    whole, chunked = (
        transformers.BertForMaskedLM.from_pretrained(bert_folder, dtype=torch.float32, chunk_size_feed_forward=size)
        for size in (0, 7)
    )
    states = [shortcut.Lens(net, tokenizer, {(0, LAYERS): torch.eye(D)}).states(SENTENCE) for net in (whole, chunked)]
    assert states[0].equal(states[1])
    assert chunked.config.chunk_size_feed_forward == chunked.bert.encoder.layer[0].chunk_size_feed_forward == 7


def test_a_lens_leaves_the_model_in_memory_as_it_is(names, gpt2_folder, tokenizer):
    net = in_training(gpt2_folder)
    net.transformer.h[1].eval()
    net.lm_head.requires_grad_(False)

    def look():
        own = [(name, module.training, {**vars(module)}) for name, module in net.named_modules()]
        return own, net.config.to_dict(), [weights.requires_grad for weights in net.parameters()]

    before = look()
    lens = shortcut.Lens(net, tokenizer, names.matrices)
    lens.predict(SENTENCE)
    assert look() == before
    with torch.no_grad():
        net.transformer.wte.weight.mul_(2)
    after = shortcut.Lens(net, tokenizer, names.matrices)
    assert lens.states(SENTENCE).equal(after.states(SENTENCE))  # the weights are shared, so training goes on in both


def test_a_lens_takes_maps_in_memory(gpt2_folder, tokenizer):
    jumps, b = maps(), torch.ones(D, 1)
    given = {(0, LAYERS): jumps[0].A.double().numpy(), (1, LAYERS): torch.cat([jumps[1].A, b], 1)}
    lens = shortcut.Lens(in_training(gpt2_folder), tokenizer, given)
    h = lens.states(SENTENCE)
    torch.testing.assert_close(lens.transport(h[0], 0), h[0] @ jumps[0].A.T)
    torch.testing.assert_close(lens.transport(h[1], 1), h[1] @ jumps[1].A.T + 1)
    with pytest.raises(Problem, match=f"^no map from layer 2 to {LAYERS} is among the maps given"):
        lens.predict(SENTENCE)
    assert repr(lens) == f"Lens({gpt2_folder}, 2 maps, map kind given, layers 0 to {LAYERS})"
    whole = shortcut.Lens(in_training(gpt2_folder), tokenizer, {(l, LAYERS): A.A for l, A in enumerate(jumps)})
    assert [*whole.predict(SENTENCE).predicted] == ["id", "given"]


def test_a_lens_takes_a_masked_model_in_memory(bert, bert_folder, tmp_path):
    net = transformers.BertForMaskedLM.from_pretrained(bert_folder, dtype=torch.float32).train()
    lens = shortcut.Lens(
        net, pretrained.load_tokenizer(bert_folder, masked=True), {(l, LAYERS): A.A for l, A in enumerate(maps())}
    )
    text = "the [MASK] reads"
    assert lens.predict(text).ids["id"] == sentence_grid.look(bert, lens.tokenizer, text, {"mat": maps()}).ids["id"]


def test_a_lens_refuses_a_model_without_a_head(gpt2_folder, tokenizer, names):
    for kind in (transformers.GPT2Model, transformers.GPT2ForSequenceClassification):
        net = kind(transformers.GPT2Config.from_pretrained(gpt2_folder))
        with pytest.raises(Problem, match=f"{kind.__name__} has no head: load it with AutoModelForCausalLM or"):
            shortcut.Lens(net, tokenizer, names.matrices)


def test_a_folder_without_maps_is_one_line(gpt2_folder, tokenizer, names):
    lens = shortcut.Lens(in_training(gpt2_folder), tokenizer, names.matrices.with_name("words@ridge"))
    assert repr(lens) == f"Lens({gpt2_folder}, maps of words, map kind ridge, layers 0 to {LAYERS})"
    with pytest.raises(Problem, match=rf"words@ridge/0_3.pickle not found: run .* --model {gpt2_folder} .*--map ridge"):
        lens.predict(SENTENCE)
    with pytest.raises(Problem, match="^no map kind is called best: expected least-squares"):
        shortcut.Lens(in_training(gpt2_folder), tokenizer, f"{names.matrices}@best")


def test_a_map_is_looked_for_before_the_model_is_loaded(gpt2_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "load", None)
    expected = rf"0_3.pickle not found: run .*add_linreg.py --model {gpt2_folder} --dataset words --map affine --out"
    with pytest.raises(Problem, match=expected):
        shortcut.Lens.load(gpt2_folder, "words", "affine", out=tmp_path)


def test_a_list_of_texts_gives_a_list(names, gpt2_folder):
    lens, texts = shortcut.Lens.load(gpt2_folder, "words", out=names.root), [SENTENCE, "the map"]
    assert all(h.equal(lens.states(text)) for h, text in zip(lens.states(texts), texts, strict=True))
    assert [grid.sentence for grid in lens.predict(texts)] == texts
    assert lens.states([]) == lens.predict([]) == []


@pytest.mark.parametrize("fails", [False, True])
def test_a_lens_leaves_the_messages_of_transformers_on(names, gpt2_folder, monkeypatch, fails):
    logging = transformers.utils.logging
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    if fails:
        monkeypatch.setattr(pretrained, "load_tokenizer", None)
    try:
        logging.set_verbosity_info()
        logging.enable_progress_bar()
        with pytest.raises(TypeError) if fails else contextlib.nullcontext():
            shortcut.Lens.load(gpt2_folder, "words", out=names.root)
        assert logging.get_verbosity() == logging.INFO
        assert logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        with pytest.raises(TypeError) if fails else contextlib.nullcontext():
            shortcut.Lens.load(gpt2_folder, "words", out=names.root)
        assert not logging.is_progress_bar_enabled()
    finally:
        logging.set_verbosity(before[0])
        (logging.enable_progress_bar if before[1] else logging.disable_progress_bar)()
