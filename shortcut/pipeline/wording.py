"""Surprisal of the words of a text at every layer, as CSV: `python -m shortcut words`."""

import argparse
import codecs
import csv
import os
from collections import Counter
from math import isnan
from pathlib import Path

import torch

from shortcut import LEAST_SQUARES, Problem
from shortcut.files import store
from shortcut.files.names import PROJECT, find_model
from shortcut.lens import Lens
from shortcut.loading import checkpoint, pretrained
from shortcut.pipeline import terminal
from shortcut.pipeline.options import dataset_name, map_kind
from shortcut.pipeline.showing import read_lines
from shortcut.words import Reader

ABOUT = """Write the surprisal of every word of a text, in nats, as CSV: a row for each word; a column for the model,
 for each layer without a map (id), and with --dataset for each layer and map kind. Each line is a text of its own. The
 first word follows the tokens that the tokenizer puts there, or else its token for the beginning of a text, or nothing
 with --bos none. The column `before` has their text. All columns: docs/words.md."""
FIRST = ("line", "word", "text", "start", "end", "tokens", "shared", "before")
FIRST_OF_TOKENS = ("line", "token", "text", "start", "end", "word", "before")


def add_to(commands: argparse._SubParsersAction) -> None:
    """Add the sub-command and its options."""
    parser = commands.add_parser("words", help="surprisal of the words of a text", description=ABOUT)
    add = parser.add_argument
    add("text", type=Path, metavar="TEXT.txt", help="the text, a file in UTF-8")
    add("table", type=Path, metavar="OUT.csv", help="the file to write")
    add("--model", required=True, metavar="NAME_OR_FOLDER", help="name or folder of a causal model")
    add("--dataset", type=dataset_name, metavar="NAME", help="dataset that maps were fitted on")
    add("--map", type=map_kind, metavar="KIND", nargs="+", help=f"map kinds (default: {LEAST_SQUARES})")
    add("--tokens", type=Path, metavar="FILE", help="write the surprisal of every token, too")
    add("--bos", choices=("auto", "none"), default="auto", help="what precedes the first word (default: auto)")
    text = "divide by the probability that a word begins or ends, for tokenizers that mark where words begin"
    add("--corrected", action="store_true", help=text)
    add("--device", default="cpu", metavar="DEVICE", help="cpu, cuda, cuda:1, auto, or spread (default: cpu)")
    add("--out", type=Path, metavar="FOLDER", default=PROJECT, help="folder that holds linreg/")
    add("--force", action="store_true", help="replace existing files")


def write_words(args: argparse.Namespace) -> None:
    """Write the surprisal of the words, and of the tokens, a batch of lines at a time."""
    model = find_model(args.model)
    if not args.text.is_file():
        raise Problem(f"{args.text}: no such file; expected a text file, each line a text of its own")
    for path in (args.table, args.tokens):
        if path and path.exists() and not args.force:
            raise Problem(f"{path} exists already: give another name, or --force to replace it")
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
    reader = Reader(loaded, tokenizer, lenses, bos=args.bos == "auto", corrected=args.corrected)
    counts = Counter()
    with (
        store.replacing(args.table) as table,
        store.replacing(args.tokens) if args.tokens else open(os.devnull, "wb") as more,
    ):
        words, tokens = (csv.writer(codecs.getwriter("utf-8")(file)) for file in (table, more))
        words.writerow([*FIRST, *["corrected"] * args.corrected, *reader.columns])
        tokens.writerow([*FIRST_OF_TOKENS, *reader.columns])
        found = terminal.progress("text", reader.along([*lines.values()]), len(lines), "lines")
        for number, (line, values) in zip(lines, found, strict=True):
            before = tokenizer.decode(line.head, clean_up_tokenization_spaces=False)
            sizes, members = Counter(line.owners), Counter(line.groups)
            counts.update(words=len(line.words), dropped=members.pop(None, 0))
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
    if counts["shared"] or counts["dropped"]:
        few = f"{counts['shared']} words share a token with another word and have their sum in the row of the first"
        terminal.say(f"warning: {few}; the tokenizer drops all of {counts['dropped']} words: see docs/words.md")


def _cells(nats: torch.Tensor) -> list[str]:
    return ["" if isnan(x) else f"{x:.7g}" for x in nats.tolist()]
