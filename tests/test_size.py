"""The package, its files and functions are small, the tests' files too, and little is behind a script."""

import ast
from pathlib import Path

import pytest
import sources
from sources import PACKAGE, ROOT, SCRIPTS, TESTS, behind

READER = {  # what a reader meets behind a script, imports inside functions included: files and lines
    "add_linreg": (28, 3_500),
    "add_results": (38, 4_900),
}
WIDE = {  # functions of more parameters, each with its reason
    ("unpickle.py", "_tensor"),  # torch's own, as its pickles call it
}


def test_the_package_is_small_and_so_are_its_files_and_functions():
    """Lines are a cost: at most 250 a file, at most six parameters a function, `self` and options by name apart."""
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in [*PACKAGE, *TESTS]}
    assert {path.name: n for path, n in lines.items() if n > 250} == {}
    assert sum(lines[path] for path in PACKAGE) <= 7_450
    for path in PACKAGE:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                arguments = [a.arg for a in (*node.args.args, *node.args.kwonlyargs) if a.arg != "self"]
                assert len(arguments) <= 6 or (path.name, node.name) in WIDE, (path.name, node.name, arguments)


@pytest.mark.parametrize("script", READER)
def test_little_is_behind_a_script(script):
    files = behind(script)
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)
    assert len(files) <= READER[script][0], sorted(path.name for path in files)
    assert lines <= READER[script][1]


def test_a_further_import_is_seen(tmp_path, monkeypatch):
    """As if a script imported the schedules inside a function."""
    before, script = behind("add_linreg"), (ROOT / "add_linreg.py").read_text(encoding="utf-8")
    for path in [*PACKAGE, *SCRIPTS]:
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    further = "\n\ndef more():\n    from shortcut import alternation\n"
    (tmp_path / "add_linreg.py").write_text(script + further, encoding="utf-8")
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    monkeypatch.setattr(sources, "SCRIPTS", sorted(tmp_path.glob("*.py")))
    names = {path.relative_to(tmp_path) for path in behind("add_linreg")}
    assert Path("shortcut/alternation.py") in names - {path.relative_to(ROOT) for path in before}
