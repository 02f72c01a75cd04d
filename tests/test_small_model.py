"""The dense small baseline: the published sizes, the ladder of widths, and whole runs."""

import re
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedtiny_lite.federated.task import new_model
from fedtiny_lite.methods.small_model import METHOD
from fedtiny_lite.model.architectures import SmallNet
from fedtiny_lite.records import schema
from fedtiny_lite.simulation import rounds as simulate
from fedtiny_lite.simulation.setup import build_federation
from tests.helpers import parameters, seeded, three_clients

CIFAR, DIGIT = (3, 32, 32), (1, 8, 8)

tiny = partial(three_clients, method="small_model")


def ladder(allowed: int, in_shape=CIFAR) -> nn.Module:
    return METHOD.model(tiny(), allowed, 10, in_shape)


@pytest.mark.parametrize(
    "channels, hidden, published",
    [((32, 64, 32), 128, 104_810), ((8, 16, 32), 128, 72_986), ((8, 16, 16), 128, 37_898), ((8, 8, 8), 64, 10_298)],
)
def test_the_papers_shapes_have_the_published_number_of_parameters(channels, hidden, published):
    assert parameters(SmallNet(channels, hidden, 10, CIFAR)) == published


def test_width_8_of_the_ladder_is_the_papers_smallest_model():
    model = ladder(10_298)
    assert parameters(model) == 10_298 and model.conv1.out_channels == 8 and model.hidden.out_features == 64
    assert ladder(10_297).conv1.out_channels == 7


@settings(deadline=None, max_examples=25)
@given(st.integers(160, 100_000))
def test_the_widest_model_that_fits_is_taken(allowed):
    def counted(w):  # an 8x8 digit is padded, so its last map has 2x2 pixels
        return (9 * w + w) + 2 * (9 * w * w + w) + (4 * w * 8 * w + 8 * w) + (8 * w * 10 + 10)

    model = ladder(allowed, DIGIT)
    width = model.conv1.out_channels
    assert counted(width) == parameters(model) <= allowed < counted(width + 1)


@pytest.mark.parametrize("side, padding, last", [(8, 1, 2), (21, 1, 5), (22, 0, 2), (28, 0, 3), (32, 0, 4)])
def test_it_computes_what_a_plain_sequence_of_layers_does(side, padding, last):
    torch.manual_seed(0)
    model = SmallNet((3, 4, 5), 7, 10, (2, side, side))
    plain = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=padding), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(3, 4, 3, padding=padding), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 5, 3, padding=padding), nn.ReLU(), nn.Flatten(),
        nn.Linear(5 * last * last, 7), nn.ReLU(), nn.Linear(7, 10),
    )  # fmt: skip
    plain.load_state_dict(dict(zip(plain.state_dict(), model.state_dict().values(), strict=True)))
    images = torch.randn(4, 2, side, side)
    assert torch.equal(model(images), plain(images))


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 40), st.integers(1, 40))
def test_images_of_any_size_pass(height, width):
    with torch.device("meta"):
        assert SmallNet((1, 1, 1), 2, 3, (1, height, width))(torch.empty(2, 1, height, width)).shape == (2, 3)


def test_weights_come_from_the_given_generator_alone():
    task = build_federation(tiny()).task
    before = torch.get_rng_state()
    first, again, other = (new_model(task, seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.conv1.weight, again.conv1.weight)
    assert not torch.equal(first.conv1.weight, other.conv1.weight)
    assert all(bool(p.abs().sum() > 0) for p in first.parameters())


@pytest.mark.parametrize("density_of, density", [("prunable", 0.01), ("model", 0.1)])
def test_where_none_fits_the_error_names_a_density_that_would_do(density_of, density):
    chosen = dict(width=2, density_of=density_of)
    with pytest.raises(ValueError, match="the smallest small model has 160") as error:
        build_federation(tiny(density=density, **chosen))
    least = float(re.search(r"density of ([\d.]+) or more", str(error.value))[1])
    assert parameters(build_federation(tiny(density=least, **chosen)).server.model) == 160
    with pytest.raises(ValueError):
        build_federation(tiny(density=least - 0.002, **chosen))


def test_a_run_trains_all_of_it_and_repeats_bit_for_bit():
    states = []
    record = simulate.run(tiny(), on_round=lambda entry, state: states.append(state))
    assert record["model"]["allowed"] >= sum(record["model"]["prunable"].values()) == record["model"]["budget"]
    sent = sum(tensor.numel() for tensor in states[0].weights.values())
    for entry, state in zip(record["rounds"], states[1:], strict=True):
        assert entry["prunable_density"] == 1 and not any(pruned.any() for pruned in state.mask.pruned.values())
        assert 0 < entry["bytes_up"] / 3 - 4 * sent < 100  # float32, and a header
    assert all(not torch.equal(states[0].weights[name], states[-1].weights[name]) for name in states[0].weights)
    assert schema.canonical(simulate.run(tiny())) == schema.canonical(record)
