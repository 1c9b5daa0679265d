"""Find English sentences in the docstrings of installed packages.

The embedded models are trained and evaluated on these sentences. Every machine that can run the project has them,
so none are shipped. A hash of the sentence decides whether it is held out, so another version of a package adds and
removes sentences but does not move any between training and validation.
"""

import ast
import hashlib
import importlib.util
import inspect
import random
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from shortcut import Problem
from shortcut.corpus.sentences import Split, Wanted

HELD_OUT = 0.25  # share of the sentences on which no embedded model was trained

MARKUP = (  # from reStructuredText to plain text: pattern, replacement
    (re.compile(r":[\w:+-]+:`~?([^`<]+?)\s*(?:<[^`]*>)?`"), r"\1"),  # :func:`name <target>`
    (re.compile(r"``(.+?)``"), r"\1"),
    (re.compile(r"`([^`<]+?)\s*<[^`]*>`_{0,2}"), r"\1"),  # `text <link>`_
    (re.compile(r"`([^`]+)`_{0,2}"), r"\1"),
    (re.compile(r"\*{1,2}([^*\s](?:[^*]*[^*\s])?)\*{1,2}"), r"\1"),
    (re.compile(r"\s*\[[\w#]+\]_"), ""),  # [1]_
    (re.compile(r"\[([^\]]+)\]\([^)]*\)"), r"\1"),  # [text](link)
)
UNDERLINE = re.compile(r"\s*([-=~^\"*])\1{2,}\s*")
SENTENCE = re.compile(r"[A-Z][^\n]*[a-z0-9)'\"][.?!]")
UNWANTED = re.compile(r"[`|\\<>{}=@~]|::|\.\.|https?:|__|\.py\b")


def is_held_out(sentence: str) -> bool:
    """True if no embedded model was trained on the sentence. This holds for a share `HELD_OUT` of all sentences."""
    digest = hashlib.sha256(sentence.strip().encode()).digest()
    return int.from_bytes(digest[:4], "big") < HELD_OUT * 2**32


def draw(files: list[Path], wanted: Wanted, n_train: int) -> list[str]:
    """Draw `wanted.n` sentences in random order, each with a newline at the end.

    The first `n_train` sentences are not held out. Held-out sentences follow, so the embedded models have not seen the
    validation sentences. If there are too few, sentences that are not held out fill the rest.
    """
    everything = sentences(files, wanted.split, wanted.found)
    random.Random(wanted.seed).shuffle(everything)
    held_out = [s + "\n" for s in everything if is_held_out(s)]
    others = [s + "\n" for s in everything if not is_held_out(s)]
    return [*others[:n_train], *held_out, *others[n_train:]][: wanted.n]


def sentences(files: Iterable[Path], split: Split, notify: Callable[[int], object] = lambda _: None) -> list[str]:
    """Distinct English sentences in the docstrings of Python files, in order. Calls `notify(k)` per file for k new."""
    found: dict[str, None] = {}
    for path in files:
        before = len(found)
        for docstring in _docstrings(path):
            for paragraph in filter(SENTENCE.search, _paragraphs(docstring)):  # other paragraphs have none
                found.update(dict.fromkeys(filter(_is_english, split(paragraph))))
        notify(len(found) - before)
    return list(found)


def source_files(packages: Iterable[str]) -> list[Path]:
    """Python files of installed packages, without their tests."""
    files = []
    for package in packages:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise Problem(f"package {package!r} is not installed: install it or change DOCSTRING_PACKAGES in config.py")
        root = Path(next(iter(spec.submodule_search_locations)))
        files += sorted(p for p in root.rglob("*.py") if not {"tests", "test"} & set(p.relative_to(root).parts))
    return files


def _docstrings(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # packages also contain templates and files that are invalid on purpose
        return
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, documented) and (docstring := ast.get_docstring(node, clean=False)):
            yield inspect.cleandoc(docstring)


def _paragraphs(docstring: str) -> Iterator[str]:
    """Yield the lines of each indentation level as one line of plain text, without code examples."""
    for block in re.split(r"\n[ \t]*\n", docstring):
        if ">>>" in block or "```" in block or block.lstrip().startswith(("..", "#", "$")):
            continue
        run, indent = [], None
        for line in block.split("\n"):
            if UNDERLINE.fullmatch(line):  # the line above is a section title
                run, indent = [], None
                continue
            depth = len(line) - len(line.lstrip())
            if depth != indent and run:
                yield _plain(run)
                run = []
            indent = depth
            run.append(line.strip())
        if run:
            yield _plain(run)


def _plain(lines: list[str]) -> str:
    text = " ".join(lines)
    for pattern, kept in MARKUP:
        text = pattern.sub(kept, text)
    return re.sub(r"\s+", " ", text).strip()


def _is_english(sentence: str) -> bool:
    words = sentence.split()
    if not 5 <= len(words) <= 60 or not SENTENCE.fullmatch(sentence) or UNWANTED.search(sentence):
        return False
    return sum(c.isalpha() or c == " " for c in sentence) >= 0.9 * len(sentence)
