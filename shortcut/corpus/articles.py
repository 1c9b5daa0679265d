"""Sources of sentences: Wikipedia on the hub, files of articles, and files of sentences.

Wikipedia's parquet files are ordered by the age of the pages, and a shuffled stream of `datasets` sees only the first
rows of one file. Therefore all footers are read first, then the text column of random row groups from every file, with
the same share of articles from each row group.
"""

import hashlib
import json
import math
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from glob import glob
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import pyarrow
from huggingface_hub.errors import HTTPError
from pyarrow.parquet import FileMetaData, ParquetFile

from shortcut import Problem, one_line
from shortcut.corpus.sentences import LeftOut, Split, Tally, Wanted, draw_sentence, text_of

SLACK = 1.2  # articles to read per wanted sentence: some articles are too short to have one
READ_ERRORS = (pyarrow.ArrowException, OSError, HTTPError)  # the hub's client raises HTTPError after five retries
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
    except (*READ_ERRORS, ValueError, datasets.exceptions.DatasetsError) as error:
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
        result = _from_parquet(source.files, wanted, tally)
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
    """Name and SHA-256 of a local source, for the manifest; of parquet files only sizes and footers, and `budget`."""
    digest, source = hashlib.sha256(), local(path)
    whole = source.suffix != ".parquet"  # such files can have many gigabytes
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


class Group(NamedTuple):
    """Row group `number` of a file, with `rows` articles; their texts have `size` compressed bytes."""

    file: str
    footer: FileMetaData
    number: int
    rows: int
    size: int
    seed: str

    def draw(self, n: int, split: Split, tally: Tally) -> list[str]:
        """Draw sentences from n articles, or from all if the group has fewer."""
        with _opened(self.file, self.footer) as parquet:
            texts = parquet.read_row_group(self.number, columns=["text"])["text"]
        texts = texts.cast("large_binary")  # some writers do not check that strings are UTF-8
        rng = random.Random(self.seed)
        order = rng.sample(range(len(texts)), len(texts))
        articles = ((f"{self.file}, row group {self.number}, row {row}", texts[row].as_py()) for row in order)
        drawn = tally.each(lambda article: draw_sentence(text_of(article), split, rng), articles)
        return list(islice(filter(None, drawn), n))


def _from_parquet(files: list[str], wanted: Wanted, tally: Tally) -> list[str]:
    """Read rounds of one row group from each file, while the articles are too few or the bytes within the budget."""
    n, drawn, total = wanted.n, {}, 0
    wanted.notice(f"reading the footers of {len(files)} files")
    queues = [_groups(file, f"{wanted.seed} {k}") for k, file in enumerate(files)]
    first, others, rows, size = [], [], 0, 0
    for turn in zip_longest(*queues):
        groups = [group for group in turn if group]
        size += sum(group.size for group in groups)
        (first if rows < SLACK * n or size <= wanted.budget else others).extend(groups)
        rows += sum(group.rows for group in groups)
    megabytes = f"{sum(group.size for group in first) / 1e6:.0f} of {size / 1e6:.0f} MB"
    wanted.notice(f"reading {len(first)} of {len(first + others)} row groups from {len(files)} files, {megabytes}")
    rows = sum(group.rows for group in first)
    steps = [(group, math.ceil(n * group.rows / rows)) for group in first]
    # If too many articles are too short, read all articles in the other row groups, then all in the first ones.
    for step, (group, most) in enumerate([*steps, *((group, group.rows) for group in others + first)]):
        if step < len(first) or total < n:
            drawn[group.file, group.number] = group.draw(most, wanted.split, tally)
            before, total = total, sum(map(len, drawn.values()))
            wanted.found(min(total, n) - min(before, n))
    result = [*chain(*drawn.values())]
    random.Random(wanted.seed).shuffle(result)  # so that the sentences cut below come from every file
    return result[:n]


@contextmanager
def _opened(file: str, footer: FileMetaData | None = None) -> Iterator[ParquetFile]:
    try:
        system, path = fsspec.url_to_fs(file)
        with system.open(path, cache_type="none") as stream:  # the default reads 5 MB beyond each range
            yield ParquetFile(stream, metadata=footer)
    except READ_ERRORS as error:
        raise Problem(f"cannot read {file} as parquet ({one_line(error)}): if the network failed, try again") from error


def _groups(file: str, seed: str) -> list[Group]:
    with _opened(file) as parquet:
        footer, schema = parquet.metadata, parquet.schema_arrow
    columns = [footer.schema.column(k) for k in range(footer.num_columns)]  # a struct has several
    texts = [k for k, of in enumerate(columns) if (of.path, of.physical_type) == ("text", "BYTE_ARRAY")]
    if len(texts) != 1:
        found = ", ".join(f"{column.name} ({column.type})" for column in schema)
        raise Problem(f"{file} has the columns {found}, expected one named 'text' that holds strings")
    chunks = [footer.row_group(k).column(texts[0]) for k in range(footer.num_row_groups)]
    sizes = [(chunk.num_values, chunk.total_compressed_size) for chunk in chunks]
    groups = [Group(file, footer, k, *size, f"{seed} {k}") for k, size in enumerate(sizes)]
    random.Random(seed).shuffle(groups)
    return groups
