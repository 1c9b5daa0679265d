"""The steps that several scripts take, each with its progress bar: states, fits, scores, predictions."""

import io
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch

from shortcut import (
    Problem,
    approximation,
    cli,
    decoding,
    inside,
    linear,
    loading,
    metrics,
    plots,
    processes,
    representations,
    results,
    store,
    tables,
)
from shortcut.manifest import Stage
from shortcut.models import Model, Point
from shortcut.parts import Parts
from shortcut.provenance import Provenance
from shortcut.shelf import Shelf
from shortcut.text import Tokenized


def layer_states(run: cli.Run, model: Model, tokenized: Tokenized, folder: Path) -> Shelf | None:
    """h_0 ... h_L at the chosen tokens, [L + 1, n, d], kept in `folder`; None in all processes but the leader."""
    return _states(run, model, tokenized, model.layer_points(), folder)


def part_states(run: cli.Run, model: Model, tokenized: Tokenized, folder: Path) -> Shelf | None:
    """The states inside all blocks, [6 L + 1, n, d], likewise; state a of block i is number 6 i + a."""
    return _states(run, model, tokenized, model.part_points(), folder)


def _states(run: cli.Run, model: Model, tokenized: Tokenized, points: list[Point], folder: Path) -> Shelf | None:
    see = partial(representations.states, model, points)
    with cli.bar("states", len(tokenized), "sentences") as advance:
        return representations.gather(model, tokenized, len(points), see, run.batch_size, folder, advance, cli.say)


def save_fits(run: cli.Run, stage: Stage, h: linear.States, wanted: dict[Path, tuple[int, int]]) -> None:
    """Fit the matrices that are still to do, and save each as soon as it is there.

    Args:
        run: the run.
        stage: its stage, whose outputs they are.
        h: states; h[k] is [n, d].
        wanted: the pair of indices into `h` that each file maps between.
    """
    todo = [wanted[path] for path in stage.todo]
    fits = linear.fit_pairs(h, todo, run.config.RCOND, run.device, cli.say)
    for path, fit in zip(stage.todo, cli.progress("fits", fits, len(todo), "matrices"), strict=True):
        stage.save(path, fit.A, **fit.numbers)


def r2_scores(
    run: cli.Run, h: torch.Tensor, matrices: dict[tuple[int, int], Path]
) -> dict[str, dict[tuple[int, int], float]]:
    """r2 of every jump for which there is a file, on the states h [L + 1, n, d], as `score_mat` and `score_id`."""
    h, L = h.to(run.device), len(h) - 1
    if len(matrices) < len(linear.pairs(L)):
        cli.say(f"  LAST_ONLY in config.py: {len(matrices)} of {len(linear.pairs(L))} jumps, those into layer {L}")
    r2 = {"score_mat": {}, "score_id": {}}
    for (i, j), path in cli.progress("r2", matrices.items(), len(matrices), "pairs"):
        A = store.load_matrix(path, h.shape[2]).to(run.device)
        r2["score_mat"][i, j] = score = metrics.r2_score(linear.apply(A, h[i]), h[j])
        if not math.isfinite(score):
            raise Problem(f"{path}: what it makes of the states of layer {i} is not finite: fit it again with --force")
        r2["score_id"][i, j] = metrics.r2_score(h[i], h[j])
    return r2


def save_plots(run: cli.Run, stage: Stage, figures: Mapping[str, plots.Plot]) -> None:
    """Write those files of the figures, by name, that are still to do."""
    for name, plot in figures.items():
        for path in run.files.plots(name):
            if path in stage.todo:
                with stage.writing(path) as file:
                    plot.write(file, path.suffix[1:])


def show_r2(run: cli.Run, stage: Stage, scores: Path, name: str) -> None:
    """Draw the heat maps of stored scores, if that is to do, and print the table, in the leader alone."""
    if not processes.leads():
        return
    r2 = store.load_r2(scores)
    save_plots(run, stage, {name: plots.r2_heat_maps(r2["score_mat"], r2["score_id"], run.files.title)})
    cli.say(tables.text([tables.r2(r2["score_mat"], r2["score_id"])]))


def load_results(run: cli.Run) -> results.Results:
    """What add_results.py found, checked against its entry before it is read.

    Raises:
        Problem: not there, changed since, or not of its layout.
    """
    path = run.files.require(run.files.results)
    # the stage that draws it tells of what is by hand, and stops if it is no longer what was hashed here
    Provenance(run.files, run.hashes).check_inputs([path], {}, lambda _: None)
    return results.summarize(store.load_results(path))


def show_change(run: cli.Run) -> None:
    """Under --matrices-from, print what the maps of the other corpus change in mean Precision@1."""
    files = run.files
    if not files.matrices_from or not processes.leads():
        return
    if not files.own.results.exists():
        cli.say(f"to see what that changes, run {files.maker(files.results)} without --matrices-from too")
        return
    Provenance(files, run.hashes).check_inputs([files.own.results], {}, cli.say)
    other, own = (results.summarize(store.load_results(path)) for path in (files.results, files.own.results))
    cli.say(tables.text([tables.change(other, own, files.dataset, files.matrices_from)]))


