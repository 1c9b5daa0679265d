"""Sentences of articles and lines: which are drawn, and texts that are left out."""

import json
import random

import pyarrow
import pyarrow.parquet
import pytest
import spacy
from texts import SPLIT, articles, take, write

from shortcut import Problem
from shortcut.corpus import articles as articles_of
from shortcut.corpus import sentences
from shortcut.corpus.sentences import LeftOut, Wanted
from shortcut.pipeline.showing import read_lines


def test_sentence_is_the_last_of_a_paragraph_that_is_not_the_last():
    rng = random.Random(0)
    article = "Title\r\nOne. Two.\n\nThree? A\rb\u2028c!\nLast paragraph."
    drawn = {sentences.draw_sentence(article, SPLIT, rng) for _ in range(50)}
    assert drawn == {"Title\n", "Two.\n", "A\rb\u2028c!\n"}


@pytest.mark.parametrize("article", ["", "\n\n", "One paragraph only. Of two sentences."])
def test_articles_without_a_paragraph_to_draw_from_give_none(article):
    assert sentences.draw_sentence(article, SPLIT, random.Random(0)) is None


@pytest.mark.parametrize(
    "paragraph",
    ["!" * 10_000, "😀" * 10_000, "_" * 10_000, "a b. " * 250_000],
)
def test_a_paragraph_that_would_take_minutes_is_left_out(paragraph):
    with pytest.raises(LeftOut, match=r"with a (long run of punctuation marks|paragraph of over 100,000 characters)"):
        sentences.draw_sentence(f"{paragraph}\nLast.", SPLIT, random.Random(0))


@pytest.mark.parametrize(
    "paragraph",
    [
        "漢字、かな。" * 8_000,
        "กิน" * 20_000,
        "ACGT" * 20_000,
        "=" * 300,
        "One " + "." * 300,
        "It's (so) 5:30. " * 6_000,
    ],
)
def test_one_without_blanks_or_with_much_punctuation_is_not(paragraph):
    assert sentences.draw_sentence(f"{paragraph}\nLast.", lambda text: [text], random.Random(0)) == paragraph + "\n"


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
    assert {int(number) % 3 for number in numbers} == {0, 1, 2}  # the files


def test_a_source_with_too_few_articles_gives_all_and_says_so(tmp_path):
    found, lines = take(write(tmp_path / "data", ".jsonl", 30), 40)
    assert len(found) == 30
    assert "has only 30 sentences, 40 were asked for" in lines[-1]


JSON = [json.dumps({"text": article}).encode() for article in articles(9)]


BAD = {
    b'{"text": "caf\xe9"}': "not UTF-8",
    b'{"text": "cut \\ud83d"}': "with half of a surrogate pair",
    b'{"text": null}': "without a text",
    b'{"body": "a"}': "without a text",
    b'"a"': "without a text",
    b'{"text": ["a"]}': "with a text of type list",
    b'{"text": "a"': "no JSON",
    b"[" * 100_000: "no JSON",
    b"1" * 5_000: "no JSON",
    json.dumps({"text": "a b. " * 250_000 + "\nLast"}).encode(): "with a paragraph of over 100,000 characters",
}


@pytest.mark.parametrize(("line", "why"), BAD.items(), ids=range(len(BAD)))
def test_a_bad_line_of_jsonl_is_left_out_with_one_notice(tmp_path, line, why):
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([*JSON[:4], line, *JSON[4:], line]))
    found, lines = take(str(tmp_path), 20)
    assert len(set(found)) == 9
    assert len(lines) == 2
    assert lines[0].startswith(f"left out 2 of 11 texts: 2 {why} (first: {tmp_path}/a.jsonl, line ")


def test_a_bad_line_of_txt_is_left_out_with_one_notice(tmp_path):
    (tmp_path / "a.txt").write_bytes("One.\nCafé.\n".encode() + "Café.\nÜber.\n".encode("latin-1"))
    found, lines = take(str(tmp_path), 2)
    assert sorted(found) == ["Café.\n", "One.\n"]
    assert lines == [f"left out 2 of 4 texts: 2 not UTF-8 (first: {tmp_path}/a.txt, line 3)"]


