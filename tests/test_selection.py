"""Candidates differ only in masks; batch-norm statistics are re-estimated and combined as they should be."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedtiny_lite.data.datasets import Split
from fedtiny_lite.model.networks import bn_names, build_model, prunable_names, state_of
from fedtiny_lite.model.training import Evaluation, Normalisation
from fedtiny_lite.pruning import bn_selection as selection
from fedtiny_lite.pruning.bn_selection import aggregate_bn_stats, candidate_pool, choose_candidate, recalibrate_bn
from tests.helpers import seeded

PIXELS = Normalisation((0.3,), (0.2,))


def images(samples: int) -> Split:
    pixels = torch.randint(256, (samples, 1, 8, 8), generator=seeded(1), dtype=torch.uint8)
    return Split(pixels, torch.zeros(samples, dtype=torch.int64))


def network(name: str = "cnn") -> nn.Module:
    """A model whose running statistics and BN parameters are not the initial ones."""
    model = build_model(name, 2, 10, (1, 8, 8), seeded())
    for tensor in [*model.parameters(), *(model.get_buffer(n) for n in bn_names(model))]:
        tensor.data += torch.rand(tensor.shape, generator=seeded(2))
    return model


# --- the pool ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cnn", "resnet18", "vgg11"])
def test_candidates_keep_the_largest_weights_within_the_budget(name):
    model = network(name)
    weights = state_of(model)
    sizes = {n: weights[n].numel() for n in prunable_names(model, prune_linear=False)}
    budget = sum(sizes.values()) // 10
    pool = candidate_pool(weights, sizes, budget, 6, 0.5, np.random.default_rng(0))
    assert len(pool) == 6
    assert len({tuple(mask.kept.values()) for mask in pool}) == 6
    for mask in pool:
        assert list(mask) == list(sizes) and sum(mask.kept.values()) <= budget
        for layer, keep in mask.items():
            magnitudes = np.sort(weights[layer].abs().flatten().numpy())[::-1]
            assert weights[layer][keep].abs().min() == magnitudes[mask.kept[layer] - 1]


def test_a_larger_pool_begins_with_the_same_candidates():
    weights = {"a": torch.randn(400, generator=seeded()), "b": torch.randn(900, generator=seeded(1))}
    sizes = {name: w.numel() for name, w in weights.items()}
    small, large = (candidate_pool(weights, sizes, 130, count, 0.5, np.random.default_rng(3)) for count in (2, 5))
    assert large[:2] == small


# --- re-estimation ----------------------------------------------------------------------------------------


def direct_statistics(model: nn.Module, split: Split, batch: int) -> dict[str, torch.Tensor]:
    """Mean and unbiased variance of what enters each BN layer, averaged over batches by their sizes."""
    model, sums = copy.deepcopy(model).train(), {}

    def hook(name):
        def record(_, args):
            x = args[0].double().transpose(0, 1).flatten(1)
            for what, value in (("running_mean", x.mean(1)), ("running_var", x.var(1))):
                key = f"{name}.{what}"
                sums[key] = sums.get(key, 0) + value * len(args[0]) / len(split)

        return record

    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(hook(name))
    with torch.no_grad():
        for start in range(0, len(split), batch):
            model((split.images[start : start + batch] / 255 - 0.3) / 0.2)
    return sums


@pytest.mark.parametrize("name", ["cnn", "resnet18", "vgg11"])
@pytest.mark.parametrize("samples", [12, 30])  # one batch of 12; batches of 12, 12 and 6
def test_statistics_are_those_of_the_activations(name, samples, monkeypatch):
    monkeypatch.setattr(selection, "EVALUATION_BATCH", 12)
    model, split = network(name), images(samples)
    expected = direct_statistics(model, split, 12)
    found = recalibrate_bn(model, split, PIXELS)
    assert list(found) == list(bn_names(model)) and found.keys() == expected.keys()
    for key, value in found.items():
        assert torch.allclose(value.double(), expected[key], rtol=1e-4, atol=1e-5), key


def test_statistics_forget_the_ones_before():
    model, split = network(), images(20)
    first = recalibrate_bn(model, split, PIXELS)
    for name in bn_names(model):
        model.get_buffer(name).fill_(1e6)
    again = recalibrate_bn(model, split, PIXELS)
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("mode", [True, False])
def test_re_estimation_changes_running_statistics_only(mode):
    model = network().train(mode)
    before = state_of(model)
    found = recalibrate_bn(model, images(20), PIXELS)
    after = state_of(model)
    assert all(torch.equal(after[name], found[name]) for name in bn_names(model))
    assert all(torch.equal(after[name], before[name]) for name in before if name not in found)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert model.training is mode
    assert {m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}


def test_re_estimation_leaves_batch_counters_and_momenta_as_they_were(monkeypatch):
    """Also where a pass fails."""
    model = network()
    model.bn1.num_batches_tracked.fill_(7)
    recalibrate_bn(model, images(20), PIXELS)
    monkeypatch.setattr(selection, "observe_all", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        recalibrate_bn(model.eval(), images(20), PIXELS)
    assert int(model.bn1.num_batches_tracked) == 7 and int(model.bn2.num_batches_tracked) == 0
    assert {m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}
    assert not model.training


def test_statistics_returned_are_copies():
    model = network()
    found = recalibrate_bn(model, images(20), PIXELS)
    kept = {name: tensor.clone() for name, tensor in found.items()}
    recalibrate_bn(model, images(5), PIXELS)
    assert all(torch.equal(found[name], kept[name]) for name in found)


# --- aggregation ------------------------------------------------------------------------------------------


def stats(mean: list[float], var: list[float]) -> dict[str, torch.Tensor]:
    return {"bn.running_mean": torch.tensor(mean), "bn.running_var": torch.tensor(var)}


def test_aggregation_by_hand():
    clients, weights = [stats([0.0, 1.0], [1.0, 2.0]), stats([4.0, 1.0], [5.0, 6.0])], [0.25, 0.75]
    paper = aggregate_bn_stats(clients, weights, "paper")
    pooled = aggregate_bn_stats(clients, weights, "pooled")
    assert paper["bn.running_mean"].tolist() == pooled["bn.running_mean"].tolist() == [3, 1]
    assert paper["bn.running_var"].tolist() == [4, 5]
    # spread of the means 0 and 4 around 3: 0.25 * 9 + 0.75 * 1 = 3; of 1 and 1: 0
    assert pooled["bn.running_var"].tolist() == [7, 5]


def test_a_spread_that_float32_cannot_hold_becomes_its_largest_number():
    """Means of 1e20 and -1e20 lie 1e20 from 0: the spread is 1e40, and float32 ends at 3.4e38."""
    combined = aggregate_bn_stats([stats([1e20], [1.0]), stats([-1e20], [1.0])], [0.5, 0.5], "pooled")
    assert combined["bn.running_mean"].tolist() == [0]
    assert combined["bn.running_var"].tolist() == [torch.finfo(torch.float32).max]


def test_one_client_alone_is_returned_as_it_is():
    only = stats([0.5, -2.0], [0.1, 3.0])
    for rule in ("paper", "pooled"):
        combined = aggregate_bn_stats([only], [1.0], rule)
        assert all(torch.equal(combined[name], only[name]) for name in only)


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    shift=st.floats(0, 5),
    seed=st.integers(0, 2**32),
)
def test_pooled_variance_is_the_variance_of_all_data_together(sizes, shift, seed):
    rng = np.random.default_rng(seed)
    data = [rng.normal(k * shift, 1 + k, (n, 3)) for k, n in enumerate(sizes)]
    clients = [stats(part.mean(0).tolist(), part.var(0).tolist()) for part in data]
    weights = [n / sum(sizes) for n in sizes]
    together = np.concatenate(data)
    pooled = aggregate_bn_stats(clients, weights, "pooled")
    paper = aggregate_bn_stats(clients, weights, "paper")
    assert np.allclose(pooled["bn.running_mean"], together.mean(0), rtol=1e-4, atol=1e-4)
    assert np.allclose(pooled["bn.running_var"], together.var(0), rtol=1e-4, atol=1e-4)
    assert (paper["bn.running_var"] <= pooled["bn.running_var"]).all()


def test_aggregation_keeps_the_models_order_and_type():
    model = network("resnet18")
    one = recalibrate_bn(model, images(10), PIXELS)
    combined = aggregate_bn_stats([one, one], [0.5, 0.5], "pooled")
    assert list(combined) == list(bn_names(model))
    assert all(tensor.dtype == torch.float32 for tensor in combined.values())


# --- choice -----------------------------------------------------------------------------------------------


def test_losses_are_weighted_by_images_not_by_clients():
    # mean losses per client: (1, 2) on 90 images and (5, 1) on 10
    scores = [[Evaluation(90.0, 0, 90), Evaluation(180.0, 0, 90)], [Evaluation(50.0, 0, 10), Evaluation(10.0, 0, 10)]]
    chosen, losses = choose_candidate(scores)
    assert losses == [1.4, 1.9]  # the means of client means would be 3 and 1.5
    assert chosen == 0


def test_of_equal_candidates_the_first_is_chosen():
    assert choose_candidate([[Evaluation(3.0, 0, 1), Evaluation(2.0, 0, 1), Evaluation(2.0, 0, 1)]])[0] == 1


@given(losses=st.lists(st.lists(st.integers(0, 50), min_size=3, max_size=3), min_size=1, max_size=5))
def test_the_chosen_candidate_has_the_least_loss(losses):
    scores = [[Evaluation(float(loss), 0, k + 1) for loss in row] for k, row in enumerate(losses)]
    chosen, means = choose_candidate(scores)
    count = sum(k + 1 for k in range(len(losses)))
    assert means == pytest.approx([sum(column) / count for column in zip(*losses, strict=True)])
    assert chosen == means.index(min(means))


def test_another_rule_for_variances_is_refused():
    with pytest.raises(ValueError, match="rule = 'Pooled': choose one of paper, pooled"):
        aggregate_bn_stats([stats([1.0], [1.0])], [1.0], "Pooled")
