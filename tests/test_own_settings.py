"""A reader's method is one file with settings of its own: dropped into a copy of the package, it works everywhere."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fedtiny_lite.config import METHODS, make_config
from fedtiny_lite.records.files import ROOT

EAGER = '''
"""Magnitude pruning, where the server takes only a part of the step that the average of the clients is."""

from dataclasses import dataclass, replace

from fedtiny_lite.federated.protocol import Exchange, Method
from fedtiny_lite.federated.server import average
from fedtiny_lite.methods import magnitude
from fedtiny_lite.methods._averaging import expect_weights, send_model, train_and_return
from fedtiny_lite.settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class Eagerness(Settings):
    """How far the server follows its clients."""

    eagerness: float = setting(0.5, "share of the averaged step that the server takes", above=0, high=1)
    # a second one


def fold(server, state, r, replies):
    """A step from the weights before towards the average."""
    share, mean = server.task.config.of(Eagerness).eagerness, average(server, state, replies)
    return replace(state, weights={n: w + share * (mean[n] - w) for n, w in state.weights.items()}), {"share": share}


METHOD = Method(
    "Eager",
    "masks that stay",
    magnitude.start,
    Exchange("train", send_model, train_and_return, expect_weights, fold),
    settings=Eagerness,
    knobs={"eagerness": (0.5, 1.0)},
)
'''
SMALL = ["samples=240", "test_samples=60", "server_shots=4", "clients=2", "width=2", "density=0.2", "pretrain_epochs=1"]


def package_with(folder: Path, source: str) -> Path:
    """A folder that holds a copy of the package with this file in it, and no other change."""
    shutil.copytree(ROOT / "fedtiny_lite", folder / "fedtiny_lite", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "fedtiny_lite" / "methods" / "eager.py").write_text(source)
    return folder


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return package_with(tmp_path_factory.mktemp("copy"), EAGER)


def python(package: Path, *arguments) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=package,
        env=os.environ | {"PYTHONPATH": str(package), "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def told(package: Path, program: str, *arguments):
    """What a program in the copy prints as JSON."""
    found = python(package, "-c", "import json, sys, fedtiny_lite\n" + program, *arguments)
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout.splitlines()[-1])


def command(package: Path, out: Path, *settings: str) -> subprocess.CompletedProcess:
    run = ("-m", "fedtiny_lite", "run", "--profile", "smoke", "--method", "eager", "--out", out)
    return python(package, *run, "--set", *SMALL, *settings)


@pytest.fixture(scope="module")
def results(package):
    """Three runs of the command line, with eagerness 0.5 by default, 1 and 0.25: the folder, and a record of each."""
    out, records = package / "results", {}
    for eagerness in (None, 1.0, 0.25):
        found = command(package, out, *([f"eagerness={eagerness}"] if eagerness else []))
        assert found.returncode == 0, found.stderr
        records[eagerness or 0.5] = json.loads(Path(found.stdout.splitlines()[-1]).read_text())
    return out, records


def test_the_copy_is_what_runs(package):
    program = "from fedtiny_lite.config import METHODS\nprint(json.dumps([fedtiny_lite.__file__, METHODS]))"
    place, methods = told(package, program)
    assert Path(place).parent == package / "fedtiny_lite"
    assert methods == sorted([*METHODS, "eager"])


def test_its_setting_is_given_on_the_command_line_recorded_and_counts(results):
    _, records = results
    for eagerness, record in records.items():
        assert record["config"]["eagerness"] == eagerness and record["complete"]
        assert record["method"] == {"label": "Eager", "family": "masks that stay"}
        assert [entry["share"] for entry in record["rounds"]] == [eagerness] * 2
        assert not {"adjust_every", "pool_size", "lottery_rate"} & record["config"].keys()
    assert len({record["run_id"] for record in records.values()}) == 3
    assert len({record["final"]["test_loss"] for record in records.values()}) == 3


def test_help_shows_its_setting_beside_those_of_every_run(package):
    found = python(package, "-m", "fedtiny_lite", "run", "--method", "eager", "--help")
    assert found.returncode == 0
    own = found.stdout.partition("of eager alone")[2]
    assert re.search(r"eagerness=0\.5 +share of the averaged step that the server takes", own)
    assert "density=0.02" in found.stdout and "thompson_weight" not in found.stdout
    general = python(package, "-m", "fedtiny_lite", "run", "--help").stdout
    assert re.search(r"one\s+of\s+eager,\s+fedavg", general) and "eagerness" not in general


def test_tuning_tries_its_knob(package):
    program = """
