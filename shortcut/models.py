"""Everything known about model architectures: loading, where to look in, how to read out.

The only file that imports transformers. A family of models is a row of `FAMILIES`, keyed by Hugging
Face's `config.model_type`; a new one is a new row. The library's own forward pass runs (only GPT-2's
activation is exchanged for the same function, fused): states are seen by hooks (`Model.watch`),
sub-modules are exchanged for linear maps by swapping the child (`Model.replace`), both undone when
their `with` block ends.

Layers are numbered as in the paper: h_0 is what enters the first block, h_l what leaves block l - 1
(0-based), h_L what leaves the last one, before any final norm.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from transformers.utils import cached_file
from transformers.utils import logging as hf_logging

from shortcut import Problem


@dataclass(frozen=True)
class Family:
    """Where things are in one architecture; every name is a dotted path.

    Attributes:
        auto: the class of transformers that loads it with its head.
        blocks: from the model to its list of blocks.
        read_out: modules that turn h_L into logits, in order.
        masked: predicts masked tokens from both sides (BERT) rather than the next one (GPT-2).
        points: states 0 ... 6 inside a block, as (child of the block, "in" or "out"); () if not mapped.
        parts: the child that makes state a from state a - 1, by a.
    """

    auto: type
    blocks: str
    read_out: tuple[str, ...]
    masked: bool
    points: tuple[tuple[str, str], ...] = ()
    parts: Mapping[int, str] | None = None


FAMILIES = {
    "gpt2": Family(
        auto=transformers.AutoModelForCausalLM,
        blocks="transformer.h",
        read_out=("transformer.ln_f", "lm_head"),
        masked=False,
        points=(
            ("", "in"), ("ln_1", "out"), ("attn", "out"), ("ln_2", "in"), ("ln_2", "out"), ("mlp", "out"), ("", "out"),
        ),
        parts={1: "ln_1", 2: "attn", 4: "ln_2", 5: "mlp"},
    ),
    "bert": Family(
        auto=transformers.AutoModelForMaskedLM,
        blocks="bert.encoder.layer",
        read_out=("cls",),
        masked=True,
    ),
}  # fmt: skip

# What a model's fingerprint is taken of; of the weights, the first that is there.
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
)

Point = tuple[nn.Module, str]  # a module, and whether its input ("in") or its output ("out") is meant
Keep = Callable[[int, torch.Tensor], None]


class LinearPart(nn.Module):
    """A sub-module replaced by its map: x -> A x, at every position."""

    def __init__(self, A: torch.Tensor, as_tuple: bool):
        super().__init__()
        self.register_buffer("A", A)
        self.as_tuple = as_tuple  # attention returns its weights beside its output

    def forward(self, x: torch.Tensor, *args, **kwargs):
        """A x, in the form the sub-module it stands for would return it."""
        y = x @ self.A.T
        return (y, None) if self.as_tuple else y


class Model:
    """A loaded transformer, in float32 and evaluation mode.

    Attributes:
        net: the model of transformers.
        name: what it was loaded by.
        family: its row of `FAMILIES`.
        blocks: its L blocks.
        d: width of the states.
        context: the longest sequence it takes, in tokens.
    """

    def __init__(self, net: nn.Module, family: Family):
        self.net = net
        self.name = net.config.name_or_path
        self.family = family
        self.blocks = net.get_submodule(family.blocks)
        self.read_outs = [net.get_submodule(path) for path in family.read_out]
        self.d = net.config.hidden_size
        self.context = net.config.max_position_embeddings
        self.vocabulary = net.config.vocab_size
        # Any token will do behind a causal prefix, but transformers warns about the one called padding.
        self.padding = net.config.pad_token_id or 0 if family.masked else int(net.config.pad_token_id == 0)

    @property
    def n_layers(self) -> int:
        """L, the number of blocks."""
        return len(self.blocks)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.net.parameters()).device

    def run(self, ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """The library's own forward pass up to the head, which would cost most and is not needed."""
        return self.net.base_model(input_ids=ids, attention_mask=mask, use_cache=False)[0]

    def read_out(self, h: torch.Tensor) -> torch.Tensor:
        """Logits [..., v] of states [..., d], read like h_L: final norm and unembedding, or BERT's whole head."""
        for module in self.read_outs:
            h = module(h)
        return h

    def layer_points(self) -> list[Point]:
        """Where h_0 ... h_L can be seen."""
        return [(self.blocks[0], "in"), *((block, "out") for block in self.blocks)]

    def part_points(self) -> list[Point]:
        """Where the states 0 ... 6 of every block can be seen; state 6 of a block is state 0 of the next.

        So there are 6 L + 1 points, and state a of block i is number 6 i + a.

        Raises:
            Problem: the family's sub-modules are not mapped.
        """
        if not self.family.points:
            raise Problem(f"the sub-modules of {self.net.config.model_type} models are not mapped: use a GPT-2 model")
        inner = [(block.get_submodule(name), side) for block in self.blocks for name, side in self.family.points[:-1]]
        return [*inner, (self.blocks[-1], "out")]

    @contextmanager
    def watch(self, points: list[Point], keep: Keep) -> Iterator[None]:
        """Within, `keep(k, tensor)` is called with what passes point k, [b, T, d], as the model runs."""
        handles = []
        try:
            for k, (module, side) in enumerate(points):
                if side == "in":
                    handles.append(module.register_forward_pre_hook(lambda _, args, k=k: keep(k, args[0])))
                else:
                    handles.append(module.register_forward_hook(lambda _, args, out, k=k: keep(k, _tensor(out))))
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def replace(self, maps: Mapping[tuple[int, int], torch.Tensor]) -> Iterator[None]:
        """Within, the sub-module of block i that makes state a is x -> A x, for every {(i, a): A}."""
        with ExitStack() as undo:
            for (i, a), A in maps.items():
                block, name = self.blocks[i], self.family.parts[a]
                undo.callback(setattr, block, name, block.get_submodule(name))
                setattr(block, name, LinearPart(A.to(self.device), as_tuple=name == "attn"))
            yield


