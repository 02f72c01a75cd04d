"""The schedule by hand; growth lists against dense autograd gradients, and their memory; grow and prune."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fedtiny_lite.model.masks import Mask, random_mask
from fedtiny_lite.model.networks import MODELS, build_model, prunable_names, state_of
from fedtiny_lite.pruning import progressive
from fedtiny_lite.pruning.progressive import (
    adjustment_units,
    exchange_count,
    exchange_counts,
    exchange_rate,
    grow_and_prune,
    growth_lists,
    is_adjustment,
    layer_growth_list,
    merge_growth_lists,
    unit_for_round,
)
from tests.helpers import seeded

BLOCKS = (("a", "b"), ("c",), ("d", "e"))


# --- the schedule -----------------------------------------------------------------------------------------


def test_the_papers_adjustment_rounds():
    assert [r for r in range(300) if is_adjustment(r, 10, 100)] == [10, 20, 30, 40, 50, 60, 70, 80, 90]
    assert [r for r in range(12) if is_adjustment(r, 1, 8)] == [1, 2, 3, 4, 5, 6, 7]
    assert not any(is_adjustment(r, 1, 0) for r in range(5))


def test_the_papers_exchange_rate():
    assert exchange_rate(0, 100, 0.3) == pytest.approx(0.3)
    assert exchange_rate(50, 100, 0.3) == pytest.approx(0.15)
    assert exchange_rate(100, 100, 0.3) == pytest.approx(0)
    assert exchange_rate(10, 100, 0.3) == pytest.approx(0.15 * (1 + math.cos(0.1 * math.pi)))


def test_counts_are_floored_and_lie_between_one_and_what_is_pruned():
    def layer(kept, size):
        return torch.arange(size) < kept

    mask = Mask(
        {"big": layer(19, 100), "one": layer(1, 50), "nearly": layer(98, 100), "full": layer(9, 9), "bare": layer(0, 9)}
    )
    # floor(0.3 * 19) = 5; at least 1; 29 but only 2 are pruned; nothing is pruned; nothing is kept
    assert exchange_counts(mask, tuple(mask), 0.3) == {"big": 5, "one": 1, "nearly": 2}
    assert exchange_counts(mask, ("one",), 0.3) == {"one": 1}
    assert exchange_counts(mask, tuple(mask), 0.0) == {}


@pytest.mark.parametrize(("r", "thousandths"), [(0, 300), (4, 225), (6, 150), (8, 75)])
def test_counts_at_rates_of_whole_thousandths_are_exact(r, thousandths):
    rate = exchange_rate(r, 12, 0.3)
    counts = [exchange_count(kept, 10_000, rate) for kept in range(1, 5000)]
    assert counts == [max(thousandths * kept // 1000, 1) for kept in range(1, 5000)]


@pytest.mark.parametrize(
    "granularity, order, units",
    [
        ("block", "backward", (("d", "e"), ("c",), ("a", "b"))),
        ("block", "forward", (("a", "b"), ("c",), ("d", "e"))),
        ("layer", "backward", (("e",), ("d",), ("c",), ("b",), ("a",))),
        ("layer", "forward", (("a",), ("b",), ("c",), ("d",), ("e",))),
        ("entire", "backward", (("a", "b", "c", "d", "e"),)),
        ("entire", "forward", (("a", "b", "c", "d", "e"),)),
    ],
)
def test_units_by_granularity_and_order(granularity, order, units):
    assert adjustment_units(BLOCKS, granularity, order) == units


def test_chosen_blocks_only():
    assert adjustment_units(BLOCKS, "block", "backward", "1,3") == (("d", "e"), ("a", "b"))
    assert adjustment_units(BLOCKS, "layer", "forward", "3, 2") == (("c",), ("d",), ("e",))
    assert adjustment_units(BLOCKS, "entire", "backward", "2") == (("c",),)


@pytest.mark.parametrize("text", ["0", "4", "1,4", "-1", "first", "", "1,,2", "1.5"])
def test_blocks_that_the_model_lacks_are_refused(text):
    with pytest.raises(ValueError, match="this model has blocks 1 to 3") as error:
        adjustment_units(BLOCKS, "block", "backward", text)
    assert repr(text) in str(error.value)


def test_units_take_turns_by_the_number_of_the_adjustment():
    units = adjustment_units(BLOCKS, "block", "backward")
    turns = [unit_for_round(units, r, 10) for r in (10, 20, 30, 40, 50)]
    assert turns == [("d", "e"), ("c",), ("a", "b"), ("d", "e"), ("c",)]


# --- growth lists against dense gradients -----------------------------------------------------------------


def dense_gradients(model: nn.Module, names, images, labels) -> dict[str, torch.Tensor]:
    """The plain way: the whole weight gradient by autograd, normalised by the batch as in training."""
    model = copy.deepcopy(model).train()
    loss = F.cross_entropy(model(images), labels)
    gradients = torch.autograd.grad(loss, [model.get_parameter(name) for name in names])
    return dict(zip(names, gradients, strict=True))


def assert_largest(entries, gradient: torch.Tensor, keep: torch.Tensor, count: int) -> None:
    """`entries` are the `count` largest |gradient| where `keep` is False, ascending, with their signs."""
    index, value = entries
    gradient, keep = gradient.flatten(), keep.flatten()
    assert len(index) == len(value) == count
    assert (index.diff() > 0).all() and not keep[index].any()
    assert torch.allclose(value, gradient[index], rtol=1e-9, atol=1e-14)
    best = gradient[~keep].abs().sort(descending=True).values[:count]
    assert torch.allclose(value.abs().sort(descending=True).values, best, rtol=1e-9, atol=1e-14)


CONVOLUTIONS = [(kernel, stride, side) for kernel in (1, 3) for stride in (1, 2) for side in (4, 5)]


@pytest.mark.parametrize("min_tile", [1, 7, 50, 4096])
@pytest.mark.parametrize("count", [1, 6, 100])
@pytest.mark.parametrize("kernel, stride, side", CONVOLUTIONS)
def test_a_convolutions_list_equals_its_dense_gradient(kernel, stride, side, count, min_tile, monkeypatch):
    monkeypatch.setattr(progressive, "MIN_TILE", min_tile)
    layer = nn.Conv2d(5, 7, kernel, stride, padding=kernel // 2, bias=False).double()
    x = torch.randn(3, 5, side, side, generator=seeded(1), dtype=torch.float64)
    output = layer(x)
    upstream = torch.randn(output.shape, generator=seeded(2), dtype=torch.float64)
    (dense,) = torch.autograd.grad(output, layer.weight, upstream)
    keep = torch.rand(dense.shape, generator=seeded(3)) < 0.3
    count = min(count, int((~keep).sum()))
    assert_largest(layer_growth_list(layer, x, upstream, keep, count), dense, keep, count)


@pytest.mark.parametrize("min_tile", [1, 4, 13, 4096])
@pytest.mark.parametrize("count", [1, 6, 40])
def test_a_linear_layers_list_equals_its_dense_gradient(count, min_tile, monkeypatch):
    monkeypatch.setattr(progressive, "MIN_TILE", min_tile)
    layer = nn.Linear(11, 6).double()
    x = torch.randn(4, 11, generator=seeded(1), dtype=torch.float64)
    upstream = torch.randn(4, 6, generator=seeded(2), dtype=torch.float64)
    keep = torch.rand(6, 11, generator=seeded(3)) < 0.3
    count = min(count, int((~keep).sum()))
    (dense,) = torch.autograd.grad(layer(x), layer.weight, upstream)
    assert_largest(layer_growth_list(layer, x, upstream, keep, count), dense, keep, count)


def test_a_linear_list_by_hand():
    layer, keep = nn.Linear(3, 2), torch.tensor([[True, False, False], [False, False, True]])
    x, upstream = torch.tensor([[1.0, 2.0, -3.0]]), torch.tensor([[1.0, -2.0]])
    # gradient [[1, 2, -3], [-2, -4, 6]]; pruned are 2, -3, -2, -4 at 1, 2, 3, 4
    index, value = layer_growth_list(layer, x, upstream, keep, 2)
    assert index.tolist() == [2, 4] and value.tolist() == [-3, -4]


@pytest.mark.parametrize("min_tile", [1, 2, 3, 5, 8, 4096])
def test_of_equal_gradients_the_first_are_listed_whatever_the_tiles(min_tile, monkeypatch):
    monkeypatch.setattr(progressive, "MIN_TILE", min_tile)
    keep = torch.zeros(4, 6, dtype=torch.bool)
    keep[0, 1] = keep[0, 3] = True
    index, _ = layer_growth_list(nn.Linear(6, 4), torch.ones(2, 6), torch.ones(2, 4), keep, 5)
    assert index.tolist() == [0, 2, 4, 5, 6]


@pytest.mark.parametrize("min_tile", [5, 100, 4096])
@pytest.mark.parametrize("name", MODELS)
def test_lists_of_whole_models_equal_dense_gradients(name, min_tile, monkeypatch):
    monkeypatch.setattr(progressive, "MIN_TILE", min_tile)
    model = build_model(name, 2, 10, (3, 8, 8), seeded()).double()
    images = torch.randn(6, 3, 8, 8, generator=seeded(1), dtype=torch.float64)
    labels = torch.randint(10, (6,), generator=seeded(2))
    names = prunable_names(model, prune_linear=True)
    weights = {n: model.get_parameter(n) for n in names}
    mask = random_mask(weights, {n: max(1, w.numel() // 5) for n, w in weights.items()}, seeded(3))
    counts = exchange_counts(mask, names, 0.3)
    found = growth_lists(model, mask, counts, images, labels)
    dense = dense_gradients(model, names, images, labels)
    assert list(found) == list(counts) == list(names)
    for n in names:
        assert_largest(found[n], dense[n], mask[n], counts[n])


@pytest.mark.parametrize("training", [True, False])
def test_collecting_gradients_leaves_the_model_as_it_was(training):
    model = build_model("resnet18", 2, 10, (1, 8, 8), seeded()).train(training)
    model.bn1.weight.requires_grad_(False)
    before, name = state_of(model), "layer4.0.conv1.weight"
    mask = random_mask(before, {name: 30}, seeded())
    images, labels = torch.randn(4, 1, 8, 8, generator=seeded(1)), torch.tensor([0, 1, 2, 3])
    growth_lists(model, mask, {name: 9}, images, labels)
    after = state_of(model)
    assert all(torch.equal(after[n], before[n]) for n in before)
    assert {m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}
    assert {n for n, p in model.named_parameters() if not p.requires_grad} == {"bn1.weight"}
    assert all(p.grad is None for p in model.parameters())
    assert model.training is training and not any(m._forward_hooks for m in model.modules())


def all_buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


@pytest.mark.parametrize("value", [0.5, float("nan")])
def test_collecting_gradients_leaves_every_buffer_as_it_was(value):
    """Batch counters too, and running statistics even where an image holds NaN."""
    model = build_model("cnn", 2, 10, (1, 8, 8), seeded())
    mask, before = random_mask(state_of(model), {"conv2.weight": 30}, seeded()), all_buffers(model)
    images = torch.randn(4, 1, 8, 8, generator=seeded(1))
    images[0, 0, 0, 0] = value
    growth_lists(model, mask, {"conv2.weight": 9}, images, torch.tensor([0, 1, 2, 3]))
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    model.train()(torch.randn(4, 1, 8, 8, generator=seeded(2)))
    assert int(model.bn1.num_batches_tracked) == 1  # training counts and moves the statistics again
    assert not torch.equal(model.bn1.running_mean, before["bn1.running_mean"])


def test_one_image_is_refused():
    model = build_model("vgg11", 2, 10, (1, 8, 8), seeded())
    mask = random_mask(state_of(model), {"conv2.weight": 5}, seeded())
    with pytest.raises(ValueError, match="two images or more, not on 1; raise growth_batch"):
        growth_lists(model, mask, {"conv2.weight": 2}, torch.zeros(1, 1, 8, 8), torch.tensor([0]))


def test_a_failing_batch_leaves_the_model_trainable():
    model = build_model("cnn", 2, 10, (1, 8, 8), seeded())
    mask = random_mask(state_of(model), {"conv2.weight": 5}, seeded())
    with pytest.raises(ValueError, match="batch"):
        growth_lists(model, mask, {"conv2.weight": 2}, torch.zeros(4, 1, 8, 8), torch.tensor([0, 1]))
    assert all(p.requires_grad for p in model.parameters())
    assert model.training and not model.conv2._forward_hooks


# --- memory: O(a_l) ---------------------------------------------------------------------------------------


class LargestNewTensor(TorchDispatchMode):
    """Remembers the largest storage, in bytes, that an operation allocates; `given` ones do not count."""

    def __init__(self, given):
        super().__init__()
        self.given = {tensor.untyped_storage().data_ptr() for tensor in given}
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in self.given:
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return result


class WideNet(nn.Module):
    """One convolution of 512 to 512 channels on a map of 2x2, so that every activation is small."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 512, 3, padding=1)
        self.wide = nn.Conv2d(512, 512, 3, padding=1, bias=False)
        self.linear = nn.Linear(512, 10)

    def forward(self, x):
        return self.linear(F.relu(self.wide(F.relu(self.stem(x)))).mean((2, 3)))


