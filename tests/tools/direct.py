"""The direct way: one sentence, one layer, one lambda at a time, in the equations of the paper.

What the pipeline's batches and tables must agree with (tests), and what they are faster than (bench.py).
"""

import torch

from shortcut.models import Model


@torch.no_grad()
def states(model: Model, ids: torch.Tensor, t: int, points: list) -> torch.Tensor:
    """States [k, d] at position t of one whole sentence."""
    seen = {}
    with model.watch(points, seen.__setitem__):
        model.run(ids[None], None)
    return torch.stack([seen[k][0, t] for k in range(len(points))])


def block(module, x: torch.Tensor, maps: dict[int, torch.Tensor]) -> torch.Tensor:
    """One block of GPT-2, with x -> A x for the sub-modules that make the states a in {a: A}."""

    def part(a, y):
        own = {1: module.ln_1, 2: lambda z: module.attn(z)[0], 4: module.ln_2, 5: module.mlp}[a]
        return y @ maps[a].T if a in maps else own(y)

    x = x + part(2, part(1, x))
    return x + part(5, part(4, x))


@torch.no_grad()
def approximation(model: Model, ids: torch.Tensor, t: int, layer: int, maps: dict) -> torch.Tensor:
    """h_L [d] with the parts of {(block, state): A} replaced from `layer` on; the blocks before it are the model's."""
    x = model.net.transformer.wte(ids[None]) + model.net.transformer.wpe.weight[: len(ids)]
    for i, module in enumerate(model.blocks):
        replaced = {a: A for (j, a), A in maps.items() if j == i >= layer}
        x = block(module, x, replaced) if replaced else module(x)
    return x[0, t]


@torch.no_grad()
def early_exit(
    model: Model, ids: torch.Tensor, t: int, threshold: float, jumps: list[torch.Tensor] | None
) -> tuple[int, torch.Tensor]:
    """Block after block, read out, compare, stop: the layer, and the ten best tokens. jumps None: id."""
    x = model.net.transformer.wte(ids[None]) + model.net.transformer.wpe.weight[: len(ids)]
    for layer, module in enumerate(model.blocks, 1):
        x = module(x)
        last = layer == model.n_layers
        state = x[0, t] if last or jumps is None else jumps[layer] @ x[0, t]
        top = model.read_out(state).softmax(-1).topk(10)
        if last or top.values[0] - top.values[1] > threshold:
            return layer, top.indices
    raise AssertionError("no blocks")


@torch.no_grad()
def alternation(model: Model, ids: torch.Tensor, t: int, schedule: tuple, maps: dict) -> torch.Tensor:
    """h_L [d] by a schedule: the library's own forward pass, with A_ij h_i for what block j - 1 puts out."""
    entered, last = {}, {}

    def enters(i):
        return lambda _, args, kwargs: entered.update({i: args[0] if args else kwargs["hidden_states"]})

    def leaves(i, j):
        def put(_, args, output):
            h = entered[i].reshape(1, -1, model.d) @ maps[i, j].T
            return (h, *output[1:]) if isinstance(output, (tuple, list)) else h

        return put

    def keep(_, args, output):
        last[0] = output[0] if isinstance(output, (tuple, list)) else output

    hooks = []
    for i, j in schedule:
        hooks.append(model.blocks[i].register_forward_pre_hook(enters(i), with_kwargs=True))
        hooks.append(model.blocks[j - 1].register_forward_hook(leaves(i, j)))
    hooks.append(model.blocks[-1].register_forward_hook(keep))
    try:
        model.net(input_ids=ids[None], use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return last[0].reshape(-1, model.d)[t]
