"""Exchange matrices and lenses with other projects: `python -m shortcut fetch`, `import`, `export`. Shorten models."""

import argparse
from pathlib import Path

from shortcut.exchange.lenses import FORMATS
from shortcut.files.names import PROJECT, Names
from shortcut.linear import LEAST_SQUARES
from shortcut.loading import checkpoint, model_kind
from shortcut.pipeline import published, terminal
from shortcut.pipeline.manifest import Provenance
from shortcut.pipeline.options import dataset_name, map_kind

FETCH = """Download <model>/<dataset>/*.pickle from a repository on the Hugging Face hub (or its mirror HF_ENDPOINT) to
 linreg/<model>/<dataset>/. Each matrix is checked first; existing files are kept. With --from, import a lens."""
IMPORT = f"""Import a lens from another tool as maps into the last layer, to linreg/<m>/<d>@<map kind>/
 ({", ".join(f"{name} as {row.map_kind}" for name, row in FORMATS.items())}), after checking shape, model and target."""
EXPORT = f"""Write all matrices in linreg/<model>/<dataset>/ to {published.SAFETENSORS} in the same folder, named as
 their files. With --to, write the maps into the last layer in another tool's format, with a model card. The export is
 loaded again, evaluated on the validation sentences, and refused if rounding lowers its scores."""
SHORTEN = "Drop blocks of a model, fold a linear map in their place into the block before, and save a checkpoint."


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, then fetch, import or export."""
    args = _options().parse_args(argv)
    if args.command == "shorten":
        from shortcut.pipeline import shortening  # noqa: PLC0415  (loads models)

        return shortening.run(args)
    exports, row = args.command == "export", FORMATS.get(args.format)
    exchanged_kind = args.map if exports else row.map_kind if row else LEAST_SQUARES
    if not row:
        files = Names(args.out.resolve(), Path(args.model).name, args.dataset, map_kind=exchanged_kind)
        if checkpoint.is_model_folder(args.model) and not args.force:  # existing maps must be for this model
            fingerprints, matrices = checkpoint.fingerprints(args.model), sorted(files.matrices.glob("*.pickle"))
            Provenance(files, lambda *_: fingerprints).check(matrices, lambda _: None)
        shown = {
            "notice": terminal.say,
            "progress": lambda items: terminal.progress("matrices", items, len(items), "matrices"),
        }
        if exports:
            return published.export(files, **shown)
        return published.fetch(args.source or published.REPOSITORY, files, force=args.force, **shown)
    from shortcut.pipeline import lending  # noqa: PLC0415  (loads models)

    model, files = model_kind.files_of(args.model, args.dataset, args.out, exchanged_kind)
    if exports:
        return lending.export(model, files, args.format, terminal.say)
    source = args.source
    if args.command == "fetch":
        name = files.model_name if Path(model).is_dir() else model
        source = lending.download(source or (row.published and f"{row.published}/{name}"), args.format)
    return lending.import_lens(source, model, files, args.format, terminal.say, force=args.force)


def _options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog="python -m shortcut", description="Exchange matrices and lenses with other projects."
    )
    options.set_defaults(force=False)
    commands = options.add_subparsers(dest="command", required=True, metavar="fetch|import|export|shorten")
    shorten = commands.add_parser(
        "shorten", help="drop blocks of a model, and fold a map for them", description=SHORTEN
    )
    which = shorten.add_mutually_exclusive_group(required=True)
    which.add_argument("--drop", metavar="I:J", help="drop blocks I ... J - 1, counted from 0; I is at least 1")
    which.add_argument(
        "--blocks", type=int, metavar="K", help="drop the K blocks whose loss costs the least perplexity"
    )
    shorten.add_argument("--to", type=Path, metavar="FOLDER", required=True, help="new folder for the checkpoint")
    fetch = commands.add_parser("fetch", help="download matrices, or a lens, from the hub", description=FETCH)
    text = f"OWNER/NAME (default: {published.REPOSITORY}); for a lens [spaces/]OWNER/NAME[/FOLDER][/FILE.pt]"
    fetch.add_argument("source", metavar="REPOSITORY", nargs="?", help=text)
    take = commands.add_parser("import", help="import a lens from another tool", description=IMPORT)
    take.add_argument(
        "source", type=Path, metavar="FILE_OR_FOLDER", help="the lens: a .pt file, or a folder that holds one"
    )
    export = commands.add_parser("export", help="write the matrices as one file, or as a lens", description=EXPORT)
    export.add_argument("--map", type=map_kind, metavar="KIND", default=LEAST_SQUARES, help="map kind")
    exchange = ((fetch, "from", "gpt2-medium"), (take, "from", None), (export, "to", None))
    for command, word, default in (*exchange, (shorten, None, None)):
        text = f"format of the lens: {', '.join(FORMATS)}"
        if word:
            command.add_argument(f"--{word}", dest="format", choices=FORMATS, required=command is take, help=text)
        text = "folder in linreg/; for a lens, name or folder of the model" + (
            f" (default: {default})" if default else ""
        )
        command.add_argument("--model", metavar="NAME", default=default, required=not default, help=text)
        more = {"default": "wikipedia", "help": "(default: wikipedia)"} if default else {"required": True}
        command.add_argument("--dataset", type=dataset_name, metavar="NAME", **more)
        command.add_argument("--out", type=Path, metavar="FOLDER", default=PROJECT, help="folder that holds linreg/")
        if command in (fetch, take):
            command.add_argument("--force", action="store_true", help="replace existing files")
    return options


if __name__ == "__main__":
    terminal.shell(main, "shortcut")
