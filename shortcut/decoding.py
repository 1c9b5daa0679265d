"""From approximations of the final state to what is predicted from them.

Shapes: approximations [L, n, d]; tables [L + 1, n, ...].
"""

from dataclasses import dataclass

import torch

from shortcut import Problem, metrics
from shortcut.models import Model
from shortcut.representations import Progress, no_progress

TOP = 10  # tokens kept of each prediction: the largest k of Precision@k
ROWS = 256  # sentences read out at a time: 50 MB of logits for GPT-2's vocabulary


@dataclass(frozen=True)
class Predictions:
    """What is read out for n sentences at layers 0 ... L.

    Attributes:
        topk: int64 [L + 1, n, TOP], the best tokens, best first.
        surprisal: float32 [L + 1, n], nats: -ln p_full(best token of the approximation).
        gap: float32 [L + 1, n], fraction: p(best) - p(second) under the approximation itself.
    """

    topk: torch.Tensor
    surprisal: torch.Tensor
    gap: torch.Tensor

    def at(self, layers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Top-k [n, TOP] and surprisal [n] with sentence s read at layer layers[s]."""
        rows = torch.arange(len(layers))
        return self.topk[layers, rows], self.surprisal[layers, rows]


@torch.no_grad()
def predict(
    model: Model, approximations: torch.Tensor, final: torch.Tensor, progress: Progress = no_progress
) -> Predictions:
    """Read out every approximation like h_L, and judge it by the full model's distribution.

    Args:
        model: the model.
        approximations: of h_L, from layers 0 ... L - 1, [L, n, d]; the tables have one row more, h_L's own.
        final: h_L [n, d], what the full model reads out.
        progress: told of sentences done.

    Raises:
        Problem: logits that are not finite; it names the model, the layer and the sentence.
    """
    L, n, _ = approximations.shape
    topk = torch.empty(L + 1, n, TOP, dtype=torch.int64)
    surprisal = torch.empty(L + 1, n)
    gap = torch.empty(L + 1, n)
    for rows in torch.arange(n).split(ROWS):
        full = model.read_out(final[rows].to(model.device))
        full_log_p = full.log_softmax(-1)
        for layer in range(L + 1):
            logits = full if layer == L else model.read_out(approximations[layer, rows].to(model.device))
            top = logits.topk(TOP)
            topk[layer, rows] = top.indices.cpu()
            gap[layer, rows] = metrics.top_two_gap(logits, top.values).cpu()
            surprisal[layer, rows] = metrics.surprisal(full_log_p, top.indices[:, 0]).cpu()
            finite = gap[layer, rows].isfinite() & surprisal[layer, rows].isfinite()
            if not finite.all():
                row = int(rows[~finite][0])
                raise Problem(
                    f"{model.name}: the logits at layer {layer} for sentence {row} (counted from 0) are not finite"
                )
        progress(len(rows))
    return Predictions(topk, surprisal, gap)
