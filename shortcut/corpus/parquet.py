"""Draw sentences from the articles in parquet files, on disk or on the hub.

Wikipedia's files are ordered by the age of the pages, and a shuffled stream of `datasets` sees only the first rows of
one file. Therefore all footers are read first, then the text column of random row groups from every file, with the
same share of articles from each row group.
"""

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice, zip_longest

import fsspec
import pyarrow
from huggingface_hub.errors import HTTPError
from pyarrow.parquet import FileMetaData, ParquetFile

from shortcut import Problem, one_line
from shortcut.corpus.sentences import Split, Tally, Wanted, draw_sentence, text_of

SLACK = 1.2  # articles to read per wanted sentence: some articles are too short to have one
READ_ERRORS = (pyarrow.ArrowException, OSError, HTTPError)  # the hub's client raises HTTPError after five retries


@dataclass(frozen=True, eq=False)
class Group:
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


def sentences(files: list[str], wanted: Wanted, tally: Tally) -> list[str]:
    """Draw one sentence from each of n articles, in random order; fewer if there are no more.

    The row groups to read first are chosen in rounds of one from each file. A round is chosen if the earlier rounds
    have too few articles, or if it fits into the budget.
    """
    n, drawn, total = wanted.n, {}, 0
    wanted.notice(f"reading the footers of {len(files)} files")
    queues = [_groups(file, f"{wanted.seed} {k}") for k, file in enumerate(files)]
    first, others, rows, size = [], [], 0, 0
    for turn in zip_longest(*queues):
        groups = [group for group in turn if group]
        size += sum(group.size for group in groups)
        (first if rows < SLACK * n or size <= wanted.budget else others).extend(groups)
        rows += sum(group.rows for group in groups)
    read, whole = (sum(group.size for group in groups) / 1e6 for groups in (first, first + others))
    row_groups = f"{len(first)} of {len(first + others)} row groups"
    wanted.notice(f"reading {row_groups} from {len(files)} files, {read:.0f} of {whole:.0f} MB")
    rows = sum(group.rows for group in first)
    steps = [(group, math.ceil(n * group.rows / rows)) for group in first]
    # If too many articles are too short, read all articles in the other row groups, then all in the first ones.
    for step, (group, most) in enumerate([*steps, *((group, group.rows) for group in others + first)]):
        if step < len(first) or total < n:
            drawn[group] = group.draw(most, wanted.split, tally)
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
        why = f"cannot read {file} ({one_line(error)})"
        raise Problem(f"{why}: expected a parquet file; if the network failed, run it again") from error


def _groups(file: str, seed: str) -> list[Group]:
    """The row groups of a file, in random order."""
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
