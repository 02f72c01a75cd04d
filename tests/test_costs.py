import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fedtiny_lite.model.costs import (
    LayerShape,
    activation_bytes,
    executed_training_flops,
    forward_flops,
    growth_flops,
    growth_list_bytes,
    layer_shapes,
    model_bytes,
    model_state_memory,
    other_sizes,
    smallest_bytes,
    tensor_bytes,
    training_flops,
)
from fedtiny_lite.model.networks import MODELS, build_model, prunable_blocks, state_of
from tests.helpers import seeded

CIFAR = (3, 32, 32)
TOY = (LayerShape("a.weight", 90, 16, 10, 9), LayerShape("b.weight", 100, 1, 5, 20))


def build(name, width, in_shape):
    return build_model(name, width, 10, in_shape, seeded())


@pytest.fixture(scope="module")
def resnet():
    return build("resnet18", 64, CIFAR)


@pytest.fixture(scope="module")
def shapes(resnet):
    return layer_shapes(resnet, CIFAR)


def shares(shapes, density):
    """First layer dense, every other layer (linear too) at exactly `density`, parts of a weight included."""
    return {shape.name: Fraction(str(density)) * shape.weights for shape in shapes[1:]}


def uniform(shapes, density):
    """The same in whole weights, rounded down: what a mask within the budget keeps."""
    return {name: math.floor(share) for name, share in shares(shapes, density).items()}


# FLOPs


@pytest.mark.parametrize("in_shape", [(1, 8, 8), (1, 28, 28), CIFAR])
@pytest.mark.parametrize("width", [1, 6])
@pytest.mark.parametrize("name", MODELS)
def test_dense_forward_flops_equal_torchs_own_counter(name, width, in_shape):
    model = build(name, width, in_shape).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(3, *in_shape))
    assert 3 * forward_flops(layer_shapes(model, in_shape), {}) == counter.get_total_flops()


@pytest.mark.parametrize("in_shape", [(1, 8, 8), CIFAR])
@pytest.mark.parametrize(("name", "width"), [("cnn", 2), ("resnet18", 8), ("vgg11", 3)])
def test_dense_training_flops_equal_torchs_own_counter_but_for_the_images_gradient(name, width, in_shape):
    """Backward is counted as twice forward: the weight's gradient and the input's. Nobody needs that of the images."""
    model, images = build(name, width, in_shape).train(), torch.zeros(3, *in_shape)
    with FlopCounterMode(display=False) as counter:
        model(images).sum().backward()
    shapes = layer_shapes(model, in_shape)
    assert 3 * (training_flops(shapes, {}) - forward_flops(shapes[:1], {})) == counter.get_total_flops()
    assert 3 * executed_training_flops(shapes, {}) == counter.get_total_flops()


def test_resnet18_has_the_published_number_of_macs(shapes):
    assert forward_flops(shapes, {}) == 2 * 555_422_720
    # One client's round in the paper's tables: 8.33e13 FLOPs for 5 epochs over 5,000 samples.
    assert round(training_flops(shapes, {}) * 25_000 / 1e13, 2) == 8.33


def test_shapes_are_those_of_the_layers(shapes):
    assert shapes[0] == LayerShape("conv1.weight", 1_728, 1_024, 64, 27)
    assert shapes[-1] == LayerShape("linear.weight", 5_120, 1, 10, 512)
    by_name = {shape.name: shape for shape in shapes}
    assert by_name["layer2.0.downsample.0.weight"] == LayerShape("layer2.0.downsample.0.weight", 8_192, 256, 128, 64)


@pytest.mark.parametrize("training", [False, True])
def test_tracing_shapes_leaves_the_model_as_it_was(training):
    model = build("cnn", 2, (1, 8, 8)).train(training)
    model.bn1.eval()
    before, modes = state_of(model), [module.training for module in model.modules()]
    layer_shapes(model, (1, 8, 8))
    assert all(torch.equal(value, before[name]) for name, value in state_of(model).items())
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())


def test_flops_follow_kept_weights_times_pixels():
    assert forward_flops(TOY, {}) == 2 * (16 * 90 + 100)
    assert forward_flops(TOY, {"a.weight": 5}) == 2 * (16 * 5 + 100)
    assert training_flops(TOY, {"a.weight": 5, "b.weight": 0}) == 3 * 2 * 16 * 5


