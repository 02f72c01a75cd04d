"""The package's imports, read from the source: only downward, and no torch where figures are drawn."""

import ast
import graphlib
from pathlib import Path

import pytest

from fedtiny_lite.records import ROOT

PACKAGE = ROOT / "fedtiny_lite"
# `records` and `plots` stand beside the tower; here they have the layer from which they may be used.
LAYERS = {
    0: ("config", "seeding", "vision"),
    1: ("sources", "data", "augmentation", "partition", "models", "masks", "records", "bundles", "statistics"),
    2: (
        *("training", "saliency", "selection", "progressive", "costs", "quantisation", "activations", "thompson"),
        *("sparse", "engine"),
    ),
    3: ("messages", "protocol", "client", "server", "tiny_model"),
    4: ("methods", "checkpoint", "federation", "scoring"),
    5: ("plans", "simulate", "sweep"),
    6: ("plots",),
    7: ("widgets", "notebook_runner", "__main__", "__init__"),
}
LAYER = {module: layer for layer, modules in LAYERS.items() for module in modules}
# Neighbours on a layer that may be used, (user, used).
SIDEWAYS = {
    ("data", "sources"),
    ("selection", "training"),
    ("sparse", "training"),
    ("sparse", "progressive"),
    ("sparse", "selection"),
    *(("engine", used) for used in ("training", "selection", "progressive", "costs", "sparse")),
    ("activations", "costs"),
    ("client", "messages"),
    ("client", "protocol"),
    ("server", "messages"),
    ("server", "protocol"),
    *(("tiny_model", used) for used in ("messages", "protocol", "server")),
    ("scoring", "federation"),
    ("bundles", "records"),
    ("sweep", "plans"),
    ("sweep", "simulate"),
    ("__main__", "notebook_runner"),
}
NO_TORCH = ("records", "bundles", "plots")


def modules() -> dict[str, list[Path]]:
    """Source files by module; a folder counts as one module."""
    files = {path.stem: [path] for path in PACKAGE.glob("*.py")}
    folders = [path.parent for path in PACKAGE.glob("*/__init__.py")]
    return files | {folder.name: sorted(folder.glob("*.py")) for folder in folders}


def imported(path: Path) -> set[str]:
    """Dotted names that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parent = path.parent.relative_to(ROOT).parts
            base = [*parent[: len(parent) + 1 - node.level]] if node.level else []
            base = ".".join([*base, *filter(None, [node.module])])
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return found


def neighbours(files: list[Path]) -> set[str]:
    """Modules of the package that these files import."""
    names = [name.split(".") for path in files for name in imported(path)]
    inner = {parts[1] for parts in names if parts[0] == PACKAGE.name and len(parts) > 1}
    return inner & (set(modules()) | set(LAYER))


GRAPH = {module: neighbours(files) - {module} for module, files in modules().items()}


def test_every_module_has_a_layer():
    assert set(GRAPH) <= set(LAYER)


@pytest.mark.parametrize("module", sorted(GRAPH))
def test_imports_go_downward(module):
    below = {other for other in LAYER if LAYER[other] < LAYER[module]}
    beside = {used for user, used in SIDEWAYS if user == module}
    wrong = GRAPH[module] - below - beside
    assert not wrong, f"{module} (layer {LAYER[module]}) imports {wrong}"


def test_imports_run_in_no_circle():
    list(graphlib.TopologicalSorter(GRAPH).static_order())


@pytest.mark.parametrize("module", NO_TORCH)
def test_no_torch_beside_the_tower(module):
    """Neither the module, nor the package's front door, nor anything of the package that they import."""
    waiting, seen = {module, "__init__"} & set(GRAPH), set()
    while waiting:
        name = waiting.pop()
        seen.add(name)
        waiting |= GRAPH[name] - seen
    foreign = {name.split(".")[0] for name in seen for path in modules()[name] for name in imported(path)}
    assert not foreign & {"torch", "torchvision"}
