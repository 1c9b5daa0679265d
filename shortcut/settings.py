"""What config.py must hold, and what a file must have been made with for it to be in force.

Imports nothing but the standard library: `python config.py` is to answer at once.
"""

from pathlib import Path
from types import ModuleType
from typing import Any

from shortcut import Problem

KINDS: dict[str, tuple[type, ...]] = {
    "GPT2": (str,), "BERT": (str,), "LAYERS": (dict,), "SAFETENSORS_ONLY": (bool,),
    "DATASET": (str,), "SOURCE": (str,), "HUB_DATASET": (str,), "HUB_CONFIG": (str,), "READ_BYTES": (int,),
    "SPACY": (str, type(None)), "DOCSTRING_PACKAGES": (tuple, list), "SENTENCES": (int,), "TRAIN": (int,),
    "VAL": (int,), "SPLITS": (dict,), "SEED": (int,), "LAST_ONLY": (bool,), "RCOND": (float, int), "TAU": (float, int),
    "LAMBDAS": (dict,), "DEVICE": (str,), "BATCH_SIZE": (int,), "OUT": (Path,),
}  # fmt: skip
POSITIVE = ("READ_BYTES", "SENTENCES", "TRAIN", "VAL", "BATCH_SIZE")


def check(config: ModuleType) -> None:
    """Raise Problem if a setting is missing, of another type, or not positive where it must be."""
    for name, kinds in KINDS.items():
        if not hasattr(config, name):
            raise Problem(f"config.py has no {name}: restore the line, or correct its name")
        value = getattr(config, name)
        if type(value) not in kinds and not isinstance(value, Path if Path in kinds else ()):
            expected = " or ".join(kind.__name__ for kind in kinds)
            raise Problem(f"{name} in config.py is {value!r}, expected a value of type {expected}")
        if name in POSITIVE and value < 1:
            raise Problem(f"{name} in config.py is {value}, expected at least 1")


def known_models(config: ModuleType, *, masked: bool | None) -> str:
    """The names of the models that config.py knows the layers of, as a message lists them; of both kinds for None."""
    return ", ".join(name for name in config.LAYERS if masked in (None, "bert" in name))


def sizes(config: ModuleType, dataset: str) -> dict[str, int]:
    """How many sentences train and validate, by "train" and "val"."""
    return dict(zip(("train", "val"), config.SPLITS.get(dataset, (config.TRAIN, config.VAL)), strict=True))


def in_force(config: ModuleType, dataset: str) -> dict[str, Any]:
    """Those settings, by the names they are recorded under (see `manifest`), that config.py alone decides."""
    return {
        "seed": config.SEED,
        "sentences": config.SENTENCES,
        "spacy": config.SPACY,
        **sizes(config, dataset),
        "rcond": config.RCOND,
        "last_only": config.LAST_ONLY,
        "lambdas": {mode: list(grid) for mode, grid in config.LAMBDAS.items()},
        "tau": config.TAU,
    }