def test_executed_flops_leave_out_the_input_gradient_of_the_first_layer():
    """The first layer works twice, forward and for its weights' gradient; the second layer works three times."""
    assert executed_training_flops(TOY, {}) == 2 * (2 * 16 * 90 + 3 * 100)
    assert executed_training_flops(TOY, {"a.weight": 5, "b.weight": 30}) == 2 * (2 * 16 * 5 + 3 * 30)
    assert training_flops(TOY, {"b.weight": 30}) - executed_training_flops(TOY, {"b.weight": 30}) == 2 * 16 * 90


def test_growth_adds_the_pruned_weights_of_its_block_only():
    kept = {"a.weight": 5, "b.weight": 30}
    assert growth_flops(TOY, kept, ["a.weight"]) == 2 * 16 * 85
    assert growth_flops(TOY, kept, ["a.weight", "b.weight"]) == 2 * (16 * 85 + 70)
    assert growth_flops(TOY, {}, ["a.weight"]) == 0


@pytest.mark.parametrize(("density", "ratio"), [(0.05, 0.05303), (0.01, 0.01315), (0.005, 0.00817), (0.001, 0.00418)])
def test_worked_ratios_of_sparse_to_dense_flops(shapes, density, ratio):
    dense = forward_flops(shapes, {})
    exact = forward_flops(shapes, shares(shapes, density)) / dense
    assert round(float(exact), 5) == ratio
    # Whole weights lose less than one weight a layer: at most 1.04e-5 of the dense FLOPs.
    lost = exact - Fraction(forward_flops(shapes, uniform(shapes, density)), dense)
    assert 0 <= lost < Fraction(2 * sum(shape.positions for shape in shapes[1:]), dense) < 1.05e-5


@pytest.mark.parametrize(("density", "ratio"), [(0.05, 0.05322), (0.01, 0.01336), (0.005, 0.00837), (0.001, 0.00439)])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_worked_ratios_of_a_fedtiny_round_with_one_adjustment(resnet, shapes, density, ratio, stage):
    """(3 F_s + (F_d - F_s of one block) / steps) / 3 F_d: one adjustment batch among 395 like it.

    Holds for each of the last three stages; the first is larger and comes to up to .00003 more.
    """
    kept = shares(shapes, density)
    steps = 5 * math.ceil(5_000 / 64)  # 5 local epochs over 5,000 samples
    added = growth_flops(shapes, kept, prunable_blocks(resnet, prune_linear=True)[stage])
    fedtiny = (training_flops(shapes, kept) + added / steps) / training_flops(shapes, {})
    assert steps == 395
    assert round(float(fedtiny), 5) == ratio


def test_prunefl_pays_for_a_dense_gradient(shapes):
    dense, sparse = forward_flops(shapes, {}), forward_flops(shapes, uniform(shapes, 0.01))
    assert round((2 * sparse + dense) / (3 * dense), 4) == 0.3421


# Bytes


def test_bytes_of_a_tensor_worked_by_hand():
    # 1,000 elements as 10 rows of 100, 50 kept: 10 bits tell elements apart, 7 columns, 6 the 50 kept.
    assert tensor_bytes(1_000, 50, 10, 100) == {
        "dense": 1_000 * 4,
        "bitmap": (1_000 + 50 * 32) // 8,
        "coo": 50 * (10 + 32) // 8 + 1,  # 262.5 bytes
        "csr": (50 * 7 + 10 * 6 + 50 * 32 + 7) // 8,
    }
    assert smallest_bytes(1_000, 50, 10, 100) == 252
    assert tensor_bytes(1_000, 50, 10, 100, value_bits=8)["dense"] == 1_000


@given(rows=st.integers(1, 40), cols=st.integers(1, 300), value_bits=st.sampled_from([8, 16, 32]), data=st.data())
def test_bytes_of_a_tensor_follow_their_formulas(rows, cols, value_bits, data):
    n = rows * cols
    m = data.draw(st.integers(1, n))
    bits = {
        "dense": n * value_bits,
        "bitmap": n + m * value_bits,
        "coo": m * math.ceil(math.log2(n)) + m * value_bits,
        "csr": m * math.ceil(math.log2(cols)) + rows * math.ceil(math.log2(m)) + m * value_bits,
    }
    expected = {name: math.ceil(count / 8) for name, count in bits.items()}
    assert tensor_bytes(n, m, rows, cols, value_bits) == expected
    assert smallest_bytes(n, m, rows, cols, value_bits) == min(expected.values())


