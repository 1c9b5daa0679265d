"""Every target of the Makefile does what it names: the short ones run elsewhere, the long ones here at a tiny size."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = " ".join(re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)).split()


def make(*words):
    return subprocess.run(
        ["make", "--no-print-directory", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("target", [target for target in TARGETS if target != "help"])
def test_a_target_names_commands_and_files_that_are_there(target):
    done = subprocess.run(
        ["make", "-n", "--no-print-directory", target], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    words = shlex.split(done.stdout)
    assert ".venv/bin/python" in words
    files = [word for word in words if word.endswith(".py")]
    assert [file for file in files if not (ROOT / file).is_file()] == []
    assert files or "-m" in words


def test_help_lists_the_targets():
    shown = make("help").stdout
    assert all(f"make {target}" in shown for target in TARGETS if target not in ("sentences", "gpt2", "bert"))


@pytest.mark.parametrize("given", ["model=gpt2", "MODLE=gpt2"])
def test_an_unknown_variable_is_refused(given):
    done = make("-n", "run", given)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"unknown {given[:5]}: use PYTHON MODEL FAMILY DATASET SOURCE FORCE" in done.stderr


def test_a_run_ends_with_its_time_and_the_pages():
    last = make("-n", "run", "MODEL=gpt2", "DATASET=docstrings", "FORCE=1").stdout.splitlines()
    assert last[0].split(".py")[1].split() == ["--dataset", "'docstrings'", "--force", "--source", "'docstrings'"]
    assert last[-2].startswith('echo "all stages finished in ')
    assert last[-1].split(".py ")[1] == "--page --model 'gpt2' --dataset 'docstrings';"


def test_every_rule_of_the_makefile_is_among_the_targets():
    rules = re.findall(r"^([a-z0-9-]+):(?!=)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert {*rules} == {*TARGETS}


def test_the_benchmark_agrees_with_the_direct_way_and_ends_with_its_table():
    done = subprocess.run(
        [sys.executable, "-W", "error", ROOT / "tests" / "tools" / "bench.py", "--tiny"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    checks, table = done.stdout.split("\n\n", 1)
    assert len(re.findall("at most .* apart", checks)) == 12
    stages = [line.split(" | ")[0] for line in table.splitlines() if line.startswith("| ")]
    assert stages[-2:] == ["| early exits, 35 lambdas", "| all"]
    assert len(stages) == 9  # the header, seven stages, their sum