@pytest.fixture(scope="module")
def wide():
    model = WideNet()
    keep = torch.rand(model.wide.weight.shape, generator=seeded()) < 0.01
    return model, Mask({"wide.weight": keep})


@pytest.mark.slow
@pytest.mark.parametrize("count", [50, 7_000, 60_000])
def test_growth_memory_is_bounded_by_the_list_and_far_below_the_layer(wide, count):
    model, mask = wide
    images, labels = torch.randn(3, 1, 2, 2, generator=seeded(1)), torch.tensor([0, 1, 2])
    given = [*model.parameters(), *mask.values()]
    with LargestNewTensor(given) as largest:
        lists = growth_lists(model, mask, {"wide.weight": count}, images, labels)
    coordinates = 3 * 8  # bytes of one entry's (row, column, tap), the widest that is held of a tile
    # activations here are 3 * 512 * 2 * 2 floats, well below
    assert largest.bytes <= coordinates * max(count, progressive.MIN_TILE)
    assert largest.bytes < mask["wide.weight"].numel() * 4 / 5  # float32 gradient of 2.36 M weights: 9.4 MB
    assert len(lists["wide.weight"][0]) == count


def test_the_memory_meter_sees_a_dense_gradient(wide):
    model, mask = wide
    images, labels = torch.randn(3, 1, 2, 2, generator=seeded(1)), torch.tensor([0, 1, 2])
    with LargestNewTensor([*model.parameters(), *mask.values()]) as largest:
        torch.autograd.grad(F.cross_entropy(model(images), labels), model.wide.weight)
    assert largest.bytes == mask["wide.weight"].numel() * 4


