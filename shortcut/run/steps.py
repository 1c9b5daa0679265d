"""The steps that several scripts take, each with its progress bar."""

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch

from shortcut import Problem, alternation, approximation, jacobian, linear, metrics, quality, representations, tokens
from shortcut.alternation import Schedule
from shortcut.approximation import Maps
from shortcut.files import beside, formats
from shortcut.linear import KINDS, Map
from shortcut.models import Model, Point
from shortcut.representations import Batch
from shortcut.run import checkpoint, cli, loading, stages
from shortcut.run.partial import Done, Points, Tensors
from shortcut.run.script import Work
from shortcut.tokens import Tokenized

FEW_PROBES = 10  # times the width of the states


def load_model(work: Work, *, head: bool = True) -> Model:
    """The model, checked (see `loading.load`); raises Problem if it lacks the head that is asked for."""
    args, only = work.args, work.config.SAFETENSORS_ONLY
    device = args.device if args.device == "spread" else work.device
    how = {"device": device, "dtype": work.config.DTYPE, "safetensors_only": only}
    model = loading.load(args.model, masked=work.masked, **how, notice=work.say)
    if model.headless and head:
        lacks = f"{args.model} is an encoder without a masked-LM head, so nothing can be predicted with it"
        raise Problem(f"{lacks}: its states, maps and r2 are all there is")
    return model


def tokenize(work: Work, sentences: list[str]) -> dict[str, Tokenized]:
    """The sentences of every split as tokens, with a position each; for a masked model, masked there."""
    tokenizer = loading.load_tokenizer(work.args.model, masked=work.masked)
    context, vocabulary = checkpoint.limits(work.args.model, masked=work.masked)
    longest, several = tokens.longest(context, tokenizer), work.config.POSITIONS
    drawing = tokens.Drawing(longest, work.args.seed, added=work.masked, positions=several)
    tokenized = tokens.tokenize(sentences, work.sizes, tokenizer, drawing, work.say)
    for found in tokenized.values():
        tokens.check(found.sentences, vocabulary)
    if work.masked:
        tokenized = {split: tokens.mask(found, tokenizer.mask_token_id) for split, found in tokenized.items()}
    return tokenized


def tokenized(work: Work, split: str) -> Tokenized:
    """The tokens and chosen positions of a split; a masked model's stand beside its states."""
    if work.masked:
        return formats.load_states(work.files.states(split), work.L)[0]
    return formats.load_tokenized(work.files.tokenized(split))


def states(work: Work, model: Model, tokenized: Tokenized, points: list[Point], of: str) -> Points:
    """What passes each of k points of the model at the chosen tokens, [k, n, d]; `of` names the sentences."""

    def see(batch: Batch) -> Tensors:
        return {"states": representations.run(model, batch, points).h.cpu()}

    return gather(work, model, tokenized, see, of)["states"]


def states_of_splits(work: Work, model: Model, tokenized: dict[str, Tokenized]) -> Iterator[tuple[str, torch.Tensor]]:
    """By split, h_0 ... h_L at the chosen tokens [L + 1, n, d], of those whose file is to do; all in the leader."""
    for (split,) in work.missing(work.files.states, [(split,) for split in tokenized]):
        with suppress(Done):  # another process does its share of every split
            yield split, states(work, model, tokenized[split], model.layer_points(), split).tensor()


def gather(
    work: Work, model: Model, tokenized: Tokenized, compute: Callable[[Batch], Tensors], of: str
) -> dict[str, Points]:
    """What `compute` returns for all sentences, a batch at a time, kept as partial results; `of` names it."""
    batches = representations.batches(model, tokenized, work.args.batch_size)
    results = replace(work.partial, key=f"{work.partial.key} {of} {work.args.batch_size} {model.device.type}")
    with work.bar(f"sentences ({of})", len(tokenized)) as advance:
        return results.gather(batches, compute, advance, work.begin)


