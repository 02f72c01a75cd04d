"""Many runs: in order, skipped when finished, and one that fails is named while the others are kept."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool

import pytest

from fedtiny_lite.__main__ import main
from fedtiny_lite.config import make_config
from fedtiny_lite.experiments import plans, sweep
from fedtiny_lite.experiments.sweep import run_all, run_plan
from fedtiny_lite.progress_bar import progress_bar
from fedtiny_lite.records.bundles import read_bundle
from fedtiny_lite.records.files import ROOT
from fedtiny_lite.records.schema import canonical, load_records
from fedtiny_lite.simulation import rounds as simulate
from fedtiny_lite.simulation.rounds import run

TINY = dict(
    method="magnitude", clients=2, rounds=1, pretrain_epochs=0, width=2, density=0.1, samples=200, test_samples=50,
    server_shots=2,
)  # fmt: skip


def tiny(**settings):
    return make_config(**TINY | settings)


@pytest.mark.slow
def test_a_failed_run_is_named_and_the_others_are_kept(tmp_path):
    """In two processes; what was run there is what one would get here."""
    good, other = (tiny(seed=seed) for seed in (0, 1))
    bad = tiny(clients=500)
    with pytest.raises(RuntimeError, match=f"1 of 3 runs failed:\n{bad.run_id}: .*500"):
        run_all([good, bad, other], tmp_path, processes=2)
    assert {path.name for path in tmp_path.iterdir()} == {good.run_id, other.run_id}
    assert sorted(map(canonical, load_records(tmp_path))) == sorted([canonical(run(good)), canonical(run(other))])


# --- plans, in this process -----------------------------------------------------------------------------------


class Here:
    """A pool that works in this process, in the order asked for; pools made and runs begun are on a list."""

    made, begun = [], []

    def __init__(self, processes, context, initializer):
        self.processes, self.cancelled = processes, None
        self.made.append(self)

    def submit(self, function, config, out):
        future = Future()
        self.begun.append(config)
        try:
            future.set_result(function(config, out))
        except Exception as error:
            future.set_exception(error)
        return future

    def shutdown(self, cancel_futures):
        self.cancelled = cancel_futures


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setattr(sweep, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(Here, "made", [])
    monkeypatch.setattr(Here, "begun", [])
    return Here


@pytest.fixture
def plan(monkeypatch):
    """plan(configs): from now on these are the plan `tiny`."""
    return lambda configs: monkeypatch.setitem(plans.PLANS, "tiny", lambda out: configs)


def written(folder) -> dict:
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.rglob("record.json")}


def test_a_plan_bundles_what_finished_or_diverged_and_names_what_failed(here, plan, tmp_path, capsys):
    good, diverging, bad, last = tiny(), tiny(lr=1e38), tiny(clients=500), tiny(seed=1)
    plan([good, diverging, bad, last])
    with pytest.raises(RuntimeError, match=f"^1 of 4 runs failed:\n{bad.run_id}: .*500"):
        run_plan("tiny", tmp_path, 1)
    said, told = capsys.readouterr()
    assert f"{diverging.run_id} diverged: 2 of 2 replies were rejected (client 0: weights: it has NaN" in said
    assert "sweep: 4 of 4 runs, 00:00 left" in told
    found = read_bundle(tmp_path / "plans" / "tiny.json")
    assert [record["run_id"] for record in found] == [good.run_id, diverging.run_id, last.run_id]
    assert [record["complete"] for record in found] == [True, False, True]
    assert found[1]["stopped"].startswith("in round 0: 2 of 2 replies were rejected") and found[1]["rounds"] == []
    assert found[0]["config"] == good.identity() and len(found[0]["rounds"]) == 1


def test_finished_runs_are_not_run_again_and_records_come_in_the_order_of_the_plan(here, plan, tmp_path):
    good, last = tiny(), tiny(seed=1)
    expected = run_all([good, last], tmp_path / "runs", 1)
    before = written(tmp_path / "runs")
    plan([last, good])
    assert run_plan("tiny", tmp_path, 1) == tmp_path / "plans" / "tiny.json"
    assert [record["run_id"] for record in read_bundle(tmp_path / "plans" / "tiny.json")] == [last.run_id, good.run_id]
    assert run_all([last, good], tmp_path / "runs", 1) == expected[::-1]
    assert written(tmp_path / "runs") == before, "a finished run was written again"


def test_when_every_run_fails_it_is_said_why_and_nothing_is_bundled(here, plan, tmp_path):
    plan([tiny(dataset="folder:nowhere"), tiny(clients=500)])
    with pytest.raises(RuntimeError, match=r"^2 of 2 runs failed:\n(.|\n)*nowhere"):
        run_plan("tiny", tmp_path, 1)
    assert list(tmp_path.rglob("*.json")) == []


def test_a_diverged_run_is_found_where_it_lies_whatever_auto_means_here(here, plan, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    plan([tiny(lr=1e38, torch_device="auto")])
    (found,) = read_bundle(run_plan("tiny", tmp_path, 1))
    assert "stopped" in found and found["config"]["torch_device"] == "cpu"


def test_the_time_left_is_reckoned_from_runs_that_were_carried_out(here, plan, tmp_path, capsys, monkeypatch):
    """One run of three was finished before: the time left follows from the other two."""
    configs = [tiny(rounds=0, seed=seed) for seed in range(3)]
    run(configs[0], tmp_path / "runs")
    (record,) = (tmp_path / "runs").rglob("record.json")
    os.utime(record, (0, 0))
    plan(configs)
    bars = []
    monkeypatch.setattr(sweep, "progress_bar", lambda *given: bars.append(progress_bar(*given)) or bars[-1])
    run_plan("tiny", tmp_path, 1)
    assert [(bar.initial, bar.n) for bar in bars] == [(1, 3)]


def test_an_output_that_cannot_be_written_is_said_once_and_before_any_run(here, plan, tmp_path):
    (tmp_path / "file").touch()
    plan([tiny(), tiny(seed=1)])
    with pytest.raises(OSError, match="choose a folder that can be written to"):
        run_plan("tiny", tmp_path / "file", 1)
    assert here.made == []


@pytest.mark.parametrize("processes", [0, -1])
def test_fewer_than_one_process_is_refused(processes, here, plan, tmp_path):
    plan([tiny()])
    with pytest.raises(ValueError, match=f"processes = {processes}: it must be at least 1"):
        run_plan("tiny", tmp_path, processes)
    assert here.made == [] and list(tmp_path.iterdir()) == []


def test_there_are_no_more_processes_than_runs_and_one_a_core_unless_told(here, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    configs = [tiny(rounds=0, seed=seed) for seed in range(3)]
    for processes in (None, 1, 50):
        run_all(configs, tmp_path, processes)
    assert [pool.processes for pool in here.made] == [2, 1, 3]
    assert all(config.workers == 1 for config in here.begun)


def test_when_a_process_dies_the_rest_is_done_with_fewer(here, tmp_path, monkeypatch, capsys):
    configs, inner = [tiny(rounds=0, seed=seed) for seed in range(3)], simulate.run

    def dying(config, out):
        if config.seed == 1 and here.made[-1].processes > fits:
            raise BrokenProcessPool
        return inner(config, out)

    monkeypatch.setattr(sweep, "run", dying)
    fits = 1
    assert [record["config"]["seed"] for record in run_all(configs, tmp_path, 3)] == [0, 1, 2]
    assert [pool.processes for pool in here.made] == [3, 2, 1]
    assert "often for lack of memory; going on with 2 at a time" in capsys.readouterr().out
    fits = 0
    with pytest.raises(RuntimeError, match=r"often for lack of memory; what has finished is kept"):
        run_all([tiny(seed=1)], tmp_path, 1)


def test_an_interruption_cancels_what_has_not_begun(here, tmp_path, monkeypatch):
    def interrupt(futures):
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep, "as_completed", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_all([tiny(rounds=0)], tmp_path, 1)
    assert here.made[0].cancelled is True


# --- the command ----------------------------------------------------------------------------------------------


def test_the_last_line_of_a_sweep_is_the_path_of_its_bundle(here, plan, tmp_path, capsys):
    plan([tiny(rounds=0), tiny(rounds=0, seed=1)])
    assert main(["sweep", "tiny", "--out", str(tmp_path), "--processes", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{tmp_path}/plans/tiny.json"]
    assert len(read_bundle(lines[-1])) == 2


def test_a_sweep_with_a_failed_run_exits_with_1_and_names_it(here, plan, tmp_path, capsys):
    plan([tiny(rounds=0), tiny(clients=500)])
    assert main(["sweep", "tiny", "--out", str(tmp_path)]) == 1
    assert f"error: 1 of 2 runs failed:\n{tiny(clients=500).run_id}: " in capsys.readouterr().err
    assert len(read_bundle(tmp_path / "plans" / "tiny.json")) == 1


# --- killed ---------------------------------------------------------------------------------------------------

SWEEPER = """
import json, sys
from fedtiny_lite.experiments import plans
from fedtiny_lite.config import make_config
from fedtiny_lite.experiments.sweep import run_plan

