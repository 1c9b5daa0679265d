"""The steps that several scripts take, each with its progress bar: states, fits, scores, predictions."""

from pathlib import Path

import torch

from shortcut import approximation, cli, decoding, linear, metrics, plots, representations, results, store, tables
from shortcut.manifest import Stage
from shortcut.models import Model
from shortcut.text import Tokenized


def layer_states(run: cli.Run, model: Model, tokenized: Tokenized) -> torch.Tensor:
    """h_0 ... h_L at the chosen tokens, [L + 1, n, d]."""
    with cli.bar("states", len(tokenized), "sentences") as advance:
        return representations.layer_states(model, tokenized, run.batch_size, advance)


def save_fits(run: cli.Run, stage: Stage, h: torch.Tensor, wanted: dict[Path, tuple[int, int]]) -> None:
    """Fit the matrices that are still to do, and save each as soon as it is there.

    Args:
        run: the run.
        stage: its stage, whose outputs they are.
        h: states [k, n, d].
        wanted: the pair of indices into `h` that each file maps between.
    """
    todo = [wanted[path] for path in stage.todo]
    fits = linear.fit_pairs(h, todo, run.config.RCOND, run.device, cli.say)
    for path, fit in zip(stage.todo, cli.progress("fits", fits, len(todo), "matrices"), strict=True):
        stage.save(path, fit.A, **fit.numbers)


def r2_scores(h: torch.Tensor, matrices: dict[tuple[int, int], Path]) -> dict[str, dict[tuple[int, int], float]]:
    """r2 of every jump on the states h [L + 1, n, d], as `score_mat` and `score_id`."""
    r2 = {"score_mat": {}, "score_id": {}}
    for (i, j), path in cli.progress("r2", matrices.items(), len(matrices), "pairs"):
        A = store.load_matrix(path, h.shape[2])
        r2["score_mat"][i, j] = metrics.r2_score(linear.apply(A, h[i]), h[j])
        r2["score_id"][i, j] = metrics.r2_score(h[i], h[j])
    return r2


def show_r2(run: cli.Run, stage: Stage, scores: Path, figure: Path) -> None:
    """Draw the heat maps of stored scores, if that is to do, and print the table."""
    r2 = store.load_r2(scores)
    if figure in stage.todo:
        with stage.writing(figure) as file:
            plots.save(plots.r2_heat_maps(r2["score_mat"], r2["score_id"], run.files.title), file)
    cli.say(tables.r2(r2["score_mat"], r2["score_id"]))


def records(
    run: cli.Run,
    model: Model,
    tokenized: Tokenized,
    h: torch.Tensor,
    jumps: list[Path],
    parts: dict[tuple[int, int], Path],
    lambdas: dict[str, tuple[float, ...]],
) -> list[results.Record]:
    """The records of every mode: fixed exits at all layers, then early exits along lambda.

    Args:
        run: the run.
        model: the model.
        tokenized: the validation sentences.
        h: their layer states.
        jumps: files of A_lL, l = 0 ... L - 1.
        parts: files of the sub-modules' maps, as in `approximation.approximate`; {}: they are not replaced.
        lambdas: by mode, the grid of its early exits.
    """
    A = [store.load_matrix(path, model.d) for path in jumps]
    maps = {key: store.load_matrix(path, model.d) for key, path in parts.items()}
    fixed, early = [], []
    for mode in approximation.MODES if parts else ("id", "mat"):
        with cli.bar(mode, len(tokenized), "sentences") as advance:
            finals = approximation.approximate(mode, model, tokenized, h, A, maps, run.batch_size, advance)
        with cli.bar(f"{mode}, predictions", len(tokenized), "sentences") as advance:
            predictions = decoding.predict(model, finals, h[-1], advance)
        fixed += results.jumps(mode, predictions)
        early += results.early_exits(mode, predictions, tokenized.positions, lambdas.get(mode, ()), run.config.TAU)
    return [*fixed, *early]
