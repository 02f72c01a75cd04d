"""Fixtures of several test files. None is autouse: a file asks for one, or for all its tests by

pytestmark = pytest.mark.usefixtures("one_thread")
"""

import signal

import matplotlib.pyplot as plt
import pytest
import torch

from fedtiny_lite.model.costs import layer_shapes
from fedtiny_lite.model.networks import build_model
from fedtiny_lite.simulation.setup import build_federation
from tests.helpers import four_clients, seeded

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would hand on that it is ignored

FIRST = ("test_flower_processes", "test_notebooks")
"""Files of tests that mostly wait for other processes, or take long: started last, they would keep one core waiting."""


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.stem not in FIRST)


@pytest.fixture
def one_thread():
    """As in a run and in the benchmarks: a client of this size waits for its threads more than it computes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def no_figure_left_open():
    yield
    assert plt.get_fignums() == []


@pytest.fixture(scope="module")
def server():
    """The server of a run of `four_clients`."""
    return build_federation(four_clients()).server


@pytest.fixture(scope="module")
def model():
    """The CNN of profile digits, untrained."""
    return build_model("cnn", 8, 10, (1, 8, 8), seeded())


@pytest.fixture(scope="module")
def layers(model):
    return layer_shapes(model, (1, 8, 8))
