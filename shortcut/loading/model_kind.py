"""Model kind: True for a masked model, False for a causal one. The config decides, never the name.

Imports no library, so that the Makefile can use it before any is installed.
"""

import json
import os
from pathlib import Path
from types import ModuleType

from shortcut import LEAST_SQUARES, Problem
from shortcut.files.names import Names, find_model, model_folder

MASKED_TYPES = (  # model types that are masked unless the config names a causal head
    "albert", "bert", "camembert", "convbert", "data2vec-text", "deberta", "deberta-v2", "distilbert", "electra",
    "ernie", "esm", "eurobert", "fnet", "ibert", "longformer", "megatron-bert", "mobilebert", "modernbert", "mpnet",
    "mra", "nomic_bert", "nystromformer", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer",
    "squeezebert", "xlm-roberta", "xlm-roberta-xl", "xmod", "yoso",
)  # fmt: skip


def is_masked(name: str, config: ModuleType) -> bool | None:
    """True if a model is masked; None if it is not a folder, not in config.py and not downloaded."""
    if name in config.LAYERS and not Path(name).is_dir():
        return name in config.MASKED
    return _is_masked(name)


def _is_masked(name: str) -> bool | None:
    try:
        found = json.loads(_config_file(name).read_bytes())
        heads, model_type = str(found.get("architectures")), found.get("model_type")
    except (OSError, ValueError, AttributeError):
        return None
    if "ForCausalLM" in heads or "LMHeadModel" in heads:
        return False
    return "ForMaskedLM" in heads or model_type in MASKED_TYPES


def _config_file(name: str) -> Path:
    """Path of config.json in a model's folder or in the hub's cache."""
    if Path(name).is_dir():
        return Path(name, "config.json")
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    downloads = Path(os.environ.get("HF_HUB_CACHE", home / "hub")) / f"models--{name.replace('/', '--')}"
    commit = (downloads / "refs" / "main").read_text(encoding="utf-8").strip()
    return downloads / "snapshots" / commit / "config.json"


def files_of(model: str, dataset: str, out: Path, map_kind: str = LEAST_SQUARES) -> tuple[str, Names]:
    """A model, found by name or folder, and the files of its maps. Raises Problem if neither is available."""
    found = find_model(model)
    if (masked := _is_masked(found)) is None:
        raise Problem(f"{model}: no folder here, and not downloaded: run the pipeline with it first")
    return found, Names(out.resolve(), model_folder(found, masked=masked), dataset, map_kind=map_kind, masked=masked)
