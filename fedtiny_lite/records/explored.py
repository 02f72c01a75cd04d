"""Exploring is free: a notebook run with other parameters than the committed ones is told apart from the standard run.

The standard values are those in the parameters cell of the notebook itself; bands are made for them. A run with others
is not judged, and its claims and figures go to a folder of their own. The records of runs need none: their names hold
their settings.
"""

import ast
import json
from collections.abc import Mapping
from pathlib import Path

from fedtiny_lite.records.files import ROOT

NO_RESULT = ("profile", "out", "interactive")
"""Parameters that change no number (`out`, `interactive`) or that choose among the bands (`profile`)."""
EXPLORED = "explored"


def results_folder(out: str | Path) -> Path:
    """The folder that a notebook's `out` names: an absolute path as it is, another from the root of the repository.

    So a notebook writes to the same place whichever folder papermill or Jupyter was started in.
    """
    return (ROOT / out).resolve()


def standard_parameters(notebook: str | Path) -> dict[str, object]:
    """Name -> value in the parameters cell of a notebook: the path of one, or the name of one in notebooks/.

    Raises FileNotFoundError for a notebook that is not there, ValueError for one without such a cell.
    """
    path = Path(notebook)
    if path.suffix != ".ipynb":
        path = ROOT / "notebooks" / f"{notebook}.ipynb"
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if "parameters" in cell["metadata"].get("tags", ()):
            return _literals("".join(cell["source"]))
    raise ValueError(f"{path.name} has no cell tagged 'parameters'")


def _literals(source: str) -> dict[str, object]:
    """Name -> value of the lines `name: type = literal` in a cell."""
    return {
        line.target.id: ast.literal_eval(line.value)
        for line in ast.parse(source).body
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value
    }


def changed_parameters(notebook: str | Path, given: Mapping[str, object]) -> list[str]:
    """The parameters of a notebook that have another value in `given` than in its committed cell, in its order.

    `given` may hold more, such as `globals()` of the notebook; a parameter that it lacks is not changed.
    """
    standard = standard_parameters(notebook)
    return [name for name in standard if name not in NO_RESULT and given.get(name, standard[name]) != standard[name]]


def own_folder(out: Path, changed: list[str]) -> Path:
    """Where claims, figures and pages go: `out`, or a folder in it if parameters were changed."""
    return out / EXPLORED if changed else out
