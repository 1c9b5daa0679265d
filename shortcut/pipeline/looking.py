"""Predictions of every layer for the user's own sentences, and the surprisal of the words of a text."""

import codecs
import csv
import hashlib
import os
import re
from collections.abc import Iterator
from itertools import groupby
from math import isnan, log
from pathlib import Path

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
from shortcut.pipeline.terminal import progress
from shortcut.show import plots, tables
from shortcut.show.table import text

COLUMNS = ("line", "word", "token", "start", "end", "text", "lens", "layer", "nats", "bits")


def look_inside(work: Work) -> None:
    """Draw and print the predictions of every layer for each sentence, or write the surprisal of the words."""
    works = {map_kind: work.of_kind(map_kind) for map_kind in work.args.map}
    jumps = [each.require(each.files.matrix(l, work.L)) for each in works.values() for l in range(work.L)]
    lines = read_lines(work.args.sentence)
    work.provenance.check(jumps, work.say)  # the maps must have been fitted for this model
    model, tokenizer = load_model(work), pretrained.load_tokenizer(work.args.model, masked=work.masked)
    L, d = work.L, model.d
    maps = {map_kind: [formats.load_map(each.files, l, L, d) for l in range(L)] for map_kind, each in works.items()}
    if work.args.words:
        return write_words(work, model, tokenizer, maps, lines)
    maps = {"mat" if map_kind == LEAST_SQUARES else map_kind: fitted for map_kind, fitted in maps.items()}
    suffix = "".join(f"@{mode}" for mode in maps) if [*maps] != ["mat"] else ""
    grids = [sentence_grid.look(model, tokenizer, line.rstrip(), maps, work.say) for line in lines.values()]
    made_with = {file_kind: work.fingerprint(file_kind) for file_kind in MODEL_FILES}
    made_with |= {"model": work.files.model, "dtype": work.config.DTYPE}
    for grid in grids:  # all sentences are read before a figure is drawn
        files, figure = work.files.own_kind, f"sentence_{slug(grid.sentence)}{suffix}"
        with work.outputs(jumps, files.plots(figure), sentence=grid.sentence, **made_with) as outputs:
            showing.draw(outputs, {figure: plots.sentence_grid(grid, files.title)})
        work.say(f"{text(tables.grids(grid))}\n\n{grid.in_words()}")


def read_lines(text_or_file: str) -> dict[int, str]:
    """The lines that are not blank in a text, or in the file with that name, by their number from 1."""
    place, found = f"--sentence {text_or_file!r}", {}
    try:
        # Python decoded the argument in the locale's encoding
        content = Path(text_or_file).read_bytes() if os.path.isfile(text_or_file) else os.fsencode(text_or_file)
        for number, line in enumerate(LINE_END.split(content), 1):
            place = f"--sentence {text_or_file!r}: line {number}"
            if (decoded := text_of(line)).strip():
                found[number] = decoded
    except ValueError as error:
        raise Problem(f"{place}: expected UTF-8 text ({error})") from error
    if not found:
        raise Problem(f"--sentence {text_or_file!r} holds no word: give a sentence, or a file with one per line")
    return found


def slug(sentence: str) -> str:
    """File name for a sentence: its words, with a hash if another sentence could have the same words."""
    words = "-".join(re.findall("[A-Za-z0-9]+", sentence))[:60]
    if words.replace("-", " ") == sentence:
        return words
    return f"{words[:50]}-{hashlib.sha256(sentence.encode()).hexdigest()[:6]}"


def write_words(work: Work, model: Model, tokenizer, maps: dict[str, list[Map]], lines: dict[int, str]) -> None:
    """Write the surprisal of every token and word of a text as CSV, one row for each lens and layer.

    Each line is a separate text. The rows of a word are written as soon as they are computed. Columns: number of the
    line, of the word and of the token (from 1; the token is empty for a whole word), `start` and `end` in characters
    (from 0), `text`, lens ("model", "id" or a map kind), layer, nats and bits.
    """
    if work.masked:
        raise Problem("--words needs a causal model: a masked model does not predict a word from the words before it")
    path, lenses, n = Path(work.args.words), {"id": [], **maps}, 0
    if path.exists() and not work.args.force:
        raise Problem(f"{path} exists already: give --words another name, or --force to replace it")
    with store.replacing(path) as file:
        writer = csv.writer(codecs.getwriter("utf-8")(file))
        writer.writerow(COLUMNS)
        for number, line in progress("text", lines.items(), len(lines), "lines"):
            tokens, spans = enumerate(words.along(model, tokenizer, line, lenses), 1), words.words(line)
            for word, group in groupby(tokens, key=lambda numbered: numbered[1].word):
                parts = [(k, x.start, x.end, x.text, x.surprisal) for k, x in group]
                (start, end), total = spans[word], torch.stack([part[-1] for part in parts]).double().sum(0)
                for *place, surprisal in (*parts, ("", start, end, line[start:end], total)):
                    writer.writerows([number, word + 1, *place, *row] for row in _rows(lenses, surprisal))
                n += 1
    work.say(f"wrote the surprisal of {n} words to {path}")


def _rows(lenses: dict[str, list], surprisal: torch.Tensor) -> Iterator[list]:
    """Last columns of the rows for a token or word; nats and bits are empty if no token precedes it."""
    by_lens, L = dict(zip(lenses, surprisal.tolist(), strict=True)), surprisal.shape[1] - 1
    rows = [("model", L, by_lens["id"][L])]
    rows += [(lens_name, layer, nats) for lens_name, found in by_lens.items() for layer, nats in enumerate(found)]
    for *place, nats in rows:
        yield [*place, *("" if isnan(x) else f"{x:.7g}" for x in (nats, nats / log(2)))]
