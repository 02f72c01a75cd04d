"""The package's imports, read from the source: only downward from floor to floor, and no torch where figures are drawn.

A room is a folder of the package, or a module that stands beside the folders.
"""

import ast
import graphlib
import re
from pathlib import Path

import pytest

from fedtiny_lite.records.files import ROOT

PACKAGE = ROOT / "fedtiny_lite"
FLOORS = (
    ("seeding", "settings", "progress_bar", "own_files"),
    ("config", "records"),
    ("data",),
    ("model",),
    ("pruning",),
    ("sparse",),
    ("federated",),
    ("methods", "export"),
    ("simulation",),
    ("experiments", "flower"),
    ("report",),
    ("plots", "exercises"),
    ("widgets",),
    ("__init__",),
    ("__main__",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
DOORS = {"__init__", "__main__"}
"""Modules that are no rooms: `import fedtiny_lite` and `python -m fedtiny_lite` come in through them."""
NO_TORCH = ("records", "report", "plots")


def imported(path: Path) -> set[str]:
    """Dotted names that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively; write the whole name"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = sorted(PACKAGE.rglob("*.py"))
IMPORTS = {module_name(path): imported(path) for path in FILES}
MODULES = {name: imports & IMPORTS.keys() for name, imports in IMPORTS.items()}
ROOMS: dict[str, set[str]] = {}
for path in FILES:
    used = {name.split(".")[1] for name in MODULES[module_name(path)] if "." in name}
    ROOMS.setdefault(room_of(path), set()).update(used - {room_of(path)})


def test_there_are_at_most_twenty_rooms_and_each_has_a_floor():
    assert set(ROOMS) == set(FLOOR)
    assert len(ROOMS.keys() - DOORS) <= 20


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_imports_go_downward(room):
    wrong = {used for used in ROOMS[room] if FLOOR[used] >= FLOOR[room]}
    assert not wrong, f"{room} (floor {FLOOR[room]}) imports {wrong}"


def test_the_page_lists_rooms_in_an_order_in_which_each_imports_from_those_before():
    text = (ROOT / "docs" / "package.md").read_text(encoding="utf-8")
    listed = re.findall(r"\[(\w+)/\]|^\| `(\w+)` \|", text, re.MULTILINE)
    order = {folder or module: number for number, (folder, module) in enumerate(listed)}
    assert order.keys() == set(ROOMS) - DOORS
    for room in order:
        assert {used for used in ROOMS[room] if order[used] > order[room]} == set(), room


def test_modules_import_each_other_in_no_circle():
    list(graphlib.TopologicalSorter(MODULES).static_order())


def test_only_methods_and_the_first_calls_are_imported_by_name():
    """Such imports are not seen above: `config` loads a method when it is asked for, the package its first calls."""
    found = {module_name(path) for path in FILES if "import_module(" in path.read_text(encoding="utf-8")}
    assert found == {"fedtiny_lite", "fedtiny_lite.config"}


@pytest.mark.parametrize("room", NO_TORCH)
def test_no_torch_where_records_are_read_and_drawn(room):
    """Neither the room's modules nor whatever of the package they import."""
    waiting, seen = [name for name in MODULES if name.startswith(f"{PACKAGE.name}.{room}")], set()
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += MODULES[name]
    foreign = {name.split(".")[0] for module in seen for name in IMPORTS[module]}
    assert not foreign & {"torch", "torchvision"}
