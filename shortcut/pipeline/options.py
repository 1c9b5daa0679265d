"""One table for the settings of config.py and the options of the scripts.

No library is imported here, so that `python config.py` answers immediately.
"""

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from shortcut import Problem
from shortcut.files.names import find_model

DTYPES = ("float32", "auto")


def dataset_name(text: str) -> str:
    """Parse the name of a dataset."""
    if text in ("", "..") or Path(text).name != text or "@" in text:
        raise argparse.ArgumentTypeError(f"expected a name that can be part of file names, without @, got {text!r}")
    return text


def map_kind(text: str) -> str:
    """Parse a map kind."""
    from shortcut.linear import KINDS  # noqa: PLC0415  (loads torch)

    if text not in KINDS:
        raise argparse.ArgumentTypeError(f"expected {', '.join(KINDS)}, got {text!r}")
    return text


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


class Setting(NamedTuple):
    """Properties of a setting in config.py: how it is checked, replaced by an option, and recorded."""

    help: str = ""  # help text of the option that replaces it for one run; "" without an option
    metavar: str = ""  # placeholder in --help
    type: Callable[[str], Any] = str  # parses the option
    least: int | None = None  # the smallest value allowed
    recorded: bool = False  # True if files depend on it; manifests then hold it, with its name in lower case


SETTINGS = {
    "SOURCE": Setting("source of sentences; PATH: parquet, jsonl or txt, file or folder", "hub|docstrings|PATH"),
    "READ_BYTES": Setting(least=1),
    "SPACY": Setting(recorded=True),
    "SENTENCES": Setting(least=1, recorded=True),
    "TRAIN": Setting(least=1, recorded=True),
    "VAL": Setting(least=2, recorded=True),  # a confidence interval needs two
    "POSITIONS": Setting(least=1, recorded=True),
    "SEED": Setting("random seed for sampling sentences, token positions and Jacobian probes", "N", int, recorded=True),
    "MAP": Setting("map kinds: least-squares, affine, ridge, low-rank, jacobian, tuned", "KIND", map_kind),
    "RANK": Setting(least=1, recorded=True),
    "PROBES": Setting(least=1, recorded=True),
    "SCHEDULES": Setting(recorded=True),
    "RCOND": Setting(recorded=True),
    "TAU": Setting(recorded=True),
    "LAMBDAS": Setting(recorded=True),
    "DTYPE": Setting(recorded=True),
    "DEVICE": Setting("cpu, cuda, cuda:1, auto, or spread (blocks over all devices)", "DEVICE"),
    "BATCH_SIZE": Setting("number of tokens in a batch", "TOKENS", _positive, least=1),
}
OTHERS: dict[str, tuple[Callable[[str], Any], str, str]] = {  # options without a setting: type, placeholder, help
    "model": (str, "NAME_OR_FOLDER", "name or folder of the model"),
    "matrices-from": (dataset_name, "DATASET",
                      "judge the matrices fitted on another dataset; files are then named <d>_maps_of_DATASET"),
    "words": (str, "FILE", "write the surprisal of every word of the text in --sentence, at every layer, as CSV"),
    "sentence": (str, "TEXT_OR_FILE", "show the predictions of every layer for it; FILE: one sentence per line"),
}  # fmt: skip


