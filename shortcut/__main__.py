"""Surprisal of words; shorter models; exchange of matrices and lenses with other projects."""

import argparse
from pathlib import Path

from shortcut.exchange.lenses import FORMATS
from shortcut.files.names import PROJECT, Names
from shortcut.linear import LEAST_SQUARES
from shortcut.loading import checkpoint
from shortcut.pipeline import exchanging, shortening, terminal, wording
from shortcut.pipeline.manifest import Provenance
from shortcut.pipeline.options import dataset_name, map_kind

WORDS = """Write the surprisal of every word of a text, in nats, as CSV: a row for each word; a column for the model,
 for each layer without a map (id), and with --dataset for each layer and map kind. Each line is a text of its own. The
 first word follows the tokens that the tokenizer puts there, or else its token for the beginning of a text, or nothing
 with --bos none. The column `before` has their text. All columns: docs/words.md."""
SHORTEN = "Drop blocks of a model, fold a linear map in their place into the block before, and save a checkpoint."
FETCH = """Download <model>/<dataset>/*.pickle from a repository on the Hugging Face hub (or its mirror HF_ENDPOINT) to
 linreg/<model>/<dataset>/. Each matrix is checked first; existing files are kept. With --from, import a lens."""
IMPORT = f"""Import a lens from another tool as maps into the last layer, to linreg/<m>/<d>@<map kind>/
 ({", ".join(f"{name} as {' or '.join(row.map_kinds)}" for name, row in FORMATS.items())}), after checking shape,
 model, target layer and estimator."""
EXPORT = f"""Write all matrices in linreg/<model>/<dataset>/ to {exchanging.SAFETENSORS} in the same folder, named as
 their files. With --to, write the maps into the last layer in another tool's format, with a model card. The export is
 loaded again, evaluated on the validation sentences, and refused if rounding lowers its scores."""
RUNS = {"words": wording.write_words, "shorten": shortening.run}


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, then run the command."""
    args = _parser().parse_args(argv)
    if args.command in RUNS:
        return RUNS[args.command](args)
    if not args.format:
        files = Names(args.out.resolve(), Path(args.model).name, args.dataset, map_kind=args.map)
        if checkpoint.is_model_folder(args.model) and not args.force:  # existing maps must be for this model
            Provenance.of_model(files, args.model).check(sorted(files.matrices.glob("*.pickle")), lambda _: None)
        if args.command == "export":
            return exchanging.export(files)
        return exchanging.fetch(args.source or exchanging.REPOSITORY, files, force=args.force)
    files = checkpoint.files_of(args.model, args.dataset, args.out, args.map)
    if args.command == "export":
        return exchanging.export_lens(files, args.format)
    fetched = exchanging.download(args.source, files, args.format) if args.command == "fetch" else args.source
    return exchanging.import_lens(fetched, files, args.format, force=args.force)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m shortcut", description=__doc__)
    parser.set_defaults(force=False, map=LEAST_SQUARES)
    commands = parser.add_subparsers(dest="command", required=True, metavar="words|shorten|fetch|import|export")
    words = commands.add_parser("words", help="surprisal of the words of a text", description=WORDS)
    add, metavar = words.add_argument, "NAME_OR_FOLDER"
    add("text", type=Path, metavar="TEXT.txt", help="the text, a file in UTF-8")
    add("table", type=Path, metavar="OUT.csv", help="the file to write")
    add("--model", required=True, metavar=metavar, help="name or folder of a causal model")
    add("--dataset", type=dataset_name, metavar="NAME", help="dataset that maps were fitted on")
    add("--map", type=map_kind, metavar="KIND", nargs="+", help=f"map kinds (default: {LEAST_SQUARES})")
    add("--tokens", type=Path, metavar="FILE", help="write the surprisal of every token, too")
    add("--bos", choices=("auto", "none"), default="auto", help="what precedes the first word (default: auto)")
    text = "divide by the probability that a word begins or ends, for tokenizers that mark where words begin"
    add("--corrected", action="store_true", help=text)
    add("--device", default="cpu", metavar="DEVICE", help="cpu, cuda, cuda:1, auto, or spread (default: cpu)")
    shorten = commands.add_parser("shorten", help="drop blocks of a model and fold a map for them", description=SHORTEN)
    add, which = shorten.add_argument, shorten.add_mutually_exclusive_group(required=True)
    which.add_argument("--drop", metavar="I:J", help="drop blocks I ... J - 1, counted from 0; I is at least 1")
    which.add_argument("--blocks", type=int, metavar="K", help="drop the K blocks whose loss costs least perplexity")
    add("--to", type=Path, metavar="FOLDER", required=True, help="new folder for the checkpoint")
    add("--model", metavar=metavar, required=True, help="name or folder of a causal model")
    add("--dataset", type=dataset_name, metavar="NAME", required=True, help="dataset with tokenized sentences")
    fetch = commands.add_parser("fetch", help="download matrices, or a lens, from the hub", description=FETCH)
    text = f"OWNER/NAME (default: {exchanging.REPOSITORY}); for a lens [spaces/]OWNER/NAME[/FOLDER][/FILE.pt]"
    fetch.add_argument("source", metavar="REPOSITORY", nargs="?", help=text)
    take = commands.add_parser("import", help="import a lens from another tool", description=IMPORT)
    take.add_argument("source", type=Path, metavar="FILE_OR_FOLDER", help="the lens: a .pt file, or a folder with one")
    export = commands.add_parser("export", help="write the matrices as one file, or as a lens", description=EXPORT)
    export.add_argument("--map", type=map_kind, metavar="KIND", default=LEAST_SQUARES, help="map kind")
    for command, flag, default in ((fetch, "--from", "gpt2-medium"), (take, "--from", None), (export, "--to", None)):
        command.add_argument(flag, dest="format", choices=FORMATS, required=command is take, help="format of the lens")
        text = "folder in linreg/; for a lens, name or folder of the model" + f" (default: {default})" * bool(default)
        command.add_argument("--model", metavar="NAME", default=default, required=not default, help=text)
        more = {"default": "wikipedia", "help": "(default: wikipedia)"} if default else {"required": True}
        command.add_argument("--dataset", type=dataset_name, metavar="NAME", **more)
    for command in commands.choices.values():
        command.add_argument("--out", type=Path, metavar="FOLDER", default=PROJECT, help="with experiment/ and linreg/")
    for command in (words, fetch, take):
        command.add_argument("--force", action="store_true", help="replace existing files")
    return parser


if __name__ == "__main__":
    terminal.shell(main, "shortcut")
