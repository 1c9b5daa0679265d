"""Models and tokenizers by their names on the Hugging Face hub or their folders, each checked as it is loaded.

With `models` the only file that imports transformers. What loading raises for a bad name, a missing
file or no network becomes one line.
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

import torch
import transformers
from safetensors import SafetensorError
from transformers.utils import cached_file, has_file
from transformers.utils import hub as hf_hub
from transformers.utils import logging as hf_logging

from shortcut import Problem
from shortcut.models import FAMILIES, Model

# What a model's fingerprint is taken of; of the weights, the first that is there.
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
NO_SETTINGS = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")  # of config.json: who saved it, and how
TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
)


def load(
    name: str, *, masked: bool, layers: int | None = None, device: str = "cpu", safetensors_only: bool = True
) -> Model:
    """Load a pretrained model by its name on the hub or its folder, and check that it reads out as it should.

    Args:
        name: name or folder.
        masked: whether a masked language model is wanted (the BERT scripts) or a causal one.
        layers: the number of blocks it must have, if known.
        device: where to put it.
        safetensors_only: refuse checkpoints in pickle format, which can run code.

    Raises:
        Problem: not to be found, another family, masked where causal is wanted or the reverse, another
            number of layers, missing weights, or a read-out of h_L that differs from the model's logits.
    """
    n_layers(name, masked=masked, expected=layers)
    family, _ = _family(name, masked)
    with _readable(name) as cached, _quiet_loading():
        net, report = family.auto.from_pretrained(
            name,
            dtype=torch.float32,  # said explicitly: transformers 5 would run a half-precision checkpoint in half
            attn_implementation="sdpa",
            use_safetensors=True if safetensors_only else None,
            output_loading_info=True,
            trust_remote_code=False,
            local_files_only=cached,
        )
    if missing := sorted(k for k in report["missing_keys"] if "pooler" not in k):
        raise Problem(
            f"{name}: the checkpoint lacks {len(missing)} of the model's weights (first: {missing[0]}):"
            " it was saved from another kind of model, or not whole"
        )
    for module in net.modules():  # the same function, fused: a tenth faster
        if type(module) is transformers.activations.NewGELUActivation:
            module.forward = transformers.activations.GELUTanh().forward
    model = Model(net.to(device).eval().requires_grad_(False), family)
    _check_read_out(model, name)
    return model


def n_layers(name: str, *, masked: bool, expected: int | None = None) -> int:
    """The number of blocks of a model, from its config alone. Raises as `load`, also if it is not as expected."""
    layers = _family(name, masked)[1].num_hidden_layers
    if expected is not None and layers != expected:
        raise Problem(f"{name} has {layers} layers, config.py says {expected}: correct LAYERS in config.py")
    return layers


def is_model_folder(name: str) -> bool:
    """Whether it is a folder that holds a model's config and weights."""
    return (Path(name) / "config.json").is_file() and any((Path(name) / file).is_file() for file in WEIGHTS)


def context(name: str, *, masked: bool) -> int:
    """The longest sequence a model takes, from its config alone. Raises as `load`."""
    return _family(name, masked)[1].max_position_embeddings


def is_masked(name: str) -> bool:
    """Whether a model predicts masked tokens, from its config alone; of an unknown family it is not."""
    with _readable(name) as cached:
        family = FAMILIES.get(_config(name, cached).model_type)
    return family is not None and family.masked


def load_tokenizer(name: str, *, masked: bool):
    """The stock tokenizer of a model, and the longest sequence the model takes. Raises as `load`."""
    _, config = _family(name, masked)
    if fingerprint(name, "tokenizer") is None:  # transformers would make one that knows no word
        raise Problem(f"{name!r} holds no tokenizer: expected {', '.join(TOKENIZER)}")
    with _readable(name) as cached:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False, local_files_only=cached)
    return tokenizer, config.max_position_embeddings


def mask_token(tokenizer, name: str) -> int:
    """The number of [MASK]; raises Problem if the tokenizer has none."""
    if tokenizer.mask_token_id is None:
        raise Problem(f"{name}: its tokenizer has no [MASK]; expected a masked model's own tokenizer")
    return tokenizer.mask_token_id


