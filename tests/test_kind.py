"""Masked or causal is asked of the config, by a command that needs nothing installed; what `make run` makes of it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import config
from shortcut.files.names import Names
from shortcut.loading import checkpoint
from shortcut.pipeline.stages import find_files

ROOT = Path(__file__).resolve().parent.parent
BERTS, GPT2S = ["bert_add_reps.py", "bert_add_results.py"], ["add_tokenization.py", "add_results.py"]


def written(folder, **settings):
    """A folder with a config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    return str(folder)


@pytest.mark.parametrize(
    ("settings", "masked"),
    [
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, True),
        ({"model_type": "bert", "architectures": ["BertModel"]}, True),
        ({"model_type": "bert"}, True),
        ({"model_type": "bert", "architectures": ["BertLMHeadModel"]}, False),
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, False),
        ({"model_type": "gpt2", "architectures": None}, False),
        ({"model_type": "roberta", "architectures": ["RobertaForMaskedLM"]}, True),
        ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, False),
    ],
)
def test_a_folder_tells_by_its_config_whatever_its_name(tmp_path, settings, masked):
    for name in ("robert/albert_mask", "gpt2 and a blank", "it's"):
        assert checkpoint.is_masked(written(tmp_path / name, **settings), config) is masked


def test_known_names_downloads_and_damaged_configs(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert [checkpoint.is_masked(name, config) for name in config.LAYERS] == [
        name in config.MASKED for name in config.LAYERS
    ]
    assert {"bert-base-uncased", "FacebookAI/roberta-base"} <= set(config.MASKED) <= set(config.LAYERS)
    assert checkpoint.is_masked("someone/bert-like", config) is None
    downloads = tmp_path / "models--someone--bert-like"
    written(downloads / "snapshots" / "0a1b", model_type="gpt2", architectures=["GPT2LMHeadModel"])
    (downloads / "refs").mkdir()
    (downloads / "refs" / "main").write_text("0a1b", encoding="utf-8")
    assert checkpoint.is_masked("someone/bert-like", config) is False
    for content in ("null", "[]", "<html>"):
        (tmp_path / "config.json").write_text(content, encoding="utf-8")
        assert checkpoint.is_masked(str(tmp_path), config) is None


def test_results_tell_by_their_manifest_else_by_their_name(tmp_path):
    entry = {"sha256": "", "made": "", "key": "", "settings": {}, "reads": {}, "versions": {}}
    made_by = {"a_mask": "add_results.py", "b": "bert_add_results.py", "c_mask": None, "d": "plot_results.py"}
    for folder, script in made_by.items():
        manifest = tmp_path / "experiment" / folder / "manifest.json"
        manifest.parent.mkdir(parents=True)
        files = {"d_results.pickle": {**entry, "script": script}} if script else {}
        manifest.write_text(json.dumps({"files": files}), encoding="utf-8")
    names = ("a_mask", "b", "c", "c_mask", "d", "none", "none_mask")
    found = {name: find_files(name, "d", tmp_path, config) for name in names}
    assert {name: (files.model, files.masked) for name, files in found.items()} == {
        "a_mask": ("a_mask", False), "b": ("b", True), "c": ("c_mask", True), "c_mask": ("c_mask", True),
        "d": ("d", False), "none": ("none", False), "none_mask": ("none_mask", True),
    }  # fmt: skip
    assert Names(tmp_path, "a_mask", "d").title == "a_mask on d"
    assert Names(tmp_path, "a_mask", "d", masked=True).title == "a on d"


def make(*words, env=()):
    env = os.environ | dict(env)
    return subprocess.run(
        ["make", "-n", "--no-print-directory", "run", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=env,
    )


@pytest.mark.parametrize("name", ["home/robert/small", 'my models/it\'s "small"', "bert_mask"])
@pytest.mark.parametrize(("settings", "scripts", "others"), [
    ({"architectures": ["BertForMaskedLM"]}, BERTS, GPT2S), ({"architectures": ["GPT2LMHeadModel"]}, GPT2S, BERTS)
])  # fmt: skip
def test_make_hands_a_model_whole_to_the_scripts_of_its_kind(tmp_path, name, settings, scripts, others):
    folder = written(tmp_path / name, **settings)
    told = make(f"MODEL={folder}", "DATASET=t", "SOURCE=o'neil's lines.txt").stdout
    words = [subprocess.check_output(["sh", "-c", f"printf '%s\\n' {line}"], text=True) for line in told.splitlines()]
    assert words[0].splitlines()[-1] == "o'neil's lines.txt"
    assert all(folder in of.splitlines() or of.startswith("echo\n") for of in words[1:])
    assert all(any(of.splitlines()[1] == script for of in words) for script in scripts)
    assert not any(of.splitlines()[1] in others for of in words)


def test_make_asks_for_the_kind_of_an_unknown_model(tmp_path):
    nothing = {"HF_HUB_CACHE": str(tmp_path)}
    unknown = make("MODEL=gtp2", env=nothing)
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert unknown.stderr.splitlines()[0] == (
        "config.py: gtp2 is no folder here, not in config.py and not downloaded, so its kind is unknown:"
        " add FAMILY=gpt2 (causal) or FAMILY=bert (masked); did you mean gpt2?"
    )
    assert "FAMILY is masked: use" in make("MODEL=someone/albert", "FAMILY=masked", env=nothing).stderr
    told = make("MODEL=someone/albert", "FAMILY=bert", env=nothing)
    assert "bert_add_reps.py" in told.stdout
    assert not told.stderr


def test_the_command_that_make_asks_needs_nothing_installed(tmp_path):
    for folder in ("shortcut", "config.py"):
        (shutil.copytree if (ROOT / folder).is_dir() else shutil.copy)(ROOT / folder, tmp_path / folder)
    done = subprocess.run(
        [sys.executable, "-S", "config.py", "--family", "--model", "bert-base-uncased"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("bert\n", "")