def look_inside(run: cli.Run) -> None:
    """Draw and print what every layer would predict in the sentences asked for.

    Raises:
        Problem: --model names a folder of results, which tells no model to run; besides, as `inside.look`.
    """
    if run.model == run.files.model and run.model not in run.config.LAYERS and not Path(run.model).is_dir():
        raise Problem(f"--sentence runs the model: --model {run.model} names results, give the model's name or folder")
    L = run.n_layers()
    jumps = [run.files.require(run.files.matrix(l, L)) for l in range(L)]
    sentences = inside.sentences(run.sentence)
    model = run.load_model()
    tokenizer, _ = loading.load_tokenizer(run.model, masked=run.masked)
    for sentence in sentences:
        name = f"sentence_{inside.slug(sentence)}"
        with run.stage(
            reads=jumps, writes=run.files.plots(name), depends=["weights", "tokenizer"], sentence=sentence
        ) as stage:
            grid = inside.look(model, tokenizer, sentence, [store.load_matrix(path, model.d) for path in jumps])
            save_plots(run, stage, {name: plots.sentence_grid(grid, run.files.title)})
        cli.say(f"{tables.text(tables.grids(grid))}\n\n{grid.in_words()}")


def records(
    run: cli.Run,
    model: Model,
    tokenized: Tokenized,
    h: torch.Tensor | None,
    jumps: list[Path],
    parts: dict[tuple[int, int], Path],
    lambdas: dict[str, tuple[float, ...]],
    folder: Path,
) -> list[results.Record]:
    """The records of every mode: fixed exits at all layers, then early exits along lambda.

    Args:
        run: the run.
        model: the model.
        tokenized: the validation sentences.
        h: their layer states; None in all processes but the leader, whose records are empty.
        jumps: files of A_lL, l = 0 ... L - 1.
        parts: files of the sub-modules' maps, as in `approximation.replaced`; {}: they are not replaced.
        lambdas: by mode, the grid of its early exits.
        folder: keeps what is finished: each mode's records, and the states of the modes that take longest.
    """
    maps = {key: store.load_matrix(path, model.d) for key, path in parts.items()}
    finals = _continuations(run, model, tokenized, maps, folder / "states") if parts else None
    if h is None:
        return []

    def of_a_mode(mode: str) -> bytes:
        approximations = _approximations(run, mode, model, h, jumps, maps, finals)
        with cli.bar(f"{mode}, predictions", len(tokenized), "sentences") as advance:
            predictions = decoding.predict(model, approximations, h[-1], advance)
        exits = results.early_exits(mode, predictions, tokenized.positions, lambdas.get(mode, ()), run.config.TAU)
        with io.BytesIO() as file:
            store.dump(file, *results.jumps(mode, predictions), *exits)
            return file.getvalue()

    kept, fixed, early = Parts(folder, cli.say), [], []
    for mode in approximation.MODES if parts else ("id", "mat"):
        for record in store.load_results(kept.keep(partial(of_a_mode, mode), mode=mode)):
            (fixed if record["info"]["type"] == "jump" else early).append(record)
    return [*fixed, *early]


def _continuations(
    run: cli.Run, model: Model, tokenized: Tokenized, maps: approximation.Maps, folder: Path
) -> Shelf | None:
    """Approximations from layers 0 ... L - 1 in each of `approximation.SEQUENCE_MODES`, one mode after another."""
    modes = approximation.SEQUENCE_MODES
    swaps = [approximation.replaced(mode, model, maps) for mode in modes]
    go_on = partial(approximation.go_on, model, swaps)
    with cli.bar(" and ".join(modes), len(tokenized), "sentences") as advance:
        k = len(modes) * model.n_layers
        return representations.gather(model, tokenized, k, go_on, run.batch_size, folder, advance, cli.say)


def _approximations(
    run: cli.Run,
    mode: str,
    model: Model,
    h: torch.Tensor,
    jumps: list[Path],
    maps: approximation.Maps,
    finals: Shelf | None,
) -> torch.Tensor:
    """Approximations of h_L from layers 0 ... L - 1 in one mode, [L, n, d]."""
    if mode == "id":
        return h[:-1]
    if mode == "mat":
        return approximation.jump([store.load_matrix(path, model.d) for path in jumps], h, model.device)
    if mode in approximation.SEQUENCE_MODES:
        start = approximation.SEQUENCE_MODES.index(mode) * model.n_layers
        return torch.stack([finals[start + layer] for layer in range(model.n_layers)])
    return approximation.go_on_alone(model, approximation.replaced(mode, model, maps), h, run.batch_size)