if __name__ == "__main__":
    plans.PLANS["tiny"] = lambda out: [make_config({}, **settings) for settings in json.loads(sys.argv[2])]
    run_plan("tiny", sys.argv[1], 1)
"""


@pytest.mark.slow
def test_a_killed_sweep_continues_to_the_same_bundle(here, plan, tmp_path):
    """SIGKILL after the first run, with a checkpoint of the second or third."""
    configs = [tiny(rounds=0), *(tiny(rounds=50, seed=seed) for seed in (1, 2))]
    plan(configs)
    expected = read_bundle(run_plan("tiny", tmp_path / "whole", 1))
    script, out = tmp_path / "sweeper.py", tmp_path / "out"
    script.write_text(SWEEPER)
    process = subprocess.Popen(
        [sys.executable, script, out, json.dumps([config.identity() for config in configs])],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )
    with process:
        while not list(out.rglob("checkpoint.ftl")) and process.poll() is None:
            time.sleep(0.01)
        process.kill()
        process.stdout.read()  # to its end: the worker is gone too
    finished = written(out)
    assert configs[0].run_id in finished and not (out / "plans").exists()
    assert len(load_records(out)) < len(configs), "the sweep ended before it was killed"
    found = read_bundle(run_plan("tiny", out, 1))
    assert written(out / "runs").items() >= finished.items()
    assert list(map(canonical, found)) == list(map(canonical, expected))
