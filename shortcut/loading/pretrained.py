"""Load models and tokenizers by name on the Hugging Face hub or by folder, and check them."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from shortcut import Problem, one_line
from shortcut.loading import checkpoint
from shortcut.models import Model

# Settings that change only the chunks or the extra outputs of a forward pass
PLAIN = {"chunk_size_feed_forward": 0, "return_dict": True}
PLAIN |= dict.fromkeys(("use_cache", "output_attentions", "output_hidden_states"), False)
# Weights that change no prediction: poolers, next-sentence heads, constant tables that older transformers saved.
SPARE = re.compile(
    r"\b(pooler|seq_relationship|masked_bias|(attn|attention)\.bias|position_ids|token_type_ids|inv_freq|version)\b"
)


def load(
    name: str, *, masked: bool, device: str = "cpu", dtype: str = "float32", safetensors_only: bool = True,
    notice: Callable[[str], None] = lambda _: None,
) -> Model:  # fmt: skip
    """Load a pretrained model by name on the hub or by folder, and check that it runs as it was saved.

    device: "spread" spreads the blocks over all devices. dtype: "auto" is the dtype of the checkpoint. Pickles can run
    code, and `safetensors_only` refuses them. `notice` is called with a line for each part that is not run. Raises
    Problem: the model was not found, is no language model or of the other model kind; weights are missing,
    unexpected, stored twice or have another shape or type; or a check fails (see `_prove`).
    """
    import transformers  # noqa: PLC0415

    config = checkpoint.config(name, masked)
    auto = checkpoint.auto_class(config, masked)
    if device == "spread" and not transformers.utils.is_accelerate_available():
        raise Problem("--device spread needs accelerate: .venv/bin/pip install accelerate")
    with checkpoint.readable(name) as cached:
        files = checkpoint.weight_files(name, cached)
        if safetensors_only and ".bin" in files[0]:
            pickles = f"{name} holds its weights as pickles ({Path(files[-1]).name}), and loading these can run code"
            raise Problem(f"{pickles}: if you trust them, set SAFETENSORS_ONLY = False in config.py")
        if any(checkpoint.find(name, cached, "adapter_config.json")):
            adapter = f"{name} holds an adapter (adapter_config.json), and its base model would run without it"
            raise Problem(f"{adapter}: merge the two (peft: merge_and_unload), and save the result")
        with quiet_loading():
            net, report = auto.from_pretrained(
                name,
                dtype=dtype,  # explicit, since transformers 5 keeps the dtype of the checkpoint by default
                device_map="auto" if device == "spread" else None,
                attn_implementation="sdpa" if auto._model_mapping[type(config)]._supports_sdpa else "eager",
                use_safetensors=True if safetensors_only else None,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # `_check_weights` refuses them
                trust_remote_code=False,
                local_files_only=cached,
                **{key: value for key, value in PLAIN.items() if hasattr(config, key)},
            )
        net = net.eval().requires_grad_(False)
        model = Model(net if device == "spread" else net.to(device), masked)
        _check_weights(model, report, files, notice)
        if model.headless:
            notice(f"{name} is an encoder without a masked-LM head: hidden states, maps and r2 only, no predictions")
        if own := {"AutoModel", auto.__name__} & {*(getattr(config, "auto_map", None) or ())}:
            notice(f"{name} has custom code ({min(own)}), which is not run: {type(net).__name__} runs instead")
        for module in net.modules():  # the same function in a fused version, 10% faster
            if type(module) is transformers.activations.NewGELUActivation:
                module.forward = transformers.activations.GELUTanh().forward
        return _prove(model)


def share(net: Any) -> Model:
    """Check a transformers model in memory, as `load` does. The result has the same weights, and `net` is unchanged."""
    if net.get_output_embeddings() is None:
        raise Problem(f"{type(net).__name__} has no head: load it with AutoModelForCausalLM or AutoModelForMaskedLM")
    own = deepcopy(net, {id(weights): weights for weights in (*net.parameters(), *net.buffers())}).eval()
    for holder in (own.config, *own.modules()):  # blocks have taken settings from the config
        for name in (name for name in PLAIN if hasattr(holder, name)):
            setattr(holder, name, PLAIN[name])
    return _prove(Model(own, masked="MaskedLM" in type(net).__name__))


def load_tokenizer(name: str, *, masked: bool):
    """Load a model's tokenizer, from tokenizer.json if it exists. Raises as `load`, or if the vocabulary is empty."""
    from tokenizers import Tokenizer  # noqa: PLC0415
    from transformers import AutoTokenizer, PreTrainedTokenizerFast  # noqa: PLC0415

    checkpoint.config(name, masked)
    with checkpoint.readable(name) as cached:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, local_files_only=cached)
        # The tokenizer class has its own rules for case, numbers and so on, and ignores the rules in the file.
        file = next(checkpoint.find(name, cached, "tokenizer.json", "vocab.txt"), "")
        if file.endswith("tokenizer.json"):
            whole, named = Tokenizer.from_file(file), tokenizer.special_tokens_map.items()
            known = {role: token for role, token in named if whole.token_to_id(str(token)) is not None}
            longest = tokenizer.model_max_length
            tokenizer = PreTrainedTokenizerFast(tokenizer_object=whole, model_max_length=longest, **known)
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # transformers makes a tokenizer even without files
        raise Problem(f"{name}: its tokenizer has an empty vocabulary, expected {', '.join(checkpoint.TOKENIZER)}")
    # a [MASK] that is not in the vocabulary would get a new id, with an untrained embedding
    made_up = file.endswith("vocab.txt") and tokenizer.mask_token not in Path(file).read_text(encoding="utf-8").split()
    if masked and (tokenizer.mask_token_id is None or made_up):
        raise Problem(f"{name}: its tokenizer has no [MASK]; expected the tokenizer of a masked model")
    return tokenizer


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Hide transformers' progress bar and its table of unused weights, which `_check_weights` reports."""
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


