import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedtiny_lite.data.vision import torchvision
from fedtiny_lite.model.networks import (
    MODELS,
    bn_names,
    build_model,
    linear_name,
    load_state,
    prunable_blocks,
    prunable_names,
    state_of,
)
from tests.helpers import parameters, seeded

CIFAR = (3, 32, 32)


def build(name: str, width: int = 2, in_shape: tuple[int, int, int] = (1, 8, 8), seed: int = 0) -> nn.Module:
    return build_model(name, width, 10, in_shape, seeded(seed))


def test_resnet18_has_the_published_number_of_parameters():
    assert parameters(build("resnet18", 64, CIFAR)) == 11_173_962


def test_vgg11_has_the_parameters_counted_by_hand():
    channels = (64, 128, 256, 256, 512, 512, 512, 512)
    convolutions = sum(9 * before * after for before, after in pairwise((3, *channels)))
    normalisation = 2 * sum(channels)
    linear = 512 * 10 + 10
    assert convolutions + normalisation + linear == 9_228_362  # the paper's 9.23 M
    assert parameters(build("vgg11", 64, CIFAR)) == 9_228_362


def test_cnn_of_width_8_has_channels_8_16_32_32():
    convolutions = 9 * (1 * 8 + 8 * 16 + 16 * 32 + 32 * 32)
    assert parameters(build("cnn", 8)) == convolutions + 2 * (8 + 16 + 32 + 32) + 4 * 32 * 10 + 10


@pytest.mark.parametrize("training", [False, True])
def test_resnet18_computes_what_torchvisions_does(training):
    ours = build("resnet18", 64, CIFAR)
    theirs = torchvision.models.resnet18(num_classes=10)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    theirs.load_state_dict({name.replace("linear", "fc"): value for name, value in ours.state_dict().items()})
    images = torch.randn(2, *CIFAR, generator=seeded(1))
    expected = theirs.train(training)(images)
    torch.testing.assert_close(ours.train(training)(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@settings(deadline=None, max_examples=30)
@given(
    name=st.sampled_from(MODELS),
    width=st.integers(1, 5),
    classes=st.integers(1, 12),
    channels=st.integers(1, 3),
    height=st.integers(8, 33),
    breadth=st.integers(8, 33),
)
def test_any_width_and_input_trains(name, width, classes, channels, height, breadth):
    model = build_model(name, width, classes, (channels, height, breadth), seeded())
    logits = model(torch.randn(2, channels, height, breadth, generator=seeded(1)))
    assert logits.shape == (2, classes)
    logits.square().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_vgg11_pools_only_while_the_map_is_larger_than_one_pixel():
    model, sides = build("vgg11"), []
    for number in range(1, 9):
        hook = lambda _module, inputs: sides.append(inputs[0].shape[-1])  # noqa: E731
        model.get_submodule(f"conv{number}").register_forward_pre_hook(hook)
    model(torch.zeros(2, 1, 8, 8))
    assert sides == [8, 4, 2, 2, 1, 1, 1, 1]


def test_cnn_pools_after_its_second_and_fourth_convolution():
    model, sides = build("cnn"), []
    for number in range(1, 5):
        hook = lambda _module, inputs: sides.append(inputs[0].shape[-1])  # noqa: E731
        model.get_submodule(f"conv{number}").register_forward_pre_hook(hook)
    images = torch.randn(2, 1, 9, 9, generator=seeded(1))
    model(images)
    assert sides == [9, 9, 4, 4]


@pytest.mark.parametrize("name", MODELS)
def test_weights_come_from_the_given_generator_alone(name):
    before = torch.get_rng_state()
    first, again, other = (state_of(build(name, seed=seed)) for seed in (7, 7, 8))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], again[key]) for key in first)
    weights = [key for key in first if first[key].ndim > 1]
    assert not any(torch.equal(first[key], other[key]) for key in weights)


@pytest.mark.parametrize("name", MODELS)
def test_initial_weights_have_the_documented_spread(name):
    model = build(name, 32)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            bound = 1 / math.sqrt(module.weight[0].numel())
            assert module.weight.abs().max() <= bound
            assert module.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all()
            assert (module.running_mean == 0).all() and (module.running_var == 1).all()
            assert module.num_batches_tracked == 0


def test_cnn_blocks():
    assert build("cnn").blocks == (("conv2.weight",), ("conv3.weight",), ("conv4.weight", "linear.weight"))


