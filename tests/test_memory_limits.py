"""What cannot fit in the machine's memory is refused, with the numbers, before memory is taken for it."""

import math

import numpy as np
import pytest
from PIL import Image

from fedtiny_lite.config import make_config
from fedtiny_lite.data.images import read_images
from fedtiny_lite.federated import task as task_module
from fedtiny_lite.federated.task import batch_memory, model_memory
from fedtiny_lite.model.costs import LayerShape
from fedtiny_lite.model.networks import empty_model, live_state
from fedtiny_lite.records import environment
from fedtiny_lite.records.environment import check_memory, memory_bytes
from fedtiny_lite.simulation import rounds as simulate
from tests.helpers import four_clients

GB = 10**9


@pytest.fixture
def machine(monkeypatch):
    """machine(bytes): how much memory there is."""
    return lambda count: monkeypatch.setattr(environment, "memory_bytes", lambda: count)


def test_this_machine_has_some_memory():
    assert memory_bytes() is None or 2**28 < memory_bytes() < 2**50


def test_a_need_is_said_in_parts_and_with_what_there_is(machine):
    machine(8 * GB)
    check_memory({"models": 5 * GB, "images": 3 * GB}, "")
    with pytest.raises(ValueError) as refused:
        check_memory({"models": 5 * GB, "masks": 0, "images": 4 * GB}, "lower width")
    assert str(refused.value) == (
        "this takes at least 9.00 GB of memory at the same time (models: 5.00 GB; images: 4.00 GB), "
        "and this machine has 8.00 GB; lower width"
    )


def test_where_the_memory_is_not_known_nothing_is_refused(machine):
    machine(None)
    check_memory({"models": 10**30}, "")


def test_models_are_counted_by_hand():
    """Three states on the server; it and two workers hold weights, gradients and momentum of one model each."""
    network = empty_model("cnn", 2, 10, (1, 8, 8))
    values = sum(tensor.numel() for tensor in live_state(network).values())
    needed = model_memory(make_config(workers=2), network)
    assert needed == {"states of the server": 3 * 4 * values, "models in training": 3 * 3 * 4 * values}
    assert model_memory(make_config(engine="sparse"), network)["models in training"] == 2 * 4 * values


def test_a_batch_is_counted_by_hand_and_is_no_longer_than_a_clients_images():
    """5 channels of 4 x 4 pixels and 10 classes are 90 numbers an image."""
    layers = (LayerShape("a", 45, 16, 5, 9), LayerShape("b", 50, 1, 10, 5))
    assert batch_memory(make_config(batch_size=64), layers, 40) == {"outputs of layers for 40 images": 4 * 40 * 90}
    needed = batch_memory(make_config(batch_size=32, workers=3), layers, 40)
    assert needed == {"outputs of layers for 32 images": 3 * 4 * 32 * 90}


def test_a_model_that_cannot_fit_is_refused_before_it_is_built(machine, monkeypatch, tmp_path):
    """ResNet18 of width 1024: 2.86 thousand million weights of 4 bytes, nine times."""
    machine(64 * GB)
    monkeypatch.setattr(task_module, "layer_shapes", lambda *_: pytest.fail("a model was built"))
    config = four_clients(method="fedavg", model="resnet18", width=1024)
    with pytest.raises(ValueError, match=r"at least 10\d\.\d\d GB .*has 64\.00 GB; lower width, batch_size"):
        simulate.run(config, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_pool_that_cannot_fit_is_refused(machine):
    config = four_clients(pool_size=10_000, seed=77)
    machine(10**7)
    with pytest.raises(ValueError, match=r"\(masks of 10,000 candidates: 0\.01 GB\).* lower pool_size"):
        simulate.run(config)


def test_a_batch_that_cannot_fit_is_refused(machine, monkeypatch):
    machine(2 * 10**5)
    config = four_clients(method="fedavg", batch_size=60_000, width=4, seed=78)
    with pytest.raises(ValueError, match=r"outputs of layers for \d+ images: 0\.00 GB"):
        simulate.run(config)


def test_a_folder_of_images_that_cannot_fit_is_refused(machine, tmp_path):
    Image.fromarray(np.zeros((50, 40), np.uint8)).save(tmp_path / "a.png")
    paths = [tmp_path / "a.png"] * 1000
    machine(math.prod((1000, 3, 50, 40)) - 1)
    with pytest.raises(ValueError, match=r"1,000 images of 40x50 pixels: 0\.01 GB.* keep fewer or smaller images"):
        read_images(paths, (3, 50, 40))
