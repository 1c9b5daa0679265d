"""`python -m shortcut words`: its files, columns and messages."""

import csv
import shutil

import pytest
import tokenizers
from conftest import LAYERS
from pipeline import problem

from shortcut import Problem
from shortcut.__main__ import main


def words(*asked):
    main(["words", *map(str, asked)])


def refused(*asked):
    with pytest.raises(Problem) as caught:
        words(*asked)
    return str(caught.value)


def rows(path):
    with open(path, encoding="utf-8", newline="") as file:
        return [*csv.DictReader(file)]


def test_a_row_for_each_word_and_each_token(fitted, tmp_path, capsys):
    lines = ["the model reads", "", "  early  layers\u2028and n\u00e4ive \u201ctokens\u201d.  ", "null"]
    (tmp_path / "text.txt").write_bytes("\r\n".join(lines).encode() + b"\r\n")
    out, by_token = tmp_path / "words.csv", tmp_path / "tokens.csv"
    asked = (tmp_path / "text.txt", out, "--tokens", by_token, "--map", "least-squares", "ridge", *fitted)
    words(*asked)
    found, tokens = rows(out), rows(by_token)
    columns = ["model", *(f"{lens}_{l}" for lens in ("id", "least-squares", "ridge") for l in range(LAYERS))]
    assert [*found[0]] == ["line", "word", "text", "start", "end", "tokens", "shared", "before", *columns]
    assert [*tokens[0]] == ["line", "token", "text", "start", "end", "word", "before", *columns]
    expected = [(n, w, text) for n, line in enumerate(lines, 1) for w, text in enumerate(line.split(), 1)]
    assert [(int(row["line"]), int(row["word"]), row["text"]) for row in found] == expected
    for row in found:
        assert lines[int(row["line"]) - 1][int(row["start"]) : int(row["end"])] == row["text"]
        parts = [t for t in tokens if (t["line"], t["word"]) == (row["line"], row["word"])]
        assert (row["tokens"], row["shared"], row["before"]) == (str(len(parts)), "", "<|endoftext|>")
        for name in columns:
            assert float(row[name]) == pytest.approx(sum(float(t[name]) for t in parts), rel=1e-5)
    assert (
        sum(t["word"] == "" for t in tokens) == 2
    )  # one of two blanks, twice; the bytes of U+2028 are of the next word
    said = capsys.readouterr().out
    assert "wrote the surprisal of 9 words" in said
    assert "warning" not in said
    assert "exists already: give another name, or --force to replace a file" in refused(*asked)
    (tmp_path / ".words.csv.1a2b3c4d").write_bytes(b"of a killed run")
    (tmp_path / ".words.csv.swp").write_bytes(b"of an editor")
    words(*asked, "--force")
    assert {path.name for path in tmp_path.iterdir()} >= {"text.txt", "words.csv", "tokens.csv"}
    assert [path.name for path in tmp_path.glob(".words.csv.*")] == [".words.csv.swp"]


def test_columns_of_no_dataset_of_nothing_in_front_and_of_the_correction(fitted, tmp_path):
    (tmp_path / "text.txt").write_text("the model\n")
    plain, corrected, none = (tmp_path / f"{name}.csv" for name in ("plain", "corrected", "none"))
    words(tmp_path / "text.txt", plain, *fitted[:2])
    words(tmp_path / "text.txt", corrected, *fitted[:2], "--corrected")
    words(tmp_path / "text.txt", none, *fitted[:2], "--bos", "none")
    assert [*rows(plain)[0]][8:] == ["model", *(f"id_{l}" for l in range(LAYERS))]
    assert [*rows(corrected)[0]][7:10] == ["before", "corrected", "model"]
    assert {row["corrected"] for row in rows(corrected)} == {"True"}
    assert all(a["model"] != b["model"] for a, b in zip(rows(plain), rows(corrected), strict=True))
    assert [(row["before"], row["model"] == "") for row in rows(none)] == [("", True), ("", False)]


