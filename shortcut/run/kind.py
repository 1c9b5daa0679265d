"""Whether a model is masked or causal, asked of its config and never of its name.

`python -m shortcut.run.kind MODEL` prints whose scripts are the model's, gpt2 or bert, for the Makefile. Loads no
library, so that it answers before any is installed.
"""

import json
import os
import sys
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


if __name__ == "__main__":
    import config

    model = sys.argv[1]
    if (masked := is_masked(model, config)) is None:
        why = "no folder here, unknown to config.py and not downloaded yet"
        print(f"{model} is taken for a causal model ({why}): add FAMILY=bert for a masked one", file=sys.stderr)
    print("bert" if masked else "gpt2")
