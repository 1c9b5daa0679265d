"""Tokenize the sentences for GPT-2 or another causal model, and choose one token position in each.

As in the paper, 9,000 sentences are for fitting the maps and 3,000 for validation. The position is uniform over the
tokens of the sentence, first and last included, without those that the tokenizer adds.

Reads   experiment/sentences/<d>_20K-sentences.pickle
Writes  experiment/<m>/<d>_tokenized_train.pickle, ..._val.pickle: dict of `tokenized_sentences`
        (list of int64 tensors) and `token_positions` (int64 [n])
"""

import config
from shortcut.pipeline import stages

if __name__ == "__main__":  # before torch is imported
    stages.answer(config, __file__, __doc__)

from shortcut.files import formats
from shortcut.pipeline.script import Work, script, shell
from shortcut.pipeline.states import tokenize


@script(config)
def main(work: Work) -> None:
    tokenized = tokenize(work, formats.load_sentences(work.files.sentences))
    for (split,) in work.missing(work.files.split, [("train",), ("val",)]):
        work.save(work.files.split(split), formats.tokenized_dict(tokenized[split]))


if __name__ == "__main__":
    shell(main)
