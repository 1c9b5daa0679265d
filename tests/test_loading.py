"""What cannot get past loading, and what a model's fingerprint is taken of."""

import json
import shutil

import pytest
import safetensors.torch
import torch
import transformers
from conftest import LAYERS, make_bert, make_gpt2

from shortcut import Problem
from shortcut.run import checkpoint, loading


def test_half_precision_checkpoint_runs_in_float32(tmp_path, gpt2_folder):
    transformers.AutoModelForCausalLM.from_pretrained(gpt2_folder).half().save_pretrained(tmp_path)
    assert next(loading.load(str(tmp_path), masked=False).net.parameters()).dtype == torch.float32


def test_another_kind_of_model_is_named(gpt2_folder, bert_folder):
    with pytest.raises(Problem, match="causal language model"):
        loading.load(gpt2_folder, masked=True)
    with pytest.raises(Problem, match="use the bert_ scripts"):
        loading.load(bert_folder, masked=False)


def test_unknown_family_names_the_known_ones(tmp_path):
    transformers.GPTNeoConfig().save_pretrained(tmp_path)
    with pytest.raises(Problem, match=r"'gpt_neo' model; known are gpt2, bert.*shortcut/models.py"):
        loading.load(str(tmp_path), masked=False)


def test_unknown_name_and_empty_folder_are_one_line(tmp_path):
    for name, hint in (("no-such-model", "not a folder here"), (str(tmp_path), "expected a folder with")):
        with pytest.raises(Problem, match=hint) as caught:
            loading.load(name, masked=False)
        assert "\n" not in str(caught.value)


def test_another_number_of_layers_is_refused(gpt2_folder):
    with pytest.raises(Problem, match="has 3 layers, config.py says 12"):
        checkpoint.n_layers(gpt2_folder, masked=False, expected=12)


@pytest.mark.parametrize("make", [make_gpt2, make_bert])
def test_checkpoint_with_missing_weights_is_refused(tmp_path, make):
    folder = make(tmp_path / "model")
    file = f"{folder}/model.safetensors"
    weights = safetensors.torch.load_file(file)
    name = next(name for name in weights if "1" in name and name.endswith("bias"))
    del weights[name]
    safetensors.torch.save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(Problem, match="lacks 1 of the model's weights"):
        loading.load(folder, masked=make is make_bert)


def test_checkpoint_that_is_not_finite_is_refused(tmp_path, gpt2_folder):
    folder = shutil.copytree(gpt2_folder, tmp_path / "model")
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    weights["transformer.ln_f.bias"][0] = float("nan")
    safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Problem, match=r"its weights transformer\.ln_f\.bias are not finite"):
        loading.load(str(folder), masked=False)


def test_damaged_checkpoint_is_one_line(tmp_path, gpt2_folder):
    folder = shutil.copytree(gpt2_folder, tmp_path / "model")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(Problem, match="cannot load") as caught:
        loading.load(str(folder), masked=False)
    assert "\n" not in str(caught.value)


def test_pickled_checkpoints_need_a_setting(tmp_path, gpt2_folder, gpt2):
    shutil.copytree(gpt2_folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").unlink()
    torch.save(gpt2.net.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(Problem, match=r"pytorch_model.bin.*set SAFETENSORS_ONLY = False"):
        loading.load(str(tmp_path), masked=False)
    assert loading.load(str(tmp_path), masked=False, safetensors_only=False).n_layers == LAYERS


def test_fingerprint_changes_with_the_weights_and_the_tokenizer_alone(tmp_path, gpt2_folder):
    folder = shutil.copytree(gpt2_folder, tmp_path / "model")
    weights, tokenizer = (checkpoint.fingerprint(str(folder), kind) for kind in ("weights", "tokenizer"))
    assert weights == checkpoint.fingerprint(gpt2_folder, "weights")
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    tensors["transformer.ln_f.bias"][0] += 1
    safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert checkpoint.fingerprint(str(folder), "weights") != weights
    assert checkpoint.fingerprint(str(folder), "tokenizer") == tokenizer
    changed = checkpoint.fingerprint(str(folder), "weights")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "layer_norm_epsilon": 1e-3}))
    assert checkpoint.fingerprint(str(folder), "weights") != changed
    (folder / "config.json").write_text(json.dumps({**config, "transformers_version": "9", "dtype": "float16"}))
    assert checkpoint.fingerprint(str(folder), "weights") == changed


def test_a_folder_without_a_tokenizer_is_named_when_one_is_wanted(tmp_path, gpt2):
    gpt2.net.save_pretrained(tmp_path)
    assert checkpoint.fingerprint(str(tmp_path), "tokenizer") is None
    with pytest.raises(Problem, match=r"holds no tokenizer: expected tokenizer\.json, "):
        loading.load_tokenizer(str(tmp_path), masked=False)


def test_fingerprint_asks_for_no_pickled_weights_where_safetensors_are(gpt2_folder, monkeypatch):
    asked = []
    original = transformers.utils.cached_file
    monkeypatch.setattr(transformers.utils, "cached_file", lambda *a, **k: asked.append(a[1]) or original(*a, **k))
    checkpoint.fingerprint(gpt2_folder, "weights")
    assert asked == ["config.json", "model.safetensors"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "[]", "config.json holds no object"),
        ("model.safetensors.index.json", "{}", "index.json has no weight_map"),
        ("model.safetensors.index.json", '{"weight_map": {"a": 3}}', "index.json has no weight_map"),
    ],
)
def test_a_model_folder_of_another_form_has_no_fingerprint(tmp_path, gpt2_folder, name, content, message):
    folder = shutil.copytree(gpt2_folder, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    (folder / name).write_text(content)
    with pytest.raises(Problem, match=f"^cannot load .*{message}"):
        checkpoint.fingerprint(str(folder), "weights")


def test_sharded_checkpoints_have_fingerprints_too(tmp_path, gpt2, gpt2_folder):
    gpt2.net.save_pretrained(tmp_path, max_shard_size="10KB")
    first = checkpoint.fingerprint(str(tmp_path), "weights")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    shard = tmp_path / sorted(set(index["weight_map"].values()))[-1]
    shard.write_bytes(shard.read_bytes()[:-1] + b"\1")
    assert checkpoint.fingerprint(str(tmp_path), "weights") != first
