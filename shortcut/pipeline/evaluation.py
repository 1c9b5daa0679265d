"""Evaluate a model for add_results.py and bert_add_results.py; write its results and predictions."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from shortcut import Problem, alternation, approximation, predictions, representations, results, submodules, tokens
from shortcut.alternation import Schedules
from shortcut.approximation import MODES, GoOn, Maps
from shortcut.files import formats, result_formats
from shortcut.linear import Map
from shortcut.metrics import LENS, TOP
from shortcut.models import Model
from shortcut.pipeline import stages
from shortcut.pipeline.outputs import Outputs
from shortcut.pipeline.partial import Points, Tensors
from shortcut.pipeline.script import Work
from shortcut.pipeline.states import gather
from shortcut.predictions import Evaluation, Predictions
from shortcut.representations import Batch, Pass
from shortcut.show import tables
from shortcut.show.table import Table, text
from shortcut.tokens import Tokenized

Modes = dict[str, GoOn]  # by name: from a forward pass to the approximations of h_L, [k, b, d]
SCHEDULES = "schedules"  # used like a mode: approximations by all distinct schedules
TIES = 0.005  # largest share of sentences with equal logits for the best two tokens that is not reported


def matrices(work: Work) -> list[Path]:
    """Files of the maps that the modes and the schedules need; r2-informed schedules need the r2 scores too."""
    files = work.files
    jumps, parts = approximation.needed(files.parts or {}, work.L)
    # for a masked model, whose sub-modules are not in the paper, only if they were fitted
    unknown = [files.submodules] if files.parts is None and not files.masked else []
    needed = [*(files.matrix(*key) for key in jumps), *unknown, *(files.part(*key) for key in parts)]
    if stages.alternates(files, work.config):
        needed += [files.r2_scores, *stages.paths(("jumps",), files, work.L, work.config)]
    return needed


def maps(work: Work, model: Model) -> Maps:
    """The maps that the modes need. Raises Problem if they were fitted for sub-modules that the model does not have."""
    jumps, parts = approximation.needed(work.files.parts or {}, model.n_layers)
    if parts and work.files.parts != submodules.find(model).parts:
        remake = work.files.command("add_linreg_submodules.py", work.files.submodules, "--force")
        raise Problem(f"{work.files.submodules} lists other sub-modules than this model has: run {remake}")
    replacing = {key: formats.load_matrix(work.files.part(*key), model.d) for key in parts}
    return Maps({key: formats.load_map(work.files, *key, model.d) for key in jumps}, replacing)


def schedules(work: Work, model: Model) -> tuple[Schedules, dict[tuple[int, int], Map]]:
    """The schedules to evaluate, and the maps of their jumps; none if SCHEDULES is False or maps are missing."""
    if not stages.alternates(work.files, work.config):
        if work.config.SCHEDULES:
            work.say("  blocks and jumps are not alternated: that needs the dataset's least-squares maps of all jumps")
        return {}, {}
    if not model.is_chain:
        raise Problem(f"{model.name} computes between its blocks, and no jump covers that: set SCHEDULES = False")
    found = alternation.schedules(result_formats.load_r2(work.files.r2_scores)["score_mat"], work.L)
    jumps = sorted({jump for schedule in found.values() for jump in schedule})
    return found, {jump: formats.load_map(work.files, *jump, model.d) for jump in jumps}


def evaluate(
    work: Work, model: Model, tokenized: Tokenized, modes: Modes, schedules: Schedules, h: torch.Tensor | None = None
) -> None:
    """Read out the approximations by all modes, judge them, and write the results. h: [L + 1, n, d], where known."""
    actual = tokens.actual(tokenized, masked=work.masked)
    judged = _judge(work, model, tokenized, modes, actual, h)
    by_schedule, config, lenses = judged.pop(SCHEDULES, None), work.config, {}
    work.save(work.files.results, *predictions.records(judged, tokenized, config.LAMBDAS, config.TAU))
    for mode, found in judged.items():
        if found.lens is not None:
            lenses[mode] = {"gap": found.gap, **dict(zip(LENS, found.lens.unbind(-1), strict=True))}
    evaluation = Evaluation(
        masked=work.masked,
        tau=config.TAU,
        positions=tokenized.positions,
        costs=predictions.costs(model, tokenized),
        actual=actual,
        modes=lenses,
        schedules=dict(schedules),
        topk=by_schedule.topk[:-1] if by_schedule else torch.empty(0, len(actual), TOP, dtype=torch.int64),
        surprisal=by_schedule.surprisal[:-1] if by_schedule else torch.empty(0, len(actual)),
    )
    work.save(work.files.predictions, vars(evaluation) | {"costs": vars(evaluation.costs)})


def _judge(
    work: Work, model: Model, tokenized: Tokenized, modes: Modes, actual: torch.Tensor, h: torch.Tensor | None
) -> dict[str, Predictions]:
    """Predictions for all sentences by mode, batch by batch. In a run for several map kinds, `id` is read out once."""
    lenses = {mode for mode in modes if mode in MODES and MODES[mode].maps is not None}  # they go through no block

    def judged(modes: Modes, batch: Batch) -> Tensors:
        """The predictions of some modes; with them the states, where the next map kinds need them."""
        seen = representations.run(model, batch) if h is None or modes.keys() - lenses else Pass(batch, h, [])
        if h is not None:
            seen = replace(seen, h=h[:, batch.rows].to(model.device))
        made = {"h": seen.h.cpu()} if h is None and work.shared else {}
        for mode, approximate in modes.items():
            known = actual[batch.rows] if mode in lenses else None
            found = predictions.judge(model, approximate(seen), seen.h[-1], batch.rows, known)
            made |= {f"{mode} {name}": x for name, x in vars(found).items() if x is not None}
        return made

    points, batches = {}, representations.batches(model, tokenized, work.args.batch_size)
    if work.shared:
        points = gather(work, batches, partial(judged, {"id": modes["id"]}), "id", shared=True, everyone=True)
        h, modes = points.pop("h").tensor() if h is None else h, {mode: modes[mode] for mode in modes if mode != "id"}
    return _by_mode(points | gather(work, batches, partial(judged, modes), "predictions"), work.say)


def _by_mode(points: dict[str, Points], say: Callable[[str], None]) -> dict[str, Predictions]:
    """Predictions by mode, in order, from tables called "<mode> <field>"."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for key, values in points.items():
        mode, _, name = key.partition(" ")
        found.setdefault(mode, {})[name] = values.tensor()
    share = max(tables["gap"].eq(0).double().mean(1).max().item() for tables in found.values())
    if share > TIES:
        say(f"  the best two tokens tie in up to {share:.1%} of the sentences: logits in half precision are rounded")
    return {mode: Predictions(**found[mode]) for mode in (*MODES, SCHEDULES) if mode in found}


def change(work: Work) -> list[Table]:
    """With --matrices-from, a table of the change in mean Precision@1 from the dataset's own maps, if evaluated."""
    files = work.files
    if not files.matrices_from or not files.own.results.exists():
        return []
    work.provenance.check([files.own.results], work.say)
    other, own = (results.summarize(result_formats.load_results(path)) for path in (files.results, files.own.results))
    return [tables.change(other, own, files.dataset, files.matrices_from)]


def show_change(work: Work, outputs: Outputs | None = None) -> None:
    """With --matrices-from, print the change from the dataset's own maps, or the script that evaluates these."""
    if found := change(work):
        work.say(text(found))
    elif work.files.matrices_from:
        maker = stages.maker(work.files.own.results, work.files.own, work.L, work.config)
        work.say(f"to compare with the maps of {work.files.dataset}, also run {maker}")
