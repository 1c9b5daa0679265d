"""Predictions from approximations of the final state, judged by the full model's predictions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from shortcut import Problem, alternation, early_exit, metrics
from shortcut.approximation import MODES
from shortcut.metrics import LENS, METRICS, TOP
from shortcut.models import Model
from shortcut.tokens import Tokenized

ROWS = 256  # states read out at a time: 50 MB of logits for GPT-2's vocabulary
FEWEST = 16  # products with fewer rows are rounded differently, so results would depend on the batch

Record = dict[str, Any]  # keys `info`, `layers_processed`, `topk`, `surprisal`, as in the original code


@dataclass(frozen=True)
class Predictions:
    """Predictions for n sentences, read out at layers 0 ... L."""

    topk: torch.Tensor  # int64 [L + 1, n, TOP], the best tokens, best first
    surprisal: torch.Tensor  # float32 [L + 1, n], nats: -ln p_full(best token)
    gap: torch.Tensor  # float32 [L + 1, n], fraction: p(best) - p(second) by the approximation
    lens: torch.Tensor | None = None  # float32 [L + 1, n, 3], nats: the metrics `LENS`, for modes used as lenses


@dataclass(frozen=True)
class Evaluation:
    """Predictions for n sentences that do not fit in the records of the original code."""

    masked: bool  # True for a masked model
    tau: float  # of the confidence rule
    positions: torch.Tensor  # int64 [n], the chosen positions, 0-based
    costs: early_exit.Costs  # of early exit
    actual: torch.Tensor  # int64 [n], the actual token (see `tokens.actual`); -1: none
    modes: dict[str, dict[str, torch.Tensor]]  # by mode: "gap" and each of `LENS`, float32 [L + 1, n]
    schedules: alternation.Schedules  # from `alternation.schedules`; may be empty
    topk: torch.Tensor  # int64 [S, n, TOP], the best tokens by schedule, in the order of `alternation.distinct`
    surprisal: torch.Tensor  # float32 [S, n], nats


def records(
    judged: Mapping[str, Predictions], tokenized: Tokenized, lambdas: Mapping[str, Sequence[float]], tau: float
) -> list[Record]:
    """Records of fixed exits, then of early exits; the first has the sentence number of each of several positions."""
    rows = torch.arange(len(tokenized.positions))

    def record(info: dict[str, Any], found: Predictions, layers: torch.Tensor) -> Record:
        best = {"topk": found.topk[layers, rows], "surprisal": found.surprisal[layers, rows]}
        return {"info": info, "layers_processed": layers.double().mean().item(), **best}

    fixed, early = [], []
    for mode, found in judged.items():
        for layer in range(len(found.gap)):
            info = {"type": "jump", "mode": MODES[mode].key, "layer": layer}
            fixed.append(record(info, found, torch.full_like(rows, layer)))
        for lam in lambdas.get(mode, ()):
            info = {"type": "early_exit", "mode": MODES[mode].key, "lambda": lam}
            threshold = early_exit.thresholds(lam, tokenized.positions, tau)
            early.append(record(info, found, early_exit.exit_layers(found.gap, threshold)))
    if tokenized.numbers is not None:
        fixed[0] |= {"sentence_numbers": tokenized.numbers}
    return fixed + early


@torch.no_grad()
def judge(
    model: Model, estimates: torch.Tensor, final: torch.Tensor, sentences: torch.Tensor, actual: torch.Tensor | None
) -> Predictions:
    """Read out `estimates` of h_L from layers 0 ... L - 1 like h_L, and judge them by the full model's distribution.

    estimates: [L, b, d]. final: [b, d], h_L itself, the last row of the tables. sentences: [b], their numbers, for the
    message of the Problem if logits are not finite. actual: int64 [b] (see `tokens.actual`); None: no lens metrics.
    """
    h = torch.cat([final[None], estimates])  # the full model first: the others are judged by it
    topk, lens = torch.empty(*h.shape[:2], TOP, dtype=torch.int64), torch.empty(*h.shape[:2], len(LENS))
    surprisal, gap = torch.empty(h.shape[:2]), torch.empty(h.shape[:2])
    for rows in torch.arange(h.shape[1]).split(ROWS):
        for layers in torch.arange(len(h)).split(max(1, ROWS // len(rows))):
            states = h[layers][:, rows].flatten(0, 1)
            enough = torch.nn.functional.pad(states, (0, 0, 0, max(0, FEWEST - len(states))))
            logits = model.read_out(enough)[: len(states)].float()
            top, here, shape = logits.topk(TOP), (layers[:, None], rows), (len(layers), len(rows))
            topk[here] = top.indices.cpu().unflatten(0, shape)
            gap[here] = metrics.top_two_gap(logits, top.values).cpu().view(shape)
            if 0 in layers:
                full_log_p = logits[: len(rows)].log_softmax(-1)
            for layer, q, best in zip(layers, logits.unflatten(0, shape), top.indices[:, 0].view(shape), strict=True):
                surprisal[layer, rows] = metrics.surprisal(full_log_p, best).cpu()
                if actual is not None:
                    log_q, tokens = q.log_softmax(-1), actual[rows].to(q.device)
                    measured = [METRICS[name].compute(full_log_p, log_q, tokens) for name in LENS]
                    lens[layer, rows] = torch.stack(measured, 1).cpu()
    topk, surprisal, gap, lens = (table.roll(-1, 0) for table in (topk, surprisal, gap, lens))
    if len(broken := (gap.isfinite() & surprisal.isfinite()).logical_not().nonzero()):
        layer, row = broken[0].tolist()
        raise Problem(f"{model.name}: the logits at layer {layer} of sentence {sentences[row]} (from 0) are not finite")
    return Predictions(topk, surprisal, gap, None if actual is None else lens)


@torch.no_grad()
def costs(model: Model, tokenized: Tokenized) -> early_exit.Costs:
    """Costs of the model, counted in a forward pass over one token; each chosen position counts as a run of its own."""
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415

    def grouped(a: list[int], b: list[int], *_: object, out_shape: list[int], **__: object) -> int:
        return 2 * math.prod(a) * out_shape[-1]

    counters = [FlopCounterMode(display=False, custom_mapping={torch.ops.aten._grouped_mm: grouped}) for _ in range(2)]
    with counters[0]:
        model.run(model.dummy(1), None)
    with counters[1]:
        model.read_out(torch.zeros(1, model.d, device=model.device))
    blocks, read_out = (counter.get_total_flops() / 2 for counter in counters)
    tokens = torch.tensor([*map(len, tokenized.sentences)]) if model.masked else tokenized.positions + 1
    return early_exit.Costs(blocks / model.n_layers, read_out, float(model.d**2), tokens)