def test_nothing_kept_costs_nothing():
    assert smallest_bytes(1_000, 0, 10, 100) == 0
    assert growth_list_bytes(1_000, 0) == 0


def test_other_sizes_of_resnet18(resnet):
    # 4,800 channels are normalised: two parameters and two statistics each; ten biases.
    assert other_sizes(resnet) == (9_600 + 10, 9_600)


def test_worked_bytes_of_resnet18_one_way(resnet, shapes):
    others = sum(other_sizes(resnet))
    assert round((others - 10) * 4 / 1e3) == 77  # BN, of each model
    assert model_bytes(shapes, {}, others) == 4 * sum(value.numel() for value in state_of(resnet).values())
    assert round(model_bytes(shapes, {}, others) / 1e6, 2) == 44.73
    kilobytes = {d: model_bytes(shapes, uniform(shapes, d), others) / 1e3 for d in (0.1, 0.05, 0.01, 0.005, 0.001)}
    assert [round(kilobytes[density] / 1e3, 2) for density in (0.1, 0.05)] == [5.94, 3.19]
    assert [round(kilobytes[density]) for density in (0.01, 0.005, 0.001)] == [712, 401, 151]


def test_worked_bytes_of_growth_lists(resnet, shapes):
    """At density 0.01 and the largest rate, 0.3 of a layer's kept weights."""
    kept = uniform(shapes, 0.01)
    sizes = {s.name: growth_list_bytes(s.weights, 3 * kept[s.name] // 10) for s in shapes[1:]}
    blocks = prunable_blocks(resnet, prune_linear=True)
    assert round(sum(sizes[name] for name in blocks[-1]) / 1e3) == 169
    assert round(sum(sizes.values()) / 1e3) == 222


def test_a_growth_list_worked_by_hand():
    assert growth_list_bytes(1_024, 3) == math.ceil(3 * (32 + 10) / 8)
    assert growth_list_bytes(1_025, 8) == 8 * (32 + 11) // 8


# Memory


def test_memory_worked_by_hand():
    # a: 5 values, indices and gradients; b dense: 100 values and gradients; 7 other parameters with
    # gradients; 4 statistics; a list of 6 indices and values.
    words = 3 * 5 + 2 * 100 + 2 * 7 + 4 + 2 * 6
    assert model_state_memory(TOY, {"a.weight": 5}, 7, 4, 6) == 4 * words


def test_memory_of_dense_resnet18_is_two_values_a_parameter(resnet, shapes):
    assert model_state_memory(shapes, {}, *other_sizes(resnet)) == 4 * (2 * 11_173_962 + 9_600)


def test_activations_worked_by_hand():
    """Two images of 1x4x4 through two filters; each tensor that the backward pass needs once, whoever needs it."""
    conv, norm, linear = nn.Conv2d(1, 2, 3, padding=1, bias=False), nn.BatchNorm2d(2), nn.Linear(8, 3)
    model = nn.Sequential(conv, norm, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), linear)
    images, maps, pooled = 2 * 16, 2 * 2 * 16, 2 * 2 * 4
    statistics = 2 * 2  # batch norm keeps the batch's mean and 1 / spread of each channel
    convolution = (
        images + maps + statistics + maps
    )  # its input, batch norm's input, ReLU's output, which max-pool shares
    places = 2 * pooled  # max-pool remembers where each maximum was in 64 bits; its output is the linear layer's input
    assert activation_bytes(model, (1, 4, 4), 2) == 4 * (convolution + places + pooled)


def test_activations_grow_with_the_batch_and_leave_the_model_as_it_was():
    model = build("cnn", 2, (1, 8, 8)).eval()
    before = state_of(model)
    one, two, three = (activation_bytes(model, (1, 8, 8), batch) for batch in (1, 2, 3))
    assert three - two == two - one > 0
    assert not model.training
    assert all(torch.equal(value, before[name]) for name, value in state_of(model).items())


# Refusals


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({"c.weight": 1}, r"\['c.weight'\], which are no layers"),
        ({"a.weight": 91}, "a.weight keeps 91 weights; a number from 0 to 90"),
        ({"a.weight": -1}, "a.weight keeps -1 weights"),
    ],
)
def test_counts_that_cannot_be_are_refused(kept, message):
    with pytest.raises(ValueError, match=message):
        forward_flops(TOY, kept)


def test_an_unknown_block_is_refused():
    with pytest.raises(ValueError, match=r"block names \['c.weight'\]"):
        growth_flops(TOY, {}, ["a.weight", "c.weight"])
