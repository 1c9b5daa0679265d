"""Settings in config.py: each is checked, and a mistake is one line from every script."""

import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
from pipeline import problem

import config
from shortcut import Problem
from shortcut.pipeline import options, status

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("TAU", None, "config.py has no TAU: restore the line, or correct its name"),
        ("GPT2", None, "config.py has no GPT2: restore the line, or correct its name"),
        ("MAP", "ridge", "MAP in config.py is 'ridge', expected a value of type tuple"),
        ("MAP", (), "MAP in config.py is empty, expected map kinds, such as ('least-squares',)"),
        (
            "DATASET",
            "a/b",
            "DATASET in config.py: expected a name that can be part of file names, without @, got 'a/b'",
        ),
        ("TRAIN", "9000", "TRAIN in config.py is '9000', expected a value of type int"),
        ("LAST_ONLY", 1, "LAST_ONLY in config.py is 1, expected a value of type bool"),
        ("VAL", 0, "VAL in config.py is 0, expected at least 2"),
        ("VAL", 1, "VAL in config.py is 1, expected at least 2"),
        ("TRAIN", 0, "TRAIN in config.py is 0, expected at least 1"),
        ("SENTENCES", 0, "SENTENCES in config.py is 0, expected at least 1"),
        ("SPLITS", {"d": (5, 1)}, "SPLITS in config.py has (5, 1) for d, expected at least 1 and 2 sentences"),
        ("SPLITS", {"d": 9000}, "SPLITS in config.py has 9000 for d, expected at least 1 and 2 sentences"),
        ("SPLITS", {"d": (10,)}, "SPLITS in config.py has (10,) for d, expected at least 1 and 2 sentences"),
        ("LAMBDAS", {"id": (0.5,), "mat": 3}, "LAMBDAS in config.py has 3 for mat, expected a tuple of numbers"),
    ],
)
def test_a_setting_that_is_missing_or_wrong_is_named(tmp_path, capsys, monkeypatch, name, value, message):
    monkeypatch.delattr(config, name) if value is None else monkeypatch.setattr(config, name, value)
    assert problem(capsys, "add_linreg", "--out", tmp_path) == message
    monkeypatch.setattr(sys, "argv", ["config.py"])
    with pytest.raises(SystemExit, match=re.escape(f"config.py: {message}")):
        status.main(config)


def broken(name, line):
    """The text of config.py with another line for this setting."""
    text, n = re.subn(rf"^{name}: (.*?) =", line, (ROOT / "config.py").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert n == 1
    return text


@pytest.mark.parametrize("name", sorted(config.__annotations__))
def test_a_line_of_config_that_is_renamed_or_not_annotated_is_one_line(name):
    for line, message in (
        (rf"{name}_: \1 =", f"config.py has no {name}: restore the line, or correct its name"),
        (f"{name} =", f"{name} in config.py has no type annotation: restore the line"),
    ):
        changed = types.ModuleType("config")
        changed.__file__ = str(ROOT / "config.py")
        exec(broken(name, line), vars(changed))
        with pytest.raises(Problem, match=f"^{re.escape(message)}$"):
            options.check(changed)


@pytest.mark.parametrize("script", ["config.py", "add_linreg.py"])
def test_a_mistake_in_config_is_one_line_from_every_script(tmp_path, script):
    for name in ("shortcut", "models"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "add_linreg.py", tmp_path)
    (tmp_path / "config.py").write_text(broken("GPT2", r"GTP2: \1 ="), encoding="utf-8")
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False)
    message = f"{script}: config.py has no GPT2: restore the line, or correct its name\n"
    assert (done.returncode, done.stderr) == (1, message)


def test_every_setting_is_checked():
    assert {*config.__annotations__} == {name for name in vars(config) if name.isupper()}
