import json
import re
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from fedtiny_lite.experiments.notebook_runner import find_notebooks, run_notebooks
from fedtiny_lite.records import files

PARAMETERS = """\
profile: str = "digits"  # smoke, digits, laptop or paper
out: str = "../results"  # folder of the results
interactive: bool = True  # show widgets
seeds: int = 5  # seeds to average over
"""
LOOK = """\
import json, os, sys
from pathlib import Path
claim = {"id": "c", "claim": "one <is> one", "low": 1, "high": 1, "measured": 1, "ok": True, "why": ""}
Path(out, "claims").mkdir(exist_ok=True)
Path(out, "claims", "NAME.json").write_text(json.dumps([claim]))
print(json.dumps([profile, out, interactive, seeds, os.getcwd(), sys.executable]))
"""


def write_notebook(folder, name, *sources):
    cells = [
        new_markdown_cell("# Title\n\n$a < b$"),
        new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
    ]
    cells += [new_code_cell(source.replace("NAME", name)) for source in sources]
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.ipynb"
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Two notebooks run at once, the first of which fails: (sources, their bytes before, out, runs)."""
    folder = tmp_path_factory.mktemp("odd {name}")
    sources = [
        write_notebook(folder / "nb", "00_bad", "x = 1", "raise KeyError('no such\\nthing')", "x = 2"),
        write_notebook(folder / "nb", "01_good", LOOK),
    ]
    before = [source.read_bytes() for source in sources]
    files.write_json(folder / "out" / "claims" / "00_bad.json", [{"claim": "stale"}])
    return sources, before, folder / "out", run_notebooks(sources, "smoke", folder / "out", {"seeds": 5})


def test_a_failing_notebook_is_named_and_the_others_run(executed):
    runs = executed[3]
    assert [run.name for run in runs] == ["00_bad", "01_good"]
    assert re.fullmatch(r"failed in cell \[4\]: KeyError: .*no such.*", runs[0].error)
    assert runs[1].error is None
    assert all(run.seconds > 0 for run in runs)


def test_parameters_folder_and_python_of_the_kernel(executed):
    sources, _, out, _ = executed
    cells = nbformat.read(out / "notebooks" / "01_good.ipynb", as_version=4).cells
    printed = next(cell.outputs[0].text for cell in cells if cell.cell_type == "code" and cell.outputs)
    assert json.loads(printed) == ["smoke", str(out), False, 5, str(sources[1].parent), sys.executable]


def test_sources_are_left_as_they_were(executed):
    sources, before, _, _ = executed
    assert [source.read_bytes() for source in sources] == before


def test_claims_of_an_earlier_run_are_gone(executed):
    assert [path.name for path in (executed[2] / "claims").iterdir()] == ["01_good.json"]


def test_how_each_ended_is_kept(executed):
    bad, good = (files.read_json(executed[2] / "outcomes" / f"{name}.json") for name in ("00_bad", "01_good"))
    assert bad == {"profile": "smoke"} | executed[3][0]._asdict()
    assert good["error"] is None and good["seconds"] > 0


def test_changed_parameters_leave_the_standard_run_alone(executed, tmp_path):
    out = tmp_path / "out"
    run_notebooks([executed[0][0]], "smoke", out, {"seeds": 2})
    assert "seeds = 2" in (out / "explored" / "notebooks" / "00_bad.ipynb").read_text()
    assert (out / "explored" / "outcomes" / "00_bad.json").is_file()
    assert {path.name for path in out.iterdir()} == {"explored"}


@pytest.mark.parametrize(
    ("name", "out", "parameters", "message"),
    [
        ("00_a", "o", {"sedes": 1}, "has no parameter sedes; allowed are: profile, out, interactive, seeds"),
        ("00_a", "", {}, "would overwrite"),
        ("00_b", "o", {}, "there is no notebook"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(tmp_path, name, out, parameters, message):
    write_notebook(tmp_path / "notebooks", "00_a", "1")
    with pytest.raises(ValueError, match=message):
        run_notebooks([tmp_path / "notebooks" / f"{name}.ipynb"], "smoke", tmp_path / out, parameters)
    assert [path.name for path in tmp_path.iterdir()] == ["notebooks"]


def test_a_notebook_without_parameters_is_refused(tmp_path):
    path = write_notebook(tmp_path / "notebooks", "00_a", "1")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].metadata["tags"] = []
    nbformat.write(notebook, path)
    with pytest.raises(ValueError, match="no cell is tagged 'parameters'"):
        run_notebooks([path], "smoke", tmp_path / "out")


def test_a_kernel_that_dies_is_an_error_of_its_notebook(tmp_path):
    path = write_notebook(tmp_path / "nb", "00_a", "import os; os._exit(1)")
    [run] = run_notebooks([path], "smoke", tmp_path / "out")
    assert re.match("failed: DeadKernelError: ", run.error)


def test_another_registered_kernel_does_not_get_in_between(tmp_path, monkeypatch):
    spec = {"argv": ["false"], "display_name": "other", "language": "python"}
    files.write_json(tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json", spec)
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    source = write_notebook(tmp_path / "nb", "00_a", LOOK)
    assert run_notebooks([source], "smoke", tmp_path / "out")[0].error is None


def test_find_notebooks_by_the_start_of_their_names(tmp_path, monkeypatch):
    monkeypatch.setattr("fedtiny_lite.experiments.notebook_runner.ROOT", tmp_path)
    for name in ("01_b", "00_a", "02_c"):
        write_notebook(tmp_path / "notebooks", name)
    assert [path.stem for path in find_notebooks()] == ["00_a", "01_b", "02_c"]
    assert [path.stem for path in find_notebooks(["02", "00_a"])] == ["00_a", "02_c"]
    with pytest.raises(ValueError, match="'03'; there are: 00_a, 01_b, 02_c"):
        find_notebooks(["03"])