# --- merging on the server --------------------------------------------------------------------------------


def test_a_missing_entry_counts_zero():
    lists = [
        (torch.tensor([0, 2]), torch.tensor([4.0, -8.0])),
        (torch.tensor([2, 5]), torch.tensor([4.0, 1.0])),
    ]
    positions, gradient = merge_growth_lists(lists, [0.25, 0.75])
    assert positions.tolist() == [0, 2, 5]
    assert gradient.tolist() == [1.0, 1.0, 0.75]  # -8 / 4 + 3 * 4 / 4 = 1


@given(size=st.integers(1, 30), clients=st.integers(1, 6), seed=st.integers(0, 2**32), share=st.floats(0.05, 1))
def test_merging_equals_a_dense_weighted_sum(size, clients, seed, share):
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.ones(clients))
    dense, lists = np.zeros(size), []
    for weight in weights:
        index = np.sort(rng.permutation(size)[: max(1, int(share * size))])
        value = rng.normal(size=len(index)).astype(np.float32)
        dense[index] += weight * value
        lists.append((torch.tensor(index), torch.tensor(value)))
    positions, gradient = merge_growth_lists(lists, weights.tolist())
    merged = np.zeros(size)
    merged[positions] = gradient
    assert np.allclose(merged, dense, rtol=1e-12, atol=1e-12)
    assert set(positions.tolist()) == {i for index, _ in lists for i in index.tolist()}
    assert gradient.dtype == torch.float64


