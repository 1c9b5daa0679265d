"""Take the sentences: one from each of 20,000 Wikipedia articles, or those of another source.

Section 4.1 of the paper. An article is split into paragraphs, one is drawn, and its last sentence
taken, its newline kept. Files of one sentence a line, and docstrings of packages, serve as well, under
a name of their own (--dataset).

Reads   the hub, a file or folder of parquet, jsonl or txt, or docstrings (--source)
Writes  experiment/sentences/<d>_20K-sentences.pickle: str, pickled one after another
"""

import random

import config
from shortcut import cli, corpus, docstrings, text
from shortcut.parts import Parts


def main(argv: list[str] | None = None) -> None:
    run = cli.start(argv, __file__, __doc__, config, model=config.GPT2, source=True)
    settings = {"seed": run.seed, "sentences": config.SENTENCES, "spacy": config.SPACY, **run.source_settings()}
    with run.stage(depends=[], reads=[], writes=[run.files.sentences], **settings) as stage:
        if stage.made:
            return
        kept, split = Parts(stage.parts(run.files.sentences), cli.say), text.splitter(config.SPACY)
        if run.source == "docstrings":
            files, rng = docstrings.source_files(config.DOCSTRING_PACKAGES), random.Random(run.seed)
            with cli.bar("docstrings", len(files), "files") as advance:
                sentences = corpus.docstring_sentences(
                    files, config.SENTENCES, run.sizes()["train"], split=split, rng=rng, read=advance
                )
            stage.save(run.files.sentences, *sentences)
        else:
            source = (
                corpus.hub(config.HUB_DATASET, config.HUB_CONFIG, kept)
                if run.source == "hub"
                else corpus.local(run.source)
            )
            with cli.bar("sentences", config.SENTENCES, "sentences") as advance:
                sentences = corpus.sentences(
                    source, config.SENTENCES, budget=config.READ_BYTES, seed=run.seed,
                    split=split, parts=kept, found=advance, notice=cli.say,
                )  # fmt: skip
            stage.save(run.files.sentences, *sentences, revision=source.revision)


if __name__ == "__main__":
    cli.run(main)
