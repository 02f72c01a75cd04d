"""A disk that is full, and two runs in one folder: nothing finished is lost, and the message says what to do.

The operating system is asked to end every file at some size, so that writing really fails half way.
"""

import json
import subprocess
import sys

import nbformat
import papermill.iorw
import pytest

from fedtiny_lite.experiments.notebook_runner import run_notebooks
from fedtiny_lite.records import schema
from fedtiny_lite.records.files import HOST, ROOT, alone, aside, read_json, scratch_folder, write_json
from fedtiny_lite.report.pages.notebook_page import write_page
from fedtiny_lite.simulation.rounds import LOCK, run
from tests.helpers import four_clients
from tests.test_notebook_runner import write_notebook

resource = pytest.importorskip("resource", reason="the size of a file cannot be limited here")
CONFIG = four_clients(method="lotteryfl", rounds=3)
MAKE_ROOM = r"cannot write it \(File too large\); make room and run the same again, which goes on from what is finished"


@pytest.fixture
def largest_file():
    """largest_file(bytes): no file can grow beyond that; None = as before."""
    before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    set_to = lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (before if size is None else size, hard))  # noqa: E731
    yield set_to
    set_to(None)


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The record of a run that nothing befell, and the sizes of its files."""
    out = tmp_path_factory.mktemp("whole")
    record = run(CONFIG, out)
    return record, {path.name: path.stat().st_size for path in (out / CONFIG.run_id).iterdir()}


@pytest.mark.parametrize(
    ("after", "size", "failing", "left"),
    [
        (0, 200, r"clients/\w+|rounds/\w+", ["checkpoint.ftl", "clients", "rounds"]),
        (2, 200, r"model\.tiny", ["checkpoint.ftl", "rounds"]),
        (2, "model.tiny", r"record\.json", ["checkpoint.ftl", "model.tiny", "rounds"]),
    ],
    ids=["checkpoint", "model", "record"],
)
def test_a_run_on_a_full_disk_keeps_what_is_finished_and_goes_on(
    after, size, failing, left, whole, largest_file, tmp_path
):
    record, sizes = whole
    size = sizes[size] if isinstance(size, str) else size
    folder = tmp_path / CONFIG.run_id

    def fill(entry, state):
        if entry["round"] == after:
            largest_file(size)

    with pytest.raises(OSError, match=rf"{MAKE_ROOM}.*({failing})"):
        run(CONFIG, tmp_path, fill)
    largest_file(None)
    beside = {"clients", LOCK}
    assert [name for name in names(folder) if name not in beside] == [name for name in left if name not in beside]
    rounds = []
    resumed = run(CONFIG, tmp_path, lambda entry, state: rounds.append(entry["round"]))
    assert rounds == list(range(after + 1, 3))
    assert schema.canonical(resumed) == schema.canonical(record)
    assert names(folder) == ["model.tiny", "record.json"]


def test_a_page_on_a_full_disk_stays_as_it_was(largest_file, tmp_path):
    notebook = nbformat.read(write_notebook(tmp_path / "nb", "00_a", "x = 1"), as_version=4)
    page = tmp_path / "a.html"
    write_page(notebook, page, tmp_path)
    before = page.read_bytes()
    largest_file(len(before) // 2)
    with pytest.raises(OSError, match=rf"{MAKE_ROOM}.*a\.html"):
        write_page(notebook, page, tmp_path)
    assert page.read_bytes() == before and names(tmp_path) == ["a.html", "nb"]


def test_a_notebook_on_a_full_disk_is_named_and_its_copy_stays(monkeypatch, tmp_path, capsys):
    """The disk is played by papermill's writer, which fails half way through its second copy."""
    source = write_notebook(tmp_path / "nb", "00_a", "x = 1", "y = 2")
    run_notebooks([source], "smoke", tmp_path / "out")
    copy = tmp_path / "out" / "notebooks" / "00_a.ipynb"
    before, write, calls = copy.read_bytes(), papermill.iorw.LocalHandler.write, []

    def full(self, buffer, path):
        calls.append(path)
        write(self, buffer[: len(buffer) // 2] if len(calls) > 1 else buffer, path)
        if len(calls) > 1:
            raise OSError(28, "No space left on device", path)

    monkeypatch.setattr(papermill.iorw.LocalHandler, "write", full)
    [outcome] = run_notebooks([source], "smoke", tmp_path / "out")
    assert "cannot write it (No space left on device); make room" in outcome.error
    assert copy.read_bytes() == before and names(copy.parent) == ["00_a.ipynb"]
    assert read_json(tmp_path / "out" / "outcomes" / "00_a.json")["error"] == outcome.error


# --- two at once ------------------------------------------------------------------------------------------


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    """The second begins and ends while the first is writing; the file is always one of the two."""
    path = tmp_path / "x.json"
    with aside(path) as first:
        first.write_text("1")
        second = subprocess.run(
            [sys.executable, "-c", f"from fedtiny_lite.records.files import write_json; write_json({str(path)!r}, 2)"],
            cwd=ROOT,
            check=False,
        )
        assert second.returncode == 0 and read_json(path) == 2
    assert read_json(path) == 1 and names(tmp_path) == ["x.json"]


RUN = """
import json, sys
from fedtiny_lite.config import make_config
from fedtiny_lite.simulation.rounds import run
run(make_config({}, **json.loads(sys.argv[1])), sys.argv[2])
"""


@pytest.mark.slow
def test_two_runs_in_one_folder_both_finish(whole, tmp_path):
    command = [sys.executable, "-c", RUN, json.dumps(CONFIG.identity()), str(tmp_path)]
    both = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(timeout=300) for process in both] == [0, 0]
    folder = tmp_path / CONFIG.run_id
    assert names(folder) == ["model.tiny", "record.json"]
    assert schema.canonical(schema.read_record(folder / "record.json")) == schema.canonical(whole[0])


NOTEBOOKS = """
import sys
from fedtiny_lite.experiments.notebook_runner import run_notebooks
print(run_notebooks([sys.argv[1]], "smoke", sys.argv[2])[0].error)
"""


@pytest.mark.slow
def test_two_runs_of_a_notebook_in_one_folder_both_finish(tmp_path):
    source = write_notebook(tmp_path / "nb", "00_a", "x = 1", "print(x)")
    command = [sys.executable, "-c", NOTEBOOKS, str(source), str(tmp_path / "out")]
    both = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=300)[0].splitlines()[-1] for process in both] == ["None", "None"]
    assert nbformat.read(tmp_path / "out" / "notebooks" / "00_a.ipynb", as_version=4).cells[-1].outputs[0].text == "1\n"
    assert names(tmp_path / "out" / "notebooks") == ["00_a.ipynb"]
    assert read_json(tmp_path / "out" / "outcomes" / "00_a.json")["error"] is None


def test_a_scratch_folder_is_swept_once_its_process_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = tmp_path / f".fedtiny-lite.abc.{HOST}.{ended.pid}.tmp"
    write_json(left / "message", {})
    with scratch_folder() as folder:
        assert names(tmp_path) == [folder.name]
    assert names(tmp_path) == []


def test_the_second_process_waits_for_the_first(tmp_path):
    """The first is this test, which holds the folder's lock until the second has said that it waits."""
    folder = tmp_path / CONFIG.run_id
    folder.mkdir()
    command = [sys.executable, "-c", RUN, json.dumps(CONFIG.identity()), str(tmp_path)]
    with alone(folder / LOCK):
        second = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        assert second.stderr and "another process works in" in second.stderr.readline()
        assert names(folder) == [LOCK]
    assert second.communicate(timeout=300) and second.returncode == 0
    assert names(folder) == ["model.tiny", "record.json"]


def test_a_lock_ends_with_the_process_that_held_it(tmp_path):
    code = f"""
import os
from pathlib import Path
from fedtiny_lite.records.files import alone
with alone(Path({str(tmp_path / LOCK)!r})):
    os._exit(1)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 1
    with alone(tmp_path / LOCK):
        assert names(tmp_path) == [LOCK]
