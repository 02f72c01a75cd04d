"""Every notebook: thin and clean as committed, and run whole at profile smoke."""

import ast
import io
import json
import tokenize
from importlib.util import find_spec

import nbformat
import papermill
import pytest

from benchmarks.notebook_counts import as_python, counts
from fedtiny_lite.experiments.notebook_runner import find_notebooks, run_notebooks
from fedtiny_lite.records.bundles import COMMITTED, read_bundle, write_bundle
from fedtiny_lite.records.claims import claims_path, expected_bands
from fedtiny_lite.report.arms import WHOLE
from fedtiny_lite.report.claim_costs import arm_of

NAMES = (
    "00_start_here",
    "01_data_heterogeneity",
    "02_bn_candidate_selection",
    "03_progressive_pruning",
    "04_federated_runs",
    "05_comparison",
    "05b_statistics",
    "05c_resnet18",
    "06_costs",
    "07_sparse_for_real",
    "08_to_real_devices",
)
APPENDICES = ("05b_statistics", "05c_resnet18")
each_notebook = pytest.mark.parametrize("path", find_notebooks(), ids=lambda path: path.stem)
LESSONS = [path for path in find_notebooks() if "Lesson(" in path.read_text(encoding="utf-8")]


def code_cells(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def parameters_cell(path):
    [cell] = [cell for cell in code_cells(path) if "parameters" in cell.metadata.get("tags", [])]
    return cell


def test_the_notebooks_are_there():
    assert set(NAMES) <= {path.stem for path in find_notebooks()}


@each_notebook
def test_committed_clean(path):
    notebook = nbformat.read(path, as_version=4)
    assert notebook.metadata.kernelspec.name == "python3"
    assert "papermill" not in notebook.metadata and "widgets" not in notebook.metadata
    for cell in code_cells(path):
        assert cell.outputs == [] and cell.execution_count is None, "run `make strip`"


@each_notebook
def test_cells_are_thin(path):
    """No number is set outside the parameters cell; what is written by hand takes functions, and no class."""
    for cell in code_cells(path):
        tree = ast.parse(as_python(cell.source))
        assert not any(isinstance(node, ast.ClassDef) for node in ast.walk(tree)), cell.source
        if "parameters" not in cell.metadata.get("tags", []):
            values = [node.value for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign)]
            numbers = [node for node in values if isinstance(node, ast.Constant) and type(node.value) in (int, float)]
            assert not numbers, f"move this setting to the parameters cell:\n{cell.source}"


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_goes_in_small_steps(path):
    found = counts(path)
    assert found["most lines"] <= 15 and found["median lines"] <= 6
    assert found["median words"] <= 40
    assert 3 <= found["exercises"] <= 5 or path.stem in APPENDICES, "those are there to look things up"


@each_notebook
def test_every_prediction_has_an_answer(path):
    """In the key's section on the notebook, in order; the row begins with the prompt's words."""
    key = (path.parent / "solutions" / "predictions.md").read_text(encoding="utf-8")
    _, _, section = key.partition(f"\n## {path.stem.split('_')[0]} ")
    rows = [line.removeprefix("| ") for line in section.split("\n## ")[0].splitlines() if line.startswith("| ")][1:]
    text = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown")
    asked = [prompt.strip("*.: ").split("\n")[0][:30] for prompt in text.split("**Predict")[1:]]
    assert len(rows) == len(asked)
    assert [words for words, row in zip(asked, rows, strict=True) if not row.startswith(words)] == []


@each_notebook
def test_parameters_are_typed_commented_literals(path):
    source = parameters_cell(path).source
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    commented = {token.start[0] for token in tokens if token.type == tokenize.COMMENT}
    body = ast.parse(source).body
    for node in body:
        assert isinstance(node, ast.AnnAssign) and node.end_lineno in commented, ast.unparse(node)
        ast.literal_eval(node.value)
    names = [node.target.id for node in body]
    assert {"profile", "out", "interactive"} <= set(names)
    assert list(papermill.inspect_notebook(path)) == names, "papermill reads one assignment a line, one = a line"


@pytest.mark.slow
@each_notebook
def test_runs_at_smoke_and_its_claims_hold(path, tmp_path):
    [run] = run_notebooks([path], "smoke", tmp_path)
    assert run.error is None
    rows = json.loads(claims_path(tmp_path, path.stem).read_text())
    assert [row for row in rows if row["ok"] is False] == []
    expected = {key for key, entry in expected_bands().items() if entry["notebook"] == path.stem}
    assert {row["id"] for row in rows} == expected != set()
    if path.stem == "08_to_real_devices" and find_spec("flwr"):
        shown = (tmp_path / "notebooks" / path.name).read_text(encoding="utf-8")
        assert "Node Unavailable" in shown, "Flower's reason for the client that was killed"


@pytest.mark.slow
def test_the_claims_notebook_shows_what_its_sweep_has_finished(tmp_path):
    """Three arms at one density, two seeds: all but the picture over density is there."""
    tuning = read_bundle(COMMITTED / "claim_tuning.json")
    three = [r for r in tuning if r["config"]["lr"] == 0.05 and arm_of(r) in ("FedTiny", "SynFlow", "magnitude")]
    runs = [
        r
        | {"config": r["config"] | {"seed": seed}, "start": r["start"] | reached}
        | {"rounds": [entry | reached for entry in r["rounds"]]}
        for r in three
        for seed, reached in ((10, {"test_accuracy": 0.3}), (11, {"test_accuracy": 0.4}))
    ]
    write_bundle(tmp_path / "plans" / "claim.json", "claim", runs)
    [run] = run_notebooks(find_notebooks(["05c"]), "smoke", tmp_path)
    assert run.error is None
    pictures = {path.stem for path in (tmp_path / "figures").glob("*.png")}
    assert pictures == {"05c_accuracy_over_rounds", "05c_accuracy_over_work", "05c_leads"}
    text = (tmp_path / "notebooks" / "05c_resnet18.ipynb").read_text(encoding="utf-8")
    assert f"6 of {WHOLE} runs of the main table are there, at density 0.012: 3 of 13 arms, 2 runs of" in text


def test_expected_bands_are_well_formed():
    notebooks = {path.stem for path in find_notebooks()}
    for entry in expected_bands().values():
        assert entry.keys() == {"id", "notebook", "claim", "profiles", "source"}
        assert entry["notebook"] in notebooks
        for low, high in entry["profiles"].values():
            assert low is None or high is None or low <= high, entry["id"]