def fits(
    work: Work, h: linear.States, wanted: list[tuple[int, int]], *, into: int | None = None
) -> Iterator[tuple[Map, dict[str, Any]]]:
    """The fitted map from h[i] to h[j] and its numbers, for each wanted (i, j) (see `linear.fit_pairs`).

    For maps `into` a layer the numbers include the agreement of halves, the spectrum and the warning of the fit.
    """
    rcond, kind = work.config.RCOND, KINDS[work.kind].with_settings(**stages.map_settings(work.config, work.kind))
    found = linear.fit_pairs(h, wanted, rcond, work.device, work.say, kind)
    warning = {"warning": line} if wanted and (line := kind.warning(*h[0].shape)) else {}
    for A, numbers in cli.progress("fits", found, len(wanted), "matrices"):
        if A.target == into and len(h[A.source]) > 1:
            X, Y = h[A.source].to(work.device), h[A.target].to(work.device)
            halves = {"split_half_r2": _rounded(quality.split_half(X, Y, rcond, kind))}
            yield A, numbers | halves | _spectrum(A.to(work.device), X) | warning
        else:
            yield A, numbers


def _spectrum(A: Map, X: torch.Tensor) -> dict[str, Any]:
    """The singular values of A C^(1/2) and their effective rank, from the training states X [n, d]."""
    values = quality.directions(X).spectrum(A)
    told = {"effective_rank": _rounded(quality.effective_rank(values))}
    return {"spectrum": [*map(_rounded, values.cpu().tolist())], **told}


def jacobians(
    work: Work, model: Model, tokenized: Tokenized, wanted: list[tuple[int, int]]
) -> Iterator[tuple[Map, dict[str, Any]]]:
    """The mean derivative of h_L by h_l and its numbers, for each wanted (l, L) (see `jacobian`)."""
    L, n, P = model.n_layers, len(tokenized), stages.map_settings(work.config, work.kind)["probes"]
    V = jacobian.probes(model.d, n, P, work.args.seed)
    rough = f"{n * P} probes for states of width {model.d}: a rough estimate. Raise PROBES in config.py."
    if warning := {"warning": rough} if n * P < FEW_PROBES * model.d else {}:
        work.say(f"  {rough}")

    def see(batch: Batch) -> Tensors:
        return {"found": jacobian.gradients(model, batch, V[:, batch.rows])}

    found = gather(work, model, tokenized, see, "probe gradients")["found"]
    for l, j in cli.progress("means", wanted, len(wanted), "matrices"):
        mean, error, halves = jacobian.average(V, [found[L + 1 + k * L + l] for k in range(P)])
        J, *halves = (Map(A, work.kind, l, j) for A in (mean, *(halves or ())))
        told = {"states": n, "probes": P, "error": error, "norm": mean.norm().item(), **warning}
        told |= {"split_half_r2": quality.agreement(*halves, found[l])} if halves else {}
        told |= _spectrum(J, found[l]) if n > 1 else {}
        yield J.to(torch.float32), {name: _rounded(x) if isinstance(x, float) else x for name, x in told.items()}


def maps(work: Work, model: Model) -> Maps:
    """The matrices that the modes need to go on.

    Raises Problem: they are of other sub-modules than the model has.
    """
    jumps, parts = approximation.needed(work.files.parts or {}, model.n_layers)
    if parts and work.files.parts != model.parts:
        raise Problem(f"{work.files.submodules} is of another model's sub-modules: add_linreg_submodules.py --force")
    return Maps(
        {key: formats.load_map(work.files, *key, model.d) for key in jumps},
        {key: formats.load_matrix(work.files.part(*key), model.d) for key in parts},
    )


def schedules(work: Work, model: Model) -> tuple[dict[tuple[str, int, int], Schedule], dict[tuple[int, int], Map]]:
    """The alternations of blocks and jumps that are asked for, and the maps of their jumps."""
    if not stages.alternates(work.files, work.config):
        if work.config.SCHEDULES:
            work.say("  no alternation of blocks and jumps: it takes the dataset's own least-squares maps of all jumps")
        return {}, {}
    if not model.is_chain:
        raise Problem(f"{model.name} works between its blocks, which no jump can take in: set SCHEDULES = False")
    found = alternation.schedules(formats.load_r2(work.files.r2_scores)["score_mat"], work.L)
    jumps = sorted({jump for schedule in found.values() for jump in schedule})
    return found, {jump: formats.load_map(work.files, *jump, model.d) for jump in jumps}


