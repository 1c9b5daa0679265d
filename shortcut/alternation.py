"""Alternation of blocks and jumps: run some blocks, jump over others, and read out at the end.

A schedule is its jumps ((i, j), ...) in a model of L layers: where it does not jump from layer i to layer j with
A_ij, it runs the block. Of its L - sum (j - i) = k executed blocks two families ask which ones they should be:

    r2-informed   for each k the schedule with the largest product of the r2 of its jumps, each clipped at 0
    round-robin   run a blocks, jump b layers, and so on, for every a + b that divides L, either first

A schedule never jumps twice in a row: without that rule chains of one-layer jumps win the product, and no long
jump is ever taken. Jumps act at every position of the prefix, since blocks follow; tokens that the tokenizer puts at
the head, where no map was fitted, keep their true states.

"Linear Shortcut for Language Modeling", its alternation schemes, in the paper; the original's code has none.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from shortcut import metrics
from shortcut.intervals import Estimate, average, estimate, proportion

Schedule = tuple[tuple[int, int], ...]
FEW = (2, 3, 4)  # of a model of more than `ALL` layers, the a + b that are run beside L itself
ALL = 24


def executed(schedule: Schedule, L: int) -> int:
    """The number of blocks that a schedule runs."""
    return L - sum(j - i for i, j in schedule)


def round_robin(L: int) -> dict[tuple[str, int, int], Schedule]:
    """The schedules by which comes first ("blocks" or "jumps"), a and b; of a deep model those of `FEW` and L."""
    found = {}
    for period in range(2, L + 1):
        if L % period == 0 and (L <= ALL or period in (*FEW, L)):
            for a in range(1, period):
                starts = range(0, L, period)
                found["blocks", a, period - a] = tuple((s + a, s + period) for s in starts)
                found["jumps", a, period - a] = tuple((s, s + period - a) for s in starts)
    return found


def r2_informed(r2: Mapping[tuple[int, int], float], L: int) -> dict[int, Schedule]:
    """By k = 0 ... L the best schedule that executes so many blocks, by dynamic programming; of equals the later jumps.

    `best` has, by the layer reached, the blocks run so far and whether the last move was a jump, the largest product
    and its schedule.
    """
    best: dict[tuple[int, int, bool], tuple[float, Schedule]] = {(0, 0, False): (1.0, ())}
    for layer in range(1, L + 1):
        for k in range(layer + 1):
            came = [best[layer - 1, k - 1, jumped] for jumped in (False, True) if (layer - 1, k - 1, jumped) in best]
            if came:
                best[layer, k, False] = max(came)
            leaps = [
                (product * max(0.0, r2[i, layer]), (*schedule, (i, layer)))
                for i in range(layer)
                if (i, k, False) in best
                for product, schedule in [best[i, k, False]]
            ]
            if leaps:
                best[layer, k, True] = max(leaps)
    return {k: max(best[L, k, jumped] for jumped in (False, True) if (L, k, jumped) in best)[1] for k in range(L + 1)}


def schedules(r2: Mapping[tuple[int, int], float], L: int) -> dict[tuple[str, int, int], Schedule]:
    """All that are run: round-robin by which comes first, a and b; r2-informed by ("r2", k, L - k)."""
    return {**round_robin(L), **{("r2", k, L - k): schedule for k, schedule in r2_informed(r2, L).items()}}


def distinct(of: Mapping[tuple[str, int, int], Schedule]) -> list[Schedule]:
    """The schedules that are run: some go by two names."""
    return [*dict.fromkeys(of.values())]


@dataclass(frozen=True)
class Judged:
    """A schedule beside the direct jump that executes as many blocks: the fixed exit with mat at layer k."""

    name: str  # "r2", "blocks 2, jumps 1", "jumps 1, blocks 2", or what was chosen among these
    first: str  # "blocks", "jumps", "r2", "chosen"
    k: int  # blocks executed
    schedule: Schedule
    precision: Estimate  # @1, fraction
    difference: Estimate  # of its Precision@1 to the direct jump's, paired over the sentences


def judge(
    schedules: Mapping[tuple[str, int, int], Schedule],
    topk: torch.Tensor,
    full: torch.Tensor,
    direct: torch.Tensor,
    of: torch.Tensor | None,
) -> list[Judged]:
    """Every schedule, and for each k the one of round-robin that was chosen on half of the sentences.

    Shapes: topk [S, n, 10], the best tokens by each distinct schedule; full [n, >= 1], those of the model;
    direct bool [L + 1, n], the hits of mat; `of` as `Curve.of`.
    Chosen and shown on the same sentences, the best of several gains by selection alone: what is shown of the chosen
    one are the other half's numbers.
    """
    L, n = len(direct) - 1, len(full)
    found, hits, best = [], {}, dict(zip(distinct(schedules), topk, strict=True))
    for (first, a, b), schedule in schedules.items():
        k = executed(schedule, L)
        name = {"r2": "r2", "blocks": f"blocks {a}, jumps {b}", "jumps": f"jumps {b}, blocks {a}"}[first]
        hit = hits[name, k] = metrics.hits_at_k(best[schedule], full, 1)
        judged = (estimate(x, of, constant=k == L) for x in (hit, hit.double() - direct[k].double()))
        found.append(Judged(name, first, k, schedule, *judged))
    sentence = torch.arange(n) if of is None else of
    odd = sentence % 2 == 1
    of_odd = None if of is None else of[odd] // 2
    for k in range(1, L):
        rivals = [judged for judged in found if judged.first in ("blocks", "jumps") and judged.k == k]
        if len(rivals) > 1 and len(sentence[odd].unique()) > 1:
            chosen = max(rivals, key=lambda judged: hits[judged.name, judged.k][~odd].double().mean())
            hit = hits[chosen.name, k][odd]
            apart = average(hit.double() - direct[k, odd].double(), of_odd)
            found.append(Judged(chosen.name, "chosen", k, chosen.schedule, proportion(hit, of_odd), apart))
    return found
