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
from dataclasses import fields
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from shortcut import Problem, one_line, structure
from shortcut.files.manifest import MODEL_FILES
from shortcut.predictions import TOP

# What a model's fingerprint is taken of; of the weights, the first that is there.
WEIGHTS = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"
)  # fmt: skip
NO_SETTINGS = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")  # of config.json: who saved it, and how
TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt", "vocab.txt"
)  # fmt: skip
# what else a tokenizer is made from where there is no tokenizer.json
OTHER_TOKENIZER = (
    "added_tokens.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "sentencepiece.model",
    "spm.model", "bpe.codes", "emoji.json", "dict.txt",
)  # fmt: skip

# Of config.json: keys that change what the model computes and that its class of transformers may not know, with
# the values that change nothing. Such a checkpoint loads without a word and runs as another model.
UNKNOWN = {
    "position_embedding_type": (None, "absolute"),  # distances between tokens; dropped from BERT and its kin
    "pruned_heads": (None, {}, []),  # attention heads that were cut out; no longer cut out at loading
}
CAUSAL = {"is_decoder": (None, False), "is_causal": (None, False)}  # make a masked model see what precedes alone
POINTER = b"version https://git-lfs"  # how a file begins that Git left where the large one should be


class NotFound(Problem):
    """No such model, as far as can be told from here."""


def n_layers(name: str, *, masked: bool, expected: int | None = None) -> int:
    """The number of blocks of a model, from its config alone. Raises as `config`, also if it is not as expected."""
    layers = structure.depth(text_config(name, masked))
    if expected is not None and layers != expected:
        raise Problem(f"{name} has {layers} layers, config.py says {expected}: correct LAYERS in config.py")
    return layers


def is_model_folder(name: str) -> bool:
    """Whether it is a folder that holds a model's config and weights."""
    return (Path(name) / "config.json").is_file() and any((Path(name) / file).is_file() for file in WEIGHTS)


def limits(name: str, *, masked: bool) -> tuple[int, int]:
    """The longest sequence a model takes, and how many tokens it knows, from its config alone. Raises as `config`."""
    found = text_config(name, masked)
    return structure.context(found), found.vocab_size


def fingerprint(name: str, kind: str) -> str | None:
    """SHA-256 over a model's files of one kind ("weights", "tokenizer"), found without loading it.

    The weights go with the settings in config.json that they are run with. None if there is no tokenizer.
    """
    digest = hashlib.sha256()
    with readable(name) as cached:
        if kind == "weights":
            # as it stands there: with its defaults, which transformers adds, it would change from release to release
            config = _load_json(find(name, cached, "config.json")[0])
            for key in NO_SETTINGS:
                config.pop(key, None)
            digest.update(json.dumps(config, sort_keys=True).encode())
            files = weight_files(name, cached)
        else:
            files = find(name, cached, *TOKENIZER)
            if not any(Path(file).name == "tokenizer.json" for file in files):
                files += find(name, cached, *OTHER_TOKENIZER)
        if not files:
            return None
        for path in files:
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def fingerprints(name: str) -> dict[str, str | None]:
    """By kind of file, the fingerprints that a manifest records for maps fitted on a model."""
    return {kind: fingerprint(name, kind) for kind in MODEL_FILES}


def find(name: str, cached: bool, *files: str, most: int | None = None) -> list[str]:
    """The paths of those files that a model has, the first `most` of them."""
    from transformers.utils import cached_file  # noqa: PLC0415

    options = {"local_files_only": cached, "_raise_exceptions_for_missing_entries": False}
    return [*islice(filter(None, (cached_file(name, file, **options) for file in files)), most)]


def weight_files(name: str, cached: bool) -> list[str]:
    """The files of a model's weights; of shards their index first. Raises Problem if there is none."""
    if not (files := find(name, cached, *WEIGHTS, most=1)):
        raise Problem(f"{name!r} holds no weights: expected {', '.join(WEIGHTS)}")
    if files[0].endswith(".index.json"):
        shards = _load_json(files[0]).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
            raise ValueError(f"{files[0]} has no weight_map, which names the files of the weights")
        names = sorted({*shards.values()})
        files += find(name, cached, *names)
        if missing := [shard for shard in names if not any(file.endswith(shard) for file in files)]:
            raise ValueError(f"its weights are not whole: {missing[0]} is not there, which {files[0]} names")
    return files


