"""Model kind, config and fingerprints of a checkpoint, found by its name on the Hugging Face hub or its folder.

Each function imports the libraries that it needs, so that the Makefile can ask for the model kind before installing.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from shlex import quote
from types import ModuleType
from typing import Any

from shortcut import LEAST_SQUARES, Problem, one_line
from shortcut.files.names import Names, find_model, similar_model

# Files that are hashed for a fingerprint. For weights, the first file that exists is used.
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
NO_SETTINGS = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")  # change no forward pass
TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt", "vocab.txt"
)  # fmt: skip
OTHER_TOKENIZER = (  # without tokenizer.json
    "added_tokens.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "sentencepiece.model",
    "spm.model", "bpe.codes", "emoji.json", "dict.txt",
)  # fmt: skip
MASKED_TYPES = (  # model types that are masked unless the config names a causal head
    "albert", "bert", "camembert", "convbert", "data2vec-text", "deberta", "deberta-v2", "distilbert", "electra",
    "ernie", "esm", "eurobert", "fnet", "ibert", "longformer", "megatron-bert", "mobilebert", "modernbert", "mpnet",
    "mra", "nomic_bert", "nystromformer", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer",
    "squeezebert", "xlm-roberta", "xlm-roberta-xl", "xmod", "yoso",
)  # fmt: skip


class NotFound(Problem):
    """The model was not found or cannot be read."""


def is_masked(name: str, config: ModuleType | None = None) -> bool | None:
    """True if a model is masked; None if it is not a folder, not in config.py and not downloaded."""
    if config and name in config.LAYERS and not Path(name).is_dir():
        return name in config.MASKED
    folder = Path(name)
    try:
        if not folder.is_dir():  # it may be in the hub's cache
            home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
            downloads = Path(os.environ.get("HF_HUB_CACHE", home / "hub")) / f"models--{name.replace('/', '--')}"
            folder = downloads / "snapshots" / (downloads / "refs" / "main").read_text(encoding="utf-8").strip()
        found = json.loads((folder / "config.json").read_bytes())
        heads, model_type = str(found.get("architectures")), found.get("model_type")
    except (OSError, ValueError, AttributeError):
        return None
    if "ForCausalLM" in heads or "LMHeadModel" in heads:
        return False
    return "ForMaskedLM" in heads or model_type in MASKED_TYPES


def files_of(model: str, dataset: str, out: Path, map_kind: str = LEAST_SQUARES) -> Names:
    """Files of a model found by name or folder, which is their `given`. Raises Problem if neither is available."""
    found = find_model(model)
    if (masked := is_masked(found)) is None:
        why = f"{model}: no folder here, and not downloaded"
        raise Problem(why + (similar_model(model) or f": run make run MODEL={quote(model)} first"))
    return Names.of(found, dataset, out, masked=masked, map_kind=map_kind)


def dimensions(name: str, *, masked: bool) -> tuple[int, int, int]:
    """Number of blocks, context length and vocabulary size. Raises Problem as `config` does."""
    from shortcut import blocks  # noqa: PLC0415

    text = config(name, masked).get_text_config(decoder=True)
    return blocks.depth(text), blocks.context(text), text.vocab_size


def config(name: str, masked: bool) -> Any:
    """A model's config. Raises Problem: it was not found, is of the other model kind, or cannot run as it was saved."""
    from transformers import AutoConfig  # noqa: PLC0415

    from shortcut import blocks, metrics  # noqa: PLC0415

    with readable(name) as cached:
        found = AutoConfig.from_pretrained(name, trust_remote_code=False, local_files_only=cached)
    has_class, other_has_class = (auto_class(found, kind) is not None for kind in (masked, not masked))
    if has_class and other_has_class:  # both have a class: the head in the checkpoint decides
        has_class = ("ForCausalLM" if masked else "ForMaskedLM") not in str(found.architectures)
    if not has_class:
        others = "the scripts without bert_" if masked else "the bert_ scripts"
        what = f"{name} ({found.model_type}) is no {'masked' if masked else 'causal'} language model of transformers"
        raise Problem(f"{what}{f': use {others}' if other_has_class else ''}")
    text = found.get_text_config(decoder=True)
    # Relative positions were removed from BERT and related classes: such a checkpoint would load without an error.
    positions = getattr(text, "position_embedding_type", None)
    if positions not in (None, "absolute") and "position_embedding_type" not in text.__dataclass_fields__:
        ignored = f"position_embedding_type {positions!r}, which is no longer honoured by transformers"
        raise Problem(f"{name}: config.json has {ignored}: it would run as another model")
    if blocks.depth(text) < 1:
        raise Problem(f"{name}: config.json has num_hidden_layers {blocks.depth(text)}, expected at least 1")
    if text.vocab_size < metrics.TOP:
        raise Problem(f"{name} has a vocabulary of {text.vocab_size} tokens, expected at least {metrics.TOP}")
    return found


