"""Order and place change nothing: the same record, bit for bit, whoever answers first, whatever stops it."""

import functools
import json
import multiprocessing
import random
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import pytest

from fedtiny_lite.config import METHODS
from fedtiny_lite.records import schema
from fedtiny_lite.records.files import ROOT
from fedtiny_lite.simulation import places
from fedtiny_lite.simulation.places import InWorkers, start_worker
from fedtiny_lite.simulation.rounds import run
from tests.helpers import Reordered, Stop, four_clients, interrupted

EVENTFUL = {"fl_pqsu": dict(lr=0.3), "lotteryfl": dict(lottery_accuracy=0.15)}
"""Settings at which clients differ in when they upload and when they prune."""


def tiny(method="fedtiny", **settings):
    return four_clients(method=method, **dict(rounds=4, adjust_until=4) | EVENTFUL.get(method, {}) | settings)


@functools.cache
def undisturbed(method: str) -> bytes:
    """What an uninterrupted run in one process, in the usual order, records."""
    return schema.canonical(run(tiny(method=method)))


@pytest.fixture(scope="module")
def reference() -> bytes:
    return undisturbed("fedtiny")


def shuffled(clients: list[int]) -> list[int]:
    return random.Random(0).sample(clients, len(clients))


@pytest.mark.parametrize("method", METHODS)
def test_any_order_of_clients_gives_the_same_record(method):
    orders = set()
    for order in (reversed, shuffled):
        place = Reordered(tiny(method=method), order)
        assert schema.canonical(run(tiny(method=method), place=place)) == undisturbed(method)
        orders.add(tuple(place.executed))
    assert len(orders) == 2


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    """Two worker processes for all methods; InWorkers but for the run that they work for."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, context, initializer=start_worker) as pool:
        yield partial(InWorkers, pool=pool, messages=tmp_path_factory.mktemp("messages"))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_workers_and_an_interruption_midway_give_the_same_record(method, workers, tmp_path):
    """Two rounds on two workers, the second an adjustment; the rest in one process, from the checkpoint."""
    config = tiny(method=method, workers=2)
    interrupted(config, tmp_path, after=1, place=workers(config, tmp_path / config.run_id / "clients"))
    record = run(tiny(method=method), tmp_path)
    assert record["environment"]["workers"] == 2
    assert schema.canonical(record) == undisturbed(method)


def test_these_runs_are_eventful():
    """Else they would show little: masks change on both sides of the interruption, and clients differ in memory."""
    rounds = {method: json.loads(undisturbed(method))["rounds"] for method in METHODS}
    for method in ("fedtiny", "prunefl", "feddst", "fedmef", "fedrts"):
        assert [bool(entry.get("adjusted")) for entry in rounds[method]] == [False, True, True, True]
    assert any(len(entry["uploaded"]) < 4 for entry in rounds["fl_pqsu"][1:])
    assert any(len(set(entry["client_density"])) > 1 for entry in rounds["lotteryfl"])


@pytest.mark.slow
def test_two_workers_one_of_which_dies_and_then_one_process_give_the_same_record(reference, tmp_path):
    """Workers do the selection and three rounds, adjustments among them; then one process does the last."""
    seen, others = [], multiprocessing.active_children()  # workers that other tests keep

    def kill_a_worker(entry, state):
        seen.append(entry["round"])
        if entry["round"] == 2:
            mine = [child for child in multiprocessing.active_children() if child not in others]
            mine[0].kill()
            for worker in mine:  # the pool ends the others as soon as it misses one
                worker.join(60)

    with pytest.raises(RuntimeError, match=r"a worker process died.*finished rounds are kept"):
        run(tiny(workers=2), tmp_path, kill_a_worker)
    record = run(tiny(), tmp_path, kill_a_worker)
    assert seen == [-1, 0, 1, 2, 3]
    assert schema.canonical(record) == reference
    assert record["environment"]["workers"] == 2


@pytest.mark.parametrize(
    "settings",
    [{}, {"granularity": "layer", "order": "forward"}, {"selection": "vanilla"}, {"selection": "server"},
     {"bn_variance": "pooled", "augment": "crop_flip_cutout"}, {"method": "random", "partition": "quantity"}],
    ids=str,
)  # fmt: skip
def test_other_runs_in_the_same_process_change_nothing(settings):
    first = schema.canonical(run(tiny(rounds=2, **settings)))
    for other in (tiny(seed=1, rounds=1), tiny(method="fedavg", width=3, rounds=1)):
        run(other)
    assert schema.canonical(run(tiny(rounds=2, **settings))) == first


@pytest.mark.parametrize("method", ["fedtiny", "magnitude", "fl_pqsu", "lotteryfl"])
def test_a_run_stopped_after_every_round_gives_the_same_record(method, tmp_path):
    config, started = tiny(method=method), []

    def stop(entry, state):
        started.append(entry["round"])
        if entry["round"] >= 0:
            raise Stop

    for _ in range(config.rounds):
        with pytest.raises(Stop):
            run(config, tmp_path, stop)
    record = run(config, tmp_path, stop)
    assert started == [-1, 0, 1, 2, 3]
    assert schema.canonical(record) == undisturbed(method)


@pytest.mark.parametrize("client", [0, 3])
def test_a_run_stopped_between_two_clients_gives_the_same_record(client, reference, tmp_path, monkeypatch):
    inner = places.answer

    def stop(call, k, message, memory):
        index, r = call.index, call.r
        if (index, k, r) == (-1, client, 2):
            raise Stop
        return inner(call, k, message, memory)

    with monkeypatch.context() as patch:
        patch.setattr(places, "answer", stop)
        with pytest.raises(Stop):
            run(tiny(), tmp_path)
    resumed = []
    record = run(tiny(), tmp_path, lambda entry, state: resumed.append(entry["round"]))
    assert resumed == [2, 3]
    assert schema.canonical(record) == reference


# Runs in a process of its own, so that it can fork: each attempt is a fork that a real SIGKILL ends.
KILLER = """
import json, os, pathlib, signal, sys
import torch
from fedtiny_lite.config import make_config
from fedtiny_lite.simulation.setup import build_federation
from fedtiny_lite.simulation.rounds import run

