"""Whether a model is masked or causal, asked of its config and never of its name.

Loads no library, so that it answers the Makefile before any is installed.
"""

import json
import os
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from shortcut import LEAST_SQUARES, Problem
from shortcut.files.names import Names, find_model, model_folder

MASKED_TYPES = (  # of those that are masked models where their config names no head
    "albert", "bert", "camembert", "convbert", "data2vec-text", "deberta", "deberta-v2", "distilbert", "electra",
    "ernie", "esm", "eurobert", "fnet", "ibert", "longformer", "megatron-bert", "mobilebert", "modernbert", "mpnet",
    "mra", "nomic_bert", "nystromformer", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer",
    "squeezebert", "xlm-roberta", "xlm-roberta-xl", "xmod", "yoso",
)  # fmt: skip


def is_masked(name: str, config: ModuleType) -> bool | None:
    """Whether a model predicts masked tokens; None if it is no folder, unknown to config.py, and not downloaded."""
    if name in config.LAYERS and not Path(name).is_dir():
        return name in config.MASKED
    if (found := _load(name)) is None:
        return None
    heads = str(found.get("architectures"))
    if "ForCausalLM" in heads or "LMHeadModel" in heads:
        return False
    return "ForMaskedLM" in heads or found.get("model_type") in MASKED_TYPES


def _load(name: str) -> dict[str, Any] | None:
    try:
        found = json.loads(_config_file(name).read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _config_file(name: str) -> Path:
    """A folder's config.json, or that of a download of the hub's, where it keeps them."""
    if Path(name).is_dir():
        return Path(name, "config.json")
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    downloads = Path(os.environ.get("HF_HUB_CACHE", home / "hub")) / f"models--{name.replace('/', '--')}"
    commit = (downloads / "refs" / "main").read_text(encoding="utf-8").strip()
    return downloads / "snapshots" / commit / "config.json"


def files_of(model: str, dataset: str, out: Path, kind_of_maps: str = LEAST_SQUARES) -> tuple[str, Names]:
    """A model, found by its name or folder, and the files of its maps of a kind.

    Raises Problem: it is neither a folder nor downloaded, so that it is unknown whether it is masked.
    """
    found = find_model(model)
    if (masked := is_masked(found, SimpleNamespace(LAYERS={}, MASKED=()))) is None:
        raise Problem(f"{model}: no folder here, and not downloaded: run the pipeline with it first")
    return found, Names(out.resolve(), model_folder(found, masked=masked), dataset, kind=kind_of_maps, masked=masked)