def auto_class(config: Any, masked: bool) -> type | None:
    """The transformers class that loads a model with its head; None if there is none."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMaskedLM  # noqa: PLC0415

    # of a model of images and text, the causal model in it is run
    classes = [AutoModelForMaskedLM] if masked else [AutoModelForCausalLM, AutoModelForImageTextToText]
    return next((auto for auto in classes if type(config) in auto._model_mapping), None)


def is_model_folder(name: str) -> bool:
    """True if `name` is a folder with the config and the weights of a model."""
    return (Path(name) / "config.json").is_file() and any((Path(name) / file).is_file() for file in WEIGHTS)


def fingerprint(name: str, file_kind: str) -> str | None:
    """SHA-256 of a model's "weights" files, with the settings in config.json, or "tokenizer" files (None: no files)."""
    digest = hashlib.sha256()
    with readable(name) as cached:
        if file_kind == "weights":
            # read from the file, since the defaults that transformers adds differ between releases
            (file,) = find(name, cached, "config.json")
            settings = {key: x for key, x in json.loads(Path(file).read_bytes()).items() if key not in NO_SETTINGS}
            digest.update(json.dumps(settings, sort_keys=True).encode())
            files = weight_files(name, cached)
        else:
            files = [*find(name, cached, *TOKENIZER)]
            if not any(Path(file).name == "tokenizer.json" for file in files):
                files += find(name, cached, *OTHER_TOKENIZER)
        for path in files:
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest() if files else None


def find(name: str, cached: bool, *files: str) -> Iterator[str]:
    """Paths of the `files` that exist for a model, each looked for when it is asked for."""
    from transformers.utils import cached_file  # noqa: PLC0415

    options = {"local_files_only": cached, "_raise_exceptions_for_missing_entries": False}
    return filter(None, (cached_file(name, file, **options) for file in files))


def weight_files(name: str, cached: bool) -> list[str]:
    """Paths of a model's weights; an index comes before its shards. Raises Problem if there are no weights."""
    from transformers.utils.hub import get_checkpoint_shard_files  # noqa: PLC0415

    if not (first := next(find(name, cached, *WEIGHTS), None)):
        raise Problem(f"{name!r} holds no weights: expected {', '.join(WEIGHTS)}")
    sharded = first.endswith(".index.json")
    return [first, *(get_checkpoint_shard_files(name, first, local_files_only=cached)[0] if sharded else ())]


@contextmanager
def readable(name: str) -> Iterator[bool]:
    """Turn an error in loading into one line; yields True if the model is read from the hub's cache."""
    from transformers.utils.hub import __version__, has_file, is_offline_mode  # noqa: PLC0415

    cached = not Path(name).is_dir() and not _is_reached(name)
    if cached and not has_file(name, "config.json", local_files_only=True):
        reason = "HF_HUB_OFFLINE is set" if is_offline_mode() else "the Hugging Face hub cannot be reached or lacks it"
        why = f"not a folder here, not downloaded before, and {reason}: try again with a network, or use"
        raise NotFound(f"cannot load {name!r}: {why} --model FOLDER, such as the embedded models/gpt2-docstrings")
    try:
        yield cached
    except Problem:
        raise
    except Exception as error:  # libraries raise errors of many types for a malformed file
        whole = "a whole folder with config.json, tokenizer.json and model.safetensors"
        hint = f"expected a name on the Hugging Face hub, or {whole}, such as transformers {__version__} reads"
        if isinstance(error, ImportError):
            hint = "it needs a package that is not installed: install it into .venv, or use a checkpoint that does not"
        for file in sorted(Path(name).glob("*")):
            is_small = file.is_file() and file.stat().st_size < 1024
            if is_small and file.read_bytes().startswith(b"version https://git-lfs"):
                hint = f"{file.name} is a Git LFS pointer, not the file itself: run `git lfs pull` there"
        raise NotFound(f"cannot load {name!r} ({hint}): {one_line(error)}") from error


@cache
def _is_reached(name: str) -> bool:
    """True if the hub answers for a model. Asked once, since without a network loading retries for 30 s per file."""
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url  # noqa: PLC0415

    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json"))
    except (errors.HTTPError, errors.HFValidationError, OSError) as error:  # some errors in loading are more precise
        return isinstance(error, (errors.RepositoryNotFoundError, errors.HFValidationError))
    return True
