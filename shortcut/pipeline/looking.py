"""Sentences and texts of your own, through the model and the maps: what every layer would predict, and how surely."""

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
from shortcut.corpus.texts import LINE_END, text_of
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
    """Draw and print what every layer would predict in the sentences, or write the surprisal of their words."""
    name = work.args.model
    if name == work.files.model and name not in work.config.LAYERS and not Path(name).is_dir():
        raise Problem(f"--sentence runs the model: --model {name} names results, give the model's name or folder")
    of_kinds = {kind: work.of_kind(kind) for kind in work.args.map}
    jumps = [of.require(of.files.matrix(l, work.L)) for of in of_kinds.values() for l in range(work.L)]
    sentences = None if work.args.words else asked(work.args.sentence)
    fingerprints = {kind: work.fingerprint(kind) for kind in MODEL_FILES}
    work.provenance.check(jumps, work.say)  # the maps were fitted for this model
    model = load_model(work)
    tokenizer = pretrained.load_tokenizer(name, masked=work.masked)
    L, d = work.L, model.d
    maps = {kind: [formats.load_map(of.files, l, L, d) for l in range(L)] for kind, of in of_kinds.items()}
    if sentences is None:
        return write_words(work, model, tokenizer, maps)
    maps = {"mat" if kind == LEAST_SQUARES else kind: of for kind, of in maps.items()}
    others = "".join(f"@{kind}" for kind in maps) if [*maps] != ["mat"] else ""
    grids = [sentence_grid.look(model, tokenizer, sentence, maps, work.say) for sentence in sentences]
    for sentence, grid in zip(sentences, grids, strict=True):
        figure = f"sentence_{slug(sentence)}{others}"
        made_with = {"model": work.files.model, "sentence": sentence, "dtype": work.config.DTYPE}
        with work.outputs(jumps, work.files.own_kind.plots(figure), **made_with, **fingerprints) as outputs:
            showing.draw(outputs, {figure: plots.sentence_grid(grid, work.files.own_kind.title)})
        work.say(f"{text(tables.grids(grid))}\n\n{grid.in_words()}")


def asked(text_or_file: str) -> list[str]:
    """The sentence itself, or the lines of the file of that name, stripped on the right, empty ones left out."""
    with closing(_opened(text_or_file)) as file:
        try:
            lines = [text_of(line) for line in LINE_END.split(file.read())]
        except ValueError as error:
            raise Problem(f"--sentence {text_or_file!r}: expected UTF-8 text ({error})") from error
    found = [line.rstrip() for line in lines if line.strip()]
    if not found:
        raise Problem(f"--sentence {text_or_file!r} holds no sentence: give one, or a file of one a line")
    return found


def _opened(text_or_file: str) -> BinaryIO:
    if os.path.isfile(text_or_file):
        return open(text_or_file, "rb")
    if " " not in text_or_file and re.search(r"/|\.[a-z]{2,5}$", text_or_file):
        raise Problem(f"--sentence {text_or_file}: no such file; expected a sentence, or a file of one a line")
    try:
        return io.BytesIO(os.fsencode(text_or_file))  # Python decodes an argument's bytes as the locale has it
    except UnicodeEncodeError as error:
        raise Problem(f"--sentence {text_or_file!r}: expected UTF-8 text ({error})") from error


def slug(sentence: str) -> str:
    """A name for the sentence's files: its words, and a hash where they alone would not tell it from another."""
    words = "-".join(re.findall("[A-Za-z0-9]+", sentence))[:60]
    if words.replace("-", " ") == sentence:
        return words
    return f"{words[:50]}-{hashlib.sha256(sentence.encode()).hexdigest()[:6]}"


def write_words(work: Work, model: Model, tokenizer, maps: dict[str, list[Map]]) -> None:
    """Write the surprisal of every token and word of a text, a row a lens and layer, as they are made.

    Lines are texts of their own. Columns: the line, in it the word and the token (from 1; none for a whole word),
    their `start` and `end` in characters (from 0) and `text`, the lens ("model", "id", or a kind of map), the layer,
    nats and bits.
    """
    if work.masked:
        raise Problem("--words takes a causal model: a masked one gives no word a probability by what is before it")
    path, lenses, given, n = Path(work.args.words), {"id": [], **maps}, work.args.sentence, 0
    if path.exists() and not work.args.force:
        raise Problem(f"{path} is there already: give --words another name, or --force to replace it")
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
            raise Problem(f"--sentence {given!r} holds no word: give a text, or a file of one")
        text.detach()  # which flushes, and leaves the file open
    work.say(f"wrote the surprisal of {n} words to {path}")


def _lines(content: BinaryIO, name: str) -> Iterator[tuple[int, str]]:
    """The lines of a text that hold something, one at a time, each with its number from 1."""
    lines = (piece for line in content for piece in re.split(rb"\r(?!\n)", line))
    for number, line in enumerate(lines, 1):
        try:
            text = text_of(line).rstrip("\r\n")
        except ValueError as error:
            raise Problem(f"--sentence {name!r}: line {number}: expected UTF-8 text ({error})") from error
        if text.strip():
            yield number, text


def _parts(line: str, found: Iterator[words.Token]) -> Iterator[tuple]:
    """Word, token, (start, end, text), surprisal: of each token of a word, then of all of it, without a token."""
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
    """The last columns of a token's or word's rows; no numbers where nothing stands before it."""
    L = surprisal.shape[1] - 1
    yield _row("model", L, surprisal[0, L].item())
    for lens_name, of in zip(lenses, surprisal.tolist(), strict=True):
        for layer, nats in enumerate(of):
            yield _row(lens_name, layer, nats)


def _row(lens_name: str, layer: int, nats: float) -> list:
    known = isfinite(nats)
    return [lens_name, layer, *((f"{nats:.7g}", f"{nats / log(2):.7g}") if known else ("", ""))]
