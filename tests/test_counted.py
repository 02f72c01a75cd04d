"""The counts of notebook 06 against numbers worked out by hand in the cost model."""

import pytest

from fedtiny_lite.experiments import counted
from fedtiny_lite.model import costs

DENSITIES = {0.05: (0.05303, 0.05322), 0.01: (0.01315, 0.01336), 0.005: (0.00817, 0.00837), 0.001: (0.00418, 0.00439)}
"""Density -> F_s / F_d of a static uniform mask, and FedTiny's adjusting round of 395 batches / dense."""


@pytest.fixture(scope="module")
def subject():
    return counted.paper_model([3, 32, 32], 10)


def test_the_subject_is_the_papers_model(subject):
    assert subject.name == "resnet18 width 64, 3×32×32, 10 classes"
    assert sum(p.numel() for p in subject.model.parameters()) == 11_173_962
    assert subject.dense_flops == 2 * 555_422_720
    assert all(name.startswith(("layer4", "linear")) for name in subject.last_block)


@pytest.mark.parametrize(("density", "worked"), DENSITIES.items())
def test_flops_are_those_worked_by_hand(subject, density, worked):
    found = counted.flops_at(subject, density, 395)
    assert (found["exact"], found["FedTiny"]) == pytest.approx(worked, abs=6e-6)
    assert found["PruneFL"] == pytest.approx((2 * found["exact"] + 1) / 3)
    assert found["whole"] <= found["exact"] < found["FedTiny"] < found["FedRTS's formula"] < found["PruneFL"]


def test_fewer_are_executed_than_counted(subject):
    """By the first layer's input gradient, which is a third of its training FLOPs, in both."""
    first = costs.forward_flops(subject.layers[:1], {})
    sparse, dense = costs.forward_flops(subject.layers, subject.exact(0.01)), subject.dense_flops
    assert counted.executed_at(subject, 0.01) == pytest.approx((3 * sparse - first) / (3 * dense - first))
    assert counted.erk_of_all_layers(subject, 0.01) == pytest.approx(0.025, abs=5e-4)


def test_bytes_one_way(subject):
    found = counted.one_way_at(subject, 0.01)
    assert list(found) == list(counted.ONE_WAY)
    dense, smallest, values, mask = found.values()
    kept = sum(subject.kept(0.01)["uniform"].values()) + subject.layers[0].weights + sum(subject.others)
    assert dense == 4 * (11_173_962 + subject.others[1])
    assert 0 < values - 4 * kept < 200, "the values and a short header"
    assert values < smallest < values + mask * 1.02


def test_a_growth_list_is_short(subject):
    found = counted.list_bytes(subject)
    assert round(found["last block"], -3) == 169_000 and round(found["all layers"], -3) == 222_000
    assert found["dense gradient of the last block"] == 4 * sum(
        subject.kept(0.01)["dense"][n] for n in subject.last_block
    )


def test_memory(subject):
    found, dense = counted.states_at(subject, 0.01), counted.dense_state(subject)
    entries = sum(int(0.3 * subject.kept(0.01)["uniform"][name]) for name in subject.last_block)
    assert found["FedTiny, adjusting"] - found["static mask"] == 8 * entries
    assert found["PruneFL, adjusting"] / dense == pytest.approx((1 + 2 * 0.01) / 2, abs=2e-3)
    every = costs.activation_bytes(subject.model, subject.in_shape, 2)
    saved = counted.saved_by_method(subject, ("fedavg", "fedmef", "small_model"), 2, every)
    assert saved["fedavg"] == every > saved["fedmef"] > saved["small_model"]


def test_a_step_is_timed_with_and_without_a_mask():
    small = counted.paper_model([1, 4, 4], 2)
    assert {what: seconds > 0 for what, seconds in counted.step_seconds(small, 2, 1).items()} == {
        "dense": True,
        "masked": True,
    }
