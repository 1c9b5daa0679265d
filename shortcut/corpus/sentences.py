"""Choose one sentence of an article: the last sentence of a random paragraph. No other module imports spaCy.

The paper takes one sentence from each article; where it gives no detail, this module follows the original code.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shortcut import Problem, one_line
from shortcut.corpus.texts import LeftOut

Split = Callable[[str], list[str]]
LONGEST = 100_000  # characters in a paragraph; spaCy refuses ten times as many, and its trained pipelines need GBs
RUN = re.compile(r"[\W_]{1000}")  # spaCy's tokenizer takes quadratic time for a run of punctuation marks


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
    """A function that splits a paragraph into non-empty sentences without white space at the ends.

    `pipeline` is the name of a trained spaCy pipeline such as en_core_web_sm; None means the rule-based sentencizer.
    """
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
