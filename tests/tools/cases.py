"""Every script once on each input of a folder, and what became of it: `python tests/tools/cases.py FOLDER`.

A folder with config.json is a model: all scripts of its kind run with it, those of either kind if it does not
say, on the `t.txt` beside it or on made-up sentences. A .txt, .jsonl or .parquet elsewhere is a text for
get_wikipedia_sentences.py; a folder of *_results.pickle is shown by plot_results.py. All in one process and
at small sizes. Whatever the input, a script ends well or with one line: the exit status is the number of
tracebacks.
"""

import contextlib
import importlib
import io
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
sys.path[:0] = [str(Path(__file__).resolve().parents[k]) for k in (0, 1, 2)]

import conftest  # noqa: E402

import config  # noqa: E402
from shortcut import Problem  # noqa: E402
from shortcut.files.names import Names  # noqa: E402
from shortcut.pipeline import stages  # noqa: E402

SIZES = {"SENTENCES": 120, "TRAIN": 60, "VAL": 30, "SPLITS": {}}
TEXTS = (".txt", ".jsonl", ".parquet")
OK = "ok"


def call(script: str, *options: object) -> str:
    """Run a script; OK, the line that it ends with, or a traceback."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            importlib.import_module(script.removesuffix(".py")).main([str(option) for option in options])
    except Problem as problem:
        lines = str(problem).split("\n")
        return lines[0] if len(lines) == 1 else f"Traceback: a problem of {len(lines)} lines: {problem}"
    except BaseException:
        return f"Traceback: {traceback.format_exc()}"
    return OK


def is_masked(model: Path) -> bool | None:
    """Whether its config says that the model is masked; None if it says nothing."""
    try:
        return any("MaskedLM" in name for name in json.loads((model / "config.json").read_bytes())["architectures"])
    except (ValueError, KeyError, TypeError):
        return None


def try_model(model: Path, texts: Path, out: Path) -> Iterator[tuple[str, str]]:
    """Every script of the model's kind."""
    text = model.parent / "t.txt"
    source = text if text.exists() else texts
    masked = is_masked(model)
    for kind in (False, True) if masked is None else (masked,):
        for stage in stages.pipeline(masked=kind):
            options = ["--out", out, "--dataset", "t"]
            options += ["--source", source] if stage.masked is None and not stage.shows else ["--model", model]
            yield stage.script, call(stage.script, *options)


def try_all(folder: Path) -> Iterator[tuple[Path, str, str]]:
    """By input and script, what became of it."""
    for name, value in SIZES.items():
        setattr(config, name, value)
    models = sorted(path.parent for path in folder.rglob("config.json"))
    inside = [path for path in folder.rglob("*") if path.is_file() and not set(models) & set(path.parents)]
    for k, path in enumerate([*models, *sorted(inside)]):
        with tempfile.TemporaryDirectory() as name:
            out = Path(name, "out")
            out.mkdir()
            texts = Path(name, "made-up.txt")
            texts.write_text("".join(conftest.make_sentences(120)), encoding="utf-8")
            if k < len(models):
                yield from ((path, *told) for told in try_model(path, texts, out))
            elif path.suffix in TEXTS:
                options = ["--out", out, "--dataset", "t", "--source", path]
                yield path, "get_wikipedia_sentences.py", call("get_wikipedia_sentences.py", *options)
            elif path.name.endswith("_results.pickle"):
                files = Names(out, "m_mask", path.name.removesuffix("_results.pickle"), masked=True)
                files.results.parent.mkdir(parents=True)
                files.results.write_bytes(path.read_bytes())
                options = ["--out", out, "--dataset", files.dataset, "--model", "m_mask"]
                yield path, "plot_results.py", call("plot_results.py", *options)


def main() -> None:
    """Print a line for each input and script."""
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit(f"usage: {sys.argv[0]} FOLDER")
    folder, tracebacks = Path(sys.argv[1]), 0
    for path, script, outcome in try_all(folder):
        print(f"{path.relative_to(folder)}: {script}: {outcome}", flush=True)
        tracebacks += outcome.startswith("Traceback")
    sys.exit(tracebacks)


if __name__ == "__main__":
    main()
