"""Which sentence of an article: the last of a paragraph. The only file that knows spaCy.

The paper takes one sentence of each article; what it leaves open follows its original code.
"""

import random
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from shortcut import Problem, one_line
from shortcut.corpus.texts import LeftOut, Tally

Split = Callable[[str], list[str]]
LONGEST = 100_000  # characters of a paragraph; spaCy refuses ten times as many, and its trained pipelines need GBs

# What spaCy's tokenizer takes off a word's ends one by one, reading the rest of the word anew each time; likewise
# for each : and @ in it. A million characters so read take some 0.15 s.
MARKS = re.compile(r"(?:[\W_]++|[A-Zs]{1,2}(?=[$'’]))*")
REREAD = 1_000_000


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
    Raises LeftOut if it would take the sentencizer too long.
    """
    paragraphs = [line for line in re.split(r"\r?\n", article) if line.strip()][:-1]
    sentences = split(_bearable(rng.choice(paragraphs))) if paragraphs else []
    return sentences[-1] + "\n" if sentences else None


def _bearable(paragraph: str) -> str:
    if len(paragraph) > LONGEST:
        raise LeftOut(f"with a paragraph of over {LONGEST:,} characters")
    if sum(len(word) * _readings(word) for word in paragraph.split()) > REREAD:
        raise LeftOut("with a long run of punctuation marks")
    return paragraph


def _readings(word: str) -> int:
    at_ends = sum(MARKS.match(way).end() for way in (word, word[::-1]))
    return at_ends + word.count(":") + word.count("@")


def draw_sentences(
    articles: Iterable[tuple[str, Callable[[], str]]], split: Split, rng: random.Random, tally: Tally
) -> Iterator[str]:
    """One sentence of each article that has one (`draw_sentence`).

    An article is its place and what gives its text, or raises LeftOut; then it is in the tally.
    """
    for place, read in articles:
        tally.read += 1
        try:
            sentence = draw_sentence(read(), split, rng)
        except LeftOut as why:
            tally.leave(str(why), place)
            continue
        if sentence:
            yield sentence
