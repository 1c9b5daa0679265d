"""Tokenizers as they are loaded: those of the file, refused where they cannot be, and their fingerprint."""

import json
from pathlib import Path

import pytest
from conftest import changed
from tokenizers import Tokenizer

from shortcut import Problem
from shortcut.loading import checkpoint, pretrained


@pytest.mark.parametrize("words_only", [False, True])
def test_a_mask_that_the_tokenizer_does_not_know_is_not_made_up(tmp_path, bert_folder, words_only):
    """It would get the number behind the last word, whose embedding nobody trained."""
    folder = changed(bert_folder, tmp_path)
    words = Tokenizer.from_file(f"{folder}/tokenizer.json").get_vocab()
    settings = Path(folder, "tokenizer_config.json")
    if words_only:
        Path(folder, "tokenizer.json").unlink()
        words = [{"[MASK]": "[M]"}.get(word, word) for word in sorted(words, key=words.get)]
        Path(folder, "vocab.txt").write_text("\n".join(words), encoding="utf-8")
        settings.unlink()
    else:
        changed_settings = json.loads(settings.read_text(encoding="utf-8")) | {"mask_token": "<mask>"}
        settings.write_text(json.dumps(changed_settings), encoding="utf-8")
    with pytest.raises(Problem, match=r"its tokenizer has no \[MASK\]"):
        pretrained.load_tokenizer(folder, masked=True)


def tokenizer_file(folder, change):
    """The folder with a tokenizer.json in which something was changed."""
    file = Path(folder, "tokenizer.json")
    file.write_text(json.dumps(change(json.loads(file.read_text(encoding="utf-8")))), encoding="utf-8")
    return folder


PIECES = [
    {"type": "Digits", "individual_digits": True},
    {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False},
]
LONG = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
PADDED = {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
          "pad_token": "x"}  # fmt: skip


@pytest.mark.parametrize(
    ("family", "own"),
    [
        ("gpt2", {"normalizer": {"type": "Lowercase"}}),
        ("gpt2", {"pre_tokenizer": {"type": "Sequence", "pretokenizers": PIECES}}),
        ("gpt2", {"truncation": LONG, "padding": PADDED}),
        ("bert", {"normalizer": {"type": "Prepend", "prepend": "a "}}),
        ("bert", {"normalizer": None}),
        ("bert", {"truncation": LONG}),
    ],
)
def test_tokens_are_those_of_the_file(tmp_path, request, family, own):
    folder = tokenizer_file(
        changed(request.getfixturevalue(f"{family}_folder"), tmp_path), lambda file: {**file, **own}
    )
    text = ["The Model reads 12345 LAYERS, late and early tokens of State n77.", "the model"]
    expected = Tokenizer.from_file(f"{folder}/tokenizer.json")
    expected.no_truncation()
    expected.no_padding()
    tokenizer = pretrained.load_tokenizer(folder, masked=family == "bert")
    assert tokenizer(text, verbose=False)["input_ids"] == [found.ids for found in expected.encode_batch(text)]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer.json", '{"model": {"type": "Unknown"}}', "cannot load"),
        ("tokenizer.json", "<html>404</html>", "cannot load"),
        ("tokenizer.json", "version https://git-lfs.github.com/spec/v1", "tokenizer.json is a Git LFS pointer"),
        ("tokenizer_config.json", '{"tokenizer_class": "BertJapaneseTokenizer"}', "cannot load"),
        ("tokenizer_config.json", "null", "cannot load"),
        ("tokenizer.json", None, "its tokenizer has an empty vocabulary"),
    ],
)  # fmt: skip
def test_a_tokenizer_that_cannot_be_made_is_one_line(tmp_path, gpt2_folder, file, content, message):
    folder = changed(gpt2_folder, tmp_path)
    if content is None:
        Path(folder, file).unlink()
    else:
        Path(folder, file).write_text(content, encoding="utf-8")
    with pytest.raises(Problem, match=message) as caught:
        pretrained.load_tokenizer(folder, masked=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["added_tokens.json", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model"])
def test_fingerprint_covers_what_a_tokenizer_without_tokenizer_json_is_made_from(tmp_path, gpt2_folder, file):
    folder = changed(gpt2_folder, tmp_path)
    Path(folder, file).write_bytes(b"1")
    whole = checkpoint.fingerprint(gpt2_folder, "tokenizer")
    assert checkpoint.fingerprint(folder, "tokenizer") == whole  # which is made from tokenizer.json
    Path(folder, "tokenizer.json").rename(Path(folder, "vocab.json"))
    before = checkpoint.fingerprint(folder, "tokenizer")
    Path(folder, file).write_bytes(b"2")
    assert checkpoint.fingerprint(folder, "tokenizer") != before


def test_a_folder_without_a_tokenizer_is_named_when_one_is_wanted(tmp_path, gpt2):
    gpt2.net.save_pretrained(tmp_path)
    assert checkpoint.fingerprint(str(tmp_path), "tokenizer") is None
    with pytest.raises(Problem, match=r"its tokenizer has an empty vocabulary, expected tokenizer\.json, "):
        pretrained.load_tokenizer(str(tmp_path), masked=False)
