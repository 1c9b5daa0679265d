"""`python -m shortcut shorten`: fold, save, load again, compare and report. The folder gets its name at the end."""

import json
import os
import re
import shutil
import tempfile
from argparse import Namespace
from dataclasses import replace
from math import exp
from pathlib import Path
from typing import Any

import torch

from shortcut import Problem, shorten
from shortcut.blocks import swapped
from shortcut.files import formats
from shortcut.intervals import average
from shortcut.loading import checkpoint, pretrained
from shortcut.models import Model
from shortcut.pipeline import terminal
from shortcut.pipeline.manifest import Provenance
from shortcut.representations import batches
from shortcut.tokens import Tokenized

TOKENS = 2048  # in a batch
PART = 500  # training sentences on which the ranges of --blocks are compared
TOLERANCE = 1e-4  # of the largest logit, between the saved model and the model run here without the blocks
FILES = (*checkpoint.TOKENIZER, *checkpoint.OTHER_TOKENIZER, "generation_config.json", "chat_template.jinja")
# Lists in a config with an entry for each block, and lists of block numbers; others may have L entries by chance.
BY_BLOCK = ("layer_types", "mlp_layer_types", "no_rope_layers", "layers_block_type", "attention_layers")
NUMBERS = ("attn_layer_indices", "full_attn_idxs", "mlp_only_layers")


def run(args: Namespace) -> None:
    """Shorten a model as the options say. Raises Problem if an input is missing or the model cannot be shortened."""
    files = checkpoint.files_of(args.model, args.dataset, args.out)
    paths = [files.split(split) for split in ("train", "val")]
    if files.masked:
        raise Problem(f"{files.given} is a masked model: only causal models can be shortened")
    if args.to.exists() or args.to.is_symlink():
        raise Problem(f"{args.to} exists already: give --to another name, or remove it")
    if args.drop and not re.fullmatch(r"\d+:\d+", args.drop):
        raise Problem(f"--drop takes I:J, such as 4:5, got {args.drop!r}")
    for path in (path for path in paths if not path.exists()):
        raise files.not_found(path, files.command("add_tokenization.py", path))
    provenance = Provenance.of_model(files, files.given)
    provenance.check(paths, terminal.say)
    model = pretrained.load(files.given, masked=False, notice=terminal.say)
    train, val = (shorten.whole(formats.load_tokenized(path)) for path in paths)
    if args.drop:
        drops = [range(*map(int, args.drop.split(":")))]
    else:
        drops = [range(i, i + args.blocks) for i in range(1, max(2, model.n_layers - args.blocks + 1))]
    best = search(model, drops, train)
    runs = {"whole model": (model, []), "blocks dropped alone": (model, shorten.passed_over(model, best.drop))}
    if (path := files.matrix(best.drop.start, best.drop.stop)).exists():
        provenance.check([path], terminal.say)
        A = formats.load_map(files, best.drop.start, best.drop.stop, model.d)
        runs["full map A"] = (model, shorten.passed_over(model, best.drop, A, val.added))
    parent, prefix, suffix = args.to.resolve().parent, f".{args.to.name}.", ".unfinished"
    parent.mkdir(parents=True, exist_ok=True)
    for left_by_killed_run in parent.glob(f"{prefix}*{suffix}"):
        shutil.rmtree(left_by_killed_run)
    with tempfile.TemporaryDirectory(suffix, prefix, parent) as folder:
        shorter = save(model, best, saved := Path(folder, "model"))
        nats, seconds, groups = shorten.surprisals(runs | {"folded": (shorter, [])}, batches(model, val, TOKENS))
        rows = []
        for run_name, x in nats.items():
            (p, low, high), apart = map(exp, average(x, groups)), average(x - nats["folded"], groups)
            paired = f"{apart.mean:+.4f} ±{apart.mean - apart.low:.4f}"
            milliseconds = f"{1000 * seconds[run_name] / len(x):.3f}"
            rows.append(f"| {run_name} | {p:.2f} [{low:.2f}, {high:.2f}] | {paired} | {milliseconds} |")
        gain = average(nats["blocks dropped alone"] - nats["folded"], groups)
        card = Path(__file__).with_name("shortened.md").read_text(encoding="utf-8").format(
            model=files.hub_name, dataset=files.dataset, drop=best.drop,
            verdict="Do not use this model: it is not better than" if gain.low <= 0 else "This model is better than",
            before=model.net.num_parameters(), after=shorter.net.num_parameters(), rows="\n".join(rows),
            n=len(groups), sentences=len(val),
        )  # fmt: skip
        (saved / "README.md").write_text(card, encoding="utf-8")
        os.rename(saved, args.to)
    terminal.say(f"{card}\nwrote {args.to}")