def fingerprint(name: str, kind: str) -> str | None:
    """SHA-256 over a model's files of one kind ("weights", "tokenizer"), found without loading it.

    The weights go with the settings in config.json that they are run with. None if there is no tokenizer.

    Raises:
        Problem: not to be found.
    """
    digest = hashlib.sha256()
    with _readable(name) as cached:
        if kind == "weights":
            # as it stands there: with its defaults, which transformers adds, it would change from release to release
            config = _load_json(cached_file(name, "config.json", local_files_only=cached))
            for key in NO_SETTINGS:
                config.pop(key, None)
            digest.update(json.dumps(config, sort_keys=True).encode())
        names = WEIGHTS if kind == "weights" else TOKENIZER
        found = (
            cached_file(name, file, local_files_only=cached, _raise_exceptions_for_missing_entries=False)
            for file in names
        )
        files = [path for path in found if path] if kind == "tokenizer" else [*islice(filter(None, found), 1)]
        if not files and kind == "tokenizer":
            return None
        if not files:
            raise Problem(f"{name!r} holds no {kind}: expected {', '.join(names)}")
        if files[0].endswith(".index.json"):
            weights = _load_json(files[0]).get("weight_map")
            if not isinstance(weights, dict) or not all(isinstance(shard, str) for shard in weights.values()):
                raise ValueError(f"{files[0]} has no weight_map, which names the files of the weights")
            shards = sorted(set(weights.values()))
            files += [cached_file(name, shard, local_files_only=cached) for shard in shards]
        for path in files:
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _load_json(path: str) -> dict[str, Any]:
    value = json.loads(Path(path).read_text())
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no object")  # which `_readable` tells of
    return value


def _config(name: str, cached: bool):
    return transformers.AutoConfig.from_pretrained(name, trust_remote_code=False, local_files_only=cached)


def _family(name: str, masked: bool):
    with _readable(name) as cached:
        config = _config(name, cached)
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise Problem(
            f"{name} is a {config.model_type!r} model; known are {', '.join(FAMILIES)}."
            " Add a row to FAMILIES in shortcut/models.py for another"
        )
    if family.masked != masked:
        kind, others = ("masked", "the bert_ scripts") if family.masked else ("causal", "the scripts without bert_")
        raise Problem(f"{name} is a {kind} language model ({config.model_type}): use {others}")
    return family, config


@contextmanager
def _readable(name: str) -> Iterator[bool]:
    """Turn what loading raises for a bad name, a missing file or no network into one line.

    Yields whether there is only what was downloaded before, for want of a network.
    """
    cached = not Path(name).is_dir() and not _is_reached(name)
    if cached and not has_file(name, "config.json", local_files_only=True):
        offline = hf_hub.is_offline_mode()
        reason = "HF_HUB_OFFLINE is set" if offline else "the Hugging Face hub cannot be reached or lacks it"
        raise Problem(
            f"cannot load {name!r}: not a folder here, not downloaded before, and {reason}: try again with a network,"
            " or take --model FOLDER, such as the embedded models/gpt2-docstrings or models/bert-docstrings"
        )
    try:
        yield cached
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if Path(name).is_dir():
            hint = "expected a folder with config.json, tokenizer.json and model.safetensors"
        else:
            hint = "not a folder here, and not to be had from the Hugging Face hub"
        raise Problem(f"cannot load {name!r} ({hint}): {_first_sentence(error)}") from error


@cache
def _is_reached(name: str) -> bool:
    """Whether the hub answers for a model: asked once, since loading asks for half a minute a file."""
    logger = logging.getLogger(hf_hub.__name__)
    logger.disabled = True  # it prints what it raises
    try:
        return has_file(name, "config.json", cache_dir=os.devnull)  # which is empty: a cached file is no answer
    except hf_hub.httpx.HTTPError:  # a proxy that is not there
        return False
    except (OSError, ValueError):  # a name the hub does not know or keeps from us: loading tells which
        return True
    finally:
        logger.disabled = False


def _first_sentence(error: Exception) -> str:
    return " ".join(str(error).split()).split(". ")[0][:300]


NEEDLESS_MESSAGES = {  # of transformers, by the logger that gives them, while a model loads
    "transformers.modeling_utils": "a table of unused weights: BERT's pooler and next-sentence head, GPT-2's masks;"
    " `load` checks for missing ones itself",
    "transformers.distributed.tensor_parallel": "a plan to spread layers over GPUs is checked though nothing is spread",
}


@contextmanager
def _quiet_loading() -> Iterator[None]:
    """Without `NEEDLESS_MESSAGES`, and without a progress bar for a second's reading."""
    loggers = [logging.getLogger(name) for name in NEEDLESS_MESSAGES]
    levels = [logger.level for logger in loggers]
    bars = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            hf_logging.enable_progress_bar()


def _check_read_out(model: Model, name: str) -> None:
    """On a dummy batch: reading out the state caught after the last block gives the model's own logits."""
    ids = (torch.arange(8, device=model.device) % model.vocabulary).reshape(2, 4)
    final = []
    with torch.no_grad(), model.watch([(model.blocks[-1], "out")], lambda _, h: final.append(h)):
        logits = model.net(input_ids=ids, use_cache=False).logits
    with torch.no_grad():
        ours = model.read_out(final[0])
    if not torch.isfinite(logits).all():
        broken = next((weights for weights, values in model.net.named_parameters() if not values.isfinite().all()), "")
        what = f"its weights {broken} are" if broken else "its logits are"
        raise Problem(f"{name}: {what} not finite; the checkpoint is broken")
    if not torch.allclose(ours, logits, atol=1e-4, rtol=1e-4):
        raise Problem(
            f"{name}: reading out its last state differs from its own logits by {(ours - logits).abs().max():.2g};"
            " it is not built like the family its config names"
        )
