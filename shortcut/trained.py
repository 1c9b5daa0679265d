"""The trained lens: the affine map into layer L of least KL(model || lens), through the model's own read-out.

    A, b = argmin  mean over sentences of  KL(softmax(r(h_L)) || softmax(r(A h_l + b)))          r: the read-out, frozen

It has the same form as `affine`. What `affine` loses against it is due to least squares; the rest is due to linearity.
The objective is that of the tuned lens (Belrose et al. 2023).

A random tenth of the sentences is held out, and everything else is fitted without it. Adam's steps have a fixed size,
so states and targets are centred and divided by their root mean square: scaling the states changes nothing. The start
is the ridge map in these units. The map with the least KL on the held-out tenth is kept; the start is one of them.
"""

from collections.abc import Callable, Iterator, Mapping
from math import isfinite
from typing import Any

import torch

from shortcut import Problem
from shortcut.linear import factorize, ridge
from shortcut.metrics import kl

RATE, EPOCHS = 1e-3, 100  # step size of Adam; most passes over the training sentences
PATIENCE = 5  # epochs without a better KL on the held-out sentences after which the training of a layer stops
BATCH, BATCHES = (64, 512), 16  # smallest and largest number of states in a batch; fewest batches in an epoch
HELD_OUT = 10  # one sentence of so many is held out

ReadOut = Callable[[torch.Tensor], torch.Tensor]  # logits [b, v] from states [b, d]


class _Units:
    """States x [n, d] as z = (x - mean) / rms, float32, with the mean and root mean square of the training rows."""

    def __init__(self, x: torch.Tensor, rows: torch.Tensor):
        self.mean = x[rows].double().mean(0)
        rms = (x[rows] - self.mean).square().mean().sqrt()
        self.rms = torch.where(rms > 0, rms, 1.0)
        self.z = ((x - self.mean) / self.rms).float()


class _Layer:
    """The training of the map from one layer: z -> W z in the units of source and target, with an intercept."""

    def __init__(self, source: _Units, target: _Units, rows: torch.Tensor, rcond: float):
        X, Y = source.z[rows], target.z[rows]
        start, self.numbers = ridge(factorize(X, rcond), X, Y)
        self.W = torch.nn.functional.pad(start.float(), (0, 1)).requires_grad_()  # [d, d + 1]
        self.source, self.target, self.adam = source, target, torch.optim.Adam([self.W], RATE)
        self.kls: list[float] = []  # on the held-out sentences, at the start and after each epoch

    def kl(self, read_out: ReadOut, log_p: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        z = self.source.z[rows] @ self.W[:, :-1].T + self.W[:, -1]
        h = self.target.mean.float() + self.target.rms.float() * z
        return kl(log_p, read_out(h).float().log_softmax(-1))

    def stops(self, value: float) -> bool:
        """True if the training stops with this KL on the held-out sentences."""
        if not self.kls or value < self.kls[self.kept]:
            self.kept, self.best = len(self.kls), self.W.detach().double()
        self.kls.append(value)
        return len(self.kls) > min(EPOCHS, self.kept + PATIENCE)

    def made(self) -> tuple[torch.Tensor, dict[str, Any]]:
        """[A, b] for states in their own units, and numbers of the training."""
        A = self.best[:, :-1] * (self.target.rms / self.source.rms)
        b = self.target.mean + self.target.rms * self.best[:, -1] - A @ self.source.mean
        numbers = {"epochs": len(self.kls) - 1, "kept_epoch": self.kept, "kl_at_start": self.kls[0]}
        return torch.cat([A, b[:, None]], 1), self.numbers | numbers | {"kl_held_out": self.kls[self.kept]}


def hold_out(sentences: torch.Tensor, seed: int) -> torch.Tensor:
    """True at rows of held-out sentences, bool [n], from their sentence numbers [n]. Raises Problem if too few."""
    names = sentences.unique()
    if len(names) < HELD_OUT:
        raise Problem(f"a trained map needs at least {HELD_OUT} training sentences, got {len(names)}: raise TRAIN")
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))
    return torch.isin(sentences, names[order[: len(names) // HELD_OUT]])


@torch.no_grad()
def train(
    read_out: ReadOut, h: Mapping[int, torch.Tensor], final: torch.Tensor, held_out: torch.Tensor,
    rcond: float, seed: int,
) -> Iterator[tuple[int, torch.Tensor, dict[str, Any]]]:  # fmt: skip
    """Train the maps from states h[l] [n, d] to `final`, h_L [n, d]; yield l, [A, b] and numbers when a layer stops.

    Batches depend on the seed alone, not on the other layers. Raises Problem if predictions are not finite.
    """
    rows, held = (mask.nonzero()[:, 0] for mask in (~held_out, held_out))
    target, generator = _Units(final, rows), torch.Generator().manual_seed(seed)
    layers = {l: _Layer(_Units(x, rows), target, rows, rcond) for l, x in h.items()}
    size = min(max(len(rows) // BATCHES, BATCH[0]), BATCH[1])
    while True:
        sums = dict.fromkeys(layers, 0.0)
        for some in held.split(size):
            log_p = read_out(final[some]).float().log_softmax(-1)  # once for all layers
            for l, layer in layers.items():
                sums[l] += layer.kl(read_out, log_p, some).sum().item()
        for l, total in sums.items():
            if not isfinite(total):
                raise Problem(f"the predictions from layer {l} are not finite while its map is trained")
            if layers[l].stops(total / len(held)):
                yield l, *layers.pop(l).made()
        if not layers:
            return
        for some in rows[torch.randperm(len(rows), generator=generator)].split(size):
            log_p = read_out(final[some]).float().log_softmax(-1)
            for layer in layers.values():
                with torch.enable_grad():
                    layer.adam.zero_grad()
                    layer.kl(read_out, log_p, some).mean().backward(inputs=[layer.W])
                layer.adam.step()
