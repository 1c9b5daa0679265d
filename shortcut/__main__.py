"""Commands: `python -m shortcut words`, `shorten`; `fetch`, `import` and `export` exchange maps with other projects."""

import argparse
from pathlib import Path

from shortcut.exchange.lenses import FORMATS
from shortcut.files.names import PROJECT, Names
from shortcut.linear import LEAST_SQUARES
from shortcut.loading import checkpoint
from shortcut.pipeline import exchanging, shortening, terminal, wording
from shortcut.pipeline.manifest import Provenance
from shortcut.pipeline.options import dataset_name, map_kind

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
    exports = args.command == "export"
    if not args.format:
        files = Names(args.out.resolve(), Path(args.model).name, args.dataset, map_kind=args.map)
        if checkpoint.is_model_folder(args.model) and not args.force:  # existing maps must be for this model
            matrices = sorted(files.matrices.glob("*.pickle"))
            Provenance.of_model(files, args.model).check(matrices, lambda _: None)
        if exports:
            return exchanging.export(files)
        return exchanging.fetch(args.source or exchanging.REPOSITORY, files, force=args.force)
    files = checkpoint.files_of(args.model, args.dataset, args.out, args.map)
    if exports:
        return exchanging.export_lens(files, args.format)
    fetched = exchanging.download(args.source, files, args.format) if args.command == "fetch" else args.source
    return exchanging.import_lens(fetched, files, args.format, force=args.force)


def _parser() -> argparse.ArgumentParser:
    about = "Surprisal of words; shorter models; exchange of matrices and lenses with other projects."
    parser = argparse.ArgumentParser(prog="python -m shortcut", description=about)
    parser.set_defaults(force=False, map=LEAST_SQUARES)
    commands = parser.add_subparsers(dest="command", required=True, metavar="words|shorten|fetch|import|export")
    wording.add_to(commands)
    shortening.add_to(commands)
    fetch = commands.add_parser("fetch", help="download matrices, or a lens, from the hub", description=FETCH)
    text = f"OWNER/NAME (default: {exchanging.REPOSITORY}); for a lens [spaces/]OWNER/NAME[/FOLDER][/FILE.pt]"
    fetch.add_argument("source", metavar="REPOSITORY", nargs="?", help=text)
    take = commands.add_parser("import", help="import a lens from another tool", description=IMPORT)
    text = "the lens: a .pt file, or a folder that holds one"
    take.add_argument("source", type=Path, metavar="FILE_OR_FOLDER", help=text)
    export = commands.add_parser("export", help="write the matrices as one file, or as a lens", description=EXPORT)
    export.add_argument("--map", type=map_kind, metavar="KIND", default=LEAST_SQUARES, help="map kind")
    for command, word, default in ((fetch, "from", "gpt2-medium"), (take, "from", None), (export, "to", None)):
        text = f"format of the lens: {', '.join(FORMATS)}"
        command.add_argument(f"--{word}", dest="format", choices=FORMATS, required=command is take, help=text)
        text = "folder in linreg/; for a lens, name or folder of the model" + f" (default: {default})" * bool(default)
        command.add_argument("--model", metavar="NAME", default=default, required=not default, help=text)
        more = {"default": "wikipedia", "help": "(default: wikipedia)"} if default else {"required": True}
        command.add_argument("--dataset", type=dataset_name, metavar="NAME", **more)
        command.add_argument("--out", type=Path, metavar="FOLDER", default=PROJECT, help="folder that holds linreg/")
        if command is not export:
            command.add_argument("--force", action="store_true", help="replace existing files")
    return parser


if __name__ == "__main__":
    terminal.shell(main, "shortcut")
