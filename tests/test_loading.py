"""What cannot get past loading."""

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
import transformers
from conftest import LAYERS, changed, make_bert, make_gpt2

from shortcut import Problem
from shortcut.loading import checkpoint, pretrained


def test_half_precision_checkpoint_runs_in_float32(tmp_path, gpt2_folder):
    transformers.AutoModelForCausalLM.from_pretrained(gpt2_folder).half().save_pretrained(tmp_path)
    assert next(pretrained.load(str(tmp_path), masked=False).net.parameters()).dtype == torch.float32


def test_another_kind_of_model_is_named(gpt2_folder, bert_folder):
    with pytest.raises(Problem, match=r"\(gpt2\) is no masked language model .*use the scripts without bert_"):
        pretrained.load(gpt2_folder, masked=True)
    with pytest.raises(Problem, match="use the bert_ scripts"):
        pretrained.load(bert_folder, masked=False)


def test_a_model_that_predicts_no_tokens_is_named(tmp_path):
    transformers.ViTConfig().save_pretrained(tmp_path)
    with pytest.raises(Problem, match=r"\(vit\) is no causal language model of transformers$"):
        pretrained.load(str(tmp_path), masked=False)


def test_unknown_name_and_empty_folder_are_one_line(tmp_path):
    for name, hint in (("no-such-model", "not a folder here"), (str(tmp_path), "a whole folder with config.json")):
        with pytest.raises(Problem, match=hint) as caught:
            pretrained.load(name, masked=False)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", [make_gpt2, make_bert])
def test_checkpoint_with_missing_weights_is_refused(tmp_path, make):
    folder = make(tmp_path / "model")
    file = f"{folder}/model.safetensors"
    weights = safetensors.torch.load_file(file)
    name = next(name for name in weights if "1" in name and name.endswith("bias"))
    del weights[name]
    safetensors.torch.save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(Problem, match="lacks 1 of the model's weights"):
        pretrained.load(folder, masked=make is make_bert)


def test_checkpoint_that_is_not_finite_is_refused(tmp_path, gpt2_folder):
    folder = shutil.copytree(gpt2_folder, tmp_path / "model")
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    weights["transformer.ln_f.bias"][0] = float("nan")
    safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Problem, match=r"its weights transformer\.ln_f\.bias are not finite"):
        pretrained.load(str(folder), masked=False)


def test_damaged_checkpoint_is_one_line(tmp_path, gpt2_folder):
    folder = shutil.copytree(gpt2_folder, tmp_path / "model")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(Problem, match="cannot load") as caught:
        pretrained.load(str(folder), masked=False)
    assert "\n" not in str(caught.value)


def renamed(**names):
    """Weights under other names; of a name given as None there are none."""
    return lambda w: {names.get(k.replace(".", "_"), k): v for k, v in w.items() if names.get(k.replace(".", "_"), k)}


GPT2_OVER = ["transformer.h.3.ln_1.weight", "transformer.h.0.attn.c_attn.lora_A.weight", "h.1.adapter.weight",
             "transformer.ln_0.weight", "transformer.wpe.scale", "lm_head.bias"]  # fmt: skip


BERT_OVER = ["bert.encoder.layer.1.output.adapter.up.weight", "bert.embeddings.distance.weight",
             "encoder.layer.0.attention.self.distance_embedding.weight", "cls.predictions.transform.scale"]  # fmt: skip


@pytest.mark.parametrize("name", [*GPT2_OVER, *BERT_OVER])
def test_weights_that_have_no_place_in_what_runs_stop_it(tmp_path, gpt2_folder, bert_folder, name):
    masked = name in BERT_OVER
    folder = changed(bert_folder if masked else gpt2_folder, tmp_path, lambda w: {**w, name: torch.ones(3, 3)})
    with pytest.raises(Problem, match=rf"holds 1 weights that its class does not have \(first: {name}\)"):
        pretrained.load(folder, masked=masked)


@pytest.mark.parametrize(
    ("name", "told"),
    [("transformer.h.0.attn.masked_bias", False), ("h.2.attn.bias", False), ("v_head.summary.weight", True),
     ("bert.pooler.dense.weight", False), ("pooler.dense.weight", False), ("cls.seq_relationship.weight", False),
     ("bert.embeddings.position_ids", False), ("classifier.weight", True)],
)  # fmt: skip
def test_weights_beside_what_runs_are_nothing_or_one_notice(tmp_path, gpt2_folder, bert_folder, name, told):
    masked, lines = bool({"bert", "pooler", "cls", "classifier"} & {*name.split(".")}), []
    folder = changed(bert_folder if masked else gpt2_folder, tmp_path, lambda w: {**w, name: torch.ones(3, 3)})
    pretrained.load(folder, masked=masked, notice=lines.append)
    assert len(lines) == told
    assert all(f"(first: {name})" in line for line in lines)


