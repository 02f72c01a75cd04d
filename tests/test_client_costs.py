"""The benchmark of one client's costs on a model that is small enough for a test; peaks are not measured here."""

import pytest
import torch

from benchmarks import client_costs as bench
from fedtiny_lite.config import METHODS, load_method, make_config
from fedtiny_lite.federated.messages import Message
from fedtiny_lite.report.exchanges import by_content, label_of, phases

pytestmark = pytest.mark.usefixtures("one_thread")
TINY = dict(
    dataset="digits", model="cnn", width=4, density=0.2, clients=1, samples=200, server_shots=5, test_samples=20
)


@pytest.fixture
def small(monkeypatch):
    """The schedule of the paper, and so the rounds that are measured, on digits."""
    settings = TINY | dict(augment="none", pretrain_epochs=1, local_epochs=1, torch_device="cpu", engine="dense")
    monkeypatch.setattr(bench, "config_of", lambda method, folder: make_config("paper", method=method, **settings))
    monkeypatch.setattr(bench, "peak_growth", lambda call: (call(), 0))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_measured_and_its_messages_are_understood(method, small):
    """And named as it names itself; all tensors of its messages have a content, and make up most of the bytes."""
    found, own = bench.measure(method, "nowhere"), load_method(method)
    assert label_of(method, found) == (own.label, own.family)
    exchanges = own.prelude(bench.config_of(method, ""))
    assert [cost["exchange"] for cost in found["prelude"]] == [exchange.name for exchange in exchanges]
    assert list(phases(found))[-3:] == [f"{kind} round" for kind in bench.ROUNDS]
    for cost in (*found["prelude"], *(found[kind] for kind in bench.ROUNDS)):
        for way in ("down", "up"):
            assert sum(by_content([cost], way).values()) == sum(cost[way].values()) < cost[f"bytes_{way}"]
        assert cost["flops"] > 0 and cost["state_bytes"] > 0
    assert "mask" not in found["ordinary"]["down"]


def test_an_adjusting_round_of_fedtiny_sends_lists(small):
    found = bench.measure("fedtiny", "nowhere")
    assert "growth list" in found["adjusting"]["up"] and "growth list" not in found["ordinary"]["up"]
    assert found["adjusting"]["flops"] > found["ordinary"]["flops"]


def test_the_two_tensors_of_growth_lists_count_together():
    tensors = {
        "weights": torch.zeros(3),
        "growth_index": torch.zeros(5, dtype=torch.uint8),
        "growth_value": torch.zeros(2),
    }
    assert bench.tensor_bytes(Message({}, tensors)) == {"weights": 12, "growth list": 13}


def test_the_model_is_described(small):
    config = bench.config_of("fedavg", "")
    found = bench.describe(config)
    assert (found["name"], found["width"], found["density"]) == ("cnn", 4, 0.2)
    assert found["parameters"] > 0 and found["activation_bytes"] > 0
