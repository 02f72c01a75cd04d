"""On Flower's simulation engine every method leaves the record of one process, bit for bit."""

import importlib.util

import pytest

pytest.importorskip("flwr")

from benchmarks import scale
from fedtiny_lite.config import METHODS
from fedtiny_lite.flower.simulated import on_nodes, run_on, simulated
from fedtiny_lite.records import schema
from fedtiny_lite.simulation.rounds import run
from tests.helpers import four_clients

EVENTFUL = {"fl_pqsu": dict(lr=0.3), "lotteryfl": dict(lottery_accuracy=0.15)}
WITHOUT_RAY = importlib.util.find_spec("ray") is None


def tiny(method):
    return four_clients(method=method, **dict(rounds=2, adjust_until=2) | EVENTFUL.get(method, {}))


@pytest.fixture(scope="module")
def records():
    """The records of all methods, one after the other on the same virtual nodes."""
    return on_nodes(lambda grid: {method: run_on(grid, tiny(method)) for method in METHODS}, tiny("fedtiny").clients)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Ray leaves files and processes open
@pytest.mark.skipif(WITHOUT_RAY, reason="Flower's simulation engine needs Ray: pip install 'flwr[simulation]'")
@pytest.mark.parametrize("method", METHODS)
def test_every_method_leaves_the_same_record_in_flowers_simulation(method, records):
    assert schema.canonical(records[method]) == schema.canonical(run(tiny(method)))


@pytest.mark.skipif(not WITHOUT_RAY, reason="Ray is installed")
def test_without_ray_it_is_said_what_to_install():
    with pytest.raises(RuntimeError, match=r"needs Ray: pip install -c constraints\.txt 'flwr\[simulation\]'"):
        simulated(tiny("fedtiny"))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.skipif(WITHOUT_RAY, reason="Flower's simulation engine needs Ray: pip install 'flwr[simulation]'")
def test_the_benchmark_of_rounds_on_flower_runs(monkeypatch):
    monkeypatch.setattr(scale, "PER_ROUND", 3)
    assert min(scale.flower().values()) > 0
