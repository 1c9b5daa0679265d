"""Jacobian lenses: the mean derivative of h_L with respect to h_l at the chosen token position t, over sentences.

    jacobian         J_l = mean of  d h_L[t] / d h_l[t]                             [d, d], at the same position
    jacobian-later   J_l = mean of  sum over t' >= t of  d h_L[t'] / d h_l[t]       in the whole sentence
    jacobian-affine  h -> J_l h + mean h_L - J_l mean h_l                           the first J_l; [d, d + 1]

For a probe v with E[v v^T] = I, the gradient g of v . h_L with respect to h_l has E[v g^T] = J_l. One backward pass
gives g for every l. Probes are orthogonal in blocks of d: over a block, d / P sentences with all their P probes, the
sum of v v^T is exactly d I, so a linear network has no sampling error. Blocks are independent.

`jacobian-later` is the published Jacobian lens (anthropics/jacobian-lens), with the same probe at every position t'.
The published one averages over all positions t but the first 16; here t is the chosen position, which may be the first.
"""

from contextlib import nullcontext
from dataclasses import replace

import torch

from shortcut import Problem
from shortcut.models import Model
from shortcut.representations import Batch


def probes(d: int, n: int, per_sentence: int, seed: int) -> torch.Tensor:
    """Probes V [per_sentence, n, d], float32: rows of random rotations times sqrt(d), assigned sentence by sentence."""
    generator, blocks = torch.Generator().manual_seed(seed), []
    for _ in range(-(-per_sentence * n // d)):
        q, r = torch.linalg.qr(torch.randn(d, d, generator=generator))
        blocks.append(q * r.diagonal().sign() * d**0.5)  # these signs make the rotation uniformly distributed
    return torch.cat(blocks)[: n * per_sentence].view(n, per_sentence, d).transpose(0, 1)


@torch.enable_grad()
def gradients(model: Model, batch: Batch, V: torch.Tensor, chosen: torch.Tensor | None = None) -> torch.Tensor:
    """h_0 ... h_L at the chosen tokens, then the gradients of v . h_L with respect to h_0 ... h_(L-1).

    The result is [L + 1 + P L, b, d] for the probes V [P, b, d] of b sentences. Raises Problem if it is not finite. For
    `jacobian-later`, `chosen` [b] has the chosen positions, and `batch.chosen` the last token of each whole sentence;
    h_L is then the sum over all positions but padding and the tokenizer's own; earlier ones have no derivative.
    """
    passing, L = [], model.n_layers

    def keep(k: int, states: torch.Tensor) -> None:
        passing.append(states if k else states.requires_grad_())

    narrowed = model.narrowed(batch.chosen) if chosen is None else nullcontext()
    with narrowed, model.watch(model.layer_points(), keep):
        model.run(batch.ids, batch.mask)
    if chosen is None:
        final = batch.at_chosen(passing[L])
    else:
        t, (sequences, last) = torch.arange(batch.ids.shape[1]), batch.chosen
        probed = ((t >= batch.head) & (t <= last[:, None])).to(passing[L])  # [b, T]
        final = torch.einsum("bt,btd->bd", probed, passing[L].reshape(*batch.ids.shape, -1))
        batch = replace(batch, chosen=(sequences, chosen))
    found = [batch.at_chosen(states) for states in passing]
    for v in V.to(final):
        found += [batch.at_chosen(g) for g in torch.autograd.grad(final, passing[:L], v, retain_graph=True)]
    made = torch.stack([x.detach().float().cpu() for x in found])
    if len(broken := made.isfinite().all(-1).logical_not().nonzero()):
        k, row = broken[0].tolist()
        what, why = f"the state at layer {k}", "the checkpoint is broken"
        if k > L:
            what, why = f"a gradient at layer {(k - L - 1) % L}", "the Jacobian cannot be computed in this precision"
        raise Problem(f"{model.name}: {what} for sentence {batch.rows[row]} (counted from 0) is not finite: {why}")
    return made


def average(V: torch.Tensor, gradients: list[torch.Tensor]) -> tuple[torch.Tensor, float | None, list[torch.Tensor]]:
    """J [d, d], float64, its standard error, and J from each half of the blocks; None and [] if G < 2.

        J = mean of M_g        error = sqrt( sum over g of || M_g - J ||^2 / (G (G - 1)) )

    M_g is the mean of v g^T over block g: d rows of V [P, n, d] and of the P gradients [n, d] of one layer.
    G = floor(n P / d). Rows after the last full block are left out: they are not orthogonal and would add more variance
    than they remove. If G = 0, all rows are one block. The error covers the sampling of sentences and probes.
    """
    v, g, d = V.transpose(0, 1).flatten(0, 1), torch.stack(gradients, 1).flatten(0, 1), V.shape[2]
    G, sums, squares = len(v) // d, torch.zeros(2, d, d, dtype=torch.float64), 0.0
    for k in range(max(G, 1)):
        rows, theirs = (x[k * d : (k + 1) * d].double() for x in (v, g))
        M = rows.T @ theirs / len(rows)
        sums[int(k >= G // 2)] += M
        squares += M.square().sum().item()
    J = sums.sum(0) / max(G, 1)
    if G < 2:
        return J, None, []
    error = (max(0.0, squares / G - J.square().sum().item()) / (G - 1)) ** 0.5
    return J, error, [sums[0] / (G // 2), sums[1] / (G - G // 2)]


def tangent(J: torch.Tensor, h: torch.Tensor, final: torch.Tensor) -> torch.Tensor:
    """[d, d + 1]: J [d, d] and the constant that takes the mean of h [n, d] to the mean of `final`, h_L [n, d]."""
    return torch.cat([J, (final.double().mean(0) - J @ h.double().mean(0))[:, None]], 1)
