"""Config and fingerprints of a checkpoint, found by its name on the Hugging Face hub or its folder.

No weights are loaded. An error for a wrong name, a missing file or no network becomes one line. The import of
transformers takes a second, so each function that needs it imports it.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from shortcut import Problem, blocks, one_line
from shortcut.files.names import MODEL_FILES
from shortcut.metrics import TOP

# Files that are hashed for a fingerprint. For weights, the first file that exists is used.
WEIGHTS = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"
)  # fmt: skip
# keys of config.json that do not change the forward pass
NO_SETTINGS = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")
TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt", "vocab.txt"
)  # fmt: skip
# further files of a tokenizer without tokenizer.json
OTHER_TOKENIZER = (
    "added_tokens.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "sentencepiece.model",
    "spm.model", "bpe.codes", "emoji.json", "dict.txt",
)  # fmt: skip

# Keys of config.json that change the forward pass, with the values that do not. If the model's class in transformers
# does not know such a key, the checkpoint loads without an error and runs as another model.
UNKNOWN = {
    "position_embedding_type": (None, "absolute"),  # relative positions; removed from BERT and related classes
    "pruned_heads": (None, {}, []),  # transformers no longer prunes heads at loading
}
CAUSAL = {"is_decoder": (None, False), "is_causal": (None, False)}  # give a masked model causal attention
POINTER = b"version https://git-lfs"  # first bytes of a Git LFS pointer


class NotFound(Problem):
    """The model was not found or cannot be read."""


def n_layers(name: str, *, masked: bool, expected: int | None = None) -> int:
    """Number of blocks, read from the config. Raises Problem as `config` does, or if it is not the expected number."""
    layers = blocks.depth(config(name, masked).get_text_config(decoder=True))
    if expected is not None and layers != expected:
        raise Problem(f"{name} has {layers} layers, config.py says {expected}: correct LAYERS in config.py")
    return layers


def is_model_folder(name: str) -> bool:
    """True if `name` is a folder with the config and the weights of a model."""
    return (Path(name) / "config.json").is_file() and any((Path(name) / file).is_file() for file in WEIGHTS)


def limits(name: str, *, masked: bool) -> tuple[int, int]:
    """Context length and vocabulary size, read from the config. Raises Problem as `config` does."""
    found = config(name, masked).get_text_config(decoder=True)
    return blocks.context(found), found.vocab_size


def fingerprint(name: str, file_kind: str) -> str | None:
    """SHA-256 of a model's "weights" files (with the settings in config.json) or "tokenizer" files.

    None if the model has no tokenizer.
    """
    digest = hashlib.sha256()
    with readable(name) as cached:
        if file_kind == "weights":
            # read from the file, since the defaults that transformers adds differ between releases
            config = _load_json(find(name, cached, "config.json")[0])
            settings = {key: value for key, value in config.items() if key not in NO_SETTINGS}
            digest.update(json.dumps(settings, sort_keys=True).encode())
            files = weight_files(name, cached)
        else:
            files = find(name, cached, *TOKENIZER)
            if not any(Path(file).name == "tokenizer.json" for file in files):
                files += find(name, cached, *OTHER_TOKENIZER)
        for path in files:
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest() if files else None


def fingerprints(name: str) -> dict[str, str | None]:
    """Fingerprints that a manifest records for maps fitted on a model."""
    return {file_kind: fingerprint(name, file_kind) for file_kind in MODEL_FILES}


def find(name: str, cached: bool, *files: str, most: int | None = None) -> list[str]:
    """Paths of the `files` that exist for a model, at most the first `most`."""
    from transformers.utils import cached_file  # noqa: PLC0415

    options = {"local_files_only": cached, "_raise_exceptions_for_missing_entries": False}
    return [*islice(filter(None, (cached_file(name, file, **options) for file in files)), most)]


def weight_files(name: str, cached: bool) -> list[str]:
    """Paths of a model's weights; an index comes before its shards. Raises Problem if there are no weights."""
    from transformers.utils.hub import get_checkpoint_shard_files  # noqa: PLC0415

    if not (files := find(name, cached, *WEIGHTS, most=1)):
        raise Problem(f"{name!r} holds no weights: expected {', '.join(WEIGHTS)}")
    if files[0].endswith(".index.json"):
        files += get_checkpoint_shard_files(name, files[0], local_files_only=cached)[0]
    return files


