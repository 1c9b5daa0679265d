"""Sentences, tokens and positions."""

import json
import os
import random
import resource
import tempfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import spacy
import torch
import transformers
from conftest import make_sentences

from shortcut import Problem, tokens
from shortcut.corpus import articles as articles_of
from shortcut.corpus import docstrings, sentences
from shortcut.corpus.sentences import Wanted
from shortcut.files.scratch import Scratch


@pytest.fixture(scope="module")
def tokenizer(gpt2_folder):
    return transformers.AutoTokenizer.from_pretrained(gpt2_folder)


def articles(n):
    return [f"Heading {k}\nFirst {k}. Last {k}.\n\nNot this one {k}." for k in range(n)]


SPLIT = sentences.splitter()


def test_sentence_is_the_last_of_a_paragraph_that_is_not_the_last():
    rng = random.Random(0)
    drawn = {
        sentences.draw_sentence("Title\nOne. Two.\n\nThree? Four!\nLast paragraph.", SPLIT, rng) for _ in range(50)
    }
    assert drawn == {"Title\n", "Two.\n", "Four!\n"}


@pytest.mark.parametrize("article", ["", "\n\n", "One paragraph only. Of two sentences."])
def test_articles_without_a_paragraph_to_draw_from_give_none(article):
    assert sentences.draw_sentence(article, SPLIT, random.Random(0)) is None


def pipeline(folder, *pipes):
    nlp = spacy.blank("en")
    for pipe in pipes:
        nlp.add_pipe(pipe)
    nlp.to_disk(folder / "pipeline")
    return str(folder / "pipeline")


def test_a_pipeline_of_ones_own_splits(tmp_path):
    assert sentences.splitter(pipeline(tmp_path, "sentencizer"))("One. Two.") == ["One.", "Two."]


def test_a_pipeline_without_sentences_is_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    for name, message in {
        "en_core_web_nope": r"run `.*spacy download en_core_web_nope`, or set SPACY = None",
        pipeline(tmp_path): r"no sentences \(ValueError: \[E030\] Sentence boundaries unset.*\): set SPACY = None",
        str(tmp_path / "empty"): r"OSError: \[E053\] Could not read.*\): set SPACY = None",
        "numpy": r"TypeError",  # a package with a load of its own
    }.items():
        with pytest.raises(Problem, match=message):
            sentences.splitter(name)


def write(folder, suffix, n):
    folder.mkdir(parents=True)
    for part in range(3):
        rows = articles(n)[part::3]
        path = folder / f"part{part}{suffix}"
        if suffix == ".parquet":
            table = pyarrow.table({"id": [str(k) for k in range(len(rows))], "text": rows})
            pyarrow.parquet.write_table(table, path, row_group_size=7)
        elif suffix == ".jsonl":
            path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
        else:
            path.write_text("".join(f"Last {k}.\n\n" for k in range(part, n, 3)))
    return str(folder)


def take(source, n, seed=0, budget=10**9, folder=None):
    """n sentences, and what was said."""
    lines, found = [], []
    with tempfile.TemporaryDirectory() as other:
        wanted = Wanted(n, seed, budget, SPLIT, found.append, lines.append)
        taken = articles_of.sentences(articles_of.local(source), wanted, Scratch(folder or Path(other), "key"))
    assert sum(found) == len(taken)
    return taken, lines


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".txt"])
def test_every_source_gives_one_sentence_an_article_seeded(tmp_path, suffix):
    source = write(tmp_path / "data", suffix, 90)
    first, _ = take(source, 40)
    again, _ = take(source, 40)
    other, _ = take(source, 40, seed=1)
    assert first == again != other
    numbers = [s.split()[-1].rstrip(".\n") for s in first]
    assert len(set(numbers)) == len(first) == 40
    assert all(s.endswith("\n") for s in first)
    assert numbers != sorted(numbers, key=int)  # what trains and what validates is mixed


def test_a_source_with_too_few_articles_gives_all_and_says_so(tmp_path):
    found, lines = take(write(tmp_path / "data", ".jsonl", 30), 40)
    assert len(found) == 30
    assert "30 sentences found, 40 asked for" in lines[-1]


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


