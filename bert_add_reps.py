"""Mask one token of each sentence for BERT and collect the hidden state at [MASK] after every layer.

As in the paper, 9,000 sentences are for fitting the maps and 3,000 for validation. The masked position is uniform
over the tokens of the sentence, with [CLS] and [SEP] included as in the original code.

Reads   experiment/sentences/<d>_20K-sentences.pickle
Writes  experiment/<m>_mask/<d>_train.pickle, ..._val.pickle: batches of 16 sentences, pickled one after another,
        each a dict of `tokenized_sentences` (int64 tensors with [MASK] in place), `token_positions` (int64 [b])
        and, under the keys 0 ... L, the states of the layers (float32 [b, d])
"""

import config
from shortcut.pipeline import stages

if __name__ == "__main__":  # before torch is imported
    stages.answer(config, __file__, __doc__)

from shortcut.files import formats
from shortcut.pipeline.script import Work, script, shell
from shortcut.pipeline.states import load_model, states_of_splits, tokenize


@script(config)
def main(work: Work) -> None:
    masked = tokenize(work, formats.load_sentences(work.files.sentences))
    model = load_model(work, head=False)
    for split, h in states_of_splits(work, model, masked):
        work.save(work.files.split(split), *formats.state_batches(masked[split], h))


if __name__ == "__main__":
    shell(main)
