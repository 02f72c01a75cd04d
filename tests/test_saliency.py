"""SNIP, GraSP and SynFlow against hand-made examples, finite differences and an explicit Hessian; scores to masks."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from fedtiny_lite.model.networks import bn_names, build_model, prunable_names, state_of
from fedtiny_lite.pruning.saliency import grasp_scores, iterated_mask, saliency_mask, snip_scores, synflow_scores
from tests.helpers import seeded

CRITERIA = ("snip", "grasp", "synflow")


def linear_net(*weights: list) -> nn.Module:
    """Linear layers in a row without biases, named 1.weight, 2.weight and so on."""
    tensors = [torch.as_tensor(weight, dtype=torch.float32) for weight in weights]
    net = nn.Sequential(nn.Flatten(), *[nn.Linear(t.shape[1], t.shape[0], bias=False) for t in tensors])
    for layer, tensor in zip(net[1:], tensors, strict=True):
        layer.weight.data.copy_(tensor)
    return net


def trained_looking(name: str, width: int = 2) -> nn.Module:
    """A model whose running statistics and BN parameters are not the initial ones."""
    model = build_model(name, width, 10, (1, 8, 8), seeded())
    for tensor in [*model.parameters(), *(model.get_buffer(n) for n in bn_names(model))]:
        tensor.data += torch.rand(tensor.shape, generator=seeded(2)) - 0.2
    for buffer in (n for n in bn_names(model) if n.endswith("var")):
        model.get_buffer(buffer).abs_()
    return model


def batch(samples: int = 6, shape: tuple = (1, 8, 8)) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(samples, *shape, generator=seeded(3)), torch.arange(samples) % 10


def scores_of(criterion: str, model: nn.Module, names) -> dict[str, torch.Tensor]:
    if criterion == "synflow":
        return synflow_scores(model, state_of(model), names, (1, 8, 8))
    return {"snip": snip_scores, "grasp": grasp_scores}[criterion](model, state_of(model), names, *batch())


# --- all criteria -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("training", [True, False])
def test_the_model_stays_as_it_was(criterion, training):
    model = trained_looking("cnn").train(training)
    before = copy.deepcopy(model.state_dict())
    scores = scores_of(criterion, model, prunable_names(model, True))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(module.training is training for module in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(score.requires_grad for score in scores.values())


@pytest.mark.parametrize("criterion", CRITERIA)
def test_each_prunable_weight_has_a_finite_score_the_same_each_time(criterion):
    model = trained_looking("cnn")
    names = prunable_names(model, False)
    first, again = (scores_of(criterion, model, names) for _ in range(2))
    assert tuple(first) == names
    for layer, score in first.items():
        assert score.shape == model.get_parameter(layer).shape and score.isfinite().all()
        assert torch.equal(score, again[layer])


@pytest.mark.parametrize("criterion", CRITERIA)
def test_scores_are_of_the_state_given_not_of_the_models_weights(criterion):
    model, other = trained_looking("cnn"), build_model("cnn", 2, 10, (1, 8, 8), seeded(9))
    names, state = prunable_names(model, True), state_of(model)
    score = {"snip": snip_scores, "grasp": grasp_scores}.get(criterion)
    found = score(other, state, names, *batch()) if score else synflow_scores(other, state, names, (1, 8, 8))
    expected = scores_of(criterion, model, names)
    assert all(torch.equal(found[name], expected[name]) for name in names)


# --- SNIP -------------------------------------------------------------------------------------------------


def test_snip_by_hand():
    """Logits (ln 3, 0) are probabilities (3/4, 1/4): for label 0 the gradient is (-1/4, 1/4) times the input."""
    net = linear_net([[math.log(3), 0.0], [2.0, -1.0]])
    images, labels = torch.tensor([1.0, 2.0]).view(1, 1, 1, 2), torch.tensor([0])
    scores = snip_scores(net, state_of(net), ["1.weight"], images, labels)["1.weight"]
    assert torch.allclose(scores, torch.tensor([[0.25 * math.log(3), 0.0], [0.5, 0.5]]))


def test_snip_is_the_derivative_by_a_multiplier_of_the_weight():
    """Central differences of the training-mode loss in float64, at a few weights of each layer."""
    model = trained_looking("cnn").double().train()
    images, labels = batch()[0].double(), batch()[1]
    scores = snip_scores(model, state_of(model), prunable_names(model, True), images, labels)

    def loss(weight, index, multiplier):
        twin = copy.deepcopy(model)
        twin.get_parameter(weight).data.view(-1)[index] *= multiplier
        return F.cross_entropy(twin(images), labels).item()

    for layer, score in scores.items():
        for index in (0, score.numel() // 2):
            slope = (loss(layer, index, 1 + 1e-6) - loss(layer, index, 1 - 1e-6)) / 2e-6
            assert float(score.view(-1)[index]) == pytest.approx(abs(slope), rel=1e-3, abs=1e-8)


# --- GraSP ------------------------------------------------------------------------------------------------


def smooth_net() -> tuple[nn.Module, list[str]]:
    """A convolution and a linear layer with BN between them; tanh, so that second derivatives exist everywhere."""
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)).double()
    for tensor in net.parameters():
        tensor.data = torch.randn(tensor.shape, generator=seeded(4), dtype=torch.float64)
    return net, ["0.weight", "4.weight"]


def loss_of(net: nn.Module, names: list[str], images, labels):
    """The loss at temperature 200 as a function of the named weights in one vector, and that vector."""
    shapes = [net.get_parameter(name).shape for name in names]
    frozen, net = {name: p.detach() for name, p in net.named_parameters()}, copy.deepcopy(net).train()

    def loss(vector):
        parts = vector.split([shape.numel() for shape in shapes])
        given = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        logits = torch.func.functional_call(net, frozen | given, (images,))
        return F.cross_entropy(logits / 200, labels)

    return loss, torch.cat([frozen[name].flatten() for name in names])


def test_grasp_is_the_weight_times_hessian_times_gradient():
    net, names = smooth_net()
    images, labels = batch(5, (1, 4, 4))[0].double(), torch.tensor([0, 1, 2, 0, 1])
    loss, weights = loss_of(net, names, images, labels)
    hessian = torch.autograd.functional.hessian(loss, weights)
    gradient = torch.autograd.functional.jacobian(loss, weights)
    scores = grasp_scores(net, state_of(net), names, images, labels)
    found = torch.cat([score.flatten() for score in scores.values()])
    assert torch.allclose(found, weights * (hessian @ gradient), rtol=1e-9, atol=1e-18)


def test_grasp_keeps_the_weights_whose_removal_costs_most_gradient():
    net, names = smooth_net()
    images, labels = batch(5, (1, 4, 4))[0].double(), torch.tensor([0, 1, 2, 0, 1])
    loss, weights = loss_of(net, names, images, labels)

    def gradient_norm(index, kept):
        shrunk = weights.clone()
        shrunk[index] *= kept
        return float((torch.autograd.functional.jacobian(loss, shrunk) ** 2).sum())

    scores = grasp_scores(net, state_of(net), names, images, labels)
    found = torch.cat([score.flatten() for score in scores.values()])
    lost = torch.tensor([gradient_norm(i, 1.0) - gradient_norm(i, 1 - 1e-5) for i in range(len(weights))])
    keep = saliency_mask(scores, 10, "global")
    assert set(lost.topk(10).indices.tolist()) == set(
        torch.cat([k.flatten() for k in keep.values()]).nonzero()[:, 0].tolist()
    )
    assert found[lost.argmax()] > 0 > found[lost.argmin()]


# --- SynFlow ----------------------------------------------------------------------------------------------


def test_synflow_by_hand():
    """A weight's score is the sum over its paths of the product of absolute weights: 2*|1|, 2*|-2|, 1*|3|, 1*0."""
    net = linear_net([[1.0, -2.0], [3.0, 0.0]], [[2.0, -1.0]])
    scores = synflow_scores(net, state_of(net), ["1.weight", "2.weight"], (1, 1, 2))
    assert scores["1.weight"].tolist() == [[2, 4], [3, 0]]
    assert scores["2.weight"].tolist() == [[6, 3]]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=2, max_size=5), st.integers(0, 99))