def search(model: Model, drops: list[range], train: Tokenized) -> shorten.Shortened:
    """The shortened model with the lowest perplexity on `PART` training sentences; there is one for each range."""
    found = shorten.shorten(model, drops, batches(model, train, TOKENS))
    if len(found) == 1:
        return found[0]
    part = replace(train, sentences=train.sentences[:PART], positions=train.positions[:PART])
    nats, _, _ = shorten.surprisals({each: (model, each.swaps(model)) for each in found}, batches(model, part, TOKENS))
    for each, x in nats.items():
        terminal.say(f"  without {each.drop.start}:{each.drop.stop}: perplexity {exp(x.mean()):.2f} in training")
    return min(found, key=lambda each: nats[each].mean())


@torch.no_grad()
def save(model: Model, shortened: shorten.Shortened, folder: Path) -> Model:
    """Save the checkpoint in its own precision, and load it. Raises Problem if its logits are not those expected."""
    names, drop = {module: name for name, module in model.net.named_modules()}, shortened.drop
    with checkpoint.readable(model.name) as cached, pretrained.quiet_loading():
        net = type(model.net).from_pretrained(model.name, dtype="auto", local_files_only=cached)
        own = json.loads(Path(next(checkpoint.find(model.name, cached, "config.json"))).read_bytes())
        content = json.dumps(settings(own, net.config, [k for k in range(model.n_layers) if k not in drop]), indent=2)
        layer = net.get_submodule(names[shortened.layer])
        for weight, folded in zip(layer.parameters(), shortened.folded.parameters(), strict=True):
            folded.copy_(weight.copy_(folded))  # both rounded to the checkpoint's precision
        del net.get_submodule(names[model.blocks])[drop.start : drop.stop]
        net.save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)  # transformers makes one
        for file in checkpoint.find(model.name, cached, *FILES):
            shutil.copyfile(file, folder / Path(file).name)
    (folder / "config.json").write_text(f"{content}\n", encoding="utf-8")
    shorter, ids = pretrained.load(str(folder), masked=False), model.sample()
    with swapped(shortened.swaps(model)):
        expected = model.net(input_ids=ids).logits
    apart = ((shorter.net(input_ids=ids).logits - expected).abs().max() / expected.abs().max()).item()
    if apart > TOLERANCE:
        raise Problem(f"not saved: loaded again, the logits differ by {apart:.2g} of their scale from those expected")
    return shorter


def settings(own: dict[str, Any], known: Any, kept: list[int]) -> dict[str, Any]:
    """A checkpoint's `own` config.json for the kept blocks; `known`: as loaded. Raises Problem: a list is unknown."""
    count = "decoder_layers" if "decoder_layers" in own else known.attribute_map.get(*["num_hidden_layers"] * 2)
    own = {key: len(kept) if key == "num_hidden_layers" else x for key, x in own.items() if key != "auto_map"}
    own[count] = len(kept)
    for key, x in known.to_dict().items():  # as loaded: transformers derives some lists from other settings
        if x and key in BY_BLOCK:
            own[key] = [x[k] for k in kept]
        elif x and key in NUMBERS:
            own[key] = [kept.index(k) for k in x if k in kept]
        elif key == "text_config" or (x and isinstance(x, list) and re.search("layer|block|idx|indices", key)):
            raise Problem(f"cannot shorten a model with {key} in its config")
    return own | ({"attention_types": [[own["attention_layers"], 1]]} if "attention_layers" in own else {})
