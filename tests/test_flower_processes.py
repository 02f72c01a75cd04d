"""Real SuperLinks and SuperNodes on this machine's loopback: equal records, a stranger, processes that are killed.

Each message starts a process that imports torch, so runs here are as small as they can be.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("flwr")

from fedtiny_lite.config import PROFILES, make_config
from fedtiny_lite.flower import loopback
from fedtiny_lite.flower.guard import Guard
from fedtiny_lite.flower.keys import make_keys, make_node_key
from fedtiny_lite.flower.loopback import Loopback
from fedtiny_lite.records import schema
from fedtiny_lite.records.files import ROOT
from fedtiny_lite.simulation.rounds import run
from tests.helpers import FOUR_CLIENTS, is_alive

pytestmark = pytest.mark.slow
OWN = {"lotteryfl": dict(lottery_accuracy=0.15)}


def two(method="fedtiny", **settings):
    """Two clients and two rounds, the second of which adjusts."""
    small = FOUR_CLIENTS | dict(clients=2, rounds=2, adjust_until=2)
    return make_config(PROFILES["smoke"] | small | OWN.get(method, {}) | settings, method=method)


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    """A federation with TLS and registered keys."""
    folder = tmp_path_factory.mktemp("secured")
    with Loopback(two(), folder, make_keys(folder / "secrets", 2)) as federation:
        yield federation


def wait_for(condition, seconds: float = 400) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.2)


@pytest.mark.parametrize("method", ["fedtiny", "lotteryfl"])
def test_supernodes_with_tls_and_keys_leave_the_same_record(method, secured):
    arrived = list(secured.rounds(two(method)))
    record = schema.read_record(secured.record_of(two(method)))
    assert schema.canonical(record) == schema.canonical(run(two(method))) and record["rounds"] == arrived


def test_a_stranger_is_refused(secured):
    """It has the certificate and says that it is client 1, but nobody registered its key."""
    secured.start_node(1, "stranger", make_node_key(secured.folder / "stranger"))
    wait_for(lambda: secured.processes["stranger"].poll() is not None)
    assert secured.processes["stranger"].returncode != 0
    secured.kill("stranger")
    assert "[/v1/fleet/activate-node]" in secured.log("superlink").read_text()


def test_secrets_are_not_readable_by_others(secured):
    for name in ("server.key", "client0", "client1"):
        assert (secured.secrets / name).stat().st_mode & 0o077 == 0


def test_a_killed_link_and_its_server_go_on(tmp_path):
    """The link dies with the server in it after round 0: a new one, on the same port, resumes to the same record.

    That a killed client is lost for a round and comes back is what notebook 08 shows, on real processes too.
    """
    config = two("magnitude")
    with Loopback(config, tmp_path) as federation:
        path = federation.submit(config, stream=False)
        wait_for((path.parent / "checkpoint.ftl").exists)
        federation.kill("superlink")
        federation.start_link()
        assert federation.submit(config) == path
    assert schema.canonical(schema.read_record(path)) == schema.canonical(run(config))


ABANDONED = """
import json, sys, time
from pathlib import Path
from fedtiny_lite.config import make_config
from fedtiny_lite.flower.loopback import Loopback

with Loopback(make_config({}, **json.loads(sys.argv[1])), Path(sys.argv[2])) as federation:
    print(*(process.pid for process in federation.processes.values()), flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are watched through /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["interrupted", "killed"])
def test_processes_end_with_the_one_that_started_them(number, tmp_path):
    command = [sys.executable, "-c", ABANDONED, json.dumps(two().identity()), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as starter:
        pids = [int(pid) for pid in starter.stdout.readline().split()]
        assert len(pids) == 3 and all(map(is_alive, pids))
        starter.send_signal(number)
    wait_for(lambda: not any(map(is_alive, pids)), 60)


def test_a_run_that_ends_unfinished_says_so(tmp_path, monkeypatch):
    federation = Loopback(two(), tmp_path)
    federation.guard = Guard()
    (tmp_path / "logs").mkdir()
    monkeypatch.setattr(loopback, "tool", lambda name: shutil.which("false"))
    with pytest.raises(RuntimeError, match="the run ended after 0 rounds"):
        list(federation.rounds(two()))
    assert federation.processes == {}
    federation.stop()
