"""Matrices from and for others: `python -m shortcut fetch`, `python -m shortcut export`."""

import argparse
from pathlib import Path

from shortcut.files import exchange
from shortcut.files.names import PROJECT, Names
from shortcut.run import cli


def main(argv: list[str] | None = None) -> None:
    """Read the command line, fetch or export."""
    args = _options().parse_args(argv)
    files = Names(args.out.resolve(), Path(args.model).name, args.dataset)

    def progress(items: list) -> object:
        return cli.progress("matrices", items, len(items), "matrices")

    if args.command == "fetch":
        exchange.fetch(args.repository, files, force=args.force, notice=cli.say, progress=progress)
    else:
        exchange.export(files, cli.say, progress)


def _options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog="python -m shortcut", description="Take matrices that others have fitted, or pass ours on."
    )
    commands, hub = options.add_subparsers(dest="command", required=True, metavar="fetch|export"), exchange.REPOSITORY
    told = (
        "Download <model>/<dataset>/*.pickle of a repository on the Hugging Face hub (HF_ENDPOINT: of a mirror) to"
        " linreg/<model>/<dataset>/. Each is checked before it takes its name; those that are there are kept."
    )
    fetch = commands.add_parser("fetch", help="download matrices from the Hugging Face hub", description=told)
    fetch.add_argument("repository", nargs="?", default=hub, help=f"OWNER/NAME on the hub (default: {hub})")
    fetch.add_argument("--force", action="store_true", help="fetch what is there too")
    told = f"Write all matrices in linreg/<model>/<dataset>/ to {exchange.SAFETENSORS} there, named as their files are."
    export = commands.add_parser("export", help="write the matrices as one safetensors file", description=told)
    for command, defaults in ((fetch, ("gpt2-medium", "wikipedia")), (export, (None, None))):
        for option, kind, default in zip(("--model", "--dataset"), (str, cli.dataset_name), defaults, strict=True):
            told = f"its folder under linreg/{f' (default: {default})' if default else ''}"
            command.add_argument(option, type=kind, metavar="NAME", default=default, required=not default, help=told)
        command.add_argument("--out", type=Path, metavar="FOLDER", default=PROJECT, help="holds linreg/")
    return options


if __name__ == "__main__":
    cli.shell(main, "shortcut")
