"""Mask one token of each sentence for BERT and collect the state at [MASK] after every layer.

Section 4.1 of the paper: 9,000 sentences to fit the maps on, 3,000 to judge them by; the masked
position is uniform over the tokens of the sentence, [CLS] and [SEP] included, as in the original.

Reads   experiment/sentences/<d>_20K-sentences.pickle
Writes  experiment/<m>_mask/<d>_train.pickle, ..._val.pickle: batches of 16, pickled one after
        another, each a dict of `tokenized_sentences` (int64 tensors, [MASK] in place),
        `token_positions` (int64 [b]) and, by layer 0 ... L, the states (float32 [b, d])
"""

import config
from shortcut import cli, loading, steps, store, text


def main(argv: list[str] | None = None) -> None:
    run = cli.start(argv, __file__, __doc__, config, model=config.BERT, masked=True, shared=True)
    sizes = run.sizes()
    with run.stage(
        reads=[run.files.sentences],
        writes=[run.files.states(name) for name in sizes],
        depends=["weights", "tokenizer"], seed=run.seed, context=run.context(), **sizes,
    ) as stage:  # fmt: skip
        if stage.made:
            return
        splits = text.split(store.load_sentences(run.files.sentences), **sizes)
        tokenizer, context = loading.load_tokenizer(run.model, masked=run.masked)
        model, mask = run.load_model(), loading.mask_token(tokenizer, run.model)
        tokenized = text.tokenize_splits(splits, tokenizer, context, run.seed, cli.say)
        for name in sizes:
            path = run.files.states(name)
            if path in stage.todo:
                masked = text.mask(tokenized[name], mask)
                h = steps.layer_states(run, model, masked, stage.parts(path))
                if h is not None:  # of several processes one writes
                    stage.save(path, *store.state_batches(masked, h.tensor()))


if __name__ == "__main__":
    cli.run(main)