def _tensor(output) -> torch.Tensor:
    """What a module put out: attention returns a tuple, blocks did before transformers 5."""
    return output[0] if isinstance(output, tuple) else output


def load(
    name: str, *, masked: bool, layers: int | None = None, device: str = "cpu", safetensors_only: bool = True
) -> Model:
    """Load a pretrained model by its name on the hub or its folder, and check that it reads out as it should.

    Args:
        name: name or folder.
        masked: whether a masked language model is wanted (the BERT scripts) or a causal one.
        layers: the number of blocks it must have, if known.
        device: where to put it.
        safetensors_only: refuse checkpoints in pickle format, which can run code.

    Raises:
        Problem: not to be found, another family, masked where causal is wanted or the reverse, another
            number of layers, missing weights, or a read-out of h_L that differs from the model's logits.
    """
    n_layers(name, masked=masked, expected=layers)
    family, _ = _family(name, masked)
    with _readable(name), _quiet_loading():
        net, report = family.auto.from_pretrained(
            name,
            dtype=torch.float32,  # said explicitly: transformers 5 would run a half-precision checkpoint in half
            attn_implementation="sdpa",
            use_safetensors=True if safetensors_only else None,
            output_loading_info=True,
            trust_remote_code=False,
        )
    if missing := sorted(k for k in report["missing_keys"] if "pooler" not in k):
        raise Problem(
            f"{name}: the checkpoint lacks {len(missing)} of the model's weights (first: {missing[0]}):"
            " it was saved from another kind of model, or not whole"
        )
    for module in net.modules():  # the same function, fused: a tenth faster
        if type(module) is transformers.activations.NewGELUActivation:
            module.forward = transformers.activations.GELUTanh().forward
    model = Model(net.to(device).eval().requires_grad_(False), family)
    _check_read_out(model, name)
    return model


def n_layers(name: str, *, masked: bool, expected: int | None = None) -> int:
    """The number of blocks of a model, from its config alone. Raises as `load`, also if it is not as expected."""
    layers = _family(name, masked)[1].num_hidden_layers
    if expected is not None and layers != expected:
        raise Problem(f"{name} has {layers} layers, config.py says {expected}: correct LAYERS in config.py")
    return layers


