"""Where sentences come from: Wikipedia on the hub, files of articles, files of sentences, docstrings."""

import hashlib
import json
import math
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import datasets
import fsspec
import httpx
import pyarrow
import pyarrow.parquet

from shortcut import Problem, docstrings, text

Group = tuple[pyarrow.parquet.ParquetFile, int]  # a file, and the number of a row group in it

SLACK = 1.2  # articles taken for each sentence wanted: some are too short to have one


@dataclass(frozen=True)
class Hub:
    """A public set of articles in parquet files.

    Attributes:
        dataset: its name on the Hugging Face hub.
        config: the name of its configuration.
    """

    dataset: str
    config: str


def sentences(
    source: str | Hub,
    n: int,
    *,
    budget: int,
    split: text.Split,
    rng: random.Random,
    found: Callable[[int], object],
    notice: Callable[[str], None],
) -> list[str]:
    """n sentences, newline at the end, in random order; fewer (with a notice) where a file has no more.

    Args:
        source: a set on the hub; or a file or folder of parquet or jsonl (one sentence an article,
            see `text.draw_sentence`) or txt (each line is a sentence).
        n: how many.
        budget: bytes of parquet to read at the most, once that holds articles enough.
        split: splits a paragraph into sentences.
        rng: where every draw comes from.
        found: told of each sentence found.
        notice: told what was read.

    Raises:
        Problem: nothing there that can be read, or it holds no sentence.
    """
    files, suffix = _hub_files(source) if isinstance(source, Hub) else _local_files(source)
    if suffix == ".txt":
        lines = [line.strip() + "\n" for file in files for line in _lines(file) if line.strip()]
        drawn = iter(rng.sample(lines, min(n, len(lines))))
    else:
        articles = _parquet(files, n, budget, rng, notice) if suffix == ".parquet" else _jsonl(files, rng)
        drawn = text.draw_sentences(articles, split, rng)
    result = []
    for sentence in drawn:
        result.append(sentence)
        found(1)
        if len(result) == n:
            break
    if not result:
        raise Problem(f"{source} holds no sentence: expected articles of two paragraphs or more, or lines of text")
    if len(result) < n:
        notice(f"{len(result)} sentences found, {n} asked for: that is all of {source}")
    # Departure: the original kept the order of the articles; what trains and what validates must be alike.
    rng.shuffle(result)
    return result


def identity(source: str) -> dict[str, str]:
    """What a local source holds, for the record: its path and a hash over its files' names, sizes and times."""
    files, _ = _local_files(source)
    digest = hashlib.sha256()
    for file in files:
        stat = Path(file).stat()
        digest.update(f"{file} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return {"source": source, "source_files": digest.hexdigest()[:16]}


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


def _local_files(source: str) -> tuple[list[str], str]:
    path = Path(source)
    if not path.exists():
        raise Problem(f"no source {source!r}: expected hub, docstrings, or a file or folder of parquet, jsonl or txt")
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for suffix in (".parquet", ".jsonl", ".txt"):
        if chosen := [str(p) for p in files if p.suffix == suffix]:
            return chosen, suffix
    raise Problem(f"{source} holds no .parquet, .jsonl or .txt file")


def _hub_files(hub: Hub) -> tuple[list[str], str]:
    try:
        builder = datasets.load_dataset_builder(hub.dataset, hub.config)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise Problem(
            f"the hub's {hub.dataset} {hub.config} cannot be reached ({type(error).__name__}):"
            " try again with a network, or take --source PATH (parquet, jsonl or txt) or --source docstrings"
        ) from error
    return list(builder.config.data_files["train"]), ".parquet"


def _parquet(files: list[str], n: int, budget: int, rng: random.Random, notice: Callable[[str], None]) -> Iterator[str]:
    """Articles from row groups drawn evenly from every file: parquet footers first, then those groups.

    A shuffled stream of the same files would not be a sample: they follow the age of the pages, and a
    shuffle buffer sees the head of one file. Each group gives the same number of articles; the groups
    left over follow only if those run out.
    """
    with ExitStack() as closing:
        opened = [_open(file, closing) for file in files]
        names = {id(parquet): file for file, parquet in zip(files, opened, strict=True)}
        for file, parquet in zip(files, opened, strict=True):
            if "text" not in parquet.schema_arrow.names:
                raise Problem(
                    f"{file} has the columns {', '.join(parquet.schema_arrow.names)}, expected one named 'text'"
                )
        queues = []
        for parquet in opened:
            groups = [(parquet, k) for k in range(parquet.num_row_groups)]
            rng.shuffle(groups)
            queues.append(groups)
        rounds = [[queue[k] for queue in queues if k < len(queue)] for k in range(max(map(len, queues)))]
        column = opened[0].schema_arrow.names.index("text")
        sizes = [sum(_group_bytes(parquet, k, column) for parquet, k in groups) for groups in rounds]
        rows = [sum(parquet.metadata.row_group(k).num_rows for parquet, k in groups) for groups in rounds]
        wanted = math.ceil(SLACK * n)
        planned = 1  # rounds: each takes one group of every file
        while planned < len(rounds) and (sum(rows[:planned]) < wanted or sum(sizes[: planned + 1]) <= budget):
            planned += 1
        first = [group for groups in rounds[:planned] for group in groups]
        notice(
            f"reading {len(first)} of {sum(map(len, rounds))} row groups from {len(files)} files,"
            f" {sum(sizes[:planned]) / 1e6:.0f} of {sum(sizes) / 1e6:.0f} MB"
        )
        share = math.ceil(wanted / len(first))
        drawn = []
        for group in first:
            articles = _articles(group, names)
            drawn += rng.sample(articles, min(share, len(articles)))
        rng.shuffle(drawn)  # whoever stops early leaves out some of every file, not the last files
        yield from drawn
        for group in (group for groups in rounds[planned:] for group in groups):
            articles = _articles(group, names)
            yield from rng.sample(articles, len(articles))


def _open(file: str, closing: ExitStack) -> pyarrow.parquet.ParquetFile:
    try:
        return pyarrow.parquet.ParquetFile(closing.enter_context(fsspec.open(file, cache_type="none")))
    except (pyarrow.ArrowException, OSError, httpx.HTTPError) as error:
        raise Problem(f"cannot read {file} ({_line(error)}): expected a parquet file") from error


def _articles(group: Group, names: dict[int, str]) -> list[str]:
    """The texts of one row group; rows without one are left out."""
    parquet, k = group
    try:
        texts = parquet.read_row_group(k, columns=["text"])["text"].to_pylist()
    except (pyarrow.ArrowException, OSError, httpx.HTTPError) as error:
        raise Problem(f"cannot read row group {k} of {names[id(parquet)]} ({_line(error)})") from error
    return [article for article in texts if isinstance(article, str)]


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _group_bytes(parquet: pyarrow.parquet.ParquetFile, group: int, column: int) -> int:
    return parquet.metadata.row_group(group).column(column).total_compressed_size


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