def test_synflow_is_conserved_from_layer_to_layer(widths, seed):
    shapes = list(zip(widths[1:], widths, strict=False))
    net = linear_net(*[torch.randn(shape, generator=seeded(seed + n)) for n, shape in enumerate(shapes)])
    names = [name for name, _ in net.named_parameters()]
    sums = [float(score.sum()) for score in synflow_scores(net, state_of(net), names, (1, 1, widths[0])).values()]
    assert sums == pytest.approx([sums[0]] * len(sums), rel=1e-12)


@pytest.mark.parametrize("name", ["cnn", "resnet18"])  # max-pooling to one pixel would leave taps unused
def test_synflow_passes_every_weight_whatever_the_running_means(name):
    model = trained_looking(name)
    for mean in (n for n in bn_names(model) if n.endswith("mean")):
        model.get_buffer(mean).fill_(1e6)
    scores = synflow_scores(model, state_of(model), prunable_names(model, True), (1, 32, 32))
    assert all((score > 0).all() and score.isfinite().all() for score in scores.values())


def test_synflow_in_steps_leaves_no_layer_empty_where_one_step_does():
    """The wide layer's share of the conserved sum is spread over 2,500 weights: a single threshold takes them all."""
    shapes = [(50, 4), (50, 50), (4, 50)]
    net = linear_net(*[torch.randn(shape, generator=seeded(n)) for n, shape in enumerate(shapes)])
    names = [name for name, _ in net.named_parameters()]
    masks = {
        steps: iterated_mask(
            state_of(net), lambda state: synflow_scores(net, state, names, (1, 1, 4)), 30, steps, "global"
        )
        for steps in (1, 100)
    }
    assert masks[1].empty == ("2.weight",)
    assert masks[100].empty == () and masks[100].total == 30


