"""Everything known about model architectures: loading, where to look in, how to read out.

The only file that imports transformers. A family of models is a row of `FAMILIES`, keyed by Hugging
Face's `config.model_type`; a new one is a new row. The library's own forward pass runs (only GPT-2's
activation is exchanged for the same function, fused): states are seen by hooks (`Model.watch`),
sub-modules are exchanged for linear maps by swapping the child (`Model.swapped`), and the last block
is spared what nobody reads (`Model.narrowed`), all undone when their `with` block ends.

Layers are numbered as in the paper: h_0 is what enters the first block, h_l what leaves block l - 1
(0-based), h_L what leaves the last one, before any final norm.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from transformers.utils import cached_file, has_file
from transformers.utils import hub as hf_hub
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
        pointwise: children of a block that work position by position and bear most of its cost.
        points: states 0 ... 6 inside a block, as (child of the block, "in" or "out"); () if not mapped.
        parts: the child that makes state a from state a - 1, by a.
        followers: the linear layer that alone reads state a, by a; a map to state a is folded into it.
    """

    auto: type
    blocks: str
    read_out: tuple[str, ...]
    masked: bool
    pointwise: tuple[str, ...]
    points: tuple[tuple[str, str], ...] = ()
    parts: Mapping[int, str] | None = None
    followers: Mapping[int, str] | None = None


