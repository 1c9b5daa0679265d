"""Fit the maps of a stage, with the numbers that the manifest records for each map."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from shortcut import Problem, jacobian, linear, map_quality, representations, trained
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
            halves = map_quality.split_half(X, Y, rcond, map_kind)
            more = {"split_half_r2": halves} | _spectrum(A.to(work.device), X) | warning
        yield A, numbers | more


def _spectrum(A: Map, X: torch.Tensor) -> dict[str, Any]:
    """Singular values of A C^(1/2) and their effective rank, with C the covariance of the training states X: [n, d]."""
    values = map_quality.Directions(X).spectrum(A)
    return {"spectrum": values.cpu().tolist(), "effective_rank": map_quality.effective_rank(values)}


def jacobians(work: Work, model: Model, tokenized: Tokenized, wanted: list[tuple[int, int]]) -> Fits:
    """Yield the mean derivative of h_L by h_l and its numbers for each wanted (l, L) (see `jacobian`)."""
    L, n, P = model.n_layers, len(tokenized), stages.map_settings(work.config, work.map_kind)["probes"]
    later, run = work.map_kind == "jacobian-later", tokenized
    if later and model.masked:
        raise Problem("jacobian-later maps are for causal models, where positions come one after another")
    if later:  # whole sentences, not prefixes
        run = replace(tokenized, positions=torch.tensor([*map(len, tokenized.sentences)]) - 1)
    V = jacobian.probes(model.d, n, P, work.args.seed)
    rough = f"{n * P} probes for states of width {model.d} give a rough estimate. Raise PROBES in config.py."
    if warning := {"warning": rough} if n * P < FEW_PROBES * model.d else {}:
        work.say(f"  {rough}")

    def compute(batch: Batch) -> Tensors:
        chosen = tokenized.positions[batch.rows] if later else None
        return {"found": jacobian.gradients(model, batch, V[:, batch.rows], chosen)}

    name = f"{'later ' * later}gradients of {P} probes, seed {work.args.seed}"
    # in one pass, a gradient at a position would also come from the later positions of its sentence
    batches = representations.batches(model, run, work.args.batch_size, together=False)
    found = gather(work, batches, compute, name, shared=True)["found"]
    for l, j in terminal.progress("means", wanted, len(wanted), "matrices"):
        h, final = found[l], found[L]
        mean, error, halves = jacobian.average(V, [found[L + 1 + k * L + l] for k in range(P)])
        made, rows = [mean, *halves], (slice(None), slice(n // 2), slice(n // 2, None))
        if KINDS[work.map_kind].intercept:
            made = [jacobian.tangent(A, h[some], final[some]) for A, some in zip(made, rows, strict=False)]
        J, *halves = (Map(A, work.map_kind, l, j) for A in made)
        numbers = {"states": n, "probes": P, "error": error, "norm": mean.norm().item(), **warning}
        numbers |= {"split_half_r2": map_quality.agreement(*halves, h)} if halves else {}
        numbers |= _spectrum(J, h) if n > 1 else {}
        yield J.to(torch.float32), numbers


def trained_maps(
    work: Work, model: Model, tokenized: Tokenized, h: linear.States, wanted: list[tuple[int, int]]
) -> Fits:
    """Yield the trained map from h[l] to h[L] and its numbers for each wanted (l, L) (see `trained`)."""
    n, L, device = len(tokenized), model.n_layers, model.device
    held_out = trained.hold_out(torch.arange(n) if tokenized.numbers is None else tokenized.numbers, work.args.seed)
    how, sources = (work.config.RCOND, work.args.seed), {l: h[l].to(device) for l, _ in wanted}
    maps = trained.train(model.read_out, sources, h[L].to(device), held_out.to(device), *how) if wanted else iter(())
    for l, A, numbers in terminal.progress("trained", maps, len(wanted), "maps"):
        made = Map(A, work.map_kind, l, L)
        change = "{kl_at_start:.4g} to {kl_held_out:.4g} nats, at epoch {kept_epoch} of {epochs}".format(**numbers)
        work.say(f"  layer {l}: KL on held-out sentences {change}")
        yield made.to("cpu", torch.float32), {"states": n, **numbers} | _spectrum(made, sources[l])
