"""What a model's fingerprint is taken of."""

import json
import shutil

import pytest
import safetensors.torch
import transformers

from shortcut import Problem
from shortcut.loading import checkpoint


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


def test_fingerprint_asks_for_no_pickled_weights_where_safetensors_are(gpt2_folder, monkeypatch):
    asked = []
    original = transformers.utils.cached_file
    monkeypatch.setattr(transformers.utils, "cached_file", lambda *a, **k: asked.append(a[1]) or original(*a, **k))
    checkpoint.fingerprint(gpt2_folder, "weights")
    assert asked == ["config.json", "model.safetensors"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "[]", "AttributeError: 'list'"),
        ("model.safetensors.index.json", "{}", "KeyError: 'weight_map'"),
        ("model.safetensors.index.json", '{"weight_map": {"a": 3}, "metadata": {}}', "TypeError"),
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
