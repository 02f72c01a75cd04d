"""Masks are checked, counts respect the budget, and the kept weights are the right ones."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtiny_lite.model.masks import (
    Mask,
    apply_mask,
    check_masked,
    erk_counts,
    global_top_mask,
    kept_parameters,
    largest,
    magnitude_mask,
    noise_counts,
    random_mask,
    share_of,
    smallest_kept,
    top_mask,
    uniform_counts,
    weight_budget,
)
from tests.helpers import seeded

TOY = Mask({"a": torch.tensor([True, False, False, True]), "b": torch.tensor([[True, True], [False, True]])})


# --- the mask itself --------------------------------------------------------------------------------------


def test_a_mask_counts_what_it_keeps():
    assert TOY.kept == {"a": 2, "b": 3}
    assert TOY.prunable_density == 5 / 8
    assert list(TOY) == ["a", "b"] and len(TOY) == 2


def test_replace_exchanges_layers_and_leaves_the_first_mask_as_it_was():
    changed = TOY.replace({"a": torch.tensor([True, True, True, True])})
    assert changed.kept == {"a": 4, "b": 3} and TOY.kept == {"a": 2, "b": 3}
    assert changed != TOY and changed.replace({"a": TOY["a"]}) == TOY


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.int64])
def test_a_mask_of_another_type_is_refused_by_name(dtype):
    with pytest.raises(TypeError, match=r"conv2\.weight.*torch\.bool"):
        Mask({"conv2.weight": torch.ones(3, dtype=dtype)})


def test_a_layer_without_a_kept_weight_is_named():
    mask = Mask({"a": torch.tensor([True]), "b": torch.tensor([False, False])})
    assert mask.empty == ("b",) and mask.total == 1
    assert TOY.empty == () and TOY.total == 5


def test_kept_parameters_count_dense_parameters_and_no_running_statistics():
    sizes = {"a": 4, "b": 4, "bias": 2, "bn.running_mean": 5, "bn.running_var": 5}
    state = {name: torch.zeros(size) for name, size in sizes.items()}
    assert kept_parameters(state, TOY) == 2 + 3 + 2


# --- applying and checking --------------------------------------------------------------------------------


def test_apply_zeroes_in_place_what_is_pruned_and_nothing_else():
    state = {
        "a": torch.tensor([1.0, -2.0, 3.0, 4.0]),
        "b": torch.tensor([[5.0, 6.0], [7.0, 8.0]]),
        "dense": torch.tensor([9.0]),
    }
    weight = state["a"]
    apply_mask(state, TOY)
    assert weight.tolist() == [1, 0, 0, 4]
    assert state["b"].tolist() == [[5, 6], [0, 8]] and state["dense"].tolist() == [9]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_apply_zeroes_numbers_that_are_not_finite(value):
    state = {"a": torch.tensor([1.0, value, 3.0, 4.0]), "b": torch.ones(2, 2)}
    apply_mask(state, TOY)
    assert state["a"].tolist() == [1, 0, 0, 4]


@pytest.mark.parametrize("stray", [2.0, -1e-30, math.nan, math.inf])
def test_check_refuses_any_stray_number_outside_the_mask(stray):
    state = {"a": torch.tensor([1.0, 0.0, 0.0, 4.0]), "b": torch.tensor([[5.0, 0.0], [0.0, 8.0]])}
    check_masked(state, TOY)
    state["b"][1, 0] = stray
    with pytest.raises(ValueError, match="b has 1 non-zero"):
        check_masked(state, TOY)


def test_check_refuses_a_weight_of_another_shape():
    with pytest.raises(ValueError, match=r"a has shape \(2, 2\), its mask \(4,\)"):
        check_masked({"a": torch.zeros(2, 2), "b": torch.zeros(2, 2)}, TOY)


# --- how many weights each layer may keep -----------------------------------------------------------------


def test_the_budget_is_a_share_of_the_prunable_weights_or_of_all_parameters():
    sizes = {"a": 100, "b": 300}
    assert weight_budget(sizes, 0.1) == 40
    assert weight_budget(sizes, 0.5, other_parameters=50) == 450 // 2 - 50
    assert weight_budget(sizes, 1.0, other_parameters=50) == 400


@given(percent=st.integers(0, 100), count=st.integers(0, 20_000_000))
def test_a_share_of_whole_per_cent_is_rounded_down_exactly(percent, count):
    assert share_of(count, percent / 100) == percent * count // 100


def test_the_budget_does_not_lose_a_weight_to_rounding():
    assert 0.29 * 100 < 29  # in floating point
    assert weight_budget({"a": 100}, 0.29) == 29


@pytest.mark.parametrize(("density", "other"), [(0.004, 0), (0.1, 50)])
def test_a_budget_below_one_weight_a_layer_names_a_density_that_suffices(density, other):
    sizes = {"a": 100, "b": 300}
    with pytest.raises(ValueError, match=f"density = {density:g} leaves .* 2 prunable layers") as error:
        weight_budget(sizes, density, other)
    least = float(str(error.value).split("density of ")[1].split(" or more")[0])
    assert weight_budget(sizes, least, other) >= 2


@given(
    sizes=st.lists(st.integers(1, 10**6), min_size=1, max_size=8),
    density=st.floats(1e-4, 1),
    other=st.integers(0, 10**4),
)
def test_the_budget_never_exceeds_the_density_asked(sizes, density, other):
    named = {str(i): n for i, n in enumerate(sizes)}
    try:
        budget = weight_budget(named, density, other)
    except ValueError:
        assert density * (sum(sizes) + other) - other < len(sizes)
        return
    assert len(sizes) <= budget <= sum(sizes)
    assert budget + other <= density * (sum(sizes) + other) + 1e-6


def test_uniform_counts_are_the_same_share_of_every_layer():
    assert uniform_counts({"a": 100, "b": 300, "c": 50}, 45) == {"a": 10, "b": 30, "c": 5}


def test_the_largest_layer_pays_for_layers_that_would_keep_nothing():
    # density 3 / 12: c would keep 2, but a and b take one weight each, which they hardly afford
    assert uniform_counts({"a": 1, "b": 1, "c": 10}, 3) == {"a": 1, "b": 1, "c": 1}


@st.composite
def budgets(draw):
    sizes = draw(st.lists(st.integers(1, 5000), min_size=1, max_size=8))
    return {str(i): n for i, n in enumerate(sizes)}, draw(st.integers(len(sizes), sum(sizes)))


@given(case=budgets())
def test_uniform_counts_stay_within_budget(case):
    sizes, budget = case
    counts = uniform_counts(sizes, budget)
    assert sum(counts.values()) <= budget
    for name, n in sizes.items():
        assert 1 <= counts[name] <= max(1, n * budget / sum(sizes.values()) + 1e-6)


@settings(deadline=None, max_examples=50)
@given(case=budgets(), noise=st.floats(0, 1), seed=st.integers(0, 2**32))
def test_noisy_counts_stay_within_budget_and_below_the_highest_density(case, noise, seed):
    sizes, budget = case
    counts = noise_counts(sizes, budget, noise, np.random.default_rng(seed))
    assert list(counts) == list(sizes) and sum(counts.values()) <= budget
    density = budget / sum(sizes.values())
    for name, n in sizes.items():
        assert 1 <= counts[name] <= min(n, max(1, (1 + noise) * density * n + 1e-6))


@settings(deadline=None, max_examples=30)
@given(
    sizes=st.lists(st.integers(10_000, 99_999), min_size=4, max_size=9, unique=True),
    density=st.floats(0.01, 0.5),
    noise=st.floats(0.05, 0.8),
    seed=st.integers(0, 2**32),
)
def test_in_layers_of_real_size_noisy_densities_lie_in_range_and_sum_to_the_target(sizes, density, noise, seed):
    named = {str(i): n for i, n in enumerate(sizes)}
    budget = int(density * sum(sizes))
    counts = noise_counts(named, budget, noise, np.random.default_rng(seed))
    assert 0.98 * budget <= sum(counts.values()) <= budget
    d = budget / sum(sizes)
    trimmed = max(named, key=named.get)  # pays at most the 2 % by which a draw may be too high
    for name, n in named.items():
        spared = 0.02 * budget if name == trimmed else 0
        assert math.floor((1 - noise) * d * n) - spared - 1 <= counts[name] <= (1 + noise) * d * n


class Dice:
    """Stands in for a numpy generator: draws what it is told, and remembers what it was asked."""

    def __init__(self, draws):
        self.draws, self.asked = draws, []

    def uniform(self, low, high, size):
        self.asked.append((low, high, size))
        return np.array(self.draws[len(self.asked) - 1])


def test_noise_redraws_until_the_overall_density_fits():
    dice = Dice([[0.15, 0.15], [0.05, 0.05], [0.12, 0.095]])
    counts = noise_counts({"a": 100, "b": 300}, 40, 0.5, dice)
    # 15 + 45 = 60 and 5 + 15 = 20 miss 40 by half; 12 + floor(28.5) hits it
    assert counts == {"a": 12, "b": 28}
    assert dice.asked == [(pytest.approx(0.05), pytest.approx(0.15), 2)] * 3


def test_a_draw_slightly_above_budget_is_trimmed_in_the_largest_layer():
    # 101 + 303 = 404 lies within 2 % of 400, and 4 too many
    assert noise_counts({"a": 1000, "b": 3000}, 400, 0.5, Dice([[0.1011, 0.1011]])) == {"a": 101, "b": 299}


def test_when_no_draw_fits_the_closest_of_a_thousand_serves():
    dice = Dice([[0.4, 0.4]] * 500 + [[0.2, 0.4]] + [[0.4, 0.4]] * 499)
    # of 10 and 10, budget 5: 4 + 4 misses by 3, 2 + 4 by 1, and the first largest layer gives it up
    assert noise_counts({"a": 10, "b": 10}, 5, 0.6, dice) == {"a": 1, "b": 4}
    assert len(dice.asked) == 1000


def test_without_noise_the_counts_are_uniform():
    sizes = {"a": 1000, "b": 3000, "c": 500}
    assert noise_counts(sizes, 450, 0.0, np.random.default_rng(0)) == uniform_counts(sizes, 450)


# --- which weights are kept -------------------------------------------------------------------------------


def test_of_equal_scores_the_first_are_largest():
    assert largest(torch.tensor([1.0, 3.0, 2.0, 3.0, 2.0]), 3).tolist() == [1, 3, 2]


@given(scores=st.lists(st.integers(-5, 5), min_size=1, max_size=40), data=st.data())
def test_largest_agrees_with_a_stable_numpy_sort(scores, data):
    count = data.draw(st.integers(0, len(scores)))
    expected = np.argsort(-np.array(scores), kind="stable")[:count]
    assert largest(torch.tensor(scores, dtype=torch.float32), count).tolist() == expected.tolist()


def test_the_smallest_kept_weights_are_in_order_and_of_equal_ones_the_first():
    """Of |-4|, |1|, 0, 0 and |-1|, the third of which is pruned, the order is 0 at 3, then 1 at 1 and at 4."""
    weight, keep = torch.tensor([[-4.0, 1, 0], [0, -1, 9]]), torch.tensor([[True, True, False], [True, True, True]])
    assert smallest_kept(weight, keep, 3).tolist() == [3, 1, 4]
    assert smallest_kept(weight, keep, 2).tolist() == [3, 1] and smallest_kept(weight, keep, 0).tolist() == []


def test_magnitude_keeps_the_largest_absolute_values_of_each_layer():
    weights = {"a": torch.tensor([[0.0, -3.0], [2.0, 1.0]]), "b": torch.arange(5.0), "bias": torch.ones(2)}
    mask = magnitude_mask(weights, {"a": 2, "b": 1})
    assert mask["a"].tolist() == [[False, True], [True, False]]
    assert mask["b"].tolist() == [False] * 4 + [True]
    assert list(mask) == ["a", "b"]


@given(seed=st.integers(0, 2**32), count=st.integers(1, 59))
def test_no_pruned_weight_is_larger_than_a_kept_one(seed, count):
    weight = torch.randn(5, 4, 3, generator=seeded(seed))
    keep = magnitude_mask({"a": weight}, {"a": count})["a"]
    assert keep.shape == weight.shape and int(keep.sum()) == count
    assert weight[keep].abs().min() >= weight[~keep].abs().max()


def test_a_random_mask_keeps_its_count_and_repeats_with_its_generator():
    weights = {"a": torch.zeros(6, 5), "b": torch.zeros(40)}
    mask = random_mask(weights, {"a": 7, "b": 40}, seeded())
    assert mask.kept == {"a": 7, "b": 40}
    assert mask == random_mask(weights, {"a": 7, "b": 40}, seeded())
    assert mask != random_mask(weights, {"a": 7, "b": 40}, seeded(1))


def test_a_random_mask_ignores_the_weights_and_favours_no_position():
    weights, generator = {"a": torch.arange(10.0)}, seeded()
    kept = sum(random_mask(weights, {"a": 3}, generator)["a"].double() for _ in range(2000)) / 2000
    assert torch.allclose(kept, torch.full((10,), 0.3, dtype=torch.float64), atol=0.05)


# --- Erdős-Rényi-kernel densities and global thresholds ----------------------------------------------------


def test_erk_counts_worked_by_hand():
    # densities proportional to (4 + 4) / 16 and (8 + 4) / 32: kept in the ratio 8 : 12
    shapes = {"a": torch.Size([4, 4]), "b": torch.Size([8, 4])}
    assert erk_counts(shapes, 20) == {"a": 8, "b": 12}
    # a 3x3 kernel counts with its sides: (2 + 2 + 3 + 3) : (8 + 12)
    assert erk_counts({"a": torch.Size([2, 2, 3, 3]), "b": torch.Size([8, 12])}, 15) == {"a": 5, "b": 10}


def test_erk_keeps_a_small_layer_dense_and_the_rest_share_what_is_left():
    shapes = {"a": torch.Size([2, 2]), "b": torch.Size([50, 50])}
    assert erk_counts(shapes, 1000) == {"a": 4, "b": 996}


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=6), st.data())
def test_erk_counts_fit_the_budget_and_the_layers(sides, data):
    shapes = {str(i): torch.Size(side) for i, side in enumerate(sides)}
    total = sum(shape.numel() for shape in shapes.values())
    budget = data.draw(st.integers(len(shapes), total))
    counts = erk_counts(shapes, budget)
    assert all(1 <= counts[name] <= shape.numel() for name, shape in shapes.items())
    assert budget - 2 * len(shapes) < sum(counts.values()) <= budget


@given(st.lists(st.lists(st.integers(-5, 5), min_size=1, max_size=6), min_size=1, max_size=4), st.data())
def test_a_global_threshold_keeps_the_best_of_all_layers(layers, data):
    scores = {str(i): torch.tensor(layer, dtype=torch.float32) for i, layer in enumerate(layers)}
    budget = data.draw(st.integers(1, sum(map(len, layers))))
    mask = global_top_mask(scores, budget)
    kept = [float(v) for name, keep in mask.items() for v in scores[name][keep]]
    assert sorted(kept) == sorted(v for layer in layers for v in layer)[-budget:]


@pytest.mark.parametrize(
    "score, count, error, why",
    [
        (math.nan, 1, FloatingPointError, "1 of 3 scores are NaN"),
        (0.5, 4, ValueError, "4 weights are to be kept"),
    ],
)
def test_no_mask_is_made_of_scores_that_are_no_numbers_or_too_few(score, count, error, why):
    """A mask of fewer weights than were asked for would be a silent mistake."""
    scores = {"a": torch.tensor([1.0, score, 2.0])}
    for make in (lambda: top_mask(scores, {"a": count}), lambda: global_top_mask(scores, count)):
        with pytest.raises(error, match=why):
            make()
