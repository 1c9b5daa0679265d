"""Where sentences come from: Wikipedia on the hub, files of articles, files of sentences, docstrings."""

import hashlib
import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import fsspec

from shortcut import Problem, docstrings, parquet, text
from shortcut.parts import Parts

FOOTER = 65_536  # bytes at the end of a parquet file that say what is in it


@dataclass(frozen=True)
class Source:
    """Files to take sentences from.

    Attributes:
        name: what it is called in a message.
        files: paths or URLs.
        suffix: of all of them: .parquet and .jsonl hold articles, .txt sentences.
        revision: the commit of the hub that they are of; None for files here.
    """

    name: str
    files: list[str]
    suffix: str
    revision: str | None = None


def local(path: str) -> Source:
    """A file or folder of parquet, jsonl or txt; in a folder, the files of the first of these that is there.

    Raises:
        Problem: nothing there that can be read.
    """
    place = Path(path)
    if not place.exists():
        raise Problem(f"no source {path!r}: expected hub, docstrings, or a file or folder of parquet, jsonl or txt")
    files = sorted(p for p in place.rglob("*") if p.is_file()) if place.is_dir() else [place]
    for suffix in (".parquet", ".jsonl", ".txt"):
        if chosen := [str(p) for p in files if p.suffix == suffix]:
            return Source(path, chosen, suffix)
    raise Problem(f"{path} holds no .parquet, .jsonl or .txt file")


def hub(dataset: str, config: str, parts: Parts) -> Source:
    """The parquet files of a public set on the Hugging Face hub, of one revision for all of a run.

    Args:
        dataset: its name on the hub.
        config: the name of its configuration.
        parts: keeps the list for a run that goes on from there.

    Raises:
        Problem: the hub cannot be reached, or has no such set.
    """
    name = f"{dataset} {config} on the Hugging Face hub"

    def listing() -> bytes:
        try:
            # asked once, which fails at once: the loading tries for half a minute, with two lines a try
            fsspec.filesystem("hf").info(f"datasets/{dataset}")
            builder = datasets.load_dataset_builder(dataset, config)
        except (*parquet.READ_ERRORS, ValueError, datasets.exceptions.DatasetsError) as error:
            raise Problem(
                f"cannot reach {name} ({parquet.one_line(error)}): try again with a network,"
                " or take --source PATH --dataset NAME (parquet, jsonl or txt),"
                " or --source docstrings --dataset docstrings"
            ) from error
        files = builder.config.data_files or {}
        if "train" not in files:
            raise Problem(
                f"{name} has the splits {', '.join(files) or 'none'}, expected train: see HUB_DATASET in config.py"
            )
        return "\n".join(sorted(files["train"])).encode()

    files = parts.keep(listing, dataset=dataset, config=config).read_text().split("\n")
    revision = files[0].partition("@")[2].partition("/")[0]  # hf://datasets/<name>@<commit>/<path>
    return Source(name, files, ".parquet", revision)


def sentences(
    source: Source,
    n: int,
    *,
    budget: int,
    seed: int,
    split: text.Split,
    parts: Parts,
    found: Callable[[int], object],
    notice: Callable[[str], None],
) -> list[str]:
    """n sentences, newline at the end, in random order; fewer (with a notice) where a source has no more.

    Args:
        source: files of articles (one sentence of each, see `text.draw_sentence`) or of sentences.
        n: how many.
        budget: bytes of parquet to read at the most, once that holds articles enough.
        seed: of every draw.
        split: splits a paragraph into sentences.
        parts: of what is read from parquet (see `parquet.sentences`).
        found: told of sentences found.
        notice: told what is read.

    Raises:
        Problem: a file cannot be read, or there is no sentence.
    """
    rng = random.Random(seed)
    if source.suffix == ".parquet":
        result = parquet.sentences(
            source.files, n, budget=budget, seed=seed, split=split, parts=parts, found=found, notice=notice
        )
    elif source.suffix == ".jsonl":
        result = []
        for sentence in islice(text.draw_sentences(_jsonl(source.files, rng), split, rng), n):
            result.append(sentence)
            found(1)
    else:
        lines = [line.strip() + "\n" for file in source.files for line in _lines(file) if line.strip()]
        result = rng.sample(lines, min(n, len(lines)))
        found(len(result))
    if not result:
        raise Problem(f"{source.name} holds no sentence: expected articles of two paragraphs or more, or lines of text")
    if len(result) < n:
        notice(f"{len(result)} sentences found, {n} asked for: that is all of {source.name}")
    # Departure: the original kept the order of the articles; what trains and what validates must be alike.
    rng.shuffle(result)
    return result


def identity(path: str, budget: int) -> dict[str, Any]:
    """What a local source holds, for the record: its name, and a hash over its files.

    Of parquet files, which may be many gigabytes, over their sizes and footers; and the budget that
    limits what is read of them.
    """
    digest, source = hashlib.sha256(), local(path)
    whole = source.suffix != ".parquet"
    for file in source.files:
        with open(file, "rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(0 if whole else max(0, size - FOOTER))
            digest.update(f"{size}\n".encode() + hashlib.file_digest(stream, "sha256").digest())
    known = {"source": Path(path).name, "content of the source": digest.hexdigest()[:16]}
    return known if whole else {**known, "bytes": budget}


def docstring_sentences(
    files: list[Path],
    n: int,
    n_train: int,
    *,
    split: text.Split,
    rng: random.Random,
    read: Callable[[int], object],
) -> list[str]:
    """n sentences of docstrings; after the first `n_train`, held-out ones before any other.

    The embedded models were trained on sentences that are not held out, so the validation
    sentences, which follow the first `n_train`, are new to them.
    """
    everything = docstrings.sentences(files, split, read)
    rng.shuffle(everything)
    held_out = [s + "\n" for s in everything if docstrings.is_held_out(s)]
    others = [s + "\n" for s in everything if not docstrings.is_held_out(s)]
    return [*others[:n_train], *held_out, *others[n_train:]][:n]


def _jsonl(files: list[str], rng: random.Random) -> Iterator[str]:
    """Articles in random order; only their places are kept in memory."""
    places = []
    for file in files:
        with open(file, "rb") as stream:
            offset = 0
            for number, line in enumerate(stream, 1):
                if line.strip():
                    places.append((file, offset, number))
                offset += len(line)
    rng.shuffle(places)
    streams = {file: open(file, "rb") for file in files}  # noqa: SIM115  (closed below)
    try:
        for file, offset, number in places:
            streams[file].seek(offset)
            try:
                article = json.loads(streams[file].readline())["text"]
            except (ValueError, TypeError, KeyError):
                article = None
            if not isinstance(article, str):
                raise Problem(f'{file}, line {number}: expected an object like {{"text": "..."}}')
            yield article
    finally:
        for stream in streams.values():
            stream.close()


def _lines(file: str) -> Iterator[str]:
    try:
        yield from Path(file).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise Problem(f"{file} is not UTF-8 text: {error}") from error
