"""Every command of the README and of docs/ works as written: those that need no network are run, at small sizes."""

import contextlib
import importlib
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import make_sentences

import config
from shortcut.__main__ import main as run_command

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
ORDER = ("maps", "recipes", "models")  # pages whose commands need files from earlier ones
PAGES = sorted((ROOT / "docs").glob("*.md"), key=lambda path: [*ORDER, path.stem].index(path.stem))
TEXT = README + "".join(path.read_text(encoding="utf-8") for path in PAGES)
PYTHON = ".venv/bin/python"
TORCHRUN = ".venv/bin/torchrun"  # test_processes runs it
LONG = ("test", "test-kill", "bench", "page-check", "tables")  # targets of make that are commands of their own


def commands():
    """Commands in blocks, and those in the README's table, in which FOLDER is a model's folder."""
    lines = [line[4:].split(" #")[0].rstrip() for line in TEXT.splitlines() if line.startswith("    ")]
    lines += [
        command.replace("FOLDER", "gpt2") for command in re.findall(r"^\|.*\| `(make [^`]+)`", README, re.MULTILINE)
    ]
    return [*dict.fromkeys(line for line in lines if line.startswith(("make ", ".venv/")))]


def needs_network(command):
    """It names a model of the hub, or fetches."""
    return "fetch" in command or any(word.removeprefix("MODEL=") in config.LAYERS for word in command.split())


def scripts_of(command):
    """The scripts with their options: the command itself, or what make would run."""
    words = shlex.split(command)
    if words[0] != "make":
        return [words]
    if words[1] in LONG:
        return []
    done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = [line for text in done.stdout.splitlines() for line in text.split("; ")]
    return [shlex.split(line.strip(";")) for line in lines if line.startswith(f"{PYTHON} ") and "pip" not in line]


def call(words):
    """Run a script as the shell would, but in this process."""
    assert words[0] == PYTHON
    if words[1] == "-m":
        assert words[2] == "shortcut"  # test_exchange runs it from the shell
        run_command([*words[3:], "--out", "."])
    elif words[1] == "config.py":
        sys.argv = words[1:]
        runpy.run_path(str(ROOT / "config.py"), run_name="__main__")
    else:
        importlib.import_module(words[1].removesuffix(".py")).main(words[2:])


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A folder that looks like a fresh clone to who runs the commands, with sizes that take seconds."""
    folder = tmp_path_factory.mktemp("clone")
    (folder / "models").symlink_to(ROOT / "models")
    for name in ("news.txt", "text.txt"):
        (folder / name).write_text("".join(make_sentences(260 if name == "news.txt" else 3)))
    small = {
        "OUT": folder,
        "SENTENCES": 260,
        "TRAIN": 180,
        "VAL": 40,
        "SPLITS": {},
        "PROBES": 1,
        "DOCSTRING_PACKAGES": ("spacy",),
    }
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
        for name, value in small.items():
            patch.setattr(config, name, value)
        patch.setattr(sys, "argv", [])
        yield folder


def test_commands_without_a_network_work_as_written(clone, capsys):
    run = set()
    for command in commands():
        if needs_network(command) or command.startswith(TORCHRUN):
            continue
        for words in scripts_of(command):
            if tuple(words) not in run:  # `make run` has run most of them
                call(words)
                run.add(tuple(words))
    assert len(run) > 20
    assert (clone / "experiment" / "gpt2-docstrings" / "docstrings_report.html").exists()
    assert (clone / "experiment" / "gpt2-docstrings" / "news_maps_of_docstrings_results.pickle").exists()
    capsys.readouterr()


def test_a_matrix_in_three_lines(clone):
    lines = [line[4:] for line in README.splitlines() if line.startswith("    ")]
    start = lines.index("import pathlib, pickle")
    import torch

    names = {"h_i": torch.ones(128)}
    exec("\n".join(lines[start : start + 3]), names)
    assert names["h_j"].shape == (128,)


@pytest.mark.parametrize("command", [c for c in commands() if needs_network(c) or c.startswith(TORCHRUN)])
def test_commands_that_need_a_network_have_their_options(command, capsys):
    for words in scripts_of(command):
        script = next(word for word in words if word.endswith(".py") or word == "shortcut")
        given = words[words.index(script) :]
        with pytest.raises(SystemExit):
            run_command([given[1], "--help"]) if script == "shortcut" else call([PYTHON, script, "--help"])
        known = capsys.readouterr().out
        assert all(word in known for word in given if word.startswith("--") or word == "fetch")


def test_make_knows_every_target_and_every_module_is_described():
    for target in re.findall(r"`make ([a-z-]+)`", TEXT):
        assert subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, check=False).returncode == 0
    package = {path.name for path in (ROOT / "shortcut").rglob("*.py")} - {"__init__.py", "__main__.py"}
    assert package <= set(re.findall(r"`(?:shortcut/)?(\w+\.py)`", TEXT))


def test_tests_named_in_the_promises_exist():
    named = re.findall(r"`(test_\w+)::(test_\w+)`", TEXT)
    assert named
    for module, function in named:
        assert f"def {function}(" in (ROOT / "tests" / f"{module}.py").read_text(encoding="utf-8"), function
