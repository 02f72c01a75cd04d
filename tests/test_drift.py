"""How far statistics lie apart in one federation, measured by hand beside `drift.measure`."""

import pytest
import torch

from fedtiny_lite.config import make_config
from fedtiny_lite.data.datasets import to_float
from fedtiny_lite.experiments.drift import measure
from fedtiny_lite.simulation.setup import build_federation

CONFIG = make_config("smoke", pretrain_epochs=1, width=2, clients=3)


def test_the_first_layer_by_hand():
    """What enters bn1 is the first convolution of the images, so its mean needs no batch norm to be known."""
    drift, federation = measure(CONFIG), build_federation(CONFIG)
    pixels, splits = federation.task.pixels, federation.holdings.splits
    entering = [
        torch.nn.functional.conv2d(to_float(s.images, pixels.mean, pixels.std), drift.server["conv1.weight"], padding=1)
        for s in splits
    ]
    for found, x in zip(drift.clients, entering, strict=True):
        torch.testing.assert_close(found["bn1.running_mean"], x.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    together = torch.cat(entering)
    mean, sigma = together.mean((0, 2, 3)), together.var((0, 2, 3)).sqrt()
    apart = (torch.stack([x.mean((0, 2, 3)) for x in entering]) - mean) / sigma
    assert drift.spread["bn1"][0] == pytest.approx(float(apart.square().mean().sqrt()), rel=0.02)


def test_one_client_alone_is_not_apart_and_the_distorted_server_is():
    drift = measure(CONFIG.changed(clients=1, partition="iid"))
    assert all(means == 0 == variances for means, variances in drift.spread.values())
    assert drift.gap["bn1"][0] > 0 and drift.summary["label_distance"] == 0