def test_lines_end_where_those_of_text_files_do_and_nowhere_else(tmp_path):
    inside = [f"a{c}b\n" for c in "\u2028\u2029\u0085\v\f\x1c\x1d\x1e"]
    (tmp_path / "a.txt").write_bytes("".join(inside).encode() + b"one\r\ntwo\rthree")
    assert sorted(take(str(tmp_path), 20)[0]) == sorted([*inside, "one\n", "two\n", "three\n"])
    assert [*read_lines(str(tmp_path / "a.txt")).values()] == [*(line[:-1] for line in inside), "one", "two", "three"]
    assert [*read_lines("a\u2028b\rc\n").values()] == ["a\u2028b", "c"]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".txt"])
def test_byte_order_marks_are_dropped_wherever_they_stand(tmp_path, suffix):
    rows = ["\ufeffTitle\nA \ufeffb.\nLast."] * 2
    if suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table({"text": rows}), tmp_path / "a.parquet")
    else:
        lines = rows if suffix == ".txt" else [json.dumps({"text": row}) for row in rows]
        (tmp_path / f"a{suffix}").write_text("".join(f"\ufeff{line}\n" for line in lines), encoding="utf-8")
    found, lines = take(str(tmp_path), 2)
    assert len(found) == 2
    assert set(found) <= {"Title\n", "A b.\n", "Last.\n"}
    assert not any("left out" in line for line in lines)


@pytest.mark.parametrize("code", ["utf-16", "utf-16-be", "utf-32", "utf-32-le"])
@pytest.mark.parametrize("word", ["One", "Раз"])
def test_utf16_is_named_though_its_bytes_may_be_utf8(tmp_path, code, word):
    for name in ("a.txt", "a.jsonl"):
        (tmp_path / name).write_bytes(f"{word} {word} {word} {word}.\n".encode(code) * 9)
        with pytest.raises(Problem, match=rf"no sentence .*NULs, as UTF-16 and UTF-32 have \(first: .*{name}, line "):
            take(str(tmp_path / name), 5)
    with pytest.raises(Problem, match="UTF-16"):
        read_lines(str(tmp_path / "a.txt"))


def test_a_sentence_that_is_asked_for_is_utf8_under_any_locale(tmp_path):
    assert [*read_lines("Café \ufeff日本".encode().decode("ascii", "surrogateescape")).values()] == ["Café 日本"]
    (tmp_path / "a.txt").write_bytes(b"One.\ncaf\xe9")
    for text in ("caf\udce9 noir", "cut \ud83d", str(tmp_path / "a.txt")):
        with pytest.raises(Problem, match="expected UTF-8 text"):
            read_lines(text)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "x.jsonl",
            '{"txt": 1}\n1\n',
            r'2 of 2 texts: 2 without a text \(.*x.jsonl, line [12]\)\).* \{"text": "..."\}',
        ),
        ("x.parquet", "not parquet", r"cannot read .*x.parquet as parquet \(ArrowInvalid"),
        ("x.csv", "a,b", "no source .*: expected .* file or folder of .parquet, .jsonl or .txt"),
        ("x.txt", b"\xe9\n\xe9", r"no sentence \(left out 2 of 2 texts: 2 not UTF-8 \(first: .*x.txt, line 1\)\)"),
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


def test_more_texts_left_out_than_taken_are_an_error(tmp_path):
    lines = [b"caf\xe9 au lait"] * 6 + [b"a good line"] * 5
    (tmp_path / "latin.txt").write_bytes(b"\n".join(lines))
    with pytest.raises(Problem, match=r"holds hardly a sentence \(left out 6 of 11 texts: 6 not UTF-8"):
        articles_of.sentences(articles_of.local(str(tmp_path / "latin.txt")), Wanted(5, 0, 1, SPLIT))


def test_files_that_systems_leave_beside_others_are_no_source(tmp_path):
    for name in ("a.txt", "._a.txt", ".ipynb_checkpoints/a.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("one\n", encoding="utf-8")
    (tmp_path / "folder.txt").mkdir()
    assert articles_of.local(str(tmp_path)).files == [str(tmp_path / "a.txt")]
