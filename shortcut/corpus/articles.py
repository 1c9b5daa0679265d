"""Sources of sentences: Wikipedia on the hub, files of articles, and files of sentences."""

import hashlib
import json
import os
import random
from collections.abc import Iterator
from glob import glob
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import fsspec

from shortcut import Problem, one_line
from shortcut.corpus import parquet
from shortcut.corpus.sentences import LeftOut, Tally, Wanted, draw_sentence, text_of

FOOTER = 65_536  # bytes at the end of a parquet file that describe its content


class Source(NamedTuple):
    """A source of sentences: files with one suffix; .parquet and .jsonl contain articles, .txt sentences."""

    name: str  # in messages
    files: list[str]  # paths or URLs
    suffix: str
    revision: str | None = None  # commit of the dataset on the hub


def local(path: str) -> Source:
    """A file, or all files in a folder that have the first suffix found there: .parquet, .jsonl or .txt."""
    place = Path(path)
    inside = glob("**", root_dir=place, recursive=True)  # without hidden files, which systems and editors leave
    files = [file for file in (place, *sorted(place / name for name in inside)) if file.is_file()]
    for suffix in (".parquet", ".jsonl", ".txt"):
        if chosen := [str(file) for file in files if file.suffix == suffix]:
            return Source(path, chosen, suffix)
    raise Problem(f"no source {path!r}: expected hub, docstrings, or a file or folder of .parquet, .jsonl or .txt")


def hub(dataset: str, config: str) -> Source:
    """The parquet files of a public dataset on the Hugging Face hub, at the newest revision of a configuration."""
    import datasets  # noqa: PLC0415  (takes seconds; no other module imports it)

    name = f"{dataset} {config} on the Hugging Face hub"
    try:
        # This request fails at once without a network; load_dataset_builder would retry for half a minute.
        fsspec.filesystem("hf").info(f"datasets/{dataset}")
        splits = datasets.load_dataset_builder(dataset, config).config.data_files or {}
    except (*parquet.READ_ERRORS, ValueError, datasets.exceptions.DatasetsError) as error:
        out = "--source PATH --dataset NAME (parquet, jsonl or txt), or --source docstrings --dataset docstrings"
        raise Problem(f"cannot reach {name} ({one_line(error)}): connect to a network, or use {out}") from error
    if "train" not in splits:
        raise Problem(f"{name} has the splits {[*splits]}, expected 'train': change HUB_DATASET in config.py")
    files = sorted(splits["train"])  # hf://datasets/<name>@<commit>/<path>
    return Source(name, files, ".parquet", files[0].partition("@")[2].partition("/")[0])


def sentences(source: Source, wanted: Wanted) -> list[str]:
    """Draw n sentences in random order, each with a newline at the end; fewer, with a notice, if there are no more.

    Each sentence is from another article (see `draw_sentence`) or is a line of a text file. A notice gives the
    number of texts left out. Raises Problem if no sentence is found or more than half of the texts are left out.
    """
    rng, tally = random.Random(wanted.seed), Tally()
    if source.suffix == ".parquet":
        result = parquet.sentences(source.files, wanted, tally)
    elif source.suffix == ".jsonl":
        drawn = tally.each(lambda line: draw_sentence(_article(line), wanted.split, rng), _jsonl(source.files, rng))
        result = []
        for sentence in islice(filter(None, drawn), wanted.n):
            result.append(sentence)
            wanted.found(1)
    else:
        # splitlines of bytes: U+2028 and form feeds do not end a line
        contents = ((file, enumerate(Path(file).read_bytes().splitlines(), 1)) for file in source.files)
        texts = ((f"{file}, line {number}", line) for file, lines in contents for number, line in lines if line)
        lines = [line.strip() + "\n" for line in tally.each(text_of, texts) if line.strip()]
        result = rng.sample(lines, min(wanted.n, len(lines)))
        wanted.found(len(result))
    if not result or 2 * len(tally.left_out) > len(tally.read):
        expected = 'articles of two paragraphs or more (in jsonl, {"text": "..."}), or lines of text'
        raise Problem(f"{source.name} holds {'hardly a' if result else 'no'} sentence ({tally}): expected {expected}")
    if tally.left_out:
        wanted.notice(str(tally))
    if len(result) < wanted.n:
        wanted.notice(f"{source.name} has only {len(result)} sentences, {wanted.n} were asked for")
    # Departure: the original keeps the order of the articles; training and validation sentences must be alike.
    rng.shuffle(result)
    return result


def identity(path: str, budget: int) -> dict[str, Any]:
    """Name and SHA-256 of a local source, as the manifest records them.

    Parquet files can have many gigabytes, so only sizes and footers are hashed, and `budget` is recorded too.
    """
    digest, source = hashlib.sha256(), local(path)
    whole = source.suffix != ".parquet"
    for file in source.files:
        with open(file, "rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(0 if whole else max(0, size - FOOTER))
            digest.update(f"{size}\n".encode() + hashlib.file_digest(stream, "sha256").digest())
    known = {"source": Path(path).name, "content of the source": digest.hexdigest()[:16]}
    return known if whole else known | {"bytes": budget}


def _jsonl(files: list[str], rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """Yield the lines of files in random order; only their offsets are kept in memory."""
    places = []
    for file in files:
        with open(file, "rb") as stream:
            places += [(file, k, stream.tell() - len(line)) for k, line in enumerate(stream, 1) if line.strip()]
    rng.shuffle(places)
    for file, number, offset in places:
        with open(file, "rb") as stream:
            stream.seek(offset)
            yield f"{file}, line {number}", stream.readline()


def _article(line: bytes) -> str:
    text = text_of(line)
    try:
        article = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LeftOut("no JSON") from error
    return text_of(article.get("text") if isinstance(article, dict) else None)
