"""Which sentence of an article: the last of a paragraph. The only file that knows spaCy.

The paper takes one sentence of each article; what it leaves open follows its original code.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from shortcut import Problem, one_line

Split = Callable[[str], list[str]]


@dataclass(frozen=True)
class Wanted:
    """What is to be drawn, and who is told."""

    n: int  # sentences
    seed: int  # of every draw
    budget: int  # bytes of parquet to read at the most, once that holds articles enough
    split: Split
    found: Callable[[int], object] = lambda _: None  # told of sentences found
    notice: Callable[[str], object] = lambda _: None  # told what is read


def splitter(pipeline: str | None = None) -> Split:
    """A function that splits a paragraph into sentences, stripped, empty ones left out.

    `pipeline` is a trained one of spaCy such as en_core_web_sm; None means the rule-based sentencizer.
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
    """The last sentence of a paragraph drawn from the article, newline appended; None if there is none.

    Paragraphs are the non-empty lines, headings included; the last one is left out, as in the original
    code. The sentencizer sees one paragraph only: it puts a newline at the head of the next sentence.
    """
    paragraphs = [line for line in article.split("\n") if line.strip()][:-1]
    sentences = split(rng.choice(paragraphs)) if paragraphs else []
    return sentences[-1] + "\n" if sentences else None


def draw_sentences(articles: Iterable[str], split: Split, rng: random.Random) -> Iterator[str]:
    """One sentence of each article that has one (`draw_sentence`)."""
    return filter(None, (draw_sentence(article, split, rng) for article in articles))


def read_lines(file: str) -> list[str]:
    """The lines of a text. Raises Problem if it is not UTF-8."""
    try:
        return Path(file).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise Problem(f"{file} is not UTF-8 text: {error}") from error
