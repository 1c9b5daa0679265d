"""Sentences from the articles of parquet files, here or on the hub: an even choice of row groups.

A shuffled stream of the same files would not be a sample: Wikipedia's follow the age of the pages, and
a shuffle buffer sees the head of one file. So the footers are read first, then row groups drawn from
every file: the column of texts alone, and the same share of the articles of each.

Every footer and the sentences of every group are kept until the output is whole, and every group has a
random generator of its own: a run that was stopped ends with what an undisturbed run would have drawn.
"""

import json
import math
import random
from functools import partial
from itertools import chain, islice, zip_longest
from typing import Any, BinaryIO, NamedTuple

import fsspec
import pyarrow
import pyarrow.parquet
from huggingface_hub.errors import HTTPError
from pyarrow.parquet import FileMetaData, ParquetFile

from shortcut import Problem, one_line
from shortcut.corpus.sentences import Wanted, draw_sentences
from shortcut.corpus.texts import LeftOut, Tally, text_of
from shortcut.files.scratch import KEPT, Scratch

SLACK = 1.2  # articles in reach for each sentence wanted: some are too short to have one

# What reading raises. The hub's HTTP client, whose errors are no OSErrors, asks for a range five times
# more, 1 to 8 seconds apart, before it raises one.
READ_ERRORS = (pyarrow.ArrowException, OSError, HTTPError)

TEXTS = {"string", "large_string", "string_view", "binary", "large_binary", "binary_view"}  # pyarrow's names


class Group(NamedTuple):
    """Row group `number` of file number `file`: how many articles it holds, and compressed bytes of their texts."""

    file: int
    number: int
    rows: int
    size: int


def sentences(files: list[str], wanted: Wanted, scratch: Scratch, tally: Tally) -> list[str]:
    """Sentences of as many articles, in random order; fewer if there are no more. What is left out is in the tally."""
    n = wanted.n
    wanted.notice(f"reading the footers of {len(files)} files")
    footers = [_read_footer(file, scratch) for file in files]
    first, others = _choose(footers, wanted)
    read, everything = (sum(group.size for group in groups) / 1e6 for groups in (first, [*first, *others]))
    wanted.notice(
        f"reading {len(first)} of {len(first) + len(others)} row groups from {len(files)} files,"
        f" {read:.0f} of {everything:.0f} MB"
    )
    rows = sum(group.rows for group in first)
    steps = [(group, min(group.rows, math.ceil(n * group.rows / max(rows, 1)))) for group in first]
    # Only where articles are too short to have a sentence: the other groups, then all of the first ones.
    steps += [(group, group.rows) for group in [*others, *first]]
    drawn: dict[Group, tuple[list[str], Tally]] = {}
    total = 0
    for step, (group, share) in enumerate(steps):
        if step >= len(first) and total >= n:
            break
        drawn[group] = _draw(files[group.file], footers[group.file], group, share, wanted, scratch)
        before, total = total, sum(len(found) for found, _ in drawn.values())
        wanted.found(min(total, n) - min(before, n))
    for _, of_group in drawn.values():
        tally.add(of_group)
    result = [sentence for found, _ in drawn.values() for sentence in found]
    random.Random(wanted.seed).shuffle(result)  # what is too many is some of every file, not the last ones
    return result[:n]


def _open(file: str) -> BinaryIO:
    if not file.startswith("hf://"):
        return open(file, "rb")
    system, path = fsspec.url_to_fs(file)
    return system.open(path, cache_type="none")  # the default reads 5 MB more than it is asked for, each time


def _read_footer(file: str, scratch: Scratch) -> FileMetaData:
    try:
        footer = pyarrow.parquet.read_metadata(pyarrow.BufferReader(scratch.keep(lambda: _footer(file), file=file)))
    except READ_ERRORS as error:
        raise Problem(f"cannot read {file} ({one_line(error)}): expected a parquet file{KEPT}") from error
    schema = footer.schema.to_arrow_schema()
    if schema.names.count("text") != 1:
        raise Problem(f"{file} has the columns {', '.join(schema.names)}, expected one named 'text'")
    kind = schema.field("text").type
    if str(kind.value_type if pyarrow.types.is_dictionary(kind) else kind) not in TEXTS:
        raise Problem(f"{file} has texts of type {kind}, expected string")
    return footer


def _footer(file: str) -> bytes:
    footer = pyarrow.BufferOutputStream()
    with _open(file) as stream:
        pyarrow.parquet.read_metadata(stream).write_metadata_file(footer)
    return footer.getvalue().to_pybytes()


def _choose(footers: list[FileMetaData], wanted: Wanted) -> tuple[list[Group], list[Group]]:
    """The groups to read, and the others: round after round, one of every file that has one left."""
    queues = []
    for file, footer in enumerate(footers):
        # a column's number: nested ones before it count as often as they have leaves
        leaf = next(k for k in range(footer.num_columns) if footer.schema.column(k).path == "text")
        groups = [footer.row_group(k) for k in range(footer.num_row_groups)]
        queue = [Group(file, k, g.num_rows, g.column(leaf).total_compressed_size) for k, g in enumerate(groups)]
        random.Random(f"{wanted.seed} {file}").shuffle(queue)
        queues.append(queue)
    rounds = [[group for group in groups if group is not None] for groups in zip_longest(*queues)]
    sizes, rows = ([sum(group[k] for group in groups) for groups in rounds] for k in (3, 2))
    planned = 1
    while planned < len(rounds) and (
        sum(rows[:planned]) < SLACK * wanted.n or sum(sizes[: planned + 1]) <= wanted.budget
    ):
        planned += 1
    return [*chain(*rounds[:planned])], [*chain(*rounds[planned:])]


def _draw(
    file: str, footer: FileMetaData, group: Group, share: int, wanted: Wanted, scratch: Scratch
) -> tuple[list[str], Tally]:
    def draw() -> bytes:
        try:
            with _open(file) as stream:
                texts = ParquetFile(stream, metadata=footer).read_row_group(group.number, columns=["text"])["text"]
        except READ_ERRORS as error:
            raise Problem(f"cannot read row group {group.number} of {file} ({one_line(error)}){KEPT}") from error
        rng, tally = random.Random(f"{wanted.seed} {group.file} {group.number}"), Tally()
        rows = rng.sample(range(len(texts)), len(texts))
        articles = ((f"{file}, row group {group.number}, row {row}", partial(_text, texts[row])) for row in rows)
        drawn = list(islice(draw_sentences(articles, wanted.split, rng, tally), share))
        return json.dumps([drawn, tally.read, tally.left_out]).encode()

    drawn, *counts = json.loads(scratch.keep(draw, file=file, group=group.number, drawn=share))
    return drawn, Tally(*counts)


def _text(scalar: Any) -> str:
    try:
        return text_of(scalar.as_py())
    except UnicodeDecodeError as error:  # no reader checks
        raise LeftOut("not UTF-8") from error
