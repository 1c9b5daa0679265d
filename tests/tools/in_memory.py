"""States of all sentences in memory, as the tests and the benchmark want them."""

import torch

from shortcut import representations, submodules


def collect(model, tokenized, points, batch_tokens):
    """States [k, n, d] at the chosen tokens."""
    h = torch.empty(len(points), len(tokenized), model.d)
    for batch in representations.batches(model, tokenized, batch_tokens):
        h[:, batch.rows] = representations.run(model, batch, points).h.cpu()
    return h


def layer_states(model, tokenized, batch_tokens):
    return collect(model, tokenized, model.layer_points(), batch_tokens)


def part_states(model, tokenized, batch_tokens):
    return collect(model, tokenized, submodules.find(model).points()[0], batch_tokens)
