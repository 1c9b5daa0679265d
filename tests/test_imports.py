"""Who may import what: the architecture, held by reading the imports."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = sorted((ROOT / "shortcut").glob("*.py"))
SCRIPTS = sorted(ROOT.glob("*.py"))


def imported(path):
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.split(".")[0])
    return names


def test_the_library_does_not_know_the_configuration():
    assert not [path.name for path in PACKAGE if "config" in imported(path)]


@pytest.mark.parametrize(
    ("package", "only"),
    [
        ("transformers", ["loading.py", "models.py"]),
        ("pickle", ["store.py"]),
        ("matplotlib", ["plots.py"]),
        ("pyarrow", ["parquet.py"]),
        ("huggingface_hub", ["exchange.py"]),
    ],
)
def test_these_files_alone_import(package, only):
    assert [path.name for path in [*PACKAGE, *SCRIPTS] if package in imported(path)] == only


def test_no_pickle_is_read_but_by_our_own_machine():
    """`pickle` is the writer's alone (above), and these are the other ways in."""
    calls = {
        ast.unparse(node.func)
        for path in [*PACKAGE, *SCRIPTS]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    }
    assert not calls & {
        "pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load", "torch.storage._load_from_bytes", "np.load"
    }  # fmt: skip


@pytest.mark.parametrize("name", ["linear", "metrics", "early_exit"])
def test_pure_modules_import_torch_and_the_standard_library_only(name):
    others = imported(ROOT / "shortcut" / f"{name}.py") - set(sys.stdlib_module_names)
    assert others == {"torch"}


def test_no_package_is_used_that_requirements_do_not_pin():
    pinned = {line.split("==")[0] for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line}
    distributions = {"sklearn": "scikit-learn"}
    ours = {"shortcut"} | {path.stem for path in [*SCRIPTS, *ROOT.glob("tests/*.py")]}
    used = set().union(*map(imported, [*PACKAGE, *SCRIPTS, *ROOT.glob("tests/*.py"), *ROOT.glob("models/*.py")]))
    missing = {distributions.get(name, name) for name in used - set(sys.stdlib_module_names) - ours} - pinned
    assert not missing


def test_file_names_are_legal_everywhere_and_no_module_hides_an_output_folder():
    names = {path.stem for path in [*PACKAGE, *SCRIPTS]}
    assert not names & {"aux", "con", "nul", "prn", "utils", "experiment", "linreg"}
