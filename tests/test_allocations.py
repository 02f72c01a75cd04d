"""The kit's own pool: candidates that differ in their allocation over layers, all within the same limits."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtiny_lite.model.costs import LayerShape, forward_flops, layer_shapes
from fedtiny_lite.model.masks import magnitude_mask, proportional_counts, uniform_counts, weight_budget
from fedtiny_lite.model.networks import build_model, prunable_names, state_of
from fedtiny_lite.pruning.allocations import (
    ERK,
    FLOW_COUNTS,
    FLOW_MASK,
    GLOBAL_MAGNITUDE,
    KINDS,
    LOG_UNIFORM,
    NOISE,
    Limits,
    allocation_pool,
    kinds_of_pool,
    log_uniform_counts,
)
from fedtiny_lite.pruning.bn_selection import candidate_pool
from fedtiny_lite.pruning.saliency import iterated_mask, mask_of_counts, synflow_scores
from tests.helpers import seeded

FREE = 1e9
"""A limit of work that limits nothing."""
LAYERS = (LayerShape("a", 10, 4, 2, 5), LayerShape("b", 90, 1, 9, 10))
"""Two layers of 10 and 90 weights; a sample uses each weight of the first at four places."""
SIZES = {"a": 10, "b": 90}


def networks(model="cnn", width=4, density=0.05, work=2.0):
    """A random network's state, the limits, and SynFlow's scores of it."""
    network, image = build_model(model, width, 10, (1, 8, 8), seeded()), (1, 8, 8)
    names = prunable_names(network, prune_linear=True)
    sizes = {name: network.get_parameter(name).numel() for name in names}
    limits = Limits(sizes, layer_shapes(network, image), weight_budget(sizes, density), work)
    return state_of(network), limits, lambda state: synflow_scores(network, state, names, image)


def pool_of(kinds, seed=0, **network):
    weights, limits, flow = networks(**network)
    return allocation_pool(weights, limits, kinds, 0.5, np.random.default_rng(seed), flow), limits


# --- limits -----------------------------------------------------------------------------------------------


def test_counts_that_cost_too_much_move_towards_the_uniform_ones_worked_by_hand():
    # Uniform counts of 10 in 100 are 1 and 9, which cost 2 * (4 + 9) = 26; 9 and 1 cost 2 * (36 + 1) = 74.
    assert uniform_counts(SIZES, 10) == {"a": 1, "b": 9}
    fitted = {work: Limits(SIZES, LAYERS, 10, work).fitted({"a": 9, "b": 1}) for work in (FREE, 1, 2, 3)}
    assert fitted[FREE] == {"a": 9, "b": 1}
    assert fitted[1] == {"a": 1, "b": 9}
    # 52 is 26 / 48 of the way: 1 + 8 * 26 / 48 = 5.33 and 9 - 4.33 = 4.67, rounded down
    assert fitted[2] == {"a": 5, "b": 4}
    assert fitted[3] == {"a": 9, "b": 1}  # 78 are allowed


def test_the_example_of_the_docstring():
    layers = (LayerShape("a", 10, 1, 2, 5), LayerShape("b", 10, 2, 2, 5))
    limits = Limits({"a": 10, "b": 10}, layers, 10, 17 / 15)
    assert [forward_flops(layers, counts) for counts in ({"a": 1, "b": 9}, {"a": 5, "b": 5})] == [38, 30]
    assert limits.fitted({"a": 1, "b": 9}) == {"a": 3, "b": 7}


def test_an_empty_layer_gets_a_weight_from_the_largest():
    assert Limits(SIZES, LAYERS, 10, FREE).fitted({"a": 0, "b": 10}) == {"a": 1, "b": 9}


@st.composite
def allocations(draw):
    """Layers, a budget of at least a weight a layer, and counts of it that some rule could have found."""
    sizes = draw(st.lists(st.integers(1, 500), min_size=1, max_size=6))
    positions = draw(st.lists(st.integers(1, 64), min_size=len(sizes), max_size=len(sizes)))
    layers = tuple(LayerShape(str(i), n, at, n, 1) for i, (n, at) in enumerate(zip(sizes, positions, strict=True)))
    budget = draw(st.integers(len(sizes), sum(sizes)))
    left, counts = budget, {}
    for layer in layers:
        counts[layer.name] = draw(st.integers(0, min(left, layer.weights)))
        left -= counts[layer.name]
    return layers, budget, counts


@given(allocations(), st.one_of(st.just(FREE), st.floats(1, 10)))
def test_fitted_counts_are_within_both_limits_and_empty_no_layer(case, work):
    layers, budget, counts = case
    sizes = {layer.name: layer.weights for layer in layers}
    fitted = Limits(sizes, layers, budget, work).fitted(counts)
    assert sum(fitted.values()) <= budget
    assert all(1 <= fitted[name] <= n for name, n in sizes.items())
    assert forward_flops(layers, fitted) <= work * forward_flops(layers, uniform_counts(sizes, budget))


# --- the pool ---------------------------------------------------------------------------------------------


def test_each_kind_comes_once_and_then_those_that_are_drawn():
    assert kinds_of_pool(3) == list(KINDS[:3])
    assert kinds_of_pool(9) == [*KINDS, NOISE, LOG_UNIFORM, NOISE]


@pytest.mark.parametrize(("model", "width"), [("cnn", 4), ("resnet18", 2), ("vgg11", 2)])
@pytest.mark.parametrize("work", [FREE, 1.0, 1.5])
def test_every_candidate_is_within_both_limits_and_empties_no_layer(model, width, work):
    pool, limits = pool_of(kinds_of_pool(8), model=model, width=width, work=work)
    most = work * forward_flops(limits.layers, uniform_counts(limits.sizes, limits.budget))
    for kind, mask in zip(kinds_of_pool(8), pool, strict=True):
        assert mask.total <= limits.budget, kind
        assert not mask.empty, kind
        assert forward_flops(limits.layers, mask.kept) <= most, kind


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.02, 0.5), st.sampled_from([FREE, 1.0, 1.2, 3.0]))
def test_the_pool_keeps_within_limits_whatever_is_drawn(seed, density, work):
    pool, limits = pool_of(kinds_of_pool(8), seed, density=density, work=work)
    most = work * forward_flops(limits.layers, uniform_counts(limits.sizes, limits.budget))
    assert all(mask.total <= limits.budget and not mask.empty for mask in pool)
    assert all(forward_flops(limits.layers, mask.kept) <= most for mask in pool)


def test_the_same_generator_gives_the_same_pool():
    assert pool_of(kinds_of_pool(8), 5)[0] == pool_of(kinds_of_pool(8), 5)[0]
    assert pool_of(kinds_of_pool(8), 5)[0][0] != pool_of(kinds_of_pool(8), 6)[0][0]


def test_without_a_limit_of_work_the_first_candidate_is_the_papers():
    weights, limits, flow = networks(work=FREE)
    (ours,) = allocation_pool(weights, limits, [NOISE], 0.5, np.random.default_rng(3), flow)
    (papers,) = candidate_pool(weights, limits.sizes, limits.budget, 1, 0.5, np.random.default_rng(3))
    assert ours == papers


def test_without_a_limit_of_work_synflows_mask_is_synflows():
    weights, limits, flow = networks(work=FREE)
    synflow = iterated_mask(weights, flow, limits.budget, 100, "global")
    counts, mask = allocation_pool(weights, limits, [FLOW_COUNTS, FLOW_MASK], 0.5, np.random.default_rng(), flow)
    assert mask == synflow
    assert counts == magnitude_mask(weights, synflow.kept) != synflow


def test_synflow_under_a_limit_of_work_is_iterated_to_the_counts_that_are_allowed():
    weights, limits, flow = networks(work=1.0)
    counts, mask = allocation_pool(weights, limits, [FLOW_COUNTS, FLOW_MASK], 0.5, np.random.default_rng(), flow)
    assert mask.kept == counts.kept == uniform_counts(limits.sizes, limits.budget)
    state = {name: tensor.clone() for name, tensor in weights.items()}
    for step in range(1, 101):
        scores = flow(state)
        kept = {n: round(size * (mask.kept[n] / size) ** (step / 100)) for n, size in limits.sizes.items()}
        for name, count in kept.items():
            best = scores[name].flatten().argsort(descending=True, stable=True)[:count]
            keep = torch.zeros(limits.sizes[name], dtype=torch.bool)
            keep[best] = True
            state[name] = state[name] * keep.view(state[name].shape)
    assert all(torch.equal(state[name] != 0, keep) for name, keep in mask.items())


def test_global_magnitude_keeps_the_largest_weights_of_all_layers():
    weights, limits, flow = networks(work=FREE)
    weights |= {name: torch.randn(weights[name].shape, generator=seeded(1)) for name in limits.sizes}
    (mask,) = allocation_pool(weights, limits, [GLOBAL_MAGNITUDE], 0.5, np.random.default_rng(), flow)
    kept = torch.cat([weights[name][keep].abs() for name, keep in mask.items()])
    pruned = torch.cat([weights[name][~keep].abs() for name, keep in mask.items()])
    assert len(kept) == limits.budget
    assert kept.min() >= pruned.max()


def test_erk_keeps_weights_in_proportion_to_the_sum_of_a_layers_sides():
    weights, limits, flow = networks(work=FREE)
    (mask,) = allocation_pool(weights, limits, [ERK], 0.5, np.random.default_rng(), flow)
    sides = {name: sum(weights[name].shape) for name in limits.sizes}
    for name, kept in mask.kept.items():
        assert kept == int(limits.budget * sides[name] / sum(sides.values()) + 1e-9)


@given(st.integers(0, 2**31))
def test_log_uniform_densities_lie_within_two_decades(seed):
    sizes = {"a": 10_000, "b": 20_000, "c": 30_000}
    counts = log_uniform_counts(sizes, 1_000, np.random.default_rng(seed))
    densities = [counts[name] / n for name, n in sizes.items()]
    assert 990 <= sum(counts.values()) <= 1_000
    # Rounding down takes at most one weight, which is 3 % of the fewest that a layer can get.
    assert max(densities) / min(densities) <= 100 * 1.2


def test_proportional_counts_worked_by_hand():
    sizes = {"a": 4, "b": 100, "c": 100}
    assert proportional_counts({"a": 1.0, "b": 2.0, "c": 1.0}, sizes, 12) == {"a": 3, "b": 6, "c": 3}
    # Of 40, a would keep 10 and has 4: the other 36 are shared 2 : 1.
    assert proportional_counts({"a": 1.0, "b": 2.0, "c": 1.0}, sizes, 40) == {"a": 4, "b": 24, "c": 12}
    assert proportional_counts({"a": 1e-9, "b": 1.0, "c": 1.0}, sizes, 9) == {"a": 1, "b": 4, "c": 4}


def test_a_mask_of_counts_on_its_way_worked_by_hand():
    scores = {"a": torch.arange(16.0), "b": torch.arange(4.0)}
    # Half-way to 1 of 16 the schedule keeps 16 * (1 / 16) ** 0.5 = 4 weights; of 4 of 4 it keeps all.
    assert mask_of_counts(scores, {"a": 1, "b": 4}, 0.5).kept == {"a": 4, "b": 4}
    assert mask_of_counts(scores, {"a": 1, "b": 4})["a"].nonzero().flatten().tolist() == [15]


def test_kinds_differ_in_their_allocation():
    pool, _ = pool_of(KINDS, work=FREE, density=0.02, width=8)
    kept = {kind: mask.kept for kind, mask in zip(KINDS, pool, strict=True)}
    assert kept[FLOW_COUNTS] == kept[FLOW_MASK]
    different = [kept[kind] for kind in KINDS if kind != FLOW_MASK]
    assert all(a != b for a, b in itertools.combinations(different, 2))