# --- grow and prune ---------------------------------------------------------------------------------------


def test_grow_and_prune_by_hand():
    mask = Mask({"a": torch.tensor([[True, True, True], [False, False, False]]), "b": torch.tensor([True, False])})
    state = {
        "a": torch.tensor([[5.0, -1.0, 2.0], [0.0, 0.0, 0.0]]),
        "b": torch.tensor([1.0, 0.0]),
        "c": torch.ones(2),
    }
    merged = {"a": (torch.tensor([3, 4, 5]), torch.tensor([0.1, 0.2, -0.3], dtype=torch.float64))}
    new_state, new_mask = grow_and_prune(state, mask, merged, {"a": 2})
    # |-0.3| and 0.2 grow at zero; |-1| and 2 go
    assert new_mask["a"].tolist() == [[True, False, False], [False, True, True]]
    assert new_state["a"].tolist() == [[5, 0, 0], [0, 0, 0]]
    assert torch.equal(new_mask["b"], mask["b"])
    assert new_state["b"].tolist() == [1, 0] and new_state["c"].tolist() == [1, 1]
    assert mask["a"].tolist() == [[True] * 3, [False] * 3] and state["a"][0, 1] == -1  # not changed in place


def test_no_more_weights_are_pruned_than_grow():
    """Two were to be exchanged, and the list names one pruned position: one grows, and the smallest goes."""
    mask = Mask({"a": torch.tensor([True, True, True, False, False])})
    state = {"a": torch.tensor([3.0, 1.0, 2.0, 0.0, 0.0])}
    merged = {"a": (torch.tensor([0, 4]), torch.tensor([9.0, 0.5], dtype=torch.float64))}
    new_state, new_mask = grow_and_prune(state, mask, merged, {"a": 2})
    assert new_mask["a"].tolist() == [True, False, True, False, True]
    assert new_state["a"].tolist() == [3, 0, 2, 0, 0]


