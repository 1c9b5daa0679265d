"""A kill of every stage at a seeded point of the writer; `make test-kill` has many more, at any moment."""

import re
import subprocess
import sys
from pathlib import Path


def test_a_killed_stage_loses_nothing_and_ends_like_an_undisturbed_one():
    script = Path(__file__).resolve().parent / "tools" / "kill.py"
    done = subprocess.run(
        [sys.executable, script, "--kills", "1", "--forced", "0"],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^11 kills over 11 stages: nothing lost", done.stdout.splitlines()[-1])