out, log = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
config, calls = make_config({}, **json.loads(sys.argv[3])), json.loads(sys.argv[4])
write = pathlib.Path.write_bytes
torch.set_num_threads(1)
build_federation(config)  # the forks inherit it

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def attempt(arm, folder):
    pid = os.fork()
    if not pid:
        arm()
        with log.open("a") as lines:
            run(config, folder, lambda entry, state: print(entry["round"], file=lines, flush=True))
        os._exit(0)
    return os.waitpid(pid, 0)[1]

def after_calls(number):
    left = [number]
    def count(frame, event, argument):
        left[0] -= event == "call"
        if left[0] < 0:
            die()
    return lambda: sys.setprofile(count)

def during_checkpoint(number, share):
    left = [number]
    def torn(path, data):
        left[0] -= "checkpoint" in path.name
        if left[0]:
            return write(path, data)
        write(path, data[:int(share * len(data))])
        die()
    def arm():
        pathlib.Path.write_bytes = torn
    return arm

def around_rename(number, after):
    left, rename = [number], os.replace
    def replace(path, target):
        left[0] -= "checkpoint" in target.name
        if not left[0] and not after:
            die()
        rename(path, target)
        if not left[0]:
            die()
    def arm():
        os.replace = replace
    return arm

def during_record():
    rename = os.replace
    def torn(source, target):
        if target.name != "record.json":
            return rename(source, target)
        with open(source, "r+b") as file:
            file.truncate(os.path.getsize(source) // 2)
        die()
    def arm():
        os.replace = torn
    return arm

arms = [
    after_calls(calls[0]), during_checkpoint(1, 0.5), around_rename(1, True), *map(after_calls, calls[1:]),
    around_rename(1, False), during_checkpoint(2, 0), during_record(),
]
for arm in arms:
    assert os.WIFSIGNALED(attempt(arm, out)), "an attempt ended before it was killed"
assert attempt(lambda: None, out) == 0
"""


@pytest.mark.slow
def test_a_run_killed_at_any_moment_gives_the_same_record(tmp_path):
    """SIGKILL in the midst of writing, around the rename, and after random numbers of Python calls."""
    config, rng = tiny(rounds=12), random.Random(0)
    expected = run(config, tmp_path / "whole")
    # Some 30,000 calls lead to the start, and some 10,000 make a round: before training once, then in rounds.
    moments = [rng.randrange(1_000, 30_000), *(rng.randrange(300, 15_000) for _ in range(6))]
    log = tmp_path / "log"
    subprocess.run(
        [
            sys.executable,
            "-c",
            KILLER,
            tmp_path / "out",
            log,
            json.dumps(config.identity()),
            json.dumps(moments),
        ],
        cwd=ROOT,
        check=True,
    )
    folder = tmp_path / "out" / config.run_id
    record = schema.read_record(folder / "record.json")
    assert schema.canonical(record) == schema.canonical(expected)
    finished = [int(line) for line in log.read_text().split() if line != "-1"]
    assert finished == sorted(set(finished)), "a finished round was run again"
    assert schema.load_records(tmp_path / "out") == [record]
