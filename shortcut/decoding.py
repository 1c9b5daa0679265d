"""From approximations of the final state to what is predicted from them.

Shapes: approximations [K, n, d], K layers; tables [K, n, ...].
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
    """What is read out of K approximations for n sentences.

    Attributes:
        topk: int64 [K, n, TOP], the best tokens, best first.
        surprisal: float32 [K, n], nats: -ln p_full(best token of the approximation).
        gap: float32 [K, n], fraction: p(best) - p(second) under the approximation itself.
    """

    topk: torch.Tensor
    surprisal: torch.Tensor
    gap: torch.Tensor

    def at(self, layers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Top-k [n, TOP] and surprisal [n] with sentence s read at layer layers[s]."""
        rows = torch.arange(len(layers))
        return self.topk[layers, rows], self.surprisal[layers, rows]


@torch.inference_mode()
def predict(
    model: Model, approximations: torch.Tensor, final: torch.Tensor, progress: Progress = no_progress
) -> Predictions:
    """Read out every approximation like h_L, and judge it by the full model's distribution.

    Args:
        model: the model.
        approximations: [K, n, d].
        final: h_L [n, d], what the full model reads out.
        progress: told of sentences done.

    Raises:
        Problem: logits that are not finite; it names the model, the layer and the sentence.
    """
    K, n, _ = approximations.shape
    topk = torch.empty(K, n, TOP, dtype=torch.int64)
    surprisal = torch.empty(K, n)
    gap = torch.empty(K, n)
    for rows in torch.arange(n).split(ROWS):
        full_log_p = model.read_out(final[rows].to(model.device)).log_softmax(-1)
        for k in range(K):
            logits = model.read_out(approximations[k, rows].to(model.device))
            top = logits.topk(TOP)
            topk[k, rows] = top.indices.cpu()
            gap[k, rows] = metrics.top_two_gap(logits, top.values).cpu()
            surprisal[k, rows] = metrics.surprisal(full_log_p, top.indices[:, 0]).cpu()
            finite = gap[k, rows].isfinite() & surprisal[k, rows].isfinite()
            if not finite.all():
                row = int(rows[~finite][0])
                raise Problem(
                    f"{model.name}: the logits at layer {k} for sentence {row} (counted from 0) are not finite"
                )
        progress(len(rows))
    return Predictions(topk, surprisal, gap)
