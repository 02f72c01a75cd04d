"""What notebook 07 measures on this machine: the convolution, the gaps of a step, the files."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from fedtiny_lite.config import make_config
from fedtiny_lite.experiments import counted, two_engines
from fedtiny_lite.sparse.layout import unpack
from tests.helpers import seeded


def test_the_convolution_is_torchs():
    images, weight = torch.randn(5, 3, 6, 7, generator=seeded()), torch.randn(4, 3, 3, 3, generator=seeded(1))
    keep = torch.rand(weight.shape, generator=seeded(2)) < 0.3
    one = two_engines.convolve(images, weight, keep)
    torch.testing.assert_close(unpack(one.output), F.conv2d(images, weight * keep, padding=1))


def test_a_gap_is_the_largest_difference_in_the_largest_value():
    assert two_engines.gap(torch.tensor([1.0, -3.0]), torch.tensor([2.0, -4.0])) == 0.25


def test_a_call_is_timed_after_one_that_is_not():
    calls: list[int] = []
    assert two_engines.least_ms(lambda: calls.append(1), turns=2) >= 0
    assert len(calls) == 7


def test_a_masked_model_keeps_the_budget_and_the_engines_agree():
    config = make_config("smoke", density=0.1, prune_linear="yes")
    model, mask = two_engines.masked_model(config, 5, (1, 8, 8), seeded())
    for name, keep in mask.items():
        assert not model.get_parameter(name)[~keep].any()
    images, labels = torch.randn(16, 1, 8, 8, generator=seeded(1)), torch.arange(16) % 5
    gaps = two_engines.engine_gaps(model, mask, images, labels)
    assert gaps["logits, sparse and dense"] < 1e-4
    assert gaps.keys() == {
        "logits, sparse and dense",
        "gradients, sparse and dense",
        "gradients, dense and dense in float64",
    }


def test_steps_are_timed_in_both_engines():
    config = replace(make_config("smoke", density=0.1), batch_size=4)
    noise = two_engines.noise_images((3, 8, 8), 4, 2, seeded())
    assert noise.labels.tolist() == [0, 1, 0, 1]
    turns = two_engines.step_ms(config, noise, two_engines.NOISE, 2, seeded())
    assert turns.keys() == {"dense", "sparse"} and all(len(times) == 2 for times in turns.values())


def test_gains_are_ratios_of_the_least_and_of_the_medians():
    turns = {"dense": [10.0, 12.0, 30.0], "sparse": [8.0, 4.0, 2.0]}
    assert two_engines.gains(turns) == {"dense": 10, "sparse": 2, "gain": 5, "gain of medians": 3}


@pytest.mark.slow
def test_the_files_hold_the_model(tmp_path):
    tiny = two_engines.untrained_tiny(counted.paper_model((3, 32, 32), 10), 0.01)
    sizes, path = two_engines.file_bytes(tiny, tmp_path / "a.tiny"), tmp_path / "a.tiny"
    assert sizes["folded"] < sizes["file"] == pytest.approx(sizes["counted"], rel=0.02)
    assert sizes["dense"] == 4 * sum(tensor.numel() for tensor in tiny.state.values())
    assert two_engines.read_again(tiny, path)
    assert not two_engines.read_again(
        replace(tiny, state=tiny.state | {"linear.bias": tiny.state["linear.bias"] + 1}), path
    )