def check(config: ModuleType) -> None:
    """Raise Problem if a setting is missing, is not of the annotated type, or is too small."""
    for name, hint in get_type_hints(config).items():
        if not hasattr(config, name):
            raise Problem(f"config.py has no {name}: restore the line, or correct its name")
        value = getattr(config, name)
        hints = get_args(hint) if get_origin(hint) not in (dict, tuple) and get_args(hint) else (hint,)
        types = tuple(get_origin(hint) or hint for hint in hints)
        also = {float: int, Path: type(Path())}  # types accepted instead
        if type(value) not in (*types, *(also[type_] for type_ in types if type_ in also)):
            expected = " or ".join(type_.__name__ for type_ in types)
            raise Problem(f"{name} in config.py is {value!r}, expected a value of type {expected}")
        least = SETTINGS.get(name, Setting()).least
        if None not in (value, least) and value < least:
            raise Problem(f"{name} in config.py is {value}, expected at least {least}")
    if not config.MAP:
        raise Problem("MAP in config.py is empty, expected map kinds, such as ('least-squares',)")
    if config.DTYPE not in DTYPES:
        raise Problem(f"DTYPE in config.py is {config.DTYPE!r}, expected {' or '.join(DTYPES)}")
    for dataset, (train, val) in config.SPLITS.items():
        if train < SETTINGS["TRAIN"].least or val < SETTINGS["VAL"].least:
            raise Problem(f"SPLITS in config.py has {train, val} for {dataset}, expected at least 1 and 2 sentences")


def known_models(config: ModuleType, model: str, masked: bool) -> str:
    """Hint for a model that was not found: the model names in config.py, unless it is one of them."""
    known = [name for name in config.LAYERS if masked == (name in config.MASKED)]
    return "" if model in config.LAYERS or Path(model).is_dir() else f"; known names: {', '.join(known)}"


def sizes(config: ModuleType, dataset: str) -> dict[str, int]:
    """Numbers of training and validation sentences, as "train" and "val"."""
    return dict(zip(("train", "val"), config.SPLITS.get(dataset, (config.TRAIN, config.VAL)), strict=True))


def recorded(config: ModuleType, dataset: str) -> dict[str, Any]:
    """Settings that files of a dataset depend on: values in config.py by their names in manifests."""
    found = {name.lower(): getattr(config, name) for name in SETTINGS if SETTINGS[name].recorded}
    return found | sizes(config, dataset)


def parser(script: str, doc: str, config: ModuleType, wanted: Iterable[str], model: str) -> argparse.ArgumentParser:
    """Parser for a script: the options that it takes, with their defaults, and the options of all scripts."""
    made = argparse.ArgumentParser(prog=script, description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = made.add_argument
    for name in wanted:
        setting, default = SETTINGS.get(name.upper().replace("-", "_")), model if name == "model" else None
        if setting:
            default = getattr(config, name.upper().replace("-", "_"))
        type_, metavar, text = (setting.type, setting.metavar, setting.help) if setting else OTHERS[name]
        several = "+" if isinstance(default, tuple) else None
        shown = ", ".join(default) if several else default
        text += "" if default is None else f" (default: {shown})"
        add(f"--{name}", type=type_, metavar=metavar, default=default, nargs=several, help=text)
    add("--dataset", metavar="NAME", type=dataset_name, help=f"name in file names (default: {config.DATASET})")
    add("--out", metavar="FOLDER", type=Path, default=config.OUT, help="holds experiment/ and linreg/ (default: here)")
    add("--force", action="store_true", help="make existing files again")
    return made


def read(parser: argparse.ArgumentParser, argv: list[str] | None, config: ModuleType) -> argparse.Namespace:
    """Parse and check the options. Raises Problem if another source of sentences is given without a --dataset."""
    check(config)
    args = parser.parse_args(argv)
    source = getattr(args, "source", config.SOURCE)
    if source != config.SOURCE and args.dataset is None:
        name = "docstrings" if source == "docstrings" else "NAME"
        why = f"--source {source} needs a dataset name, since {config.DATASET} has another source"
        raise Problem(f"{why}: add --dataset {name}")
    if getattr(args, "words", None) and args.sentence is None:
        raise Problem("--words needs a text: add --sentence TEXT_OR_FILE")
    args.dataset = args.dataset or config.DATASET
    for name in getattr(args, "map", ()):
        try:
            map_kind(name)
        except argparse.ArgumentTypeError as error:
            raise Problem(f"MAP in config.py: {error}") from None
    if "model" in args:
        args.model = find_model(args.model)
    return args