def r2_scores(work: Work, h: torch.Tensor, pairs: list[tuple[int, int]]) -> dict[str, dict[tuple[int, int], float]]:
    """r2 of each jump (i, j) on the states h [L + 1, n, d], by the names of `formats.SCORES`."""
    h, every = h.to(work.device), len(h) * (len(h) - 1) // 2
    if len(pairs) < every:
        why = "LAST_ONLY in config.py" if work.config.LAST_ONLY else f"{work.kind} maps"
        work.say(f"  {why}: {len(pairs)} of {every} jumps, those into layer {len(h) - 1}")
    found: dict[tuple[str, int, int], metrics.R2] = {}
    for i, j in cli.progress("r2", pairs, len(pairs), "pairs"):
        path = work.files.matrix(i, j)
        A = formats.load_map(work.files, i, j, h.shape[2]).to(work.device)
        if not (made := A(h[i])).isfinite().all():
            raise Problem(f"{path}: what it makes of the states of layer {i} is not finite: fit it again with --force")
        found["mat", i, j] = metrics.r2_score(made, h[j])
        found["id", i, j] = metrics.r2_score(h[i], h[j])
    if misleading := [jump for jump, score in found.items() if score.misleads]:
        mode, i, j = worst = max(misleading, key=lambda jump: found[jump].weighted - found[jump].mean)
        work.say(
            f"  r2 misleads in {len({jump[1:] for jump in misleading})} of {len(pairs)} jumps, where coordinates that"
            f" hardly vary count as much as any other ({mode} from {i} to {j}: mean {found[worst].mean:.3g}, weighted"
            f" by variance {found[worst].weighted:.3g})"
        )
    return {
        f"score_{mode}{ending}": {(i, j): getattr(found[mode, i, j], kind) for i, j in pairs}
        for ending, kind in (("", "mean"), ("_weighted", "weighted"))
        for mode in ("mat", "id")
    }


def quality_of_maps(work: Work, h: torch.Tensor, pairs: list[tuple[int, int]]) -> dict[str, Any]:
    """How good the maps of these jumps are on the states h [L + 1, n, d], as `beside.load_quality` has it."""
    h, L, d = h.to(work.device), len(h) - 1, h.shape[2]
    found: dict[str, dict[str, Any]] = {name: {} for name in beside.QUALITY}

    last = [formats.load_map(work.files, l, L, d).to(work.device) for l in range(L)]
    entries = [work.provenance.entry(work.files.matrix(l, L)) or {} for l in range(L)]
    exact = [KINDS[work.kind].is_exact(entry.get("states", math.inf), d) for entry in entries]
    for i, jumps in groupby(cli.progress("quality", pairs, len(pairs), "pairs"), key=lambda pair: pair[0]):
        of, direct = quality.directions(h[i]), quality.r2(last[i], h[i], h[L])
        for _, j in jumps:
            A = last[i] if j == L else formats.load_map(work.files, i, j, d).to(work.device)
            found["gain"][f"{i}_{j}"] = _rounded(of.gain(A))
            if j < L and not exact[i]:
                lost = direct - quality.r2(last[j].after(A), h[i], h[L])
                found["composition_loss"][f"{i}_{j}"] = _rounded(lost)
        for name in [name for name in ("split_half_r2", "spectrum", "effective_rank") if name in entries[i]]:
            found[name][str(i)] = entries[i][name]
        if "r2_by_rank" in entries[i]:
            found["r2_by_rank"][str(i)] = [[int(r), r2] for r, r2 in entries[i]["r2_by_rank"].items()]
    large = {name: gain for name, gain in found["gain"].items() if gain > quality.LARGE}
    if large:
        worst = max(large, key=large.get)
        work.say(
            f"  {len(large)} of {len(pairs)} matrices, {worst} most ({large[worst]:.2g}-fold), stretch a direction that"
            f" their sources hardly have over a thousand-fold: do not round them to half precision; each stands in"
            f" {work.files.relative(work.files.quality)}"
        )
    return found


def _rounded(x: float) -> float:
    return float(f"{x:.6g}")
