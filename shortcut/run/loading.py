"""Models and tokenizers by their names on the Hugging Face hub or their folders, each checked as it is loaded."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from shortcut import Problem
from shortcut.models import Model
from shortcut.run import checkpoint


def load(name: str, *, masked: bool, device: str = "cpu", safetensors_only: bool = True) -> Model:
    """Load a pretrained model by its name on the hub or its folder, and check that it reads out as it should.

    With `safetensors_only` checkpoints in pickle format, which can run code, are refused.

    Raises:
        Problem: not to be found, another family, masked where causal is wanted or the reverse, missing
            weights, or a read-out of h_L that differs from the model's logits.
    """
    import transformers  # noqa: PLC0415

    family, _ = checkpoint.family(name, masked)
    with checkpoint.readable(name) as cached, _quiet_loading():
        net, report = getattr(transformers, family.auto).from_pretrained(
            name,
            dtype=torch.float32,  # said explicitly: transformers 5 would run a half-precision checkpoint in half
            attn_implementation="sdpa",
            use_safetensors=True if safetensors_only else None,
            output_loading_info=True,
            trust_remote_code=False,
            local_files_only=cached,
        )
    if missing := sorted(k for k in report["missing_keys"] if "pooler" not in k):
        lacks = f"the checkpoint lacks {len(missing)} of the model's weights (first: {missing[0]})"
        raise Problem(f"{name}: {lacks}: it was saved from another kind of model, or not whole")
    for module in net.modules():  # the same function, fused: a tenth faster
        if type(module) is transformers.activations.NewGELUActivation:
            module.forward = transformers.activations.GELUTanh().forward
    model = Model(net.to(device).eval().requires_grad_(False), family)
    _check_read_out(model)
    return model


def load_tokenizer(name: str, *, masked: bool):
    """The stock tokenizer of a model; a masked model's knows its [MASK]. Raises as `load`."""
    from transformers import AutoTokenizer  # noqa: PLC0415

    checkpoint.family(name, masked)
    if checkpoint.fingerprint(name, "tokenizer") is None:  # transformers would make one that knows no word
        raise Problem(f"{name!r} holds no tokenizer: expected {', '.join(checkpoint.TOKENIZER)}")
    with checkpoint.readable(name) as cached:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, local_files_only=cached)
    if masked and tokenizer.mask_token_id is None:
        raise Problem(f"{name}: its tokenizer has no [MASK]; expected a masked model's own tokenizer")
    return tokenizer


@contextmanager
def _quiet_loading() -> Iterator[None]:
    """Without a progress bar for a second's reading, and without the library's table of unused weights."""
    from transformers.utils import logging  # noqa: PLC0415

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _check_read_out(model: Model) -> None:
    """On a dummy batch: reading out the state caught after the last block gives the model's own logits."""
    ids = (torch.arange(8, device=model.device) % model.vocabulary).reshape(2, 4)
    final = []
    with torch.no_grad():
        with model.watch([(model.blocks[-1], "out")], lambda _, h: final.append(h)):
            logits = model.net(input_ids=ids, use_cache=False).logits
        ours = model.read_out(final[0])
    if not torch.isfinite(logits).all():
        broken = next((weights for weights, values in model.net.named_parameters() if not values.isfinite().all()), "")
        what = f"its weights {broken} are" if broken else "its logits are"
        raise Problem(f"{model.name}: {what} not finite; the checkpoint is broken")
    if not torch.allclose(ours, logits, atol=1e-4, rtol=1e-4):
        apart = f"differs from its own logits by {(ours - logits).abs().max():.2g}"
        raise Problem(
            f"{model.name}: reading out its last state {apart}; it is not built like the family its config names"
        )
