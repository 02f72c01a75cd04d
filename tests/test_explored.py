"""A notebook run with other parameters than the committed ones: told apart, not judged, kept in its own folder."""

from pathlib import Path

import nbformat
import papermill
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from fedtiny_lite.experiments.notebook_runner import find_notebooks
from fedtiny_lite.records.claims import check, claim_cells
from fedtiny_lite.records.explored import changed_parameters, own_folder, results_folder, standard_parameters
from fedtiny_lite.records.files import ROOT

PARAMETERS = """\
profile: str = "digits"  # bands
out: str = "results"  # from the root
interactive: bool = True  # panels
density: float = 0.02  # kept
seeds: list = [0, 1]  # repetitions
"""
WHERE = """\
from fedtiny_lite.records.explored import changed_parameters, own_folder, results_folder
print(own_folder(results_folder(out), changed_parameters(SOURCE, globals())))
"""


@pytest.fixture(scope="module")
def notebook(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("notebooks") / "09_where.ipynb"
    cells = [
        new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        new_code_cell(WHERE.replace("SOURCE", repr(str(path)))),
    ]
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


def test_the_parameters_cell_says_what_is_standard(notebook):
    standard = {"profile": "digits", "out": "results", "interactive": True, "density": 0.02, "seeds": [0, 1]}
    assert standard_parameters(notebook) == standard
    assert changed_parameters(notebook, standard | {"other": 1, "profile": "smoke", "out": "/x"}) == []
    assert changed_parameters(notebook, {"density": 0.01, "seeds": [2]}) == ["density", "seeds"]
    assert changed_parameters(notebook, {}) == []


@pytest.mark.parametrize("path", find_notebooks(), ids=lambda path: path.stem)
def test_every_committed_notebook_is_standard_as_it_stands(path):
    assert standard_parameters(path.stem) == standard_parameters(path)
    assert changed_parameters(path.stem, standard_parameters(path)) == []
    if "Lesson(" in path.read_text(encoding="utf-8"):
        assert results_folder(standard_parameters(path)["out"]) == ROOT / "results"


def test_a_notebook_without_parameters_has_no_standard(tmp_path):
    nbformat.write(new_notebook(cells=[new_code_cell("x = 1")]), tmp_path / "a.ipynb")
    with pytest.raises(ValueError, match=r"a\.ipynb has no cell tagged 'parameters'"):
        standard_parameters(tmp_path / "a.ipynb")


def test_changed_parameters_have_a_folder_of_their_own(tmp_path):
    assert own_folder(tmp_path, []) == tmp_path
    assert own_folder(tmp_path, ["density"]) == tmp_path / "explored"
    assert results_folder("results") == ROOT / "results"
    assert results_folder(tmp_path) == tmp_path


@pytest.mark.parametrize(
    ("profile", "changed", "verdict"),
    [
        ("digits", (), "MISS"),
        ("digits", ("density",), "not judged: density differs"),
        ("digits", ("density", "seed"), "not judged: density and seed differ"),
        ("paper", (), "not judged: no band at profile paper"),
    ],
)
def test_what_no_band_was_made_for_is_not_judged(profile, changed, verdict):
    assert claim_cells(check("00-accuracy", 0.0, profile, changed=changed))[-1] == verdict


@pytest.mark.slow
@pytest.mark.parametrize("start", [Path("/"), ROOT / "notebooks", None], ids=["root", "notebooks", "elsewhere"])
def test_plain_papermill_finds_the_results_from_any_folder(notebook, start, tmp_path, monkeypatch):
    monkeypatch.chdir(start or tmp_path)
    done = papermill.execute_notebook(str(notebook), None, {"density": 0.01}, progress_bar=False)
    assert done.cells[-1].outputs[0].text.strip() == str(ROOT / "results" / "explored")
