"""The sparse twin of each model: values, gradients, training and growth lists equal to the dense engine's."""

import gc
import weakref
from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from fedtiny_lite.config import make_config
from fedtiny_lite.data.datasets import Split
from fedtiny_lite.model.costs import layer_shapes
from fedtiny_lite.model.masks import Mask, apply_mask, check_masked, random_mask
from fedtiny_lite.model.networks import build_model, linear_name, prunable_names, state_of
from fedtiny_lite.model.training import Normalisation, epoch_batches, evaluate, train
from fedtiny_lite.pruning.progressive import exchange_counts, growth_lists
from fedtiny_lite.sparse.growth import sparse_growth_lists
from fedtiny_lite.sparse.layout import Geometry
from fedtiny_lite.sparse.network import SparseNetwork
from fedtiny_lite.sparse.training import _networks, evaluate_sparse, sparse_twin, train_sparse
from tests.helpers import seeded

PIXELS = Normalisation((0.4,), (0.25,))
MODELS = st.sampled_from(["cnn", "vgg11", "resnet18"])


def masked(name: str, width: int, shape, density: float, seed: int = 0, prune_linear: bool = True):
    model = build_model(name, width, 5, shape, seeded(seed))
    weights = {n: model.get_parameter(n) for n in prunable_names(model, prune_linear)}
    mask = random_mask(weights, {n: int(density * w.numel()) for n, w in weights.items()}, seeded(seed + 1))
    apply_mask(dict(model.named_parameters()), mask)
    for number, module in enumerate(model.modules()):
        if isinstance(module, torch.nn.BatchNorm2d):  # as trained: no scale of 1, no shift of 0
            module.weight.data.uniform_(0.5, 1.5, generator=seeded(number))
            module.bias.data.uniform_(-0.2, 0.3, generator=seeded(number))
            module.eps = 0.01  # with torch's 1e-5, a norm over two near values multiplies rounding errors by hundreds
    return model, mask


def gradients(model, network) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    """(name, dense, sparse) gradients at the kept weights, of the norms and of the linear layer."""
    pairs = []
    for conv in network.convs:
        dense = model.get_parameter(f"{conv.name}.weight").grad.flatten()[conv.index]
        norm = model.get_submodule(conv.norm_name)
        pairs.append((conv.name, dense, conv.values.grad))
        pairs.append((conv.norm_name, norm.weight.grad, conv.gamma.grad))
        pairs.append((conv.norm_name, norm.bias.grad, conv.beta.grad))
    return [*pairs, ("linear", model.linear.weight.grad, network.weight.grad)]


def distance(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found.double() - exact).norm())


def inexact_layers(model, mask, images, labels) -> list[str]:
    """Layers whose sparse gradients are further from float64's than rounding allows; the model stays as it is."""
    network = sparse_twin(model, mask, tuple(images.shape[1:]))
    loss = network.backward(images, labels)
    F.cross_entropy(model(images), labels).backward()
    single, double = gradients(model, network), deepcopy(model).double()
    right_loss = F.cross_entropy(double(images.double()), labels)
    double.zero_grad()
    right_loss.backward()
    exact = gradients(double, network)
    model.zero_grad()
    assert float(loss) == pytest.approx(right_loss.item(), rel=1e-4)
    total = sum(float(right.norm()) ** 2 for _, right, _ in exact) ** 0.5
    # A gradient may cancel to nothing, as before a norm over two values: the digits lost are then those of the others.
    return [
        layer
        for (layer, dense, found), (_, right, _) in zip(single, exact, strict=True)
        if distance(found, right) > max(10 * distance(dense, right), 1e-4 * (float(right.norm()) + 0.1 * total))
    ]


@pytest.mark.slow
@given(
    MODELS, st.integers(1, 6), st.integers(3, 12), st.integers(3, 12), st.sampled_from([2, 15, 16, 17]),
    st.floats(0.0005, 0.5), st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=15, deadline=None)
def test_loss_and_gradients_are_as_exact_as_torchs(name, width, height, wide, samples, density, seed):
    """Against float64: never much further from it than torch's float32, for one of two draws.

    A value within rounding of 0 may pass a ReLU in one arithmetic and not in the other; that hits no two draws running.
    """
    model, mask = masked(name, width, (2, height, wide), density, seed)
    labels = torch.randint(5, (samples,), generator=seeded(seed + 3))
    draws = (torch.randn(samples, 2, height, wide, generator=seeded(seed + 2 + draw)) for draw in (0, 100))
    found = [inexact_layers(model, mask, images, labels) for images in draws]
    assert [] in found, found


