"""The settings of config.py and the options of the scripts. No library is imported at the top."""

import argparse
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, UnionType
from typing import Any, NamedTuple, get_origin, get_type_hints

from shortcut import LEAST_SQUARES, Problem
from shortcut.files.names import find_model

SETTINGS = (  # of config.py
    "SOURCE", "READ_BYTES", "SPACY", "SENTENCES", "TRAIN", "VAL", "POSITIONS", "SEED", "MAP", "RANK", "PROBES",
    "SCHEDULES", "RCOND", "TAU", "LAMBDAS", "DTYPE", "DEVICE", "BATCH_SIZE", "GPT2", "BERT", "LAYERS", "MASKED",
    "SAFETENSORS_ONLY", "DATASET", "HUB_DATASET", "HUB_CONFIG", "DOCSTRING_PACKAGES", "SPLITS", "LAST_ONLY", "OUT",
)  # fmt: skip
# The smallest values allowed. A confidence interval needs two validation sentences.
LEAST = {"VAL": 2} | dict.fromkeys(("READ_BYTES", "SENTENCES", "TRAIN", "POSITIONS", "RANK", "PROBES", "BATCH_SIZE"), 1)


def dataset_name(text: str) -> str:
    """Parse the name of a dataset."""
    if text in ("", "..") or Path(text).name != text or "@" in text:
        raise argparse.ArgumentTypeError(f"expected a name that can be part of file names, without @, got {text!r}")
    return text


def map_kind(text: str) -> str:
    """Parse a map kind."""
    if text != LEAST_SQUARES:
        from shortcut.linear import KINDS  # noqa: PLC0415  (loads torch)

        if text not in KINDS:
            raise argparse.ArgumentTypeError(f"expected {', '.join(KINDS)}, got {text!r}")
    return text


def sentence(text: str) -> str:
    """Parse --sentence. A text that looks like the path of a file must be one."""
    path = r"\.(txt|text|csv|tsv|md|jsonl?)$" if len(text.split()) > 1 else r"[/\\]|\.[a-z]{2,5}$"
    is_path = re.search(path, text, re.IGNORECASE) or os.path.isdir(os.path.dirname(text))
    if is_path and not os.path.isfile(text):
        raise argparse.ArgumentTypeError(f"{text}: no such file; expected a sentence, or a file with one per line")
    return text


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


class Option(NamedTuple):
    """An option of some scripts. It replaces the setting of its name, if there is one, for one run."""

    help: str
    metavar: str  # placeholder in --help
    type: Callable[[str], Any] = str  # parses the option


OPTIONS = {
    "source": Option("source of sentences; PATH: parquet, jsonl or txt, file or folder", "hub|docstrings|PATH"),
    "seed": Option("random seed for sampling sentences, token positions and Jacobian probes", "N", int),
    "map": Option("map kinds: least-squares, affine, ridge, low-rank, jacobian, jacobian-later, jacobian-affine, "
                  "trained, tuned", "KIND", map_kind),
    "device": Option("cpu, cuda, cuda:1, auto, or spread (blocks over all devices)", "DEVICE"),
    "batch-size": Option("number of tokens in a batch", "TOKENS", _positive),
    "model": Option("name or folder of the model", "NAME_OR_FOLDER", find_model),
    "matrices-from": Option("judge the matrices fitted on another dataset; files are then named <d>_maps_of_DATASET",
                            "DATASET", dataset_name),
    "words": Option("now a command: python -m shortcut words TEXT.txt OUT.csv --model NAME_OR_FOLDER", "FILE"),
    "sentence": Option("show the predictions of every layer for it; FILE: one sentence per line", "TEXT_OR_FILE",
                       sentence),
}  # fmt: skip


def check(config: ModuleType) -> None:
    """Raise Problem if a setting is missing, has no annotation or another type, or has a value that is not allowed."""
    hints = get_type_hints(config)
    for name in dict.fromkeys([*SETTINGS, *hints]):
        if not hasattr(config, name):
            raise Problem(f"config.py has no {name}: restore the line, or correct its name")
        value, hint = getattr(config, name), hints.get(name)
        if hint is None:
            raise Problem(f"{name} in config.py has no type annotation: restore the line")
        allowed = hint if get_origin(hint) in (None, UnionType) else get_origin(hint)
        if not isinstance(value, (float, int) if allowed is float else allowed):
            expected = getattr(allowed, "__name__", allowed)
            raise Problem(f"{name} in config.py is {value!r}, expected a value of type {expected}")
        if name in LEAST and value < LEAST[name]:
            raise Problem(f"{name} in config.py is {value}, expected at least {LEAST[name]}")
    _check_contents(config)


def _check_contents(config: ModuleType) -> None:
    if not config.MAP:
        raise Problem("MAP in config.py is empty, expected map kinds, such as ('least-squares',)")
    for name, parse, values in (("MAP", map_kind, config.MAP), ("DATASET", dataset_name, [config.DATASET])):
        try:
            [parse(value) for value in values]  # argparse does not check a default
        except argparse.ArgumentTypeError as error:
            raise Problem(f"{name} in config.py: {error}") from None
    if config.DTYPE not in ("float32", "auto"):
        raise Problem(f"DTYPE in config.py is {config.DTYPE!r}, expected float32 or auto")
    for mode, grid in config.LAMBDAS.items():
        if not isinstance(grid, tuple):
            raise Problem(f"LAMBDAS in config.py has {grid!r} for {mode}, expected a tuple of numbers")
    for dataset, split in config.SPLITS.items():
        whole = isinstance(split, tuple) and [*map(type, split)] == [int, int]
        if not whole or split[0] < LEAST["TRAIN"] or split[1] < LEAST["VAL"]:
            raise Problem(f"SPLITS in config.py has {split} for {dataset}, expected at least 1 and 2 sentences")


def sizes(config: ModuleType, dataset: str) -> dict[str, int]:
    """Numbers of training and validation sentences, as "train" and "val"."""
    return dict(zip(("train", "val"), config.SPLITS.get(dataset, (config.TRAIN, config.VAL)), strict=True))


def read(argv: list[str] | None, config: ModuleType, script: str, takes: str, doc: str) -> argparse.Namespace:
    """Parse and check the options that a script `takes`, and those of all scripts."""
    check(config)
    model = config.BERT if script.startswith("bert_") else config.GPT2
    parser = argparse.ArgumentParser(prog=script, description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    for name in takes.split():
        option, setting = OPTIONS[name], name.upper().replace("-", "_")
        default = getattr(config, setting, model if name == "model" else None)
        nargs = "+" if isinstance(default, tuple) else None
        text = option.help + ("" if default is None else f" (default: {', '.join(default) if nargs else default})")
        add(f"--{name}", type=option.type, nargs=nargs, default=default, metavar=option.metavar, help=text)
    add("--dataset", metavar="NAME", type=dataset_name, help=f"name in file names (default: {config.DATASET})")
    add("--out", metavar="FOLDER", type=Path, default=config.OUT, help="holds experiment/ and linreg/ (default: here)")
    add("--force", action="store_true", help="make existing files again")
    args = parser.parse_args(argv)
    source = getattr(args, "source", config.SOURCE)
    if source != config.SOURCE and args.dataset is None:
        why = f"--source {source} needs a dataset name, since {config.DATASET} has another source"
        raise Problem(f"{why}: add --dataset {source if source == 'docstrings' else 'NAME'}")
    if getattr(args, "words", None):
        raise Problem("--words is gone: run python -m shortcut words TEXT.txt OUT.csv --model NAME_OR_FOLDER")
    args.dataset = args.dataset or config.DATASET
    return args
