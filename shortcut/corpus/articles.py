"""Where sentences come from: Wikipedia on the hub, files of articles, files of sentences.

`datasets` finds a set's files on the hub and their revision, and is imported here alone.
"""

import hashlib
import json
import os
import random
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import fsspec

from shortcut import Problem, one_line
from shortcut.corpus import parquet
from shortcut.corpus.sentences import Wanted, draw_sentences
from shortcut.corpus.texts import HEAD, LeftOut, Tally, lines_of, refuse_utf16, text_of
from shortcut.files.scratch import Scratch

FOOTER = 65_536  # bytes at the end of a parquet file that say what is in it


class Source(NamedTuple):
    """Files to take sentences from."""

    name: str  # in a message
    files: list[str]  # paths or URLs
    suffix: str  # of all of them: .parquet and .jsonl hold articles, .txt sentences
    revision: str | None = None  # the commit of the hub that they are of


def local(path: str) -> Source:
    """A file or folder of parquet, jsonl or txt; in a folder, the files of the first of these that is there."""
    place = Path(path)
    if not place.exists():
        raise Problem(f"no source {path!r}: expected hub, docstrings, or a file or folder of parquet, jsonl or txt")
    files = (
        [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.is_file() and not _is_hidden(p, place))
    )
    for suffix in (".parquet", ".jsonl", ".txt"):
        if chosen := [str(p) for p in files if p.suffix == suffix]:
            return Source(path, chosen, suffix)
    raise Problem(f"{path} holds no .parquet, .jsonl or .txt file")


def _is_hidden(path: Path, place: Path) -> bool:
    """Whether it is one of the files that systems and editors leave beside others."""
    return any(part.startswith(".") for part in path.relative_to(place).parts)


def hub(dataset: str, config: str, scratch: Scratch) -> Source:
    """The parquet files of a public set and its configuration on the Hugging Face hub.

    `scratch` keeps the list, so that a run that goes on is of the same revision.
    """
    name = f"{dataset} {config} on the Hugging Face hub"
    listed = scratch.keep(lambda: "\n".join(_listing(dataset, config, name)).encode(), dataset=dataset, config=config)
    files = listed.decode().split("\n")
    revision = files[0].partition("@")[2].partition("/")[0]  # hf://datasets/<name>@<commit>/<path>
    return Source(name, files, ".parquet", revision)


def _listing(dataset: str, config: str, name: str) -> list[str]:
    import datasets  # noqa: PLC0415  (takes seconds)

    try:
        # asked once, which fails at once: the loading tries for half a minute, with two lines a try
        fsspec.filesystem("hf").info(f"datasets/{dataset}")
        files = datasets.load_dataset_builder(dataset, config).config.data_files or {}
    except (*parquet.READ_ERRORS, ValueError, datasets.exceptions.DatasetsError) as error:
        out = "--source PATH --dataset NAME (parquet, jsonl or txt), or --source docstrings --dataset docstrings"
        why = f"cannot reach {name} ({one_line(error)})"
        raise Problem(f"{why}: try again with a network, or take {out}") from error
    if "train" not in files:
        splits = ", ".join(files) or "none"
        raise Problem(f"{name} has the splits {splits}, expected train: see HUB_DATASET in config.py")
    return sorted(files["train"])


def sentences(source: Source, wanted: Wanted, scratch: Scratch) -> list[str]:
    """n sentences, newline at the end, in random order; fewer (with a notice) where a source has no more.

    Of articles one sentence each, see `draw_sentence`; `scratch` keeps what is read from parquet. A notice tells
    of those that are left out. Raises Problem if nothing is found.
    """
    rng, tally = random.Random(wanted.seed), Tally()
    if source.suffix == ".parquet":
        result = parquet.sentences(source.files, wanted, scratch, tally)
    elif source.suffix == ".jsonl":
        result = []
        for sentence in islice(draw_sentences(_jsonl(source.files, rng), wanted.split, rng, tally), wanted.n):
            result.append(sentence)
            wanted.found(1)
    else:
        lines = [line.strip() + "\n" for file in source.files for line in _txt(file, tally) if line.strip()]
        result = rng.sample(lines, min(wanted.n, len(lines)))
        wanted.found(len(result))
    left_out = str(tally) if tally.left_out else ""
    if not result or 2 * sum(n for n, _ in tally.left_out.values()) > tally.read:
        few = "hardly a" if result else "no"
        raise Problem(
            f"{source.name} holds {few} sentence{left_out and f' ({left_out})'}:"
            ' expected articles of two paragraphs or more (in jsonl, {"text": "..."}), or lines of text'
        )
    if left_out:
        wanted.notice(left_out)
    if len(result) < wanted.n:
        wanted.notice(f"{len(result)} sentences found, {wanted.n} asked for: that is all of {source.name}")
    # Departure: the original kept the order of the articles; what trains and what validates must be alike.
    rng.shuffle(result)
    return result


def identity(path: str, budget: int) -> dict[str, Any]:
    """What a local source holds, for the record: its name, and a hash over its files.

    Of parquet files, which may be many gigabytes, over sizes and footers; and the budget that limits reading.
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


def _txt(file: str, tally: Tally) -> Iterator[str]:
    for number, line in enumerate(lines_of(Path(file).read_bytes(), file), 1):
        tally.read += bool(line)
        try:
            yield text_of(line)
        except LeftOut as why:
            tally.leave(str(why), f"{file}, line {number}")


def _jsonl(files: list[str], rng: random.Random) -> Iterator[tuple[str, Callable[[], str]]]:
    places = []
    for file in files:
        with open(file, "rb") as stream:
            refuse_utf16(stream.read(HEAD), file)
            offset = stream.seek(0)
            for number, line in enumerate(stream, 1):
                if line.strip():
                    places.append((file, offset, number))
                offset += len(line)
    rng.shuffle(places)
    for file, offset, number in places:
        with open(file, "rb") as stream:
            stream.seek(offset)
            yield f"{file}, line {number}", partial(_in_json, stream.readline())


def _in_json(line: bytes) -> str:
    text = text_of(line)
    try:
        article = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LeftOut("no JSON") from error
    return text_of(article.get("text") if isinstance(article, dict) else None)
