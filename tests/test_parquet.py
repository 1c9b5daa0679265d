"""Sentences from parquet files: from every row group alike, whatever type the texts have."""

import os
import resource
from collections import Counter

import pyarrow
import pyarrow.parquet
import pytest
from texts import articles, take, write

from shortcut import Problem


def test_parquet_is_read_in_parts_from_every_file(tmp_path):
    source = write(tmp_path / "data", ".parquet", 900)
    found, lines = take(source, 30, budget=1)
    assert "reading 6 of 129 row groups from 3 files" in lines[1]
    parts = {int(s.split()[-1].rstrip(".\n")) % 3 for s in found}
    assert parts == {0, 1, 2}


def test_stopping_early_leaves_out_some_of_every_file(tmp_path):
    write(tmp_path / "data", ".parquet", 3000)
    found, _ = take(str(tmp_path / "data"), 1200)
    counts = [sum(int(s.split()[-1].rstrip(".\n")) % 3 == part for s in found if s[0] != "H") for part in range(3)]
    assert max(counts) < 1.3 * min(counts)


def groups_drawn(path, n, **options):
    """Of the row groups of ten articles each: from which of them sentences are drawn, and how many."""
    found, _ = take(str(path), n, **options)
    return Counter(int(s.split()[-1].rstrip(".\n")) // 10 for s in found)


def test_every_row_group_gives_the_same_share_and_the_surplus_is_cut_from_all(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"text": articles(100)}), tmp_path / "a.parquet", row_group_size=10)
    assert groups_drawn(tmp_path, 50) == dict.fromkeys(range(10), 5)
    eleven = groups_drawn(tmp_path, 11)  # two of each, and nine too many
    assert len(eleven) > 6
    assert max(eleven.values()) == 2


def test_the_row_groups_that_are_read_are_drawn_with_the_seed(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"text": articles(100)}), tmp_path / "a.parquet", row_group_size=10)
    assert len({tuple(groups_drawn(tmp_path, 5, seed=seed, budget=1)) for seed in range(5)}) > 1


def test_a_table_without_texts_is_one_line_that_names_its_columns(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"id": [1], "body": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(
        Problem, match=r"a.parquet has the columns id \(int64\), body \(string\), expected one named 'text' that"
    ):
        take(str(tmp_path), 1)


def unchecked(*content):
    """A column of strings whose bytes nobody has looked at."""
    binary = pyarrow.array(content, pyarrow.binary())
    return pyarrow.Array.from_buffers(pyarrow.string(), len(content), binary.buffers())


def test_a_bad_row_of_parquet_is_left_out_with_one_notice(tmp_path):
    rows = [None, *(article.encode() for article in articles(5)), None, b"caf\xe9", b"!" * 10_000 + b"\nLast."]
    pyarrow.parquet.write_table(pyarrow.table({"text": unchecked(*rows)}), tmp_path / "a.parquet")
    found, lines = take(str(tmp_path), 10)
    assert len(found) == 5
    assert lines[-2].startswith("left out 4 of 9 texts: ")
    for why in ("2 without a text", "1 not UTF-8", "1 with a long run of punctuation marks"):
        assert f"{why} (first: {tmp_path}/a.parquet, row group 0, row " in lines[-2]


STRINGS = [
    pyarrow.binary(), pyarrow.large_string(), pyarrow.string_view(),
    pyarrow.dictionary(pyarrow.int32(), pyarrow.string()),
]  # fmt: skip


@pytest.mark.parametrize("kind", STRINGS, ids=str)
def test_every_type_of_text_gives_the_same_sentences(tmp_path, kind):
    for name, column in (
        ("a", articles(9)),
        ("b", pyarrow.array([a.encode() for a in articles(9)]).cast("string").cast(kind)),
    ):
        pyarrow.parquet.write_table(pyarrow.table({"text": column}), tmp_path / f"{name}.parquet")
    assert take(f"{tmp_path}/a.parquet", 9)[0] == take(f"{tmp_path}/b.parquet", 9)[0]


@pytest.mark.parametrize(("value", "name"), [(["a"], "list<"), ({"a": "b"}, "struct<"), (1, "int64"), (None, "null")])
def test_a_column_of_another_type_is_named(tmp_path, value, name):
    pyarrow.parquet.write_table(pyarrow.table({"text": [value] * 9}), tmp_path / "a.parquet")
    with pytest.raises(
        Problem, match=rf"a.parquet has the columns text \({name}.*\), expected one named 'text' that holds"
    ):
        take(str(tmp_path), 9)


@pytest.mark.parametrize("before", [{"a": "x", "b": 1}, {"a": {"text": os.urandom(9_000).hex()}, "b": ["x"]}])
def test_bytes_are_counted_of_the_texts_alone(tmp_path, before):
    table = pyarrow.table({"before": [before] * 100, "text": [f"{a}\n{os.urandom(500).hex()}" for a in articles(100)]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=10)
    _, lines = take(str(tmp_path), 10, budget=40_000)  # of 10 to 13 KB a group
    assert "reading 3 of 10 row groups" in lines[1]


def test_more_files_than_may_be_open_are_read(tmp_path):
    for k, article in enumerate(articles(60)):
        pyarrow.parquet.write_table(pyarrow.table({"text": [article]}), tmp_path / f"{k}.parquet")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 20, limits[1]))
    try:
        assert len(take(str(tmp_path), 60)[0]) == 60
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_parquet_goes_on_to_unread_groups_where_articles_are_short(tmp_path):
    rows = ["too short"] * 50 + articles(20)
    pyarrow.parquet.write_table(pyarrow.table({"text": rows}), tmp_path / "a.parquet", row_group_size=10)
    found, _ = take(str(tmp_path), 20, budget=1)
    assert len(set(found)) == 20


def test_parquet_gives_all_there_is_where_a_few_groups_hold_the_articles(tmp_path):
    rows = ["too short"] * 100 + articles(20)
    pyarrow.parquet.write_table(pyarrow.table({"text": rows}), tmp_path / "a.parquet", row_group_size=10)
    found, _ = take(str(tmp_path), 20)
    assert len(set(found)) == 20
