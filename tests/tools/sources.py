"""The project's own code, read: its files, and what they import."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


PACKAGE = sorted((ROOT / "shortcut").rglob("*.py"))
SCRIPTS = sorted(ROOT.glob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def nodes(path):
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, (ast.Import, ast.ImportFrom))]


def imported(path):
    """The packages that a file names anywhere."""
    names = set()
    for node in nodes(path):
        parts = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
        names |= {part.split(".")[0] for part in parts}
    return names


def modules(path, everywhere=True):
    """The modules of the package that a file imports; without `everywhere` those at its head alone."""
    tree = ast.parse(path.read_text())
    found = set()
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "shortcut":
            for alias in node.names:
                inside = f"{node.module}.{alias.name}"
                found.add(inside if module_file(inside) else node.module)
    return found - {"shortcut"}


def module_file(module):
    place = ROOT / Path(*module.split("."))
    return next((p for p in (place.with_suffix(".py"), place / "__init__.py") if p.is_file()), None)


def behind(script):
    """The files that a reader meets who follows the imports of a script, those inside functions too."""
    todo, seen = [ROOT / f"{script}.py"], set()
    while todo:
        if (path := todo.pop()) not in seen:
            seen.add(path)
            local = {ROOT / f"{name}.py" for name in imported(path)} & {*SCRIPTS}
            todo += [*local, ROOT / "shortcut" / "__init__.py", *map(module_file, modules(path))]
    return seen