@pytest.mark.parametrize("name, shape", [("cnn", (1, 8, 8)), ("vgg11", (3, 16, 16)), ("resnet18", (3, 9, 11))])
@pytest.mark.parametrize("samples", [1, 15, 17, 40])
def test_evaluation_and_running_statistics_equal_torchs(name, shape, samples):
    model, mask = masked(name, 4, shape, 0.2)
    images = torch.randn(max(samples, 2), *shape, generator=seeded(7))
    network = sparse_twin(model, mask, shape)
    network.backward(images, torch.zeros(len(images), dtype=torch.int64))
    model(images)
    for conv in network.convs:
        norm = model.get_submodule(conv.norm_name)
        torch.testing.assert_close(conv.running_mean, norm.running_mean, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(conv.running_var, norm.running_var, rtol=1e-4, atol=1e-6)
    model.eval()
    torch.testing.assert_close(network.predict(images[:samples]), model(images[:samples]), rtol=1e-4, atol=1e-5)


def test_every_buffer_comes_back():
    model, mask = masked("resnet18", 4, (3, 16, 16), 0.2)
    network = sparse_twin(model, mask, (3, 16, 16))
    images, labels = torch.randn(16, 3, 16, 16), torch.zeros(16, dtype=torch.int64)
    network.backward(images, labels)
    network.predict(images)
    held = network.workspace.bytes
    for _ in range(2):
        network.backward(images, labels)
        network.predict(images)
    assert network.workspace.bytes == held
    assert network.workspace.lent == 0


def test_a_step_holds_the_results_of_convolutions_and_hardly_more():
    """Sums of residual blocks are made again, and gradients lie where results lay that are no longer needed."""
    shape = (3, 16, 16)
    model, mask = masked("resnet18", 4, shape, 0.2)
    network = sparse_twin(model, mask, shape)
    network.backward(torch.randn(16, *shape), torch.zeros(16, dtype=torch.int64))
    results = sum(layer.rows * layer.positions for layer in layer_shapes(model, shape) if layer.name != "linear.weight")
    held = network.workspace.bytes - network.workspace.scratch(0).nbytes
    assert held <= 1.12 * 16 * 4 * (3 * 16 * 16 + results)


@pytest.mark.parametrize("name, shape", [("cnn", (1, 8, 8)), ("vgg11", (3, 16, 16)), ("resnet18", (3, 9, 11))])
@pytest.mark.parametrize("samples", [2, 17, 32])
def test_recalibration_moves_the_running_statistics_as_torch_does(name, shape, samples):
    """Batch after batch, with the momentum of an exact mean over all of them; nothing else changes."""
    model, mask = masked(name, 4, shape, 0.2)
    network = sparse_twin(model, mask, shape)
    before = [p.detach().clone() for p in network.parameters()]
    for batch in (1, 2, 3):
        images = torch.randn(samples, *shape, generator=seeded(batch)) + batch
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1 / batch
        model(images)
        network.recalibrate(images, 1 / batch)
    assert network.workspace.lent == 0
    assert all(torch.equal(p, old) for p, old in zip(network.parameters(), before, strict=True))
    for conv in network.convs:
        norm = model.get_submodule(conv.norm_name)
        torch.testing.assert_close(conv.running_mean, norm.running_mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(conv.running_var, norm.running_var, rtol=1e-4, atol=1e-6)


def trained(trainer, name: str, prune_linear: bool, seed: int, exact: bool = False):
    """State after three batches, the last of one image, with augmentation, momentum, weight decay, an empty layer.

    The sparse engine's score is compared to the dense one's on the way. `exact`: in float64.
    """
    shape, generator = (1, 16, 16), seeded(seed)
    split = Split(
        torch.randint(256, (37, *shape), generator=generator, dtype=torch.uint8),
        torch.randint(5, (37,), generator=generator),
    )
    config = make_config(batch_size=18, lr=0.005, momentum=0.9, weight_decay=0.01, augment="crop_flip")
    model, mask = masked(name, 4, shape, 0.2, seed, prune_linear=prune_linear)
    last = [n for n in mask if n != linear_name(model)][1]
    mask = mask.replace({last: torch.zeros_like(mask[last])}) if name == "resnet18" else mask
    if exact:
        model.double().register_forward_pre_hook(lambda _, images: images[0].double())
    trainer(model, split, PIXELS, mask, config, epoch_batches(split, 1, config, seeded(4)), seeded(5))
    check_masked(dict(model.named_parameters()), mask)
    if not exact:
        dense, sparse = evaluate(model, split, PIXELS), evaluate_sparse(model, mask, split, PIXELS)
        assert dense.loss_sum == pytest.approx(sparse.loss_sum, rel=1e-4)
        assert dense.correct == sparse.correct and dense.count == sparse.count
    return state_of(model)


def state_distance(state, exact) -> float:
    return sum(distance(state[key], right) ** 2 for key, right in exact.items()) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cnn", "resnet18"])
@pytest.mark.parametrize("prune_linear", [True, False])
def test_training_equals_the_dense_trainer(name, prune_linear):
    """As near to float64 as torch's float32 is, for two of three seeds.

    A value within rounding of 0 passes a ReLU in one arithmetic and not in the other, and what follows differs by far
    more than rounding. Over these steps that happens to about one network in forty, on either engine.
    """
    ratios = []
    for seed in (3, 4, 5):
        exact = trained(train, name, prune_linear, seed, exact=True)
        dense, sparse = (trained(trainer, name, prune_linear, seed) for trainer in (train, train_sparse))
        assert state_distance(dense, exact) < 0.01
        ratios.append(state_distance(sparse, exact) / state_distance(dense, exact))
    assert sorted(ratios)[1] < 3, ratios


def test_a_new_mask_and_a_new_state_are_taken_over():
    model, mask = masked("cnn", 4, (1, 8, 8), 0.3)
    network = sparse_twin(model, mask, (1, 8, 8))
    patterns = [joint.pattern for joint in network.convolutions]
    changed = mask.replace({"conv3.weight": ~mask["conv3.weight"]})
    model.conv3.weight.data.uniform_(-1, 1, generator=seeded(9))
    again = sparse_twin(model, changed, (1, 8, 8))
    assert again is network
    kept = [joint.pattern is old for joint, old in zip(network.convolutions, patterns, strict=True)]
    assert kept == [True, True, False, True]
    apply_mask(dict(model.named_parameters()), changed)
    images = torch.randn(5, 1, 8, 8, generator=seeded(1))
    torch.testing.assert_close(network.predict(images), model.eval()(images), rtol=1e-4, atol=1e-5)


def test_a_twin_goes_with_its_model():
    model, mask = masked("cnn", 2, (1, 8, 8), 0.3)
    sparse_twin(model, mask, (1, 8, 8))
    gc.collect()
    before = len(_networks)
    del model
    gc.collect()
    assert len(_networks) == before - 1


@pytest.mark.parametrize("name, shape", [("cnn", (1, 8, 8)), ("vgg11", (3, 8, 8)), ("resnet18", (3, 10, 7))])
@pytest.mark.parametrize("samples", [6, 17])
def test_growth_lists_equal_those_of_the_dense_engine(name, shape, samples):
    model, mask = masked(name, 4, shape, 0.3)
    images = torch.randn(samples, *shape, generator=seeded(11))
    labels = torch.randint(5, (samples,), generator=seeded(12))
    before = state_of(model)
    for block in model.blocks:
        counts = exchange_counts(mask, block, 0.3)
        dense = growth_lists(model, mask, counts, images, labels)
        found = sparse_growth_lists(model, mask, counts, images, labels)
        assert list(found) == list(dense)
        for layer, (index, value) in dense.items():
            flat = torch.zeros(mask[layer].numel())
            flat[found[layer][0]] = found[layer][1]
            assert len(found[layer][0]) == len(index)
            shared = torch.isin(index, found[layer][0])
            assert shared.float().mean() > 0.98 or (~shared).sum() <= 1  # equal but for near ties
            torch.testing.assert_close(
                flat[index][shared], value[shared], rtol=1e-3, atol=1e-3 * float(value.abs().max())
            )
            assert not mask[layer].flatten()[found[layer][0]].any()
    assert all(torch.equal(before[key], value) for key, value in state_of(model).items())


def test_a_pass_that_ended_early_leaves_nothing_for_the_next():
    """Growth of the last layer alone goes back no further; then a step, which must be that of a new network."""
    shape = (3, 16, 16)
    model, mask = masked("resnet18", 4, shape, 0.2)
    images, labels = torch.randn(16, *shape, generator=seeded(1)), torch.randint(5, (16,), generator=seeded(2))
    network = sparse_twin(model, mask, shape)
    network.backward(images, labels)
    held = network.workspace.bytes
    sparse_growth_lists(model, mask, {linear_name(model): 3}, images, labels)
    assert network.workspace.lent > 0
    again = sparse_twin(model, mask, shape)
    again.backward(images, labels)
    assert again is network and network.workspace.bytes == held and network.workspace.lent == 0
    new = SparseNetwork(model, shape)
    new.load(model, mask)
    new.backward(images, labels)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(new.parameters(), again.parameters(), strict=True))


def test_results_do_not_depend_on_what_lay_in_memory():
    """Both models, with all memory and scratch memory NaN before: the same gradients and predictions, bit for bit."""
    for name in ("vgg11", "resnet18"):
        shape = (3, 11, 9)
        model, mask = masked(name, 4, shape, 0.2)
        images, labels = torch.randn(17, *shape, generator=seeded(1)), torch.randint(5, (17,), generator=seeded(2))
        network = sparse_twin(model, mask, shape)
        results = []
        for value in (0, float("nan")):
            whole = network.workspace.take(Geometry(8000, 11, 9), 64)
            whole.data.fill(value)
            network.workspace.give(whole)
            network.workspace.scratch(2**21).fill(value)
            loss = network.backward(images, labels)
            grown = sparse_growth_lists(model, mask, {"conv1.weight": 20}, images, labels)
            results.append([loss, *(p.grad for p in network.parameters()), *grown["conv1.weight"]])
            results[-1].append(network.predict(images))
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_growth_on_one_image_is_refused():
    model, mask = masked("vgg11", 2, (1, 8, 8), 0.3)
    with pytest.raises(ValueError, match="two images or more, not on 1; raise growth_batch"):
        sparse_growth_lists(model, mask, {"conv2.weight": 2}, torch.zeros(1, 1, 8, 8), torch.tensor([0]))


def test_what_the_engine_cannot_do_is_refused():
    model, mask = masked("cnn", 2, (1, 8, 8), 0.3)
    with pytest.raises(ValueError, match="two images"):
        sparse_twin(masked("resnet18", 2, (1, 3, 3), 0.3)[0], Mask({}), (1, 3, 3)).backward(
            torch.zeros(1, 1, 3, 3), torch.zeros(1, dtype=torch.int64)
        )
    with pytest.raises(ValueError, match="use the dense engine"):
        sparse_twin(torch.nn.Linear(2, 2), Mask({}), (1, 8, 8))
    split = Split(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match="no gradients"):
        train_sparse(model, split, PIXELS, mask, make_config(), [], seeded(), on_gradient=lambda *_: None)


@pytest.mark.parametrize("samples", [65, 129, 193])
def test_predictions_do_not_depend_on_how_many_images_are_taken_at_a_time(samples):
    model, mask = masked("cnn", 8, (1, 8, 8), 0.2, prune_linear=False)
    images = torch.randn(samples, 1, 8, 8, generator=seeded(1))
    found = [sparse_twin(model, mask, (1, 8, 8)).predict(images, at_once) for at_once in (64, 100, 256)]
    assert all(torch.equal(found[0], other) for other in found[1:])


@pytest.mark.parametrize("name", ["cnn", "resnet18"])
@pytest.mark.parametrize("samples", [64, 65])
def test_training_does_not_depend_on_the_batches_before(name, samples):
    """By a new twin and by one that met larger batches, bit for bit; 65 images are one batch, of 64 and one more."""
    split = Split(
        torch.randint(256, (samples, 1, 8, 8), generator=seeded(1), dtype=torch.uint8),
        torch.randint(5, (samples,), generator=seeded(2)),
    )
    config, states = make_config(batch_size=64, augment="crop_flip"), []
    for larger in (False, True):
        model, mask = masked(name, 4, (1, 8, 8), 0.2)
        if larger:
            twin, images = sparse_twin(model, mask, (1, 8, 8)), torch.randn(128, 1, 8, 8, generator=seeded(3))
            twin.backward(images, torch.zeros(128, dtype=torch.int64))
        schedule = epoch_batches(split, 2, config, seeded(4))
        assert [len(index) for index in schedule] == [samples, samples]
        train_sparse(model, split, PIXELS, mask, config, schedule, seeded(5))
        states.append(state_of(model))
    assert all(torch.equal(tensor, states[1][key]) for key, tensor in states[0].items())


@pytest.mark.parametrize("name", ["cnn", "resnet18"])
def test_a_dropped_network_frees_its_memory_at_once(name):
    network = SparseNetwork(masked(name, 4, (1, 8, 8), 0.2)[0], (1, 8, 8))
    workspace = weakref.ref(network.workspace)
    gc.disable()
    try:
        del network
        assert workspace() is None
    finally:
        gc.enable()