def _load_json(path: str) -> dict[str, Any]:
    if not isinstance(value := json.loads(Path(path).read_bytes()), dict):
        raise ValueError(f"{path} holds no object")  # `readable` makes a Problem of it
    return value


def auto_class(model_type: str, masked: bool) -> str | None:
    """Name of the transformers class that loads a model type with its head; None if there is none.

    For a model of images and text, the causal language model in it is run.
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

    Raises Problem: the model was not found, is of the other model kind, or has settings that transformers ignores.
    """
    from transformers import AutoConfig  # noqa: PLC0415

    with readable(name) as cached:
        if (own := Path(name, "config.json")).is_file():
            _load_json(str(own))  # the error message is more precise than in AutoConfig
        found = AutoConfig.from_pretrained(name, trust_remote_code=False, local_files_only=cached)
    classes = [auto_class(found.model_type, model_kind) for model_kind in (masked, not masked)]
    has_class, other_has_class = (name is not None for name in classes)
    if has_class and other_has_class:  # both have a class: the head in the checkpoint decides
        has_class = ("ForCausalLM" if masked else "ForMaskedLM") not in str(found.architectures)
    if not has_class:
        others = "the scripts without bert_" if masked else "the bert_ scripts"
        what = f"{name} ({found.model_type}) is no {'masked' if masked else 'causal'} language model of transformers"
        raise Problem(f"{what}{f': use {others}' if other_has_class else ''}")
    _check(name, found.get_text_config(decoder=True), masked)
    return found


def _check(name: str, found, masked: bool) -> None:
    known = {field.name for field in fields(found)}
    dropped = {key: harmless for key, harmless in UNKNOWN.items() if key not in known}
    for key, harmless in (dropped | (CAUSAL if masked else {})).items():
        if (value := getattr(found, key, None)) not in harmless:
            why = "makes a masked model a causal one" if key in CAUSAL else "is no longer honoured by transformers"
            raise Problem(f"{name}: config.json has {key} {value!r}, which {why}: it would run as another model")
    for key, size in {"num_hidden_layers": blocks.depth(found), "a context of": blocks.context(found)}.items():
        if not isinstance(size, int) or size < 1:
            raise Problem(f"{name}: config.json has {key} {size!r}, expected a whole number of at least 1")
    if found.vocab_size < TOP:
        raise Problem(
            f"{name} has a vocabulary of {found.vocab_size}, expected at least {TOP}: the top {TOP} are stored"
        )


@contextmanager
def readable(name: str) -> Iterator[bool]:
    """Turn an error in loading into one line; yields True if the model is read from the hub's cache."""
    from transformers import __version__  # noqa: PLC0415
    from transformers.utils.hub import has_file, is_offline_mode  # noqa: PLC0415

    is_folder = Path(name).is_dir()
    cached = not is_folder and not _is_reached(name)
    if cached and not has_file(name, "config.json", local_files_only=True):
        reason = "HF_HUB_OFFLINE is set" if is_offline_mode() else "the Hugging Face hub cannot be reached or lacks it"
        why = f"not a folder here, not downloaded before, and {reason}: try again with a network, or use"
        raise NotFound(f"cannot load {name!r}: {why} --model FOLDER, such as the embedded models/gpt2-docstrings")
    try:
        yield cached
    except Problem:
        raise
    except Exception as error:  # libraries raise errors of many types for a malformed file
        small = [file for file in sorted(Path(name).glob("*")) if file.is_file() and file.stat().st_size < 1024]
        if pointers := [file.name for file in small if is_folder and file.read_bytes().startswith(POINTER)]:
            hint = f"{pointers[0]} is a Git LFS pointer, not the file itself: run `git lfs pull` there"
        elif isinstance(error, ImportError):
            hint = "it needs a package that is not installed: install it into .venv, or use a checkpoint that does not"
        elif is_folder:
            whole = "a whole folder with config.json, tokenizer.json and model.safetensors"
            hint = f"expected {whole}, such as transformers {__version__} reads"
        else:
            hint = "not a folder here, and not available from the Hugging Face hub"
        raise NotFound(f"cannot load {name!r} ({hint}): {one_line(error)}") from error


@cache
def _is_reached(name: str) -> bool:
    """True if the hub answers for a model. Asked once, since without a network loading retries for 30 s per file."""
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url  # noqa: PLC0415

    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json"))
    except (errors.RepositoryNotFoundError, errors.HFValidationError):  # the error raised in loading is more precise
        return True
    except (errors.HTTPError, OSError):
        return False
    return True