@st.composite
def layers(draw):
    """A layer, a mask, a count within both sides, and a merged list that may hold kept positions too."""
    size, seed = draw(st.integers(2, 40)), draw(st.integers(0, 2**32))
    rng = np.random.default_rng(seed)
    kept = draw(st.integers(1, size - 1))
    keep = np.zeros(size, bool)
    keep[rng.permutation(size)[:kept]] = True
    count = draw(st.integers(1, min(kept, size - kept)))
    weight = np.where(keep, np.round(rng.normal(size=size), 1), 0)  # rounded: equal weights do occur
    extra = rng.random(size) < 0.5
    listed = np.union1d(rng.permutation(np.flatnonzero(~keep))[:count], np.flatnonzero(extra))
    gradient = np.round(rng.normal(size=len(listed)), 1)
    return keep, weight.astype(np.float32), count, listed, gradient


@settings(max_examples=200)
@given(case=layers())
def test_what_grows_and_what_is_pruned_are_disjoint_and_the_best(case):
    keep, weight, count, listed, gradient = case
    state, mask = {"a": torch.tensor(weight)}, Mask({"a": torch.tensor(keep)})
    merged = {"a": (torch.tensor(listed), torch.tensor(gradient))}
    new_state, new_mask = grow_and_prune(state, mask, merged, {"a": count})
    after, values = new_mask["a"].numpy(), new_state["a"].numpy()
    grown, pruned = after & ~keep, keep & ~after
    assert grown.sum() == pruned.sum() == count
    assert after.sum() == keep.sum()
    assert (values[~after] == 0).all() and (values[grown] == 0).all()
    stayed = keep & after
    assert (values[stayed] == weight[stayed]).all()
    assert not stayed.any() or np.abs(weight[pruned]).max() <= np.abs(weight[stayed]).min()
    score = np.full(len(keep), -1.0)
    score[listed] = np.abs(gradient)
    passed_over = ~keep & ~grown & (score >= 0)
    assert not passed_over.any() or score[grown].min() >= score[passed_over].max()


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32), density=st.floats(0.02, 0.95), rate=st.floats(0.01, 1))
def test_a_whole_adjustment_keeps_the_number_of_weights_of_every_layer(seed, density, rate):
    generator = seeded(seed)
    weights = {"a": torch.randn(6, 3, 3, 3, generator=generator), "b": torch.randn(4, 9, generator=generator)}
    mask = random_mask(weights, {n: max(1, int(density * w.numel())) for n, w in weights.items()}, generator)
    state = {name: weight * mask[name] for name, weight in weights.items()}
    counts = exchange_counts(mask, tuple(mask), rate)
    assume(counts)
    merged = {}
    for name, count in counts.items():
        free = (~mask[name].flatten()).nonzero().squeeze(1)
        clients = [free[torch.randperm(len(free), generator=generator)[:count]].sort().values for _ in range(3)]
        lists = [(index, torch.randn(len(index), generator=generator)) for index in clients]
        merged[name] = merge_growth_lists(lists, [0.5, 0.3, 0.2])
    new_state, new_mask = grow_and_prune(state, mask, merged, counts)
    assert new_mask.kept == mask.kept
    for name in mask:
        assert int((new_mask[name] & ~mask[name]).sum()) == counts.get(name, 0)
        assert not new_state[name][~new_mask[name]].any()


@pytest.mark.parametrize(
    "granularity, order, why", [("blocks", "forward", "granularity = 'blocks'"), ("block", "reverse", "order")]
)
def test_another_granularity_or_order_is_refused(granularity, order, why):
    with pytest.raises(ValueError, match=f"{why}.*choose one of"):
        adjustment_units(BLOCKS, granularity, order)