from fedtiny_lite.experiments.plans import plan_configs
from fedtiny_lite.experiments.tuning import trials
configs = [config for config in plan_configs("digits_tuning", "none") if config.method == "eager"]
print(json.dumps([trials("eager"), [config.identity() for config in configs]]))
"""
    tried, configs = told(package, program)
    assert len(tried) == 6 and {(t["lr"], t["eagerness"]) for t in tried} == {
        (lr, eagerness) for lr in (0.02, 0.05, 0.1) for eagerness in (0.5, 1.0)
    }
    assert len(configs) == 12 and all(config["score_on"] == "validation" for config in configs)
    assert [(c["lr"], c["eagerness"]) for c in configs[::2]] == [(t["lr"], t["eagerness"]) for t in tried]


def test_tables_and_figures_name_it_and_know_its_setting(package, results):
    out, records = results
    program = """
from fedtiny_lite.records.schema import load_records
from fedtiny_lite.report.frames import alike, run_frame
records = load_records(sys.argv[1])
runs = run_frame(records)
print(json.dumps([runs[["label", "family", "eagerness"]].astype({"label": str}).to_dict("records"),
                  sorted(" ".join(key) for key in alike(records))]))
"""
    rows, groups = told(package, program, out)
    assert sorted(row["eagerness"] for row in rows) == sorted(records)
    assert {(row["label"], row["family"]) for row in rows} == {("Eager", "masks that stay")}
    assert any("eagerness=" in group for group in groups)  # runs of other settings do not share a figure
    drawn = python(package, "-m", "fedtiny_lite", "figures", "--out", out)
    assert drawn.returncode == 0, drawn.stderr
    paths = [Path(line) for line in drawn.stdout.splitlines()]
    assert paths and all(path.exists() and path.stat().st_size > 5_000 for path in paths)


@pytest.mark.parametrize(
    "method, given, reason",
    [
        ("magnitude", "eagerness=1", "eagerness is a setting of eager; those of magnitude alone are: none"),
        ("fedrts", "eagerness=1", "eagerness is a setting of eager; those of fedrts alone are: .*thompson_weight"),
        ("eager", "thompson_weight=1", "thompson_weight is a setting of fedrts; those of eager alone are: eagerness"),
        ("eager", "eagerness=0", r"eagerness = 0\.0: it must be above 0 and at most 1"),
        ("eager", "eagerness=much", "eagerness = 'much': this setting takes a number"),
        ("eager", "egerness=1", r"egerness is not a setting; did you mean eagerness\?"),
    ],
)
def test_a_wrong_setting_is_refused_and_whose_it_is_named(method, given, reason, package, tmp_path):
    found = python(
        package, "-m", "fedtiny_lite", "run", "--method", method, "--out", tmp_path / "out", "--set", *SMALL, given
    )
    assert found.returncode == 1 and re.search(reason, found.stderr), found.stderr
    assert "Traceback" not in found.stderr and not (tmp_path / "out").exists()


RUN_IDS = """
from fedtiny_lite.config import METHODS, make_config
print(json.dumps({f"{m} {p}": make_config(p, method=m).run_id for m in METHODS for p in ("digits", "smoke", "paper")}))
"""


def test_one_setting_more_renames_no_run_and_repeats_none(package, results, tmp_path):
    """What was run before counts as run at the new setting's default, in the file's copy and on the command line."""
    _, records = results
    before = told(package, RUN_IDS)
    ours = {f"{m} {p}": make_config(p, method=m).run_id for m in METHODS for p in ("digits", "smoke", "paper")}
    assert {name: found for name, found in before.items() if not name.startswith("eager")} == ours
    second = '    patience: int = setting(3, "rounds to wait", low=0)\n'
    more = package_with(tmp_path / "more", EAGER.replace("    # a second one\n", second))
    assert told(more, RUN_IDS) == before
    shutil.copytree(results[0], more / "results")
    path = more / "results" / "runs" / records[0.25]["run_id"] / "record.json"
    written = path.stat().st_mtime_ns
    again = command(more, more / "results", "eagerness=0.25", "patience=3")
    assert again.returncode == 0 and Path(again.stdout.splitlines()[-1]) == path, again.stderr
    assert path.stat().st_mtime_ns == written and "round" not in again.stdout
    other = command(more, more / "results", "eagerness=0.25", "patience=4")
    assert other.returncode == 0 and Path(other.stdout.splitlines()[-1]) != path
    assert json.loads(Path(other.stdout.splitlines()[-1]).read_text())["config"]["patience"] == 4
