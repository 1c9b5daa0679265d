"""Choose one sentence of an article: the last sentence of a random paragraph. Decode texts as UTF-8.

The paper takes one sentence from each article; where it gives no detail, this module follows the original code.
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shortcut import Problem, one_line

Split = Callable[[str], list[str]]
LONGEST = 100_000  # characters in a paragraph; spaCy refuses ten times as many, and its trained pipelines need GBs
RUN = re.compile(r"[\W_]{1000}")  # spaCy's tokenizer takes quadratic time for a run of punctuation marks


class LeftOut(ValueError):  # noqa: N818  (it does not stop a run)
    """The reason for leaving out a text, worded to follow a number, as in "3 not UTF-8"."""


@dataclass
class Tally:
    """Places of the texts read, and the reasons for leaving out some of them, by place. A notice counts each reason."""

    read: set[str] = field(default_factory=set)
    left_out: dict[str, str] = field(default_factory=dict)

    def each(self, use: Callable[[Any], Any], texts: Iterable[tuple[str, Any]]) -> Iterator[Any]:
        """Yield `use(text)` for each (place, text). A text is left out if `use` raises LeftOut."""
        for place, text in texts:
            self.read.add(place)
            try:
                yield use(text)
            except LeftOut as why:
                self.left_out[place] = str(why)

    def __str__(self) -> str:
        counts, first = Counter(self.left_out.values()), {why: place for place, why in reversed(self.left_out.items())}
        reasons = ", ".join(f"{n} {why} (first: {first[why]})" for why, n in counts.items())
        return f"left out {counts.total()} of {len(self.read)} texts: {reasons}"


def text_of(value: object) -> str:
    """The value as text without byte order marks. Raises LeftOut if it is not text that UTF-8 can encode."""
    if isinstance(value, bytes) and 0 in value:  # UTF-16 whose bytes may be valid UTF-8
        raise LeftOut("with NULs, as UTF-16 and UTF-32 have")
    try:
        text = value.decode() if isinstance(value, bytes) else value
        if not isinstance(text, str):
            raise LeftOut("without a text" if value is None else f"with a text of type {type(value).__name__}")
        text.encode()
    except UnicodeError as error:
        raise LeftOut("not UTF-8" if isinstance(value, bytes) else "with half of a surrogate pair") from error
    return text.replace("\ufeff", "")  # also inside the text, where joining files leaves byte order marks


@dataclass(frozen=True)
class Wanted:
    """Settings for drawing sentences, and callbacks for progress."""

    n: int  # number of sentences to draw
    seed: int  # random seed for sampling paragraphs and sentences
    budget: int  # most bytes to read from parquet files, if these have enough articles
    split: Split
    found: Callable[[int], object] = lambda _: None  # called with the number of new sentences
    notice: Callable[[str], object] = lambda _: None  # called with a line for the user


def splitter(pipeline: str | None = None) -> Split:
    """A function that splits a paragraph into sentences: a spaCy pipeline such as en_core_web_sm, or simple rules."""
    import spacy  # noqa: PLC0415  (takes seconds)

    if pipeline is None:
        nlp = spacy.blank("en")
        nlp.add_pipe("sentencizer")
    else:
        try:
            nlp = spacy.load(pipeline, exclude=["tagger", "attribute_ruler", "lemmatizer", "ner"])
            next(nlp("One. Two.").sents)
        except Exception as error:  # a pipeline is a package, whose code may raise anything
            get = "" if Path(pipeline).exists() else f"run `.venv/bin/python -m spacy download {pipeline}`, or "
            why = f"spaCy's pipeline {pipeline!r} gives no sentences ({one_line(error)})"
            raise Problem(f"{why}: {get}set SPACY = None in config.py") from error
    return lambda paragraph: [s for span in nlp(paragraph).sents if (s := span.text.strip())]


def draw_sentence(article: str, split: Split, rng: random.Random) -> str | None:
    """The last sentence of a random paragraph of the article, with a newline at the end; None if there is none.

    Paragraphs are the non-empty lines, headings included; the last one is left out, as in the original code. The
    sentencizer gets one paragraph at a time, because it puts a newline at the start of the next sentence. Raises
    LeftOut if splitting would take minutes.
    """
    paragraphs = [line for line in re.split(r"\r?\n", article) if line.strip()][:-1]
    paragraph = rng.choice(paragraphs) if paragraphs else ""
    if len(paragraph) > LONGEST:
        raise LeftOut(f"with a paragraph of over {LONGEST:,} characters")
    if RUN.search(paragraph):
        raise LeftOut("with a long run of punctuation marks")
    sentences = split(paragraph)
    return sentences[-1] + "\n" if sentences else None
