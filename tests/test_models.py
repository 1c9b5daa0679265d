"""The contract every family keeps, and what cannot get past loading."""

import json
import shutil
from contextlib import ExitStack

import pytest
import safetensors.torch
import torch
import transformers
from conftest import LAYERS, D, make_bert, make_gpt2

from shortcut import Problem, models, representations


def run_seeing(model, points, ids):
    seen = [None] * len(points)
    with torch.inference_mode(), model.watch(points, seen.__setitem__):
        model.run(ids, None)
    return seen


def ids_for(model):
    return torch.arange(12).reshape(2, 6) + 5


def test_layers_equal_hugging_faces_hidden_states(model):
    ids = ids_for(model)
    seen = run_seeing(model, model.layer_points(), ids)
    theirs = model.net(input_ids=ids, output_hidden_states=True).hidden_states
    assert len(seen) == len(theirs) == LAYERS + 1
    # Their last entry comes after the final norm for GPT-2, so it is not compared.
    for ours, expected in zip(seen[:-1], theirs[:-1], strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


def test_reading_out_the_last_state_gives_the_models_logits(model):
    ids = ids_for(model)
    *_, final = run_seeing(model, model.layer_points(), ids)
    torch.testing.assert_close(model.read_out(final), model.net(input_ids=ids).logits, rtol=0, atol=1e-5)


def test_hooks_are_gone_after_watching_even_after_an_error(model):
    def hooks():
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.net.modules())

    before = hooks()
    with pytest.raises(RuntimeError, match="stop"), model.watch(model.layer_points(), lambda k, h: None):
        assert hooks() > before
        raise RuntimeError("stop")
    assert hooks() == before


def test_gpt2_gelu_is_fused_without_changing_the_function(gpt2, gpt2_folder):
    plain = transformers.AutoModelForCausalLM.from_pretrained(gpt2_folder, dtype=torch.float32)
    ids = ids_for(gpt2)
    torch.testing.assert_close(gpt2.net(input_ids=ids).logits, plain(input_ids=ids).logits, rtol=0, atol=1e-4)


def test_states_inside_a_block_are_those_of_a_block_written_by_hand(gpt2):
    seen = run_seeing(gpt2, gpt2.part_points(), ids_for(gpt2))
    assert len(seen) == 6 * LAYERS + 1
    for i, block in enumerate(gpt2.blocks):
        x = seen[6 * i]
        hand = [x, block.ln_1(x)]
        hand.append(block.attn(hand[1])[0])
        hand.append(hand[2] + x)
        hand.append(block.ln_2(hand[3]))
        hand.append(block.mlp(hand[4]))
        hand.append(hand[5] + hand[3])
        for a in range(7):
            torch.testing.assert_close(seen[6 * i + a], hand[a], rtol=0, atol=1e-4)


@pytest.mark.parametrize("states", [(1, 4), (2,), (5,), (1, 2), (4, 5), (1, 2, 4, 5)])
def test_replaced_parts_equal_a_block_written_by_hand(gpt2, states):
    g = torch.Generator().manual_seed(1)
    maps = {(i, a): torch.randn(D, D, generator=g) for i in range(LAYERS) for a in states}
    h = torch.randn(2, 5, D, generator=g)
    for i, block in enumerate(gpt2.blocks):

        def part(a, x, i=i, block=block):
            if a in states:
                return x @ maps[i, a].T
            return {1: block.ln_1, 2: lambda y: block.attn(y)[0], 4: block.ln_2, 5: block.mlp}[a](x)

        middle = h + part(2, part(1, h))
        expected = middle + part(5, part(4, middle))
        with gpt2.swapped(gpt2.swaps(maps)):
            replaced = gpt2.blocks[i](h)
        torch.testing.assert_close(replaced, expected, rtol=1e-5, atol=1e-4)


def test_replaced_parts_are_put_back_even_after_an_error(gpt2):
    before = {name: id(module) for name, module in gpt2.net.named_modules()}
    swaps = gpt2.swaps({(0, 1): torch.eye(D), (0, 2): torch.eye(D), (1, 4): torch.eye(D)})
    with pytest.raises(RuntimeError, match="stop"), gpt2.swapped(swaps):
        assert {name: id(module) for name, module in gpt2.net.named_modules()} != before
        raise RuntimeError("stop")
    assert {name: id(module) for name, module in gpt2.net.named_modules()} == before


