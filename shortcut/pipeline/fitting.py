"""Fit the maps of a stage, with the numbers that the manifest records for each map."""

from collections.abc import Iterator
from typing import Any

import torch

from shortcut import jacobian, linear, map_quality
from shortcut.files.store import rounded
from shortcut.linear import KINDS, Map
from shortcut.models import Model
from shortcut.pipeline import stages, terminal
from shortcut.pipeline.partial import Tensors
from shortcut.pipeline.script import Work
from shortcut.pipeline.states import gather
from shortcut.representations import Batch
from shortcut.tokens import Tokenized

Fits = Iterator[tuple[Map, dict[str, Any]]]  # maps, each with its numbers for the manifest
FEW_PROBES = 10  # probes per coordinate of a state; with fewer, a Jacobian is a rough estimate


def fits(work: Work, h: linear.States, wanted: list[tuple[int, int]], *, into: int | None = None) -> Fits:
    """Yield the fitted map from h[i] to h[j] and its numbers for each wanted (i, j) (see `linear.fit_pairs`).

    For maps into the layer `into`, the numbers include the agreement of halves, the spectrum and the fit's warning.
    """
    settings, rcond = stages.map_settings(work.config, work.map_kind), work.config.RCOND
    map_kind = KINDS[work.map_kind].with_settings(**settings)
    fitted = linear.fit_pairs(h, wanted, rcond, work.device, work.say, map_kind)
    warning = {"warning": line} if wanted and (line := map_kind.warning(*h[0].shape)) else {}
    for A, numbers in terminal.progress("fits", fitted, len(wanted), "matrices"):
        more = {}
        if A.target == into and len(h[A.source]) > 1:
            X, Y = h[A.source].to(work.device), h[A.target].to(work.device)
            halves = rounded(map_quality.split_half(X, Y, rcond, map_kind))
            more = {"split_half_r2": halves} | _spectrum(A.to(work.device), X) | warning
        yield A, numbers | more


def _spectrum(A: Map, X: torch.Tensor) -> dict[str, Any]:
    """Singular values of A C^(1/2) and their effective rank, with C the covariance of the training states X: [n, d]."""
    values = map_quality.Directions(X).spectrum(A)
    rank = map_quality.effective_rank(values)
    return {"spectrum": [*map(rounded, values.cpu().tolist())], "effective_rank": rounded(rank)}


def jacobians(work: Work, model: Model, tokenized: Tokenized, wanted: list[tuple[int, int]]) -> Fits:
    """Yield the mean derivative of h_L by h_l and its numbers for each wanted (l, L) (see `jacobian`)."""
    L, n, P = model.n_layers, len(tokenized), stages.map_settings(work.config, work.map_kind)["probes"]
    V = jacobian.probes(model.d, n, P, work.args.seed)
    rough = f"{n * P} probes for states of width {model.d} give a rough estimate. Raise PROBES in config.py."
    if warning := {"warning": rough} if n * P < FEW_PROBES * model.d else {}:
        work.say(f"  {rough}")

    def compute(batch: Batch) -> Tensors:
        return {"found": jacobian.gradients(model, batch, V[:, batch.rows])}

    name = f"probe gradients, seed {work.args.seed}"
    # in one pass, a gradient at a position would also come from the later positions of its sentence
    found = gather(work, model, tokenized, compute, name, together=False)["found"]
    for l, j in terminal.progress("means", wanted, len(wanted), "matrices"):
        h = found[l]
        mean, error, halves = jacobian.average(V, [found[L + 1 + k * L + l] for k in range(P)])
        J, *halves = (Map(A, work.map_kind, l, j) for A in (mean, *(halves or ())))
        numbers = {"states": n, "probes": P, "error": error, "norm": mean.norm().item(), **warning}
        numbers |= {"split_half_r2": map_quality.agreement(*halves, h)} if halves else {}
        numbers |= _spectrum(J, h) if n > 1 else {}
        yield J.to(torch.float32), {name: rounded(x) if isinstance(x, float) else x for name, x in numbers.items()}
