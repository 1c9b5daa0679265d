"""What config.py must hold: of each setting the type on its own line, and what is in force for a dataset.

Imports nothing but the standard library: `python config.py` is to answer at once.
"""

from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_origin, get_type_hints

from shortcut import Problem

POSITIVE = ("READ_BYTES", "SENTENCES", "TRAIN", "VAL", "BATCH_SIZE")


def check(config: ModuleType) -> None:
    """Raise Problem if a setting is missing, of another type than its line says, or not positive where it must be."""
    for name, kind in get_type_hints(config).items():
        if not hasattr(config, name):
            raise Problem(f"config.py has no {name}: restore the line, or correct its name")
        value = getattr(config, name)
        kinds = get_args(kind) if get_origin(kind) not in (dict, tuple) and get_args(kind) else (kind,)
        kinds = tuple(get_origin(kind) or kind for kind in kinds)
        also = {float: int, Path: type(Path())}  # what does as well
        if type(value) not in (*kinds, *(also[kind] for kind in kinds if kind in also)):
            expected = " or ".join(kind.__name__ for kind in kinds)
            raise Problem(f"{name} in config.py is {value!r}, expected a value of type {expected}")
        if name in POSITIVE and value < 1:
            raise Problem(f"{name} in config.py is {value}, expected at least 1")


def known_models(config: ModuleType, model: str, masked: bool) -> str:
    """To what is said of a model that is not found: the names that config.py knows, unless it is one of these."""
    known = [name for name in config.LAYERS if masked == ("bert" in name)]
    return "" if model in config.LAYERS or Path(model).is_dir() else f"; known names: {', '.join(known)}"


def sizes(config: ModuleType, dataset: str) -> dict[str, int]:
    """How many sentences train and validate, by "train" and "val"."""
    return dict(zip(("train", "val"), config.SPLITS.get(dataset, (config.TRAIN, config.VAL)), strict=True))


def in_force(config: ModuleType, dataset: str) -> dict[str, Any]:
    """Those settings, by the names they are recorded under (see `files.manifest`), that config.py alone decides."""
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
