"""Predictions of every layer for the user's own sentences, and the surprisal of the words of a text."""

import csv
import hashlib
import io
import os
import re
from collections.abc import Iterator
from contextlib import closing
from math import isfinite, log
from pathlib import Path
from typing import BinaryIO

import torch

from shortcut import Problem, sentence_grid, words
from shortcut.corpus.sentences import LINE_END, text_of
from shortcut.files import formats, store
from shortcut.files.names import MODEL_FILES
from shortcut.linear import LEAST_SQUARES, Map
from shortcut.loading import pretrained
from shortcut.models import Model
from shortcut.pipeline import showing
from shortcut.pipeline.script import Work
from shortcut.pipeline.states import load_model
from shortcut.show import plots, tables
from shortcut.show.table import text

COLUMNS = ("line", "word", "token", "start", "end", "text", "lens", "layer", "nats", "bits")


def look_inside(work: Work) -> None:
    """Draw and print the predictions of every layer for each sentence, or write the surprisal of the words."""
    name = work.args.model
    if name == work.files.model and name not in work.config.LAYERS and not Path(name).is_dir():
        raise Problem(f"--sentence runs the model, but {name} is a name of results: give the model's name or folder")
    works = {map_kind: work.of_kind(map_kind) for map_kind in work.args.map}
    jumps = [each.require(each.files.matrix(l, work.L)) for each in works.values() for l in range(work.L)]
    sentences = None if work.args.words else read_sentences(work.args.sentence)
    fingerprints = {file_kind: work.fingerprint(file_kind) for file_kind in MODEL_FILES}
    work.provenance.check(jumps, work.say)  # the maps must have been fitted for this model
    model = load_model(work)
    tokenizer = pretrained.load_tokenizer(name, masked=work.masked)
    L, d = work.L, model.d
    maps = {map_kind: [formats.load_map(each.files, l, L, d) for l in range(L)] for map_kind, each in works.items()}
    if sentences is None:
        return write_words(work, model, tokenizer, maps)
    maps = {"mat" if map_kind == LEAST_SQUARES else map_kind: fitted for map_kind, fitted in maps.items()}
    suffix = "".join(f"@{mode}" for mode in maps) if [*maps] != ["mat"] else ""
    grids = [sentence_grid.look(model, tokenizer, sentence, maps, work.say) for sentence in sentences]
    for sentence, grid in zip(sentences, grids, strict=True):
        figure = f"sentence_{slug(sentence)}{suffix}"
        made_with = {"model": work.files.model, "sentence": sentence, "dtype": work.config.DTYPE}
        with work.outputs(jumps, work.files.own_kind.plots(figure), **made_with, **fingerprints) as outputs:
            showing.draw(outputs, {figure: plots.sentence_grid(grid, work.files.own_kind.title)})
        work.say(f"{text(tables.grids(grid))}\n\n{grid.in_words()}")


def read_sentences(text_or_file: str) -> list[str]:
    """The sentence itself, or the non-empty lines of the file with that name, stripped on the right."""
    with closing(_opened(text_or_file)) as file:
        try:
            lines = [text_of(line) for line in LINE_END.split(file.read())]
        except ValueError as error:
            raise Problem(f"--sentence {text_or_file!r}: expected UTF-8 text ({error})") from error
    found = [line.rstrip() for line in lines if line.strip()]
    if not found:
        raise Problem(f"--sentence {text_or_file!r} holds no sentence: give a sentence, or a file with one per line")
    return found


def _opened(text_or_file: str) -> BinaryIO:
    if os.path.isfile(text_or_file):
        return open(text_or_file, "rb")
    if " " not in text_or_file and re.search(r"/|\.[a-z]{2,5}$", text_or_file):
        raise Problem(f"--sentence {text_or_file}: no such file; expected a sentence, or a file with one per line")
    try:
        return io.BytesIO(os.fsencode(text_or_file))  # Python decoded the argument in the locale's encoding
    except UnicodeEncodeError as error:
        raise Problem(f"--sentence {text_or_file!r}: expected UTF-8 text ({error})") from error


