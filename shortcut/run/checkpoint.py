"""A model's files by its name on the Hugging Face hub or its folder: what its config says, and their fingerprints.

No weights are loaded. What reading raises for a bad name, a missing file or no network becomes one line.
transformers takes a second to import, so each function does so itself.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from shortcut import Problem
from shortcut.models import FAMILIES, Family

# What a model's fingerprint is taken of; of the weights, the first that is there.
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
NO_SETTINGS = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")  # of config.json: who saved it, and how
TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt", "vocab.txt"
)  # fmt: skip


class NotFound(Problem):
    """No such model, as far as can be told from here."""


def n_layers(name: str, *, masked: bool, expected: int | None = None) -> int:
    """The number of blocks of a model, from its config alone. Raises as `family`, also if it is not as expected."""
    layers = family(name, masked)[1].num_hidden_layers
    if expected is not None and layers != expected:
        raise Problem(f"{name} has {layers} layers, config.py says {expected}: correct LAYERS in config.py")
    return layers


def is_model_folder(name: str) -> bool:
    """Whether it is a folder that holds a model's config and weights."""
    return (Path(name) / "config.json").is_file() and any((Path(name) / file).is_file() for file in WEIGHTS)


def context(name: str, *, masked: bool) -> int:
    """The longest sequence a model takes, from its config alone. Raises as `family`."""
    return family(name, masked)[1].max_position_embeddings


def is_masked(name: str) -> bool:
    """Whether a model predicts masked tokens, from its config alone; of an unknown family it is not."""
    row = FAMILIES.get(_config(name).model_type)
    return row is not None and row.masked


def fingerprint(name: str, kind: str) -> str | None:
    """SHA-256 over a model's files of one kind ("weights", "tokenizer"), found without loading it.

    The weights go with the settings in config.json that they are run with. None if there is no tokenizer.
    """
    from transformers.utils import cached_file  # noqa: PLC0415

    digest = hashlib.sha256()
    with readable(name) as cached:
        if kind == "weights":
            # as it stands there: with its defaults, which transformers adds, it would change from release to release
            config = _load_json(cached_file(name, "config.json", local_files_only=cached))
            for key in NO_SETTINGS:
                config.pop(key, None)
            digest.update(json.dumps(config, sort_keys=True).encode())
        names = WEIGHTS if kind == "weights" else TOKENIZER
        options = {"local_files_only": cached, "_raise_exceptions_for_missing_entries": False}
        found = filter(None, (cached_file(name, file, **options) for file in names))
        files = [*islice(found, None if kind == "tokenizer" else 1)]
        if not files and kind == "tokenizer":
            return None
        if not files:
            raise Problem(f"{name!r} holds no {kind}: expected {', '.join(names)}")
        if files[0].endswith(".index.json"):
            shards = _load_json(files[0]).get("weight_map")
            if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
                raise ValueError(f"{files[0]} has no weight_map, which names the files of the weights")
            files += [cached_file(name, shard, local_files_only=cached) for shard in sorted({*shards.values()})]
        for path in files:
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _load_json(path: str) -> dict[str, Any]:
    value = json.loads(Path(path).read_bytes())
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no object")  # which `readable` tells of
    return value


def _config(name: str):
    from transformers import AutoConfig  # noqa: PLC0415

    with readable(name) as cached:
        return AutoConfig.from_pretrained(name, trust_remote_code=False, local_files_only=cached)


def family(name: str, masked: bool) -> tuple[Family, Any]:
    """A model's row of `FAMILIES`, and its config; raises Problem if it is of another kind, or not to be found."""
    config = _config(name)
    row = FAMILIES.get(config.model_type)
    if row is None:
        known = f"known are {', '.join(FAMILIES)}. Add a row to FAMILIES in shortcut/models.py for another"
        raise Problem(f"{name} is a {config.model_type!r} model; {known}")
    if row.masked != masked:
        kind, others = ("masked", "the bert_ scripts") if row.masked else ("causal", "the scripts without bert_")
        raise Problem(f"{name} is a {kind} language model ({config.model_type}): use {others}")
    return row, config


@contextmanager
def readable(name: str) -> Iterator[bool]:
    """Make one line of what loading raises; yields whether there is only what was downloaded before."""
    from transformers.utils.hub import has_file, is_offline_mode  # noqa: PLC0415

    cached = not Path(name).is_dir() and not _is_reached(name)
    if cached and not has_file(name, "config.json", local_files_only=True):
        reason = "HF_HUB_OFFLINE is set" if is_offline_mode() else "the Hugging Face hub cannot be reached or lacks it"
        why = f"not a folder here, not downloaded before, and {reason}: try again with a network, or take"
        raise NotFound(f"cannot load {name!r}: {why} --model FOLDER, such as the embedded models/gpt2-docstrings")
    try:
        yield cached
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        expected = "expected a folder with config.json, tokenizer.json and model.safetensors"
        hint = expected if Path(name).is_dir() else "not a folder here, and not to be had from the Hugging Face hub"
        said = " ".join(str(error).split()).split(". ")[0][:300]
        raise NotFound(f"cannot load {name!r} ({hint}): {said}") from error


@cache
def _is_reached(name: str) -> bool:
    """Whether the hub answers for a model: asked once, since loading asks for half a minute a file."""
    from transformers.utils import hub  # noqa: PLC0415

    logger = logging.getLogger(hub.__name__)
    logger.disabled = True  # it prints what it raises
    try:
        return hub.has_file(name, "config.json", cache_dir=os.devnull)  # which is empty: a cached file is no answer
    except hub.httpx.HTTPError:  # a proxy that is not there
        return False
    except (OSError, ValueError):  # a name the hub does not know or keeps from us: loading tells which
        return True
    finally:
        logger.disabled = False
