"""Matrices and lenses from and for others: `python -m shortcut fetch`, `import`, `export`."""

import argparse
from pathlib import Path

from shortcut.exchange.lenses import FORMATS
from shortcut.files.names import PROJECT, Names
from shortcut.linear import LEAST_SQUARES
from shortcut.loading import checkpoint, model_kind
from shortcut.pipeline import published, terminal
from shortcut.pipeline.manifest import Provenance
from shortcut.pipeline.options import dataset_name, map_kind

FETCH = """Download <model>/<dataset>/*.pickle of a repository on the Hugging Face hub (or of the mirror HF_ENDPOINT) to
 linreg/<model>/<dataset>/. Each matrix is checked first; existing files are kept. With --from, import a lens."""
IMPORT = f"""Import a lens of another tool as maps into the last layer, to linreg/<m>/<d>@<kind>/
 ({", ".join(f"{name} as {row.map_kind}" for name, row in FORMATS.items())}), after checking shape, model and target."""
EXPORT = f"""Write all matrices in linreg/<model>/<dataset>/ to {published.SAFETENSORS} there, under the names of their
 files. With --to, write the maps into the last layer in another tool's format, with a model card. That is loaded again,
 judged on the validation sentences, and refused where it loses by rounding."""


def main(argv: list[str] | None = None) -> None:
    """Read the command line, and fetch, import or export."""
    args = _options().parse_args(argv)
    exports, row = args.command == "export", FORMATS.get(args.format)
    maps = args.map if exports else row.map_kind if row else LEAST_SQUARES
    if not row:
        files = Names(args.out.resolve(), Path(args.model).name, args.dataset, map_kind=maps)
        if checkpoint.is_model_folder(args.model) and not args.force:  # the maps there must be of this model
            fingerprints, there = checkpoint.fingerprints(args.model), sorted(files.matrices.glob("*.pickle"))
            Provenance(files, lambda *_: fingerprints).check(there, lambda _: None)
        shown = {
            "notice": terminal.say,
            "progress": lambda items: terminal.progress("matrices", items, len(items), "matrices"),
        }
        if exports:
            return published.export(files, **shown)
        return published.fetch(args.source or published.REPOSITORY, files, force=args.force, **shown)
    from shortcut.pipeline import lending  # noqa: PLC0415  (loads models)

    model, files = model_kind.files_of(args.model, args.dataset, args.out, maps)
    if exports:
        return lending.export(model, files, args.format, terminal.say)
    source = args.source
    if args.command == "fetch":
        name = files.model_name if Path(model).is_dir() else model
        source = lending.download(source or (row.published and f"{row.published}/{name}"), args.format)
    return lending.take(source, model, files, args.format, terminal.say, force=args.force)


def _options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog="python -m shortcut", description="Exchange matrices and lenses with others."
    )
    options.set_defaults(force=False)
    commands = options.add_subparsers(dest="command", required=True, metavar="fetch|import|export")
    fetch = commands.add_parser("fetch", help="download matrices, or a lens, from the hub", description=FETCH)
    told = f"OWNER/NAME (default: {published.REPOSITORY}); for a lens [spaces/]OWNER/NAME[/FOLDER][/FILE.pt]"
    fetch.add_argument("source", metavar="REPOSITORY", nargs="?", help=told)
    take = commands.add_parser("import", help="import a lens of another tool", description=IMPORT)
    take.add_argument("source", type=Path, metavar="FILE_OR_FOLDER", help="its .pt file, or a folder that holds one")
    export = commands.add_parser("export", help="write the matrices as one file, or as a lens", description=EXPORT)
    export.add_argument("--map", type=map_kind, metavar="KIND", default=LEAST_SQUARES, help="kind of maps")
    for command, word, default in ((fetch, "from", "gpt2-medium"), (take, "from", None), (export, "to", None)):
        told = f"format of a lens: {', '.join(FORMATS)}"
        command.add_argument(f"--{word}", dest="format", choices=FORMATS, required=command is take, help=told)
        told = f"its folder in linreg/; for a lens name or folder of the model (default: {default or 'none'})"
        command.add_argument("--model", metavar="NAME", default=default, required=not default, help=told)
        more = {"default": "wikipedia", "help": "(default: wikipedia)"} if default else {"required": True}
        command.add_argument("--dataset", type=dataset_name, metavar="NAME", **more)
        command.add_argument("--out", type=Path, metavar="FOLDER", default=PROJECT, help="folder that holds linreg/")
        if command is not export:
            command.add_argument("--force", action="store_true", help="replace existing files")
    return options


if __name__ == "__main__":
    terminal.shell(main, "shortcut")