def slug(sentence: str) -> str:
    """File name for a sentence: its words, with a hash if another sentence could have the same words."""
    words = "-".join(re.findall("[A-Za-z0-9]+", sentence))[:60]
    if words.replace("-", " ") == sentence:
        return words
    return f"{words[:50]}-{hashlib.sha256(sentence.encode()).hexdigest()[:6]}"


def write_words(work: Work, model: Model, tokenizer, maps: dict[str, list[Map]]) -> None:
    """Write the surprisal of every token and word of a text as CSV, one row for each lens and layer.

    Each line is a separate text, and its rows are written as soon as they are computed. Columns: number of the line,
    of the word and of the token (from 1; the token is empty for a whole word), `start` and `end` in characters
    (from 0), `text`, lens ("model", "id" or a map kind), layer, nats and bits.
    """
    if work.masked:
        raise Problem("--words needs a causal model: a masked model does not predict a word from the words before it")
    path, lenses, given, n = Path(work.args.words), {"id": [], **maps}, work.args.sentence, 0
    if path.exists() and not work.args.force:
        raise Problem(f"{path} exists already: give --words another name, or --force to replace it")
    with closing(_opened(given)) as content, store.replacing(path) as file, work.bar("text", None, "lines") as advance:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="")
        writer = csv.writer(text)
        writer.writerow(COLUMNS)
        for number, line in _lines(content, given):
            for word, token, part, surprisal in _parts(line, words.along(model, tokenizer, line, lenses)):
                n += token is None
                place = [number, word + 1, "" if token is None else token + 1, *part]
                writer.writerows(place + row for row in _rows(lenses, surprisal))
            advance(1)
        if not n:
            raise Problem(f"--sentence {given!r} holds no word: give a text, or a file that holds one")
        text.detach()  # flush without closing the file
    work.say(f"wrote the surprisal of {n} words to {path}")


def _lines(content: BinaryIO, name: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text that are not blank, each with its number from 1."""
    lines = (piece for line in content for piece in re.split(rb"\r(?!\n)", line))
    for number, line in enumerate(lines, 1):
        try:
            text = text_of(line).rstrip("\r\n")
        except ValueError as error:
            raise Problem(f"--sentence {name!r}: line {number}: expected UTF-8 text ({error})") from error
        if text.strip():
            yield number, text


def _parts(line: str, found: Iterator[words.Token]) -> Iterator[tuple]:
    """Yield (word, token, (start, end, text), surprisal) for each token, and for each word with token None."""
    spans, tokens = words.words(line), []

    def whole() -> tuple:
        start, end = spans[tokens[0].word]
        total = torch.stack([token.surprisal for token in tokens]).double().sum(0)
        return tokens[0].word, None, (start, end, line[start:end]), total

    for k, token in enumerate(found):
        if tokens and token.word != tokens[0].word:
            yield whole()
            tokens = []
        tokens.append(token)
        yield token.word, k, (token.start, token.end, token.text), token.surprisal
    if tokens:
        yield whole()


def _rows(lenses: dict[str, list], surprisal: torch.Tensor) -> Iterator[list]:
    """Last columns of the rows for a token or word; nats and bits are empty if no token precedes it."""
    L = surprisal.shape[1] - 1
    yield _row("model", L, surprisal[0, L].item())
    for lens_name, by_layer in zip(lenses, surprisal.tolist(), strict=True):
        for layer, nats in enumerate(by_layer):
            yield _row(lens_name, layer, nats)


def _row(lens_name: str, layer: int, nats: float) -> list:
    known = isfinite(nats)
    return [lens_name, layer, *((f"{nats:.7g}", f"{nats / log(2):.7g}") if known else ("", ""))]