def test_every_word_has_a_row_and_one_warning_counts_those_without_a_number_of_their_own(gpt2_folder, tmp_path, capsys):
    """With a tokenizer that has a token "b c" and drops the letter z."""
    shutil.copytree(gpt2_folder, folder := tmp_path / "spanning")
    vocabulary = {"<|endoftext|>": 0, "a": 1, "b": 2, "c": 3, " ": 4, "b ": 5, "b c": 6}
    backend = tokenizers.models.BPE(vocabulary, [("b", " "), ("b ", "c")])
    tokenizer = tokenizers.Tokenizer(backend)
    tokenizer.normalizer = tokenizers.normalizers.Replace("z", "")
    tokenizer.decoder = tokenizers.decoders.Fuse()  # without one, tokens would be joined by blanks
    tokenizer.save(str(folder / "tokenizer.json"))
    (tmp_path / "text.txt").write_text("a b c zz a\n")
    words(tmp_path / "text.txt", tmp_path / "out.csv", "--model", folder)
    found = [(row["text"], row["tokens"], row["shared"], row["model"] != "") for row in rows(tmp_path / "out.csv")]
    assert found == [
        ("a", "1", "", True), ("b", "2", "2", True), ("c", "0", "2", False), ("zz", "0", "", False),
        ("a", "2", "", True),
    ]  # fmt: skip
    said = capsys.readouterr().out
    assert "warning: 2 words share a token with another word" in said
    assert "drops all of 1 words" in said


def test_a_word_with_an_unknown_token_has_no_surprisal_and_a_text_of_such_is_refused(gpt2_folder, tmp_path, capsys):
    shutil.copytree(gpt2_folder, folder := tmp_path / "closed")
    vocabulary = {"[UNK]": 0, "the": 1, "model": 2, "reads": 3}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    text, out = tmp_path / "text.txt", tmp_path / "out.csv"
    text.write_text("the xyz model reads\n")
    words(text, out, "--model", folder, "--bos", "none")
    assert [(row["text"], row["tokens"], row["model"] != "") for row in rows(out)] == [
        ("the", "1", False), ("xyz", "1", False), ("model", "1", True), ("reads", "1", True),
    ]  # fmt: skip
    said = capsys.readouterr().out
    assert "25.0% of the tokens are [UNK]" in said
    assert "warning: 1 tokens are unknown, and their words have no surprisal: see" in said
    text.write_text("the xyz abc\n")
    assert "66.7% of the tokens are [UNK]" in refused(text, out, "--model", folder, "--force")
    assert len(rows(out)) == 4


def test_no_file_is_written_over_another_one_of_the_same_run(fitted, tmp_path):
    (tmp_path / "text.txt").write_text("the model")
    text, out = tmp_path / "text.txt", tmp_path / "out.csv"
    for asked in ((text, text), (text, out, "--tokens", tmp_path / "." / "out.csv"), (text, out, "--tokens", text)):
        assert "are not all different" in refused(*asked, *fitted[:2], "--force")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["text.txt"]
    assert text.read_text() == "the model"


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"\n  \n\t\n", "holds no word"), (b"", "holds no word"), (b"a\n\xff\xff\xff", "line 2: expected UTF-8"),
     ("words".encode("utf-16"), "line 1: expected UTF-8 text (with NULs, as UTF-16")],
)  # fmt: skip
def test_a_text_without_words_is_one_line(content, why, fitted, tmp_path):
    (tmp_path / "text.txt").write_bytes(content)
    assert why in refused(tmp_path / "text.txt", tmp_path / "out.csv", *fitted)
    assert not (tmp_path / "out.csv").exists()


def test_what_is_missing_is_one_line(fitted, bert_folder, tmp_path, capsys):
    text, out = tmp_path / "text.txt", tmp_path / "out.csv"
    assert "text.txt is not a file; expected a text file" in refused(text, out, *fitted)
    text.write_text("the model")
    assert "needs a causal model" in refused(text, out, "--model", bert_folder)
    assert "--map needs fitted maps: add --dataset" in refused(text, out, *fitted[:2], "--map", "ridge")
    missing = refused(text, out, *fitted, "--map", "affine")
    assert missing.startswith("linreg/tiny-gpt2/words@affine/0_3.pickle not found: run .venv/bin/python add_linreg.py ")
    assert "--map affine" in missing
    gone = problem(capsys, "plot_results", "--sentence", "a b", "--words", out, *fitted)
    assert gone == "--words is gone: run python -m shortcut words TEXT.txt OUT.csv --model NAME_OR_FOLDER"
    assert not out.exists()
