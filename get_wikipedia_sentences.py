"""Draw one sentence from each of 20,000 Wikipedia articles, or sentences from another source.

An article is split into paragraphs, one paragraph is drawn at random, and its last sentence is taken, with a newline
at the end. Other sources are text files with one sentence per line and the docstrings of Python packages; for them,
name the data set with --dataset.

Reads   the hub, a file or folder of parquet, jsonl or txt, or docstrings (--source)
Writes  experiment/sentences/<d>_20K-sentences.pickle: str, pickled one after another
"""

from typing import Any

import config
from shortcut.pipeline import stages

if __name__ == "__main__":  # before torch is imported
    stages.answer(config, __file__, __doc__)

from models import docstrings
from shortcut.corpus import articles
from shortcut.corpus.sentences import Wanted, splitter
from shortcut.pipeline.script import Work, script, shell


def source_settings(work: Work) -> dict[str, Any]:
    """Settings of the source on which the sentences depend."""
    if work.args.source == "docstrings":
        packages = list(config.DOCSTRING_PACKAGES)
        return {"source": "docstrings", "packages": packages, "train": work.sizes["train"]}
    if work.args.source == "hub":
        return {"source": "hub", "hub": [config.HUB_DATASET, config.HUB_CONFIG], "bytes": config.READ_BYTES}
    return articles.identity(work.args.source, config.READ_BYTES)


@script(config, settings=source_settings)
def main(work: Work) -> None:
    split, source = splitter(config.SPACY), None
    if work.args.source == "docstrings":
        files = docstrings.source_files(config.DOCSTRING_PACKAGES)
    elif work.args.source == "hub":
        source = articles.hub(config.HUB_DATASET, config.HUB_CONFIG)
    else:
        source = articles.local(work.args.source)
    with work.progress("sentences", total=config.SENTENCES if source else None) as bar:
        wanted = Wanted(config.SENTENCES, work.args.seed, config.READ_BYTES, split, bar.update, work.say)
        if source:
            sentences = articles.sentences(source, wanted)
        else:
            sentences = docstrings.draw(files, wanted, work.sizes["train"])
    work.save(work.files.sentences, *sentences, **({"revision": source.revision} if source else {}))


if __name__ == "__main__":
    shell(main)