def test_what_nobody_reads_is_spared_without_a_trace(model, tokenized):
    """Narrowed, h_L at the chosen positions is the same, and it differs elsewhere: something was spared."""
    (batch,) = representations.batches(model, tokenized, 10_000)
    finals = []
    for narrowed in (False, True):
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            if narrowed:
                stack.enter_context(model.narrowed(batch.last))
            stack.enter_context(model.watch([(model.blocks[-1], "out")], lambda _, h: finals.append(h)))
            model.run(batch.ids, batch.mask)
    whole, spared = finals
    torch.testing.assert_close(batch.at_chosen(spared), batch.at_chosen(whole), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(spared, whole)


def test_parts_of_a_family_without_them_are_refused(bert):
    with pytest.raises(Problem, match="sub-modules of bert models are not mapped"):
        bert.part_points()


def test_half_precision_checkpoint_runs_in_float32(tmp_path, gpt2_folder):
    transformers.AutoModelForCausalLM.from_pretrained(gpt2_folder).half().save_pretrained(tmp_path)
    assert next(models.load(str(tmp_path), masked=False).net.parameters()).dtype == torch.float32


def test_another_kind_of_model_is_named(gpt2_folder, bert_folder):
    with pytest.raises(Problem, match="causal language model"):
        models.load(gpt2_folder, masked=True)
    with pytest.raises(Problem, match="use the bert_ scripts"):
        models.load(bert_folder, masked=False)


def test_unknown_family_names_the_known_ones(tmp_path):
    transformers.GPTNeoConfig().save_pretrained(tmp_path)
    with pytest.raises(Problem, match=r"'gpt_neo' model; known are gpt2, bert.*shortcut/models.py"):
        models.load(str(tmp_path), masked=False)


def test_unknown_name_and_empty_folder_are_one_line(tmp_path):
    for name, hint in (("no-such-model", "not a folder here"), (str(tmp_path), "expected a folder with")):
        with pytest.raises(Problem, match=hint) as caught:
            models.load(name, masked=False)
        assert "\n" not in str(caught.value)


def test_another_number_of_layers_is_refused(gpt2_folder):
    with pytest.raises(Problem, match="has 3 layers, config.py says 12"):
        models.load(gpt2_folder, masked=False, layers=12)


@pytest.mark.parametrize("make", [make_gpt2, make_bert])
def test_checkpoint_with_missing_weights_is_refused(tmp_path, make):
    folder = make(tmp_path / "model")
    file = f"{folder}/model.safetensors"
    weights = safetensors.torch.load_file(file)
    name = next(name for name in weights if "1" in name and name.endswith("bias"))
    del weights[name]
    safetensors.torch.save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(Problem, match="lacks 1 of the model's weights"):
        models.load(folder, masked=make is make_bert)


def test_checkpoint_that_is_not_finite_is_refused(tmp_path, gpt2_folder):
    folder = shutil.copytree(gpt2_folder, tmp_path / "model")
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    weights["transformer.ln_f.bias"][0] = float("nan")
    safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Problem, match="not finite"):
        models.load(str(folder), masked=False)


def test_damaged_checkpoint_is_one_line(tmp_path, gpt2_folder):
    folder = shutil.copytree(gpt2_folder, tmp_path / "model")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(Problem, match="cannot load") as caught:
        models.load(str(folder), masked=False)
    assert "\n" not in str(caught.value)


def test_pickled_checkpoints_need_a_setting(tmp_path, gpt2_folder, gpt2):
    shutil.copytree(gpt2_folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").unlink()
    torch.save(gpt2.net.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(Problem, match="cannot load"):
        models.load(str(tmp_path), masked=False)
    assert models.load(str(tmp_path), masked=False, safetensors_only=False).n_layers == LAYERS


def test_fingerprint_changes_with_the_weights_and_the_tokenizer_alone(tmp_path, gpt2_folder):
    folder = shutil.copytree(gpt2_folder, tmp_path / "model")
    weights, tokenizer = (models.fingerprint(str(folder), kind) for kind in ("weights", "tokenizer"))
    assert weights == models.fingerprint(gpt2_folder, "weights")
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    tensors["transformer.ln_f.bias"][0] += 1
    safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert models.fingerprint(str(folder), "weights") != weights
    assert models.fingerprint(str(folder), "tokenizer") == tokenizer
    changed = models.fingerprint(str(folder), "weights")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "layer_norm_epsilon": 1e-3}))
    assert models.fingerprint(str(folder), "weights") != changed


def test_fingerprint_asks_for_no_pickled_weights_where_safetensors_are(gpt2_folder, monkeypatch):
    asked = []
    original = models.cached_file
    monkeypatch.setattr(models, "cached_file", lambda *a, **k: asked.append(a[1]) or original(*a, **k))
    models.fingerprint(gpt2_folder, "weights")
    assert asked == ["model.safetensors"]


def test_sharded_checkpoints_have_fingerprints_too(tmp_path, gpt2, gpt2_folder):
    gpt2.net.save_pretrained(tmp_path, max_shard_size="10KB")
    first = models.fingerprint(str(tmp_path), "weights")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    shard = tmp_path / sorted(set(index["weight_map"].values()))[-1]
    shard.write_bytes(shard.read_bytes()[:-1] + b"\1")
    assert models.fingerprint(str(tmp_path), "weights") != first
