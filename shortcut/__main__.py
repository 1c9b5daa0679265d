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
    commands = options.add_subparsers(dest="command", required=True, metavar="fetch|export")
    fetch = commands.add_parser(
        "fetch",
        help="download matrices from the Hugging Face hub",
        description="Download <model>/<dataset>/*.pickle of a repository on the Hugging Face hub (HF_ENDPOINT: of"
        " a mirror) to linreg/<model>/<dataset>/. Each is checked before it takes its name; those that are there"
        " are kept.",
    )
    default = exchange.REPOSITORY
    fetch.add_argument("repository", nargs="?", default=default, help=f"OWNER/NAME on the hub (default: {default})")
    fetch.add_argument("--force", action="store_true", help="fetch what is there too")
    export = commands.add_parser(
        "export",
        help="write the matrices as one safetensors file",
        description=f"Write all matrices in linreg/<model>/<dataset>/ to {exchange.SAFETENSORS} beside them, named"
        " as their files are: 3_12, p0_1_2.",
    )
    for command, model, dataset in ((fetch, "gpt2-medium", "wikipedia"), (export, None, None)):
        for option, standard in (("--model", model), ("--dataset", dataset)):
            told = f"its folder under linreg/{f' (default: {standard})' if standard else ''}"
            kind = str if option == "--model" else cli.dataset_name
            command.add_argument(
                option, type=kind, metavar="NAME", default=standard, required=not standard, help=told
            )  # fmt: skip
        command.add_argument(
            "--out", type=Path, metavar="FOLDER", default=PROJECT, help="holds linreg/ (default: the project's folder)"
        )
    return options


if __name__ == "__main__":
    cli.shell(main, "shortcut")
