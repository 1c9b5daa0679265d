"""Tokenize the sentences for GPT-2 and choose one token of each.

Section 4.1 of the paper: 9,000 sentences to fit the maps on, 3,000 to judge them by; the position is
uniform over the tokens of the sentence, first and last included.

Reads   experiment/sentences/<d>_20K-sentences.pickle
Writes  experiment/<m>/<d>_tokenized_train.pickle, ..._val.pickle: dict of `tokenized_sentences`
        (list of int64 tensors) and `token_positions` (int64 [n])
"""

import config
from shortcut import cli, loading, store, text


def main(argv: list[str] | None = None) -> None:
    run = cli.start(argv, __file__, __doc__, config, model=config.GPT2)
    run.n_layers()  # a model of the wrong kind is told of before anything is made for it
    sizes = run.sizes()
    with run.stage(
        reads=[run.files.sentences],
        writes=[run.files.tokenized(name) for name in sizes],
        depends=["tokenizer"], seed=run.seed, context=run.context(), **sizes,
    ) as stage:  # fmt: skip
        if stage.made:
            return
        splits = text.split(store.load_sentences(run.files.sentences), **sizes)
        tokenizer, context = loading.load_tokenizer(run.model, masked=run.masked)
        for name, tokenized in text.tokenize_splits(splits, tokenizer, context, run.seed, cli.say).items():
            if run.files.tokenized(name) in stage.todo:
                stage.save(run.files.tokenized(name), store.tokenized_dict(tokenized))


if __name__ == "__main__":
    cli.run(main)
