"""Who may import what: the architecture, held by reading the imports."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import sources
from sources import PACKAGE, ROOT, SCRIPTS, TESTS, imported, module_file, modules

FOLDERS = ("corpus", "exchange", "files", "loading", "pipeline", "show")


ALL = {*FOLDERS, "paper"}


MAY_IMPORT = {  # what the modules of a folder, and the modules of the paper beside the folders, may name
    "paper": {"paper"},
    "corpus": {"corpus"},
    "files": {"files", "paper"},
    "loading": {"loading", "files", "paper"},
    "exchange": {"exchange", "files", "paper"},
    "show": {"show", "paper"},
    "pipeline": ALL,
    "scripts": ALL,
}


INTERFACE = "lens.py"  # shortcut.Lens, the Python interface: the only module beside the folders that may import them


NOT_FOR = {"show": {"shortcut.models", "shortcut.representations"}}  # it shows numbers, and runs no model


def place(module):
    """The folder of a module, or "paper"."""
    folder = module.split(".")[1]
    return folder if folder in FOLDERS else "paper"


def wrong_imports(paths):
    """(file, module) of imports against the directions."""
    found = []
    for path in paths:
        parts = path.relative_to(sources.ROOT).parts
        if parts[-1] in ("__init__.py", "__main__.py", "config.py") or parts[1:] == (INTERFACE,):
            continue
        of = "scripts" if len(parts) == 1 else parts[1] if parts[1] in FOLDERS else "paper"
        for module in modules(path):
            allowed = place(module) in MAY_IMPORT[of] or module.removeprefix("shortcut.") in MAY_IMPORT[of]
            if not allowed or module in NOT_FOR.get(of, ()):
                found.append(("/".join(parts), module))
    return found


def circles(paths):
    """Modules that import themselves by way of others, whether at their head or in a function."""
    graph = {".".join(p.relative_to(sources.ROOT).with_suffix("").parts): modules(p) for p in paths}

    def reach(start):
        seen, todo = set(), [*graph.get(start, ())]
        while todo:
            if (module := todo.pop()) not in seen:
                seen.add(module)
                todo += graph.get(module, ())
        return seen

    return [module for module in graph if module in reach(module)]


def test_directions_of_imports():
    assert wrong_imports([*PACKAGE, *SCRIPTS]) == []


def test_no_import_circle():
    assert circles(PACKAGE) == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("shortcut/linear.py", "from shortcut.files import store"),
        ("shortcut/words.py", "from shortcut.loading import pretrained"),
        ("shortcut/files/store.py", "from shortcut.pipeline import terminal"),
        ("shortcut/loading/checkpoint.py", "from shortcut.pipeline import manifest"),
        ("shortcut/exchange/lenses.py", "from shortcut.pipeline import outputs"),
        ("shortcut/show/tables.py", "from shortcut import models"),
        ("shortcut/show/plots.py", "from shortcut.files.names import Names"),
        ("shortcut/corpus/articles.py", "from shortcut import tokens"),
        ("shortcut/corpus/articles.py", "from shortcut.files import store"),
    ],
)
def test_each_direction_broken_is_seen(tmp_path, monkeypatch, file, line):
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    for path in PACKAGE:
        copy = tmp_path / path.relative_to(Path(__file__).resolve().parent.parent)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text())
    assert wrong_imports([tmp_path / file]) == []
    (tmp_path / file).write_text(f"{(tmp_path / file).read_text()}\n{line}\n")
    assert [found[0] for found in wrong_imports([tmp_path / file])] == [file]


def test_a_circle_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    (tmp_path / "shortcut").mkdir()
    for name, other in (("a", "b"), ("b", "a"), ("c", "a")):
        (tmp_path / "shortcut" / f"{name}.py").write_text(f"def f():\n    from shortcut.{other} import x\n")
    assert circles(sorted(tmp_path.rglob("*.py"))) == ["shortcut.a", "shortcut.b"]


def test_the_library_does_not_know_the_configuration():
    assert not [path.name for path in PACKAGE if "config" in imported(path)]


@pytest.mark.parametrize(
    ("package", "only"),
    [
        ("transformers", ["loading/checkpoint.py", "loading/pretrained.py"]),
        ("pickle", ["files/store.py", "files/unpickle.py"]),
        ("matplotlib", ["show/canvas.py"]),
        ("jinja2", ["show/report.py"]),
        ("pyarrow", ["corpus/articles.py"]),
        ("datasets", ["corpus/articles.py"]),
        ("spacy", ["corpus/sentences.py"]),
        ("filelock", ["pipeline/outputs.py"]),
        ("sklearn", ["metrics.py"]),
    ],
)
def test_these_files_alone_import(package, only):
    found = {path for path in [*PACKAGE, *SCRIPTS] if package in imported(path)}
    assert found == {ROOT / "shortcut" / name for name in only}


@pytest.mark.parametrize("package", ["transformers", "matplotlib", "spacy", "datasets", "jinja2", "sklearn"])
def test_slow_libraries_are_imported_inside_the_functions_that_need_them(package):
    for path in [*PACKAGE, *SCRIPTS]:
        heads = [node for node in ast.parse(path.read_text()).body if isinstance(node, (ast.Import, ast.ImportFrom))]
        names = [alias.name for node in heads if isinstance(node, ast.Import) for alias in node.names]
        names += [node.module for node in heads if isinstance(node, ast.ImportFrom)]
        assert package not in [name.split(".")[0] for name in names], path


def test_what_python_config_py_reads_loads_no_library():
    """At the heads of the modules, from pipeline/status on: nothing but the standard library."""
    todo, seen = ["shortcut.pipeline.status"], set()
    while todo:
        seen.add(module := todo.pop())
        path = module_file(module)
        heads = [node for node in ast.parse(path.read_text()).body if isinstance(node, (ast.Import, ast.ImportFrom))]
        names = {alias.name for node in heads if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module for node in heads if isinstance(node, ast.ImportFrom)}
        assert {name.split(".")[0] for name in names} <= {*sys.stdlib_module_names, "shortcut"}, path
        todo += [module for module in modules(path, everywhere=False) if module not in seen]
    assert {"shortcut.pipeline.stages", "shortcut.pipeline.manifest"} <= seen


def test_no_pickle_is_read_but_by_our_own_unpickler():
    """`pickle` is the writer's and the reader's alone (above), and these are the other ways in.

    Lenses of other tools are torch's own files of tensors, read as nothing but that.
    """
    calls = [
        node
        for path in [*PACKAGE, *SCRIPTS]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    ]
    assert not {ast.unparse(node.func) for node in calls} & {
        "pickle.load", "pickle.loads", "pickle.Unpickler", "torch.storage._load_from_bytes", "np.load"
    }  # fmt: skip
    loads = [node for node in calls if ast.unparse(node.func) == "torch.load"]
    assert len(loads) == 2  # the storages of torch before 1.6, and those lenses
    assert all("weights_only=True" in map(ast.unparse, node.keywords) for node in loads)


@pytest.mark.parametrize("name", ["linear", "metrics", "intervals", "early_exit"])
def test_pure_modules_import_torch_and_what_computes_only(name):
    path = ROOT / "shortcut" / f"{name}.py"
    assert imported(path) - set(sys.stdlib_module_names) - {"shortcut", "numpy", "sklearn"} == {"torch"}
    assert modules(path) <= {"shortcut.intervals"}


def test_no_package_is_used_that_requirements_do_not_pin():
    lines = [line for path in ROOT.glob("requirements*.txt") for line in path.read_text().splitlines()]
    pinned = {line.split("==")[0] for line in lines if "==" in line}
    distributions = {"sklearn": "scikit-learn", "jinja2": "Jinja2"}
    ours = {"shortcut", "models"} | {path.stem for path in [*SCRIPTS, *TESTS]}
    used = set().union(*map(imported, [*PACKAGE, *SCRIPTS, *TESTS, *ROOT.glob("models/*.py")]))
    missing = {distributions.get(name, name) for name in used - set(sys.stdlib_module_names) - ours} - pinned
    assert not missing


def test_file_names_are_legal_everywhere_and_no_module_hides_an_output_folder():
    names = {path.stem for path in [*PACKAGE, *SCRIPTS]}
    assert not names & {"aux", "con", "nul", "prn", "utils", "experiment", "linreg"}


@pytest.mark.parametrize(("given", "kept"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_threads_wait_without_spinning_unless_asked_to_before_torch_is_loaded(given, kept):
    code = "import os, sys, shortcut; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    env = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | given
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [kept, "False"]


def test_no_script_imports_torch_before_the_package_does():
    assert not [path.name for path in SCRIPTS if "torch" in imported(path)]


def test_the_table_of_stages_loads_no_library_so_that_it_answers_at_once():
    code = "import runpy, sys; runpy.run_path('config.py', run_name='__main__'); print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "shortcut.pipeline.status" in loaded
    assert not loaded & {"torch", "numpy", "transformers", "matplotlib"}
