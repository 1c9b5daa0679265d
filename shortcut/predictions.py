"""Predictions from approximations of the final state, judged by the full model's predictions.

Shapes: approximations [L, b, d]; tables [L + 1, b, ...].
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from shortcut import Problem, early_exit, metrics
from shortcut.approximation import MODES
from shortcut.early_exit import Costs
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

    def at(self, layers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Top-k [n, TOP] and surprisal [n], with sentence s read out at layer layers[s]."""
        rows = torch.arange(len(layers))
        return self.topk[layers, rows], self.surprisal[layers, rows]


@dataclass(frozen=True)
class Evaluation:
    """Predictions for n sentences that do not fit in the records of the original code."""

    masked: bool  # True for a masked model
    tau: float  # of the confidence rule
    positions: torch.Tensor  # int64 [n], the chosen positions, 0-based
    costs: Costs  # of early exit
    actual: torch.Tensor  # int64 [n], the actual token (see `tokens.actual`); -1: none
    modes: dict[str, dict[str, torch.Tensor]]  # by mode: "gap" and each of `LENS`, float32 [L + 1, n]
    schedules: dict[tuple[str, int, int], tuple[tuple[int, int], ...]]  # from `alternation.schedules`; may be empty
    topk: torch.Tensor  # int64 [S, n, TOP], the best tokens by schedule, in the order of `alternation.distinct`
    surprisal: torch.Tensor  # float32 [S, n], nats


def records(
    judged: Mapping[str, Predictions], tokenized: Tokenized, lambdas: Mapping[str, Sequence[float]], tau: float
) -> list[Record]:
    """Records of the modes: fixed exits by layer, and early exits by lambda.

    If sentences have several positions, the first record has the sentence number of each position, int64 [n].
    """
    made: list[Record] = []
    for mode, found in judged.items():
        key, (points, n) = MODES[mode].key, found.gap.shape
        exits = [({"type": "jump", "mode": key, "layer": layer}, torch.full((n,), layer)) for layer in range(points)]
        for lam in lambdas.get(mode, ()):
            threshold = early_exit.thresholds(lam, tokenized.positions, tau)
            exits.append(
                ({"type": "early_exit", "mode": key, "lambda": lam}, early_exit.exit_layers(found.gap, threshold))
            )
        for info, layers in exits:
            made.append({"info": info, "layers_processed": layers.double().mean().item()})
            made[-1]["topk"], made[-1]["surprisal"] = found.at(layers)
    made.sort(key=lambda record: record["info"]["type"] == "early_exit")  # after all jumps, as in the original
    if tokenized.numbers is not None:
        made[0] |= {"sentence_numbers": tokenized.numbers}
    return made


@torch.no_grad()
def judge(
    model: Model,
    approximations: torch.Tensor,
    final: torch.Tensor,
    sentences: torch.Tensor,
    actual: torch.Tensor | None = None,
) -> Predictions:
    """Read out every approximation [L, b, d] like h_L, and judge it by the full model's distribution.

    final: h_L [b, d], from which the full model's distribution is read out, the last row of the tables.
    sentences: [b], sentence numbers for error messages. actual: int64 [b], the actual tokens (see `tokens.actual`);
    with them the metrics of a lens are computed too.

    In half precision the logits are rounded, and in some sentences the best two tokens tie.

    Raises Problem: logits are not finite. The message names the model, the layer and the sentence.
    """
    h = torch.cat([final[None], approximations])  # the full model first: the others are judged by it
    topk = torch.empty(*h.shape[:2], TOP, dtype=torch.int64)
    surprisal, gap = torch.empty(h.shape[:2]), torch.empty(h.shape[:2])
    lens = None if actual is None else torch.empty(*h.shape[:2], len(LENS))
    for rows in torch.arange(h.shape[1]).split(ROWS):
        for layers in torch.arange(len(h)).split(max(1, ROWS // len(rows))):
            states = h[layers][:, rows].flatten(0, 1)
            enough = torch.nn.functional.pad(states, (0, 0, 0, max(0, FEWEST - len(states))))
            logits = model.read_out(enough)[: len(states)].float()
            if 0 in layers:
                full_log_p = logits[: len(rows)].log_softmax(-1)
            top = logits.topk(TOP)
            here, best = (layers[:, None], rows), top.indices[:, 0]
            topk[here] = top.indices.cpu().unflatten(0, (len(layers), -1))
            gap[here] = metrics.top_two_gap(logits, top.values).cpu().view(len(layers), -1)
            judged = [metrics.surprisal(full_log_p, tokens) for tokens in best.view(len(layers), -1)]
            surprisal[here] = torch.stack(judged).cpu()
            if actual is not None:
                measured = [_as_lens(full_log_p, q, actual[rows].to(q.device)) for q in logits.split(len(rows))]
                lens[here] = torch.stack(measured).cpu()
    topk, surprisal, gap = (table.roll(-1, 0) for table in (topk, surprisal, gap))
    finite = gap.isfinite() & surprisal.isfinite()
    if not finite.all():
        layer, row = (~finite).nonzero()[0].tolist()
        where = f"layer {layer} for sentence {sentences[row]} (counted from 0)"
        raise Problem(f"{model.name}: the logits at {where} are not finite")
    return Predictions(topk, surprisal, gap, None if lens is None else lens.roll(-1, 0))


def _as_lens(full_log_p: torch.Tensor, logits: torch.Tensor, actual: torch.Tensor) -> torch.Tensor:
    log_q = logits.log_softmax(-1)
    return torch.stack([METRICS[name].compute(full_log_p, log_q, actual) for name in LENS], 1)


@torch.no_grad()
def costs(model: Model, tokenized: Tokenized) -> Costs:
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
    return Costs(blocks / model.n_layers, read_out, float(model.d**2), tokens)