def test_synflow_in_steps_may_empty_layers_that_a_shortcut_bypasses():
    """Four units of ResNet18 lose their convolutions; the last layer, which all flow passes, keeps weights."""
    model = build_model("resnet18", 2, 10, (1, 8, 8), seeded())
    names, state = prunable_names(model, True), state_of(model)
    budget = sum(state[name].numel() for name in names) // 100
    mask = iterated_mask(state, lambda state: synflow_scores(model, state, names, (1, 8, 8)), budget, 100, "global")
    units = ("layer3.0", "layer3.1", "layer4.0", "layer4.1")
    assert set(mask.empty) == {f"{unit}.{conv}.weight" for unit in units for conv in ("conv1", "conv2")}
    assert mask.total == budget and mask.kept["linear.weight"] > 0


# --- from scores to masks ---------------------------------------------------------------------------------


def test_the_best_of_all_layers_or_of_each_by_hand():
    scores = {"a": torch.tensor([5.0, 6.0, 7.0, 8.0]), "b": torch.tensor([[1.0, 2.0], [3.0, 4.0]])}
    mask = saliency_mask(scores, 4, "global")
    assert mask.kept == {"a": 4, "b": 0} and mask.empty == ("b",)
    mask = saliency_mask(scores, 4, "layer")
    assert mask["a"].tolist() == [False, False, True, True] and mask["b"].tolist() == [[False, False], [True, True]]


def test_of_equal_scores_the_first_are_kept():
    scores = {"a": torch.zeros(3), "b": torch.tensor([0.0, 1.0, 0.0])}
    mask = saliency_mask(scores, 3, "global")
    assert mask["a"].tolist() == [True, True, False] and mask["b"].tolist() == [False, True, False]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=4), st.data(), st.integers(1, 7))
def test_the_budget_is_kept(sizes, data, steps):
    """Exactly with one threshold; in each layer apart, rounding down may leave less than one weight a layer."""
    budget = data.draw(st.integers(len(sizes), sum(sizes)))
    state = {str(n): torch.randn(size, generator=seeded(n)) for n, size in enumerate(sizes)}
    for scope in ("global", "layer"):
        kept = iterated_mask(state, lambda state: {n: t.abs() for n, t in state.items()}, budget, steps, scope).total
        assert kept == budget if scope == "global" else budget - len(sizes) < kept <= budget


def test_steps_keep_exponentially_less_and_end_as_one_step_if_scores_stay():
    state = {"a": torch.randn(1000, generator=seeded())}
    seen = []

    def magnitude(state):
        seen.append(int(state["a"].count_nonzero()))
        return {"a": state["a"].abs()}

    mask = iterated_mask(state, magnitude, 10, 4, "global")
    assert seen == [1000, 316, 100, 32]
    assert mask == saliency_mask({"a": state["a"].abs()}, 10, "global")
    assert state["a"].count_nonzero() == 1000


def test_a_pruned_weight_never_returns():
    state = {"a": torch.tensor([1.0, 2.0, 3.0, 4.0])}
    mask = iterated_mask(state, lambda state: {"a": -state["a"]}, 1, 2, "global")  # a pruned one scores best
    assert mask["a"].tolist() == [True, False, False, False]


def test_another_scope_is_refused():
    with pytest.raises(ValueError, match="scope = 'Global': choose one of global, layer"):
        saliency_mask({"a": torch.ones(4)}, 2, "Global")