def test_rows_without_a_text_are_left_out(tmp_path):
    table = pyarrow.table({"text": [None, *articles(5), None]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert len(take(str(tmp_path), 10)[0]) == 5


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
    with pytest.raises(Problem, match=f"a.parquet has texts of type {name}.*, expected string"):
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


def test_a_stopped_run_over_parquet_ends_with_what_an_undisturbed_one_draws(tmp_path, monkeypatch):
    source = write(tmp_path / "data", ".parquet", 900)
    undisturbed, _ = take(source, 300)
    read = pyarrow.parquet.ParquetFile.read_row_group
    asked = []

    def fails_once(file, k, **options):
        asked.append(k)
        if len(asked) == 50:
            raise OSError("gone")
        return read(file, k, **options)

    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "read_row_group", fails_once)
    with pytest.raises(Problem, match=r"OSError: gone\); what was read so far is kept"):
        take(source, 300, folder=tmp_path / "parts")
    resumed, _ = take(source, 300, folder=tmp_path / "parts")
    assert resumed == undisturbed
    assert len(asked) == 129 + 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", '{"text": "a\\nb. c."}\n{"txt": 1}\n', r"x.jsonl, line 2: expected an object"),
        ("x.jsonl", '{"text": null}\n', r"x.jsonl, line 1: expected an object"),
        ("x.parquet", "not parquet", r"cannot read .*x.parquet \(ArrowInvalid"),
        ("x.csv", "a,b", "no .parquet, .jsonl or .txt file"),
        ("x.txt", b"\xff\xfe", "not UTF-8"),
        ("x.txt", "\n\n", "holds no sentence"),
    ],
)
def test_sources_that_cannot_be_read_are_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(Problem, match=message):
        take(str(tmp_path), 5)


def test_a_source_that_is_not_there_names_the_choices():
    with pytest.raises(Problem, match="expected hub, docstrings, or a file"):
        take("no/such/place", 5)


def sources():
    return docstrings.source_files(["sklearn"])[::4]


def test_docstrings_give_plain_english_without_code_and_markup():
    found = docstrings.sentences(sources(), SPLIT)
    assert len(found) == len(set(found)) > 1_000
    for sentence in found:
        assert 5 <= len(sentence.split()) <= 60
        assert not set(sentence) & set("`|\\<>{}=@~\n")
        assert sentence[0].isupper()
        assert sentence[-1] in ".?!"


def test_held_out_is_a_quarter_by_the_sentence_alone():
    sentences = make_sentences(4000)
    share = sum(map(docstrings.is_held_out, sentences)) / len(sentences)
    assert share == pytest.approx(docstrings.HELD_OUT, abs=0.03)
    assert all(docstrings.is_held_out(s) == docstrings.is_held_out(s + "\n") for s in sentences[:100])


def test_validation_sentences_are_held_out_and_training_ones_are_not():
    found = docstrings.draw(sources(), Wanted(1_000, 0, 0, SPLIT), 600)
    held_out = [docstrings.is_held_out(s) for s in found]
    assert not any(held_out[:600])
    assert all(held_out[600:800])
    assert len(set(found)) == 1_000


def tokenize(sentences, tokenizer, context=48, seed=0):
    lines = []
    return tokens.tokenize({"train": sentences}, tokenizer, context, seed, lines.append)["train"], lines


def test_tokens_are_the_stock_tokenizers_without_trailing_white_space(tokenizer):
    tokenized, lines = tokenize(["the model reads.  \n"], tokenizer)
    assert tokenized.sentences[0].tolist() == tokenizer("the model reads.")["input_ids"]
    assert tokenized.sentences[0].dtype == tokenized.positions.dtype == torch.int64
    assert lines == []


def test_positions_are_uniform_first_and_last_included(tokenizer):
    tokenized, _ = tokenize(["the model reads.\n"] * 4000, tokenizer)
    counts = torch.bincount(tokenized.positions, minlength=len(tokenized.sentences[0])).double() / 4000
    assert len(counts) == len(tokenized.sentences[0])
    torch.testing.assert_close(counts, torch.full_like(counts, 1 / len(counts)), rtol=0, atol=0.03)


def test_long_sentences_are_truncated_with_one_notice(tokenizer):
    tokenized, lines = tokenize(["the model reads. " * 40 + "\n", "the\n"], tokenizer)
    assert len(tokenized.sentences[0]) == 48
    assert int(tokenized.positions[0]) < 48
    assert lines == ["1 of 2 sentences are longer than 48 tokens: truncated"]


def test_an_empty_sentence_is_named_by_its_number(tokenizer):
    with pytest.raises(Problem, match="sentence 1 "):
        tokenize(["the\n", " \n"], tokenizer)


def test_too_few_sentences_say_how_many_are_wanted():
    with pytest.raises(Problem, match="got 5, expected 4 to train and 2 to validate"):
        tokens.split(make_sentences(5), train=4, val=2)
    assert tokens.split(list("abcdefg"), train=4, val=2) == {"train": list("abcd"), "val": list("ef")}


def test_mask_replaces_exactly_the_chosen_token(tokenized):
    masked = tokens.mask(tokenized, 4)
    for before, after, t in zip(tokenized.sentences, masked.sentences, tokenized.positions.tolist(), strict=True):
        assert after[t] == 4
        assert (before != after).sum() == 1
