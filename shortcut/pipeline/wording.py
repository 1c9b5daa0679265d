"""Surprisal of the words of a text at every layer, as CSV: `python -m shortcut words`."""

import argparse
import codecs
import csv
import os
from collections import Counter
from math import isnan

import torch

from shortcut import LEAST_SQUARES, Problem
from shortcut.files import store
from shortcut.files.names import find_model
from shortcut.lens import Lens
from shortcut.loading import checkpoint, pretrained
from shortcut.pipeline import terminal
from shortcut.pipeline.showing import read_lines
from shortcut.tokens import encode
from shortcut.words import Reader

FIRST = ("line", "word", "text", "start", "end", "tokens", "shared", "before")
FIRST_OF_TOKENS = ("line", "token", "text", "start", "end", "word", "before")


def write_words(args: argparse.Namespace) -> None:
    """Write the surprisal of the words, and of the tokens, a batch of lines at a time."""
    model = find_model(args.model)
    if not args.text.is_file():
        raise Problem(f"{args.text} is not a file; expected a text file, each line a text of its own")
    outputs = [path for path in (args.table, args.tokens) if path]
    if len({path.resolve() for path in (args.text, *outputs)}) <= len(outputs):
        raise Problem("TEXT, OUT and the file of --tokens are not all different: give each a name of its own")
    for path in outputs:
        if path.exists() and not (args.force and path.is_file()):
            raise Problem(f"{path} exists already: give another name, or --force to replace a file")
        store.remove_leftovers(path)
    if args.map and not args.dataset:
        raise Problem("--map needs fitted maps: add --dataset with the dataset that they were fitted on")
    if checkpoint.is_masked(model):
        raise Problem("words needs a causal model: a masked model does not predict a word from the words before it")
    lines = read_lines(os.fspath(args.text), "TEXT")
    device = args.device if args.device == "spread" else terminal.device(args.device)
    loaded = pretrained.load(model, masked=False, device=device, notice=terminal.say)
    tokenizer, lenses = pretrained.load_tokenizer(model, masked=False), {"id": []}
    for kind in args.map or [LEAST_SQUARES] * bool(args.dataset):
        fitted = Lens(loaded, tokenizer, checkpoint.files_of(model, args.dataset, args.out, kind))
        lenses[kind] = [fitted.map(l, loaded.n_layers) for l in range(loaded.n_layers)]
    encode(tokenizer, [*lines.values()], terminal.say)  # refuses a text that the tokenizer hardly knows
    reader = Reader(loaded, tokenizer, lenses, bos=args.bos == "auto", corrected=args.corrected)
    counts = Counter()
    by_token = store.replacing(args.tokens) if args.tokens else open(os.devnull, "wb")  # noqa: SIM115  (closed below)
    with store.replacing(args.table) as table, by_token as more:
        words, tokens = (csv.writer(codecs.getwriter("utf-8")(file)) for file in (table, more))
        words.writerow([*FIRST, *["corrected"] * args.corrected, *reader.columns])
        tokens.writerow([*FIRST_OF_TOKENS, *reader.columns])
        found = terminal.progress("text", reader.along([*lines.values()]), len(lines), "lines")
        for number, (line, values) in zip(lines, found, strict=True):
            before = tokenizer.decode(line.head, clean_up_tokenization_spaces=False)
            sizes, members = Counter(line.owners), Counter(line.groups)
            counts.update(words=len(line.words), dropped=members.pop(None, 0))
            counts["unknown"] += line.ids.count(reader.unknown)
            counts["shared"] += sum(n for n in members.values() if n > 1)
            rows = zip(line.words, line.groups, reader.by_word(line, values), strict=True)
            for word, ((start, end), group, nats) in enumerate(rows):
                shared = group + 1 if members[group] > 1 else ""
                row = (number, word + 1, line.text[start:end], start, end, sizes[word], shared, before)
                words.writerow([*row, *[True] * args.corrected, *_cells(nats)])
            rows = zip(line.spans, line.owners, values[:-1, 0], strict=True)
            for k, ((start, end), word, nats) in enumerate(rows, 1):
                owner = "" if word is None else word + 1
                tokens.writerow([number, k, line.text[start:end], start, end, owner, before, *_cells(nats)])
    terminal.say(f"wrote the surprisal of {counts['words']} words to {args.table}")
    notes = {
        "shared": "{} words share a token with another word and have their sum in the row of the first",
        "dropped": "the tokenizer drops all of {} words",
        "unknown": "{} tokens are unknown, and their words have no surprisal",
    }
    if found := [note.format(counts[name]) for name, note in notes.items() if counts[name]]:
        terminal.say(f"warning: {'; '.join(found)}: see docs/words.md")


def _cells(nats: torch.Tensor) -> list[str]:
    return ["" if isnan(x) else f"{x:.7g}" for x in nats.tolist()]
