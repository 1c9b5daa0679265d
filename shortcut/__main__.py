"""Matrices and lenses from and for others: `python -m shortcut fetch`, `import`, `export`."""

import argparse
from pathlib import Path

from shortcut import Problem
from shortcut.files import exchange
from shortcut.files.lenses import FORMATS
from shortcut.files.manifest import Provenance
from shortcut.files.names import PROJECT, Names
from shortcut.linear import LEAST_SQUARES
from shortcut.run import checkpoint, cli, kind
from shortcut.run.options import dataset_name, map_kind


def main(argv: list[str] | None = None) -> None:
    """Read the command line, and fetch, import or export."""
    args = _options().parse_args(argv)
    of = getattr(args, "lens", None)
    if of is None and args.command == "fetch":
        exchange.fetch(
            args.repository or exchange.REPOSITORY, _names(args), force=args.force, notice=cli.say, progress=_progress
        )
    elif of is None:
        exchange.export(_names(args), cli.say, _progress)
    else:
        from shortcut.run import lending  # noqa: PLC0415  (loads models)

        of_kind = args.map if args.command == "export" else FORMATS[of].kind
        model, files = kind.files_of(args.model, args.dataset, args.out, of_kind)
        if args.command == "export":
            lending.export(model, files, of, cli.say)
        elif args.command == "import":
            lending.take(args.source, model, files, of, cli.say, force=args.force)
        else:
            name = files.model_name if Path(model).is_dir() else model
            default = f"{lending.PUBLISHED[of]}/{name}" if of in lending.PUBLISHED else None
            source = args.repository or default
            if source is None or source.removeprefix("spaces/").count("/") < 1:
                raise Problem(f"fetch --from {of} takes [spaces/]OWNER/NAME[/FOLDER][/FILE.pt], got {source}")
            lending.fetch(source, model, files, of, cli.say, force=args.force)


def _names(args: argparse.Namespace) -> Names:
    """The files of a model. Raises Problem if --model is a folder, and the maps were fitted on another model."""
    of_kind = getattr(args, "map", LEAST_SQUARES)
    files = Names(args.out.resolve(), Path(args.model).name, args.dataset, kind=of_kind)
    if checkpoint.is_model_folder(args.model) and not getattr(args, "force", False):
        maps = sorted(files.matrices.glob("*.pickle"))
        fingerprints = checkpoint.fingerprints(args.model)
        Provenance(files, lambda script, path: fingerprints).check(maps, lambda _: None)
    return files


def _progress(items: list) -> object:
    return cli.progress("matrices", items, len(items), "matrices")


def _options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog="python -m shortcut", description="Take matrices and lenses that others have fitted, or pass ours on."
    )
    commands, hub = options.add_subparsers(dest="command", required=True, metavar="fetch|import|export"), exchange
    told = (
        "Download <model>/<dataset>/*.pickle of a repository on the Hugging Face hub (HF_ENDPOINT: of a mirror) to"
        " linreg/<model>/<dataset>/. Each is checked before it takes its name; those that are there are kept."
        " With --from, a lens of another tool, as import takes one."
    )
    fetch = commands.add_parser("fetch", help="download matrices, or a lens, from the hub", description=told)
    of_hub = f"OWNER/NAME (default: {hub.REPOSITORY}); of a lens [spaces/]OWNER/NAME[/FOLDER][/FILE.pt]"
    fetch.add_argument("repository", nargs="?", help=of_hub)
    told = (
        "Take a lens of another tool as maps into the last layer, in linreg/<m>/<d>@<kind>/: a tuned-lens folder as"
        " kind tuned, a Jacobian lens as kind jacobian. Shape, finite numbers, model and target layer are checked."
    )
    take = commands.add_parser("import", help="take a lens of another tool", description=told)
    take.add_argument("source", type=Path, metavar="FILE_OR_FOLDER", help="its .pt file, or a folder that holds one")
    told = (
        f"Write all matrices in linreg/<model>/<dataset>/ to {hub.SAFETENSORS} there, named as their files are. With"
        " --to, write the maps into the last layer to a folder there in another tool's format, with a model card; what"
        " was written is loaded again and judged on the validation sentences, and refused where it loses by rounding."
    )
    export = commands.add_parser("export", help="write the matrices as one file, or as a lens", description=told)
    export.add_argument("--map", type=map_kind, metavar="KIND", default=LEAST_SQUARES, help="kind of maps")
    formats = ", ".join(FORMATS)
    fetch.add_argument("--from", dest="lens", choices=FORMATS, help=f"the format of a lens: {formats}")
    take.add_argument("--from", dest="lens", choices=FORMATS, required=True, help=f"its format: {formats}")
    export.add_argument("--to", dest="lens", choices=FORMATS, help=f"a lens's format: {formats}")
    for command in (fetch, take):
        command.add_argument("--force", action="store_true", help="replace what is there")
    for command, defaults in ((fetch, ("gpt2-medium", "wikipedia")), (take, (None, None)), (export, (None, None))):
        for option, type_, default in zip(("--model", "--dataset"), (str, dataset_name), defaults, strict=True):
            what = (
                "its folder under linreg/, or for lenses name or folder of the model"
                if type_ is str
                else "its folder there"
            )
            told = f"{what}{f' (default: {default})' if default else ''}"
            command.add_argument(option, type=type_, metavar="NAME", default=default, required=not default, help=told)
        command.add_argument("--out", type=Path, metavar="FOLDER", default=PROJECT, help="holds linreg/")
    return options


if __name__ == "__main__":
    cli.shell(main, "shortcut")
