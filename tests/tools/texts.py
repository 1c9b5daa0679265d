"""Articles, and sentences drawn from them."""

import json

import pyarrow
import pyarrow.parquet

from shortcut.corpus import articles as articles_of
from shortcut.corpus import sentences
from shortcut.corpus.sentences import Wanted


def articles(n):
    return [f"Heading {k}\nFirst {k}. Last {k}.\n\nNot this one {k}." for k in range(n)]


SPLIT = sentences.splitter()


def take(source, n, seed=0, budget=10**9):
    """n sentences, and the notices."""
    lines, found = [], []
    wanted = Wanted(n, seed, budget, SPLIT, found.append, lines.append)
    taken = articles_of.sentences(articles_of.local(source), wanted)
    assert sum(found) == len(taken)
    return taken, lines


def write(folder, suffix, n):
    """n articles in three files of this type."""
    folder.mkdir(parents=True)
    for part in range(3):
        rows = articles(n)[part::3]
        path = folder / f"part{part}{suffix}"
        if suffix == ".parquet":
            table = pyarrow.table({"id": [str(k) for k in range(len(rows))], "text": rows})
            pyarrow.parquet.write_table(table, path, row_group_size=7)
        elif suffix == ".jsonl":
            path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows), encoding="utf-8")
        else:
            path.write_text("".join(f"Last {k}.\n\n" for k in range(part, n, 3)), encoding="utf-8")
    return str(folder)