def _load_json(path: str) -> dict[str, Any]:
    value = json.loads(Path(path).read_bytes())
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no object")  # which `readable` tells of
    return value


def _config(name: str):
    from transformers import AutoConfig  # noqa: PLC0415

    with readable(name) as cached:
        if (own := Path(name, "config.json")).is_file():
            _load_json(str(own))  # which tells more than what AutoConfig raises
        return AutoConfig.from_pretrained(name, trust_remote_code=False, local_files_only=cached)


def auto_class(model_type: str, masked: bool) -> str | None:
    """The class of transformers that loads a type of model with its head; None if there is none.

    What wraps a causal model with others for images runs as text.
    """
    from transformers.models.auto import modeling_auto as auto  # noqa: PLC0415

    if masked:
        return "AutoModelForMaskedLM" if model_type in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES else None
    if model_type in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return "AutoModelForCausalLM"
    wrapped = model_type in auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    return "AutoModelForImageTextToText" if wrapped else None


def config(name: str, masked: bool) -> Any:
    """A model's config.

    Raises Problem: of another kind, not to be found, or with settings that cannot be run as they were saved.
    """
    found = _config(name)
    here, there = (auto_class(found.model_type, kind) is not None for kind in (masked, not masked))
    if here and there:  # its head tells, if it has one of either
        heads = str(found.architectures)
        here = ("ForCausalLM" if masked else "ForMaskedLM") not in heads
    if not here and there:
        kind, others = ("causal", "the scripts without bert_") if masked else ("masked", "the bert_ scripts")
        raise Problem(f"{name} is a {kind} language model ({found.model_type}): use {others}")
    if not here:
        kind = "masked" if masked else "causal"
        raise Problem(f"{name} is a {found.model_type!r} model, of which transformers has no {kind} language model")
    _check(name, found, masked)
    return found


def text_config(name: str, masked: bool) -> Any:
    """That part of a model's config that is about text. Raises as `config`."""
    return config(name, masked).get_text_config(decoder=True)


def _check(name: str, whole, masked: bool) -> None:
    found = whole.get_text_config(decoder=True)
    known = {field.name for field in fields(found)}
    dropped = {key: harmless for key, harmless in UNKNOWN.items() if key not in known}
    for key, harmless in (dropped | (CAUSAL if masked else {})).items():
        if (value := getattr(found, key, None)) not in harmless:
            why = "makes a masked model a causal one" if key in CAUSAL else "is no longer honoured by transformers"
            raise Problem(f"{name}: config.json has {key} {value!r}, which {why}: it would run as another model")
    for key, size in {"num_hidden_layers": structure.depth(found), "a context of": structure.context(found)}.items():
        if not isinstance(size, int) or size < 1:
            raise Problem(f"{name}: config.json has {key} {size!r}, expected a whole number of at least 1")
    if found.vocab_size < TOP:
        raise Problem(f"{name} knows {found.vocab_size} tokens, expected at least {TOP}: the best {TOP} are kept")


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
    except Problem:
        raise
    except Exception as error:  # whatever a library raises on files of another form
        from transformers import __version__  # noqa: PLC0415

        here = Path(name).is_dir()
        hint = "not a folder here, and not to be had from the Hugging Face hub"
        if here:
            whole = "a whole folder with config.json, tokenizer.json and model.safetensors"
            hint = f"expected {whole}, such as transformers {__version__} reads"
        if here and (pointers := [file.name for file in sorted(Path(name).iterdir()) if _is_pointer(file)]):
            hint = f"{pointers[0]} is a Git LFS pointer, not the file itself: run `git lfs pull` there"
        elif isinstance(error, ImportError):
            hint = "it needs a package that is not installed: install it into .venv, or take a checkpoint without"
        raise NotFound(f"cannot load {name!r} ({hint}): {one_line(error)}") from error


def _is_pointer(file: Path) -> bool:
    if not file.is_file():
        return False
    with open(file, "rb") as stream:
        return stream.read(len(POINTER)) == POINTER


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