def test_vgg11_blocks_are_pairs_of_its_nine_layers():
    numbers = [[name.removesuffix(".weight") for name in block] for block in build("vgg11").blocks]
    assert numbers == [["conv2"], ["conv3", "conv4"], ["conv5", "conv6"], ["conv7", "conv8"], ["linear"]]


def test_resnet18_blocks_are_its_stages():
    model = build("resnet18")
    stages = [{name.split(".")[0] for name in block} for block in model.blocks]
    assert stages == [{"layer1"}, {"layer2"}, {"layer3"}, {"layer4", "linear"}]
    assert [len(block) for block in model.blocks] == [4, 5, 5, 6]


@pytest.mark.parametrize("name", MODELS)
def test_every_weight_but_the_first_layers_is_in_one_block_in_order(name):
    model = build(name)
    weights = [key for key, value in model.named_parameters() if value.ndim > 1]
    assert prunable_names(model, prune_linear=True) == tuple(weights[1:])
    assert linear_name(model) == weights[-1]
    assert prunable_names(model, prune_linear=False) == tuple(weights[1:-1])


@pytest.mark.parametrize(("name", "blocks"), [("cnn", 3), ("resnet18", 4), ("vgg11", 4)])
def test_a_block_left_empty_without_the_linear_layer_is_dropped(name, blocks):
    model = build(name)
    assert len(prunable_blocks(model, prune_linear=False)) == blocks
    assert all(prunable_blocks(model, prune_linear=False))
    assert prunable_blocks(model, prune_linear=True) == model.blocks


@pytest.mark.parametrize("name", MODELS)
def test_state_is_parameters_and_running_statistics_without_counters(name):
    model = build(name)
    expected = {key for key in model.state_dict() if not key.endswith("num_batches_tracked")}
    assert set(state_of(model)) == expected
    batchnorms = [key for key, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    pairs = [f"{key}.{stat}" for key in batchnorms for stat in ("running_mean", "running_var")]
    assert bn_names(model) == tuple(pairs)


def test_a_state_is_a_copy_and_loads_back():
    model = build("cnn")
    saved = state_of(model)
    model(torch.randn(4, 1, 8, 8, generator=seeded(1)))  # shifts the running statistics
    with torch.no_grad():
        model.conv1.weight.zero_()
    assert not torch.equal(saved["conv1.weight"], model.conv1.weight)
    assert not torch.equal(saved["bn1.running_mean"], model.bn1.running_mean)
    load_state(model, saved)
    loaded = state_of(model)
    assert all(torch.equal(loaded[key], saved[key]) for key in saved)


def test_a_state_that_does_not_fit_is_refused_before_anything_is_copied():
    model = build("cnn")
    before = state_of(model)
    missing = {key: value + 1 for key, value in before.items() if key != "linear.bias"}
    wider = {key: value + 1 for key, value in state_of(build("cnn", width=3)).items()}
    with pytest.raises(ValueError, match=r"missing \['linear.bias'\], unknown nothing"):
        load_state(model, missing)
    with pytest.raises(ValueError, match=r"unknown \['extra'\]"):
        load_state(model, before | {"extra": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"conv1.weight of shape \(3, 1, 3, 3\).*needs \(2, 1, 3, 3\)"):
        load_state(model, wider)
    assert all(torch.equal(value, before[key]) for key, value in state_of(model).items())


def test_a_model_says_which_weights_may_be_pruned():
    model = build("cnn")
    model.blocks = (("conv2.weight", "conv9.weight"),)
    with pytest.raises(ValueError, match=r"^PlainNet cannot be pruned: its `blocks` name conv9\.weight, which it has"):
        prunable_blocks(model, prune_linear=True)
    with pytest.raises(ValueError, match=r"^Linear cannot be pruned: it has no `blocks`; give it the names of its"):
        prunable_blocks(nn.Linear(2, 2), prune_linear=True)


def test_bad_sizes_and_names_are_refused():
    with pytest.raises(ValueError, match=f"model = 'resnet50': choose one of {', '.join(MODELS)}"):
        build("resnet50")
    with pytest.raises(ValueError, match="width of a model is 0"):
        build("cnn", width=0)
    with pytest.raises(ValueError, match="input size of a model is 0"):
        build("cnn", in_shape=(1, 0, 8))
