"""The project's lists of packages agree with each other and with what the code imports."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from benchmarks.notebook_counts import as_python
from fedtiny_lite.records.files import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA_NAMES = {"pytorch": "torch", "playwright-python": "playwright"}


def requirements(lines) -> dict[str, Requirement]:
    found = [Requirement(line) for line in lines if not line.startswith("#")]
    return {canonicalize_name(found.name): found for found in found}


RUNTIME = requirements(PROJECT["dependencies"])
EXTRAS = {name: requirements(PROJECT["optional-dependencies"][name]) for name in ("onnx", "flower", "test")}
WITH_ONNX, WITH_FLOWER = RUNTIME | EXTRAS["onnx"], RUNTIME | EXTRAS["flower"]
DIRECT = WITH_ONNX | WITH_FLOWER | EXTRAS["test"]
assert DIRECT.pop(PROJECT["name"]).extras == {"onnx", "flower"}
PINS, LOWEST = (
    requirements((ROOT / f"{name}.txt").read_text().splitlines()) for name in ("constraints", "constraints-lowest")
)


def test_conda_environment_is_the_project_under_conda_names():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    *lines, python_packages = conda["dependencies"]
    assert conda["channels"] == ["conda-forge", "nodefaults"]
    assert python_packages == {"pip": ["-e .[flower]"]}  # Flower's minor version is pinned, and conda-forge has its own
    found = {CONDA_NAMES.get(name, name): entry for name, entry in requirements(lines).items()}
    assert str(found.pop("python").specifier) == PROJECT["requires-python"]
    found.pop("pip")
    assert {name: entry.specifier for name, entry in found.items()} == {
        name: entry.specifier for name, entry in DIRECT.items() if name not in EXTRAS["flower"]
    }


def test_every_direct_dependency_is_pinned_within_its_bounds():
    assert PINS.keys() == DIRECT.keys()
    for name, pin in PINS.items():
        [exact] = pin.specifier
        assert exact.operator == "==" and DIRECT[name].specifier.contains(exact.version), name


def test_the_lowest_versions_are_the_lower_bounds():
    assert LOWEST.keys() == DIRECT.keys()
    for name, pin in LOWEST.items():
        [exact] = pin.specifier
        [bound] = [part for part in DIRECT[name].specifier if part.operator == ">="]
        assert (exact.operator, exact.version) == ("==", bound.version), name


def test_the_workflow_calls_the_two_commands_on_the_lowest_python_and_a_newer_one():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())["jobs"]
    browser, *commands = [step["run"] for step in jobs["two-commands"]["steps"] if "run" in step]
    assert commands == ["make test", "make reproduce"] and "chromium" in browser
    lowest, newest = (Version(version) for version in jobs["two-commands"]["strategy"]["matrix"]["python"])
    assert str(SpecifierSet(PROJECT["requires-python"])) == f">={lowest}" and newest > lowest


def test_the_site_is_what_make_reproduce_writes_and_only_main_publishes_it():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "pages.yml").read_text())
    steps, publish = workflow["jobs"]["report"]["steps"], workflow["jobs"]["publish"]
    [upload] = [step for step in steps if "upload-pages-artifact" in step.get("uses", "")]
    assert "make reproduce" in [step.get("run") for step in steps] and upload["with"]["path"] == "results/report"
    assert workflow[True]["push"] == {"branches": ["main"]}, "yaml reads the key `on` as true"
    assert publish["if"] == upload["if"] == "github.event_name == 'push'" and publish["needs"] == "report"


def test_citation_and_changelog_name_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"] and citation["license"] == PROJECT["license"]
    headings = re.findall(r"^## \[?([^\]\s]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[:2] == ["Unreleased", PROJECT["version"]]


def sources(folder) -> list[str]:
    """The Python code of a folder: its modules, and its notebooks' cells."""
    cells = [
        as_python(cell.source)
        for path in (ROOT / folder).glob("*.ipynb")
        for cell in nbformat.read(path, as_version=4).cells
        if cell.cell_type == "code"
    ]
    return cells + [path.read_text(encoding="utf-8") for path in (ROOT / folder).rglob("*.py")]


def imported(folders) -> set[str]:
    """Top-level modules outside the standard library that the Python code of these folders imports."""
    found = set()
    for node in (node for folder in folders for code in sources(folder) for node in ast.walk(ast.parse(code))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"fedtiny_lite", "benchmarks", "tests"}


@pytest.mark.parametrize(
    ("folders", "declared"),
    [(["fedtiny_lite", "notebooks"], WITH_FLOWER), (["benchmarks"], WITH_ONNX), (["tests"], DIRECT)],
    ids=["package", "benchmarks", "tests"],
)
def test_what_is_imported_is_declared(folders, declared):
    providers = metadata.packages_distributions()
    for module in imported(folders):
        assert {canonicalize_name(name) for name in providers[module]} & declared.keys(), f"{module} is not declared"


def test_an_old_python_is_refused_before_anything_is_made(tmp_path):
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    done = subprocess.run(
        ["make", "-C", ROOT, "PYTHON=false", f"VENV={tmp_path / 'venv'}", "test"],
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "needs Python 3.11 or newer, and 'false' is not" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_every_verb_of_the_makefile_is_there_and_explained():
    text = (ROOT / "Makefile").read_text()
    verbs = {"reproduce", "flower-demo", "test", "quick", "lab", "site", "figures", "bench", "strip"}
    assert set(re.findall(r"^([\w-]+): \$\(INSTALLED\)$", text, re.MULTILINE)) == verbs
    assert set(re.findall(r'^\t@echo "make ([\w-]+) ', text, re.MULTILINE)) == verbs | {"test-lowest"}


def test_only_the_flower_room_imports_flower():
    """So that the package runs without the extra."""
    imports = re.compile(r"^\s*(import|from) flwr", re.MULTILINE)
    found = {path.parent.name for path in (ROOT / "fedtiny_lite").rglob("*.py") if imports.search(path.read_text())}
    assert found == {"flower"}


def test_the_flower_app_is_the_flower_room():
    app = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    for reference in app["components"].values():
        module, _, name = reference.partition(":")
        assert (ROOT / f"{module.replace('.', '/')}.py").read_text().count(f"\n{name} = ") == 1
    [pin] = PINS["flwr"].specifier
    following = f"1.{Version(pin.version).minor + 1}"
    assert EXTRAS["flower"]["flwr"].specifier == SpecifierSet(f">={pin.version},<{following}")
