"""Alternation of blocks and jumps: run some blocks, jump over others, and read out at the end.

A schedule is a tuple of jumps ((i, j), ...), from layer i to layer j with A_ij; all other blocks run. In a model with L
layers the schedule executes k = L - sum (j - i) blocks. Two families of schedules are compared:

    r2-informed   for each k the schedule with the largest product of the r2 of its jumps, each clipped at 0
    round-robin   run a blocks, jump b layers, and so on, for every a + b that divides L, either first

A schedule never jumps twice in a row. Otherwise chains of one-layer jumps would have the largest product, and no long
jump would be taken. Jumps act at every token position of the prefix (see `approximation`), since blocks follow.

"Linear Shortcut for Language Modeling" in the paper (its alternation schemes). The original code does not have them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from shortcut import metrics
from shortcut.intervals import Estimate, average, estimate, proportion

Schedule = tuple[tuple[int, int], ...]
Schedules = Mapping[tuple[str, int, int], Schedule]  # by (first, a, b), first "blocks" or "jumps", or ("r2", k, L - k)
ALL = 24  # a model with at most this many layers runs every period a + b that divides L
FEW = (2, 3, 4)  # a deeper model runs only these periods, and L


def executed(schedule: Schedule, L: int) -> int:
    """Number of blocks that a schedule runs."""
    return L - sum(j - i for i, j in schedule)


def round_robin(L: int) -> Schedules:
    """Round-robin schedules. For deep models see `ALL` and `FEW`."""
    found = {}
    for period in (p for p in range(2, L + 1) if L % p == 0 and (L <= ALL or p in (*FEW, L))):
        for a in range(1, period):
            found["blocks", a, period - a] = tuple((s + a, s + period) for s in range(0, L, period))
            found["jumps", a, period - a] = tuple((s, s + period - a) for s in range(0, L, period))
    return found


def r2_informed(r2: Mapping[tuple[int, int], float], L: int) -> dict[int, Schedule]:
    """The best schedule with k executed blocks, for k = 0 ... L, by dynamic programming; ties go to later jumps."""
    # product and schedule, by layer, number of blocks run so far, and True if the last move was a jump
    best: dict[tuple[int, int, bool], tuple[float, Schedule]] = {(0, 0, False): (1.0, ())}
    for layer in range(L):
        for _, k, jumped in [state for state in best if state[0] == layer]:
            product, jumps = best[layer, k, jumped]
            moves = {(layer + 1, k + 1, False): (product, jumps)}
            for j in () if jumped else range(layer + 1, L + 1):
                moves[j, k, True] = product * max(0.0, r2[layer, j]), (*jumps, (layer, j))
            for state, found in moves.items():
                best[state] = max(found, best.get(state, found))
    return {k: max(best[L, k, jumped] for jumped in (False, True) if (L, k, jumped) in best)[1] for k in range(L + 1)}


def schedules(r2: Mapping[tuple[int, int], float], L: int) -> Schedules:
    """All schedules that are run: `round_robin` and `r2_informed`."""
    return {**round_robin(L), **{("r2", k, L - k): schedule for k, schedule in r2_informed(r2, L).items()}}


def distinct(schedules: Schedules) -> list[Schedule]:
    """The distinct schedules, each once; some have two names."""
    return [*dict.fromkeys(schedules.values())]


@dataclass(frozen=True)
class Judged:
    """A schedule, compared with the direct jump that runs as many blocks: the fixed exit with mat at layer k."""

    name: str  # "r2", "blocks 2, jumps 1" or "jumps 1, blocks 2"; for "chosen" the name of the schedule chosen
    first: str  # "blocks", "jumps", "r2", "chosen"
    k: int  # blocks executed
    schedule: Schedule
    precision: Estimate  # @1, fraction
    difference: Estimate  # Precision@1 minus that with the direct jump, paired over the sentences


def judge(
    schedules: Schedules, topk: torch.Tensor, full: torch.Tensor, direct: torch.Tensor, groups: torch.Tensor | None
) -> list[Judged]:
    """Judge every schedule, and for each k a round-robin schedule that is chosen on half of the sentences.

    Shapes: topk [S, n, 10], the best tokens by each distinct schedule; full [n, >= 1], the best tokens of the full
    model; direct [L + 1, n], bool, the hits of mat; groups [n] as in `Curve.groups`.

    The chosen schedule is evaluated on the other half: on the same sentences, selection would inflate its numbers.
    """
    L, n, found = len(direct) - 1, len(full), []
    hits = dict(zip(distinct(schedules), (metrics.hits_at_k(best, full, 1) for best in topk), strict=True))
    for (first, a, b), schedule in schedules.items():
        k, hit = executed(schedule, L), hits[schedule]
        name = {"r2": "r2", "blocks": f"blocks {a}, jumps {b}", "jumps": f"jumps {b}, blocks {a}"}[first]
        judged = (estimate(x, groups, constant=k == L) for x in (hit, hit.double() - direct[k].double()))
        found.append(Judged(name, first, k, schedule, *judged))
    sentence = torch.arange(n) if groups is None else groups
    odd = sentence % 2 == 1
    odd_groups = None if groups is None else groups[odd] // 2
    for k in range(1, L):
        rivals = [judged for judged in found if judged.first in ("blocks", "jumps") and judged.k == k]
        if len(rivals) > 1 and len(sentence[odd].unique()) > 1:
            chosen = max(rivals, key=lambda judged: hits[judged.schedule][~odd].double().mean())
            hit = hits[chosen.schedule][odd]
            apart = average(hit.double() - direct[k, odd].double(), odd_groups)
            found.append(Judged(chosen.name, "chosen", k, chosen.schedule, proportion(hit, odd_groups), apart))
    return found
