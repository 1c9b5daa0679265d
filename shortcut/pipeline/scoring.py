"""Score the maps of a stage on validation states: r2 of every jump, and the quality of the maps."""

import math
from itertools import groupby
from typing import Any

import torch

from shortcut import Problem, map_quality, metrics
from shortcut.files import formats, result_formats
from shortcut.linear import KINDS
from shortcut.pipeline import terminal
from shortcut.pipeline.script import Work


def r2_scores(work: Work, h: torch.Tensor, pairs: list[tuple[int, int]]) -> dict[str, dict[tuple[int, int], float]]:
    """r2 of each jump (i, j) with mat and id, by the names in `result_formats.SCORES`. h: [L + 1, n, d]."""
    h, every = h.to(work.device), len(h) * (len(h) - 1) // 2
    if len(pairs) < every:
        why = "LAST_ONLY in config.py" if work.config.LAST_ONLY else f"{work.map_kind} maps"
        work.say(f"  {why}: {len(pairs)} of {every} jumps, those into layer {len(h) - 1}")
    scores: dict[str, dict[tuple[int, int], float]] = {name: {} for name in result_formats.SCORES}
    misleading: dict[tuple[str, int, int], metrics.R2] = {}
    for i, j in terminal.progress("r2", pairs, len(pairs), "pairs"):
        made = formats.load_map(work.files, i, j, h.shape[2]).to(work.device)(h[i])
        if not made.isfinite().all():
            what = f"{work.files.matrix(i, j)}: its predictions from the states of layer {i} are not finite"
            raise Problem(f"{what}: fit it again with --force")
        for mode, prediction in (("mat", made), ("id", h[i])):
            r2 = metrics.r2_score(prediction, h[j])
            scores[f"score_{mode}"][i, j], scores[f"score_{mode}_weighted"][i, j] = r2.mean, r2.weighted
            if r2.misleads:
                misleading[mode, i, j] = r2
    if misleading:
        (mode, i, j), r2 = max(misleading.items(), key=lambda found: found[1].weighted - found[1].mean)
        why = "coordinates that hardly vary count as much as all others"
        worst = f"{mode} from {i} to {j}: mean {r2.mean:.3g}, weighted by variance {r2.weighted:.3g}"
        work.say(f"  r2 misleads in {len({jump[1:] for jump in misleading})} of {len(pairs)} jumps: {why} ({worst})")
    return scores


def quality_of_maps(work: Work, h: torch.Tensor, pairs: list[tuple[int, int]]) -> dict[str, Any]:
    """Quality of the maps of these jumps on validation states h [L + 1, n, d], as `load_quality` reads it."""
    h, L, d = h.to(work.device), len(h) - 1, h.shape[2]
    found: dict[str, dict[str, Any]] = {name: {} for name in result_formats.QUALITY}
    last = [formats.load_map(work.files, l, L, d).to(work.device) for l in range(L)]
    entries = [work.provenance.entry(work.files.matrix(l, L)) for l in range(L)]
    exact = [KINDS[work.map_kind].is_exact(entry.get("states", math.inf), d) for entry in entries]
    for i, jumps in groupby(terminal.progress("quality", pairs, len(pairs), "pairs"), key=lambda pair: pair[0]):
        directions, direct = map_quality.Directions(h[i]), map_quality.r2(last[i], h[i], h[L])
        for _, j in jumps:
            A = last[i] if j == L else formats.load_map(work.files, i, j, d).to(work.device)
            found["gain"][f"{i}_{j}"] = directions.gain(A)
            if j < L and not exact[i]:
                found["composition_loss"][f"{i}_{j}"] = direct - map_quality.r2(last[j].after(A), h[i], h[L])
        for name in [name for name in ("split_half_r2", "spectrum", "effective_rank") if name in entries[i]]:
            found[name][str(i)] = entries[i][name]
        if "r2_by_rank" in entries[i]:
            found["r2_by_rank"][str(i)] = [[int(r), r2] for r, r2 in entries[i]["r2_by_rank"].items()]
    if large := {name: gain for name, gain in found["gain"].items() if gain > map_quality.LARGE}:
        worst = max(large, key=large.get)
        what = "matrices amplify a direction in which the states hardly vary by more than 1,000"
        advice = f"Do not round them to half precision. All are listed in {work.files.relative(work.files.quality)}"
        work.say(f"  {len(large)} of {len(pairs)} {what} ({worst}: {large[worst]:.2g}). {advice}")
    return found
