"""The package installs from its metadata, with its data files, and works away from the folder of the scripts."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from sources import PACKAGE, imported

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
RANGES = {r.name: r.specifier for r in map(Requirement, PROJECT["dependencies"])}


def pins(file):
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    return {name: Version(version) for name, _, version in (line.partition("==") for line in lines) if version}


def test_the_tested_versions_are_within_the_ranges():
    tested = pins("requirements.txt")
    assert {name: tested[name] for name, allowed in RANGES.items() if tested[name] not in allowed} == {}


def test_every_library_that_the_package_imports_is_a_dependency():
    distributions = {"sklearn": "scikit-learn", "jinja2": "Jinja2"}
    used = set().union(*map(imported, PACKAGE)) - {*sys.stdlib_module_names, "shortcut"}
    assert {distributions.get(name, name) for name in used} <= {*RANGES}


def test_tools_for_tests_are_not_needed_to_run():
    assert not {"pytest", "pytest-xdist", "ruff"} & {*pins("requirements.txt"), *RANGES}
    assert {"pytest", "pytest-xdist", "ruff"} <= {*pins("requirements-dev.txt")}
    assert "-r requirements.txt" in (ROOT / "requirements-dev.txt").read_text(encoding="utf-8").splitlines()


def test_one_version_everywhere():
    cited = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^version: (.*)$", cited, re.MULTILINE)[1] == PROJECT["version"]
    assert re.search(r"^## ([\d.]+)", changes, re.MULTILINE)[1] == PROJECT["version"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel of a copy of this folder, unpacked. Made without a network."""
    folder = tmp_path_factory.mktemp("install")
    (folder / "copy").mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "config.py"):
        shutil.copy(ROOT / name, folder / "copy")
    shutil.copytree(ROOT / "shortcut", folder / "copy" / "shortcut", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", folder, folder / "copy"], check=True)
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder / "site")
    return folder / "site"


def run(installed, code, cwd):
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, check=True)
    return done.stdout.decode().split()


def test_the_package_is_installed_whole_and_nothing_else(installed):
    information = f"linear_shortcut-{PROJECT['version']}.dist-info"
    assert {path.name for path in installed.iterdir()} == {"shortcut", information}
    files = {path.relative_to(ROOT) for path in (ROOT / "shortcut").rglob("*") if path.is_file()}
    files = {path for path in files if "__pycache__" not in path.parts}
    assert {path.relative_to(installed) for path in (installed / "shortcut").rglob("*") if path.is_file()} == files


def test_the_import_is_fast_and_lists_the_lens(installed, tmp_path):
    code = "import shortcut, sys; print('Lens' in dir(shortcut), 'torch' in sys.modules, shortcut.Lens.__name__)"
    assert run(installed, code, tmp_path) == ["True", "False", "Lens"]


def test_maps_are_looked_for_in_the_current_folder_once_installed_and_beside_the_scripts_in_a_clone(
    installed, tmp_path
):
    code = "from shortcut.files.names import PROJECT; print(PROJECT.resolve())"
    assert run(installed, code, tmp_path) == [str(tmp_path.resolve())]
    assert run(ROOT, code, tmp_path) == [str(ROOT)]