def load_tokenizer(name: str, *, masked: bool):
    """The stock tokenizer of a model, and the longest sequence the model takes. Raises as `load`."""
    _, config = _family(name, masked)
    with _readable(name):
        return transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False), config.max_position_embeddings


def mask_token(tokenizer, name: str) -> int:
    """The number of [MASK]; raises Problem if the tokenizer has none."""
    if tokenizer.mask_token_id is None:
        raise Problem(f"{name}: its tokenizer has no [MASK]; expected a masked model's own tokenizer")
    return tokenizer.mask_token_id


def fingerprint(name: str, kind: str) -> str:
    """SHA-256 over a model's files of one kind ("weights", "tokenizer"), found without loading it.

    The weights go with the settings in config.json that they are run with.

    Raises:
        Problem: not to be found.
    """
    digest = hashlib.sha256()
    with _readable(name):
        if kind == "weights":
            config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False).to_dict()
            for key in ("_name_or_path", "transformers_version", "dtype"):
                config.pop(key, None)
            digest.update(json.dumps(config, sort_keys=True, default=str).encode())
        names = WEIGHTS if kind == "weights" else TOKENIZER
        found = (cached_file(name, file, _raise_exceptions_for_missing_entries=False) for file in names)
        files = [path for path in found if path] if kind == "tokenizer" else [*islice(filter(None, found), 1)]
        if not files:
            raise Problem(f"{name!r} holds no {kind}: expected {', '.join(names)}")
        if files[0].endswith(".index.json"):
            shards = sorted(set(json.loads(Path(files[0]).read_text())["weight_map"].values()))
            files += [cached_file(name, shard) for shard in shards]
        for path in files:
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _family(name: str, masked: bool):
    with _readable(name):
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise Problem(
            f"{name} is a {config.model_type!r} model; known are {', '.join(FAMILIES)}."
            " Add a row to FAMILIES in shortcut/models.py for another"
        )
    if family.masked != masked:
        kind, others = ("masked", "the bert_ scripts") if family.masked else ("causal", "the scripts without bert_")
        raise Problem(f"{name} is a {kind} language model ({config.model_type}): use {others}")
    return family, config


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Turn what loading raises for a bad name, a missing file or no network into one line."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if Path(name).is_dir():
            hint = "expected a folder with config.json, tokenizer.json and model.safetensors"
        else:
            hint = "not a folder here, and not to be had from the Hugging Face hub"
        raise Problem(f"cannot load {name!r} ({hint}): {_first_sentence(error)}") from error


def _first_sentence(error: Exception) -> str:
    return " ".join(str(error).split()).split(". ")[0][:300]


NEEDLESS_MESSAGES = {  # of transformers, by the logger that gives them, while a model loads
    "transformers.modeling_utils": "a table of unused weights: BERT's pooler and next-sentence head, GPT-2's masks;"
    " `load` checks for missing ones itself",
    "transformers.distributed.tensor_parallel": "a plan to spread layers over GPUs is checked though nothing is spread",
}


@contextmanager
def _quiet_loading() -> Iterator[None]:
    """Without `NEEDLESS_MESSAGES`, and without a progress bar for a second's reading."""
    loggers = [logging.getLogger(name) for name in NEEDLESS_MESSAGES]
    levels = [logger.level for logger in loggers]
    bars = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            hf_logging.enable_progress_bar()


def _check_read_out(model: Model, name: str) -> None:
    """On a dummy batch: reading out the state caught after the last block gives the model's own logits."""
    ids = (torch.arange(8, device=model.device) % model.vocabulary).reshape(2, 4)
    final = []
    with torch.inference_mode(), model.watch([(model.blocks[-1], "out")], lambda _, h: final.append(h)):
        logits = model.net(input_ids=ids).logits
    with torch.inference_mode():
        ours = model.read_out(final[0])
    if not torch.isfinite(logits).all():
        raise Problem(f"{name}: its logits are not finite; the checkpoint is broken")
    if not torch.allclose(ours, logits, atol=1e-4, rtol=1e-4):
        raise Problem(
            f"{name}: reading out its last state differs from its own logits by {(ours - logits).abs().max():.2g};"
            " it is not built like the family its config names"
        )