FAMILIES = {
    "gpt2": Family(
        auto=transformers.AutoModelForCausalLM,
        blocks="transformer.h",
        read_out=("transformer.ln_f", "lm_head"),
        masked=False,
        pointwise=("attn.c_proj", "mlp"),
        points=(
            ("", "in"), ("ln_1", "out"), ("attn", "out"), ("ln_2", "in"), ("ln_2", "out"), ("mlp", "out"), ("", "out"),
        ),
        parts={1: "ln_1", 2: "attn", 4: "ln_2", 5: "mlp"},
        followers={1: "attn.c_attn", 4: "mlp.c_fc"},
    ),
    "bert": Family(
        auto=transformers.AutoModelForMaskedLM,
        blocks="bert.encoder.layer",
        read_out=("cls",),
        masked=True,
        pointwise=("attention.output.dense", "intermediate", "output.dense"),
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
Swap = tuple[nn.Module, str, nn.Module]  # a module, the name of its child, what stands in for the child
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
    def narrowed(self, last: torch.Tensor) -> Iterator[None]:
        """Within, the last block computes for the chosen positions [b] alone what it computes position by position.

        Nothing reads the other positions of h_L: they come out wrong.
        """
        handles = []

        def chosen(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.arange(len(x), device=x.device), last.to(x.device)

        for name in self.family.pointwise:
            module, shape = self.blocks[-1].get_submodule(name), []

            def narrow(_, args, shape=shape):
                shape[:] = args[0].shape[:2]
                return (args[0][chosen(args[0])],)

            def widen(_, args, out, shape=shape):
                whole = out.new_zeros(*shape, out.shape[-1])
                whole[chosen(whole)] = out
                return whole

            handles += [module.register_forward_pre_hook(narrow), module.register_forward_hook(widen)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def swaps(self, maps: Mapping[tuple[int, int], torch.Tensor]) -> list[Swap]:
        """What makes the sub-module of block i that makes state a into x -> A x, for every {(i, a): A}.

        Where a linear layer alone reads state a, and is not replaced itself, the map goes into its
        weights, W A for W, which saves the product.
        """
        result = []
        for (i, a), A in maps.items():
            block, name = self.blocks[i], self.family.parts[a]
            if a in self.family.followers and (i, a + 1) not in maps:
                path, _, follower = self.family.followers[a].rpartition(".")
                parent = block.get_submodule(path)
                result.append((block, name, nn.Identity()))
                result.append((parent, follower, _folded(parent.get_submodule(follower), A.to(self.device))))
            else:
                result.append((block, name, LinearPart(A.to(self.device), as_tuple=name == "attn")))
        return result

    @contextmanager
    def swapped(self, swaps: Sequence[Swap]) -> Iterator[None]:
        """Within, the children named in `swaps` stand in for the model's own."""
        with ExitStack() as undo:
            for parent, name, child in swaps:
                undo.callback(setattr, parent, name, parent.get_submodule(name))
                setattr(parent, name, child)
            yield


def _folded(layer: nn.Module, A: torch.Tensor) -> nn.Module:
    """The layer x -> layer(A x); its weight is stored transposed, [in, out], as GPT-2's are."""
    whole = transformers.pytorch_utils.Conv1D(layer.nf, layer.nx).to(A.device)
    whole.weight = nn.Parameter((A.T.double() @ layer.weight.double()).float(), requires_grad=False)
    whole.bias = layer.bias
    return whole


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
    with _readable(name) as cached, _quiet_loading():
        net, report = family.auto.from_pretrained(
            name,
            dtype=torch.float32,  # said explicitly: transformers 5 would run a half-precision checkpoint in half
            attn_implementation="sdpa",
            use_safetensors=True if safetensors_only else None,
            output_loading_info=True,
            trust_remote_code=False,
            local_files_only=cached,
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


def is_masked(name: str) -> bool:
    """Whether a model predicts masked tokens, from its config alone; of an unknown family it is not."""
    with _readable(name) as cached:
        family = FAMILIES.get(_config(name, cached).model_type)
    return family is not None and family.masked


def load_tokenizer(name: str, *, masked: bool):
    """The stock tokenizer of a model, and the longest sequence the model takes. Raises as `load`."""
    _, config = _family(name, masked)
    with _readable(name) as cached:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False, local_files_only=cached)
    return tokenizer, config.max_position_embeddings


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
    with _readable(name) as cached:
        if kind == "weights":
            config = _config(name, cached).to_dict()
            for key in ("_name_or_path", "transformers_version", "dtype"):
                config.pop(key, None)
            digest.update(json.dumps(config, sort_keys=True, default=str).encode())
        names = WEIGHTS if kind == "weights" else TOKENIZER
        found = (
            cached_file(name, file, local_files_only=cached, _raise_exceptions_for_missing_entries=False)
            for file in names
        )
        files = [path for path in found if path] if kind == "tokenizer" else [*islice(filter(None, found), 1)]
        if not files:
            raise Problem(f"{name!r} holds no {kind}: expected {', '.join(names)}")
        if files[0].endswith(".index.json"):
            shards = sorted(set(json.loads(Path(files[0]).read_text())["weight_map"].values()))
            files += [cached_file(name, shard, local_files_only=cached) for shard in shards]
        for path in files:
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _config(name: str, cached: bool):
    return transformers.AutoConfig.from_pretrained(name, trust_remote_code=False, local_files_only=cached)


def _family(name: str, masked: bool):
    with _readable(name) as cached:
        config = _config(name, cached)
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
def _readable(name: str) -> Iterator[bool]:
    """Turn what loading raises for a bad name, a missing file or no network into one line.

    Yields whether there is only what was downloaded before, for want of a network.
    """
    cached = not Path(name).is_dir() and not _is_reached(name)
    if cached and not has_file(name, "config.json", local_files_only=True):
        offline = hf_hub.is_offline_mode()
        reason = "HF_HUB_OFFLINE is set" if offline else "the Hugging Face hub cannot be reached or lacks it"
        raise Problem(
            f"cannot load {name!r}: not a folder here, not downloaded before, and {reason}: try again with a network,"
            " or take --model FOLDER, such as the embedded models/gpt2-docstrings or models/bert-docstrings"
        )
    try:
        yield cached
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if Path(name).is_dir():
            hint = "expected a folder with config.json, tokenizer.json and model.safetensors"
        else:
            hint = "not a folder here, and not to be had from the Hugging Face hub"
        raise Problem(f"cannot load {name!r} ({hint}): {_first_sentence(error)}") from error


@cache
def _is_reached(name: str) -> bool:
    """Whether the hub answers for a model: asked once, since loading asks for half a minute a file."""
    logger = logging.getLogger(hf_hub.__name__)
    logger.disabled = True  # it prints what it raises
    try:
        return has_file(name, "config.json", cache_dir=os.devnull)  # which is empty: a cached file is no answer
    except hf_hub.httpx.HTTPError:  # a proxy that is not there
        return False
    except (OSError, ValueError):  # a name the hub does not know or keeps from us: loading tells which
        return True
    finally:
        logger.disabled = False


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
    with torch.no_grad(), model.watch([(model.blocks[-1], "out")], lambda _, h: final.append(h)):
        logits = model.net(input_ids=ids, use_cache=False).logits
    with torch.no_grad():
        ours = model.read_out(final[0])
    if not torch.isfinite(logits).all():
        raise Problem(f"{name}: its logits are not finite; the checkpoint is broken")
    if not torch.allclose(ours, logits, atol=1e-4, rtol=1e-4):
        raise Problem(
            f"{name}: reading out its last state differs from its own logits by {(ours - logits).abs().max():.2g};"
            " it is not built like the family its config names"
        )