@pytest.mark.parametrize(
    ("names", "settings"),
    [
        ({"transformer_wte_weight": "lm_head.weight"}, {}),
        ({"cls_predictions_bias": "cls.predictions.decoder.bias"}, {}),
        ({"bert_embeddings_word_embeddings_weight": "cls.predictions.decoder.weight"}, {}),
        ({}, {"tie_word_embeddings": False}),
        ({"cls_predictions_bias": "cls.predictions.decoder.bias"}, {"tie_word_embeddings": False}),
    ],
)
def test_a_whole_checkpoint_is_not_refused_for_the_name_of_one_tensor(
    tmp_path, gpt2_folder, bert_folder, names, settings
):
    masked = "transformer_wte_weight" not in names
    whole = bert_folder if masked else gpt2_folder

    def weights(w):
        embeddings = w.get("bert.embeddings.word_embeddings.weight")
        return renamed(**names)({**w, **({"cls.predictions.decoder.weight": embeddings} if settings else {})})

    model, same = (pretrained.load(f, masked=masked) for f in (whole, changed(whole, tmp_path, weights, **settings)))
    h = torch.randn(4, model.d)
    assert model.read_out(h).equal(same.read_out(h))
    assert all(a.equal(b) for a, b in zip(model.net.parameters(), same.net.parameters(), strict=False))


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32])
def test_integers_without_their_scales_are_refused(tmp_path, gpt2_folder, dtype, pickled):
    name = "transformer.h.1.mlp.c_fc.weight"
    folder = changed(gpt2_folder, tmp_path, lambda w: {**w, name: (9 * w[name]).to(dtype)})
    if pickled:
        torch.save(safetensors.torch.load_file(f"{folder}/model.safetensors"), f"{folder}/pytorch_model.bin")
        Path(folder, "model.safetensors").unlink()
    with pytest.raises(Problem, match=f"holds {name} as {str(dtype)[6:]}, without the scales"):
        pretrained.load(folder, masked=False, safetensors_only=not pickled)


@pytest.mark.parametrize(
    ("family", "twice"), [("gpt2", "h.0.ln_1.bias"), ("bert", "bert.encoder.layer.0.output.LayerNorm.gamma")]
)
def test_a_weight_that_the_file_holds_twice_is_refused(tmp_path, request, family, twice):
    folder = changed(request.getfixturevalue(f"{family}_folder"), tmp_path, lambda w: {**w, twice: torch.ones(16)})
    with pytest.raises(Problem, match=rf"holds a weight twice, as .*{twice}|holds a weight twice, as {twice}"):
        pretrained.load(folder, masked=family == "bert")


def test_an_error_of_the_model_itself_is_one_line(tmp_path, bert_folder):
    folder = changed(
        bert_folder, tmp_path, type_vocab_size=0,
        weights=lambda w: {k: v[:0] if "token_type" in k else v for k, v in w.items()},
    )  # fmt: skip
    with pytest.raises(Problem, match="cannot load") as caught:
        pretrained.load(folder, masked=True)
    assert "\n" not in str(caught.value)


def test_an_adapter_beside_its_base_is_refused(tmp_path, gpt2_folder):
    folder = changed(gpt2_folder, tmp_path)
    Path(folder, "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(Problem, match=r"holds an adapter \(adapter_config.json\).*merge_and_unload"):
        pretrained.load(folder, masked=False)


def test_code_of_its_own_that_is_not_run_is_told_of(tmp_path, bert_folder):
    lines = []
    own = {"AutoModelForMaskedLM": "its_own.Model", "AutoTokenizer": ["a.B", None]}
    pretrained.load(changed(bert_folder, tmp_path, auto_map=own), masked=True, notice=lines.append)
    assert ["has custom code (AutoModelForMaskedLM), which is not run" in line for line in lines] == [True]


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_git_lfs_pointer_is_called_by_its_name(tmp_path, gpt2_folder, file):
    folder = changed(gpt2_folder, tmp_path)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    Path(folder, file).write_text(pointer, encoding="utf-8")
    with pytest.raises(Problem, match=rf"{file} is a Git LFS pointer, not the file itself: run `git lfs pull`"):
        pretrained.load(folder, masked=False)


def pickled(folder, shards):
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if not shards:
        return torch.save(tensors, folder / "pytorch_model.bin")
    of = {name: f"pytorch_model-0000{1 + k % 2}-of-00002.bin" for k, name in enumerate(tensors)}
    for shard in {*of.values()}:
        torch.save({name: tensors[name] for name in tensors if of[name] == shard}, folder / shard)
    index = json.dumps({"metadata": {}, "weight_map": of})
    return (folder / "pytorch_model.bin.index.json").write_text(index, encoding="utf-8")


@pytest.mark.parametrize("shards", [False, True])
def test_pickled_weights_in_one_piece_or_in_shards_need_a_setting(tmp_path, gpt2_folder, shards):
    folder = shutil.copytree(gpt2_folder, tmp_path / "model")
    pickled(folder, shards)
    with pytest.raises(Problem, match=r"as pickles \(pytorch_model.*\.bin\).*set SAFETENSORS_ONLY = False"):
        pretrained.load(str(folder), masked=False)
    assert pretrained.load(str(folder), masked=False, safetensors_only=False).n_layers == LAYERS
    assert checkpoint.is_model_folder(str(folder))
    if shards:
        (folder / "pytorch_model-00002-of-00002.bin").unlink()
        with pytest.raises(Problem, match=r"cannot load .* No such file .*pytorch_model-00002-of-00002.bin"):
            pretrained.load(str(folder), masked=False, safetensors_only=False)
