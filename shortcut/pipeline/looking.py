"""Predictions of every layer for the user's own sentences."""

import hashlib
import os
import re
from dataclasses import replace
from pathlib import Path

from shortcut import Problem, sentence_grid
from shortcut.corpus.sentences import text_of
from shortcut.files import formats
from shortcut.files.names import MODEL_FILES
from shortcut.linear import LEAST_SQUARES
from shortcut.loading import pretrained
from shortcut.pipeline import showing
from shortcut.pipeline.script import Work
from shortcut.pipeline.states import load_model
from shortcut.show import plots, tables
from shortcut.show.table import text


def look_inside(work: Work) -> None:
    """Draw and print the predictions of every layer for each sentence."""
    works = {"mat" if name == LEAST_SQUARES else name: work.of_kind(name) for name in work.args.map}
    jumps = [each.require(each.files.matrix(l, work.L)) for each in works.values() for l in range(work.L)]
    lines = read_lines(work.args.sentence)
    work.provenance.check(jumps, work.say)  # the maps must have been fitted for this model
    model, tokenizer = load_model(work), pretrained.load_tokenizer(work.args.model, masked=work.masked)
    L, d = work.L, model.d
    maps = {mode: [formats.load_map(each.files, l, L, d) for l in range(L)] for mode, each in works.items()}
    suffix = "".join(f"@{mode}" for mode in maps) if [*maps] != ["mat"] else ""
    grids = [sentence_grid.look(model, tokenizer, line.rstrip(), maps, work.say) for line in lines.values()]
    made_with = {file_kind: work.fingerprint(file_kind) for file_kind in MODEL_FILES}
    made_with |= {"model": work.files.model, "dtype": work.config.DTYPE}
    for grid in grids:  # all sentences are read before a figure is drawn
        files, figure = replace(work.files, map_kind=LEAST_SQUARES), f"sentence_{slug(grid.sentence)}{suffix}"
        with work.outputs(jumps, files.plots(figure), sentence=grid.sentence, **made_with) as outputs:
            showing.draw(outputs, {figure: plots.sentence_grid(grid, files.title)})
        work.say(f"{text(tables.grids(grid))}\n\n{grid.in_words()}")


def read_lines(text_or_file: str, option: str = "--sentence") -> dict[int, str]:
    """The lines that are not blank in a text, or in the file with that name, by their number from 1."""
    place, found = f"{option} {text_or_file!r}", {}
    try:
        # Python decoded the argument in the locale's encoding
        content = Path(text_or_file).read_bytes() if os.path.isfile(text_or_file) else os.fsencode(text_or_file)
        for number, line in enumerate(content.splitlines(), 1):
            place = f"{option} {text_or_file!r}: line {number}"
            if (decoded := text_of(line)).strip():
                found[number] = decoded
    except ValueError as error:
        raise Problem(f"{place}: expected UTF-8 text ({error})") from error
    if not found:
        raise Problem(f"{option} {text_or_file!r} holds no word: give a sentence, or a file with one per line")
    return found


def slug(sentence: str) -> str:
    """File name for a sentence: its words, with a hash if another sentence could have the same words."""
    words = "-".join(re.findall("[A-Za-z0-9]+", sentence))[:60]
    if words.replace("-", " ") == sentence:
        return words
    return f"{words[:50]}-{hashlib.sha256(sentence.encode()).hexdigest()[:6]}"