def _check_weights(model: Model, report: dict[str, Any], files: list[str], notice: Callable[[str], None]) -> None:
    """Raise Problem unless the model runs with the weights in the files. `report` is returned by `from_pretrained`."""
    from transformers.modeling_utils import load_state_dict  # noqa: PLC0415

    net, base, missing = model.net, model.net.base_model_prefix + ".", report["missing_keys"]
    weights = dict(net.named_parameters(remove_duplicate=False))
    for key, got, expected in sorted(report["mismatched_keys"]):
        sizes = f"{key} is {[*got]}, expected {[*expected]} from config.json"
        raise Problem(f"{model.name}: {sizes}: the config is for another model, or was changed after training")
    # the bias of BERT's head has two names, and older files hold one of them
    for pair in (net._tied_weights_keys or {}).items():
        for here, there in (pair, pair[::-1]):
            if here.endswith(".bias") and here in missing and there not in missing:
                weights[here].data = weights[there].data
                missing.remove(here)
    if lost := sorted(key for key in missing if not SPARE.search(key)):
        model.headless = model.masked and not any(key.startswith(base) for key in lost)
        if not model.headless:
            lacks = f"the checkpoint lacks {len(lost)} of the model's weights (first: {lost[0]})"
            raise Problem(f"{model.name}: {lacks}: it was saved from another model class, or is incomplete")
    if over := sorted(key for key in report["unexpected_keys"] if not SPARE.search(key)):
        inside = [base, *(f"{name}." for part in (net, net.base_model) for name, _ in part.named_children())]
        used = [key for key in over if key.startswith(tuple(inside))]
        holds = f"{model.name} holds {len(used or over)} weights that its class does not have"
        if used:
            raise Problem(f"{holds} (first: {used[0]}): the saved model is not the one that would run")
        notice(f"{holds} and that are not run (first: {over[0]})")
    names: dict[str, str] = {}  # names in the file, keyed by the names in the model
    for file in (file for file in files if not file.endswith(".json")):
        for key, tensor in load_state_dict(file, map_location="meta").items():
            name = key.removeprefix(base).replace(".gamma", ".weight").replace(".beta", ".bias")
            if (first := names.setdefault(name, key)) != key:
                raise Problem(f"{model.name} holds a weight twice, as {first} and {key}: remove the wrong one")
            if not tensor.is_floating_point() and {key, base + key} & weights.keys():
                holds = f"{model.name} holds {key} as {str(tensor.dtype)[6:]}"
                raise Problem(f"{holds}, without the scales to dequantize it: expected floating point")


@torch.no_grad()
def _prove(model: Model) -> Model:
    """Return the model if what the method assumes about it holds on a dummy batch, else raise Problem.

    Reading out h_L, and resuming the forward pass from any h_l, must give the model's logits. Padding must change
    nothing. Hidden states depend on following tokens in a masked model only: the sentences differ in the last token.
    """
    ids = model.sample()
    T, mask, h = ids.shape[1], torch.ones_like(ids), {}
    with model.watch(model.layer_points(), lambda k, x: h.update({k: x.clone()})):  # some blocks work in place
        logits = model.net(input_ids=ids, attention_mask=mask).logits
    if not torch.isfinite(logits).all():
        broken = (f"weights {name}" for name, x in model.net.named_parameters() if not x.isfinite().all())
        raise Problem(f"{model.name}: its {next(broken, 'logits')} are not finite; the checkpoint is broken")

    precision, L = torch.finfo(h[0].dtype).eps, model.n_layers
    tolerance = 1e-4 if precision < 1e-6 else 8 * precision * max(1.0, h[L].abs().max().item())

    def apart(ours: torch.Tensor, own: torch.Tensor) -> float:
        ours, own = ours.to(own.device).float(), own.float()
        return ((ours - own).abs() / (1 + own.abs())).max().item()

    try:
        found = {"the logits read out of h_L": apart(model.read_out(h[L]), logits)}
        for layer in range(L):
            with model.going_on(layer, h[layer]):
                ours = model.net(input_ids=ids, attention_mask=mask).logits
            found[f"the logits after resuming from layer {layer}"] = apart(ours, logits)
    except Exception as error:  # for hidden states of another shape than [b, T, d], or None for other outputs
        raise Problem(f"{model.name} cannot run with its blocks skipped ({one_line(error)})") from error
    if T > 1 and (apart(*h[L][:, :-1]) > tolerance) != model.masked:
        model_kind, does = ("masked", "do not depend") if model.masked else ("causal", "depend")
        raise Problem(f"{model.name}: hidden states {does} on following tokens, unlike in a {model_kind} model")
    padded = torch.nn.functional.pad(ids, (0, min(2, model.context - T)), value=model.padding)
    shown = torch.nn.functional.pad(mask, (0, padded.shape[1] - T))
    (last,) = model.record([(model.blocks[-1], "out")], padded, shown if model.masked else None)
    found["the hidden states of padded sentences"] = apart(last[:, :T], h[L])
    for what, distance in found.items():
        if not distance <= tolerance:  # also if it is not a number
            differ = f"{what} differ by {distance:.2g} from the full forward pass"
            raise Problem(f"{model.name}: {differ}, so linear shortcuts cannot be evaluated in this model")
    return model
