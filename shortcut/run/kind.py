"""Whether a model is masked or causal, asked of its config and never of its name.

Loads no library, so that it answers the Makefile before any is installed.
"""

import json
import os
from pathlib import Path
from types import ModuleType

MASKED_TYPES = ("bert",)  # `model_type` of those whose config does not name a head


def is_masked(name: str, config: ModuleType) -> bool | None:
    """Whether a model predicts masked tokens; None if it is no folder, unknown to config.py, and not downloaded."""
    if name in config.LAYERS and not Path(name).is_dir():
        return name in config.MASKED
    try:
        found = json.loads(_config_file(name).read_bytes())
        heads = str(found.get("architectures"))
        if "ForCausalLM" in heads or "LMHeadModel" in heads:
            return False
        return "ForMaskedLM" in heads or found.get("model_type") in MASKED_TYPES
    except (OSError, ValueError, AttributeError):
        return None


def _config_file(name: str) -> Path:
    """A folder's config.json, or that of a download of the hub's, where it keeps them."""
    if Path(name).is_dir():
        return Path(name, "config.json")
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    downloads = Path(os.environ.get("HF_HUB_CACHE", home / "hub")) / f"models--{name.replace('/', '--')}"
    commit = (downloads / "refs" / "main").read_text(encoding="utf-8").strip()
    return downloads / "snapshots" / commit / "config.json"
