"""Partitions are disjoint, complete, deterministic and skewed as their names say."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtiny_lite.data.partition import KINDS, partition, summarise
from fedtiny_lite.records.summary import of_each

LABELS = np.repeat(np.arange(10), 100)


def distance(kind, alpha, seed=0, labels=LABELS):
    parts = partition(kind, labels, 10, alpha, 1, np.random.default_rng(seed)).parts
    return summarise(labels, parts, 10)["label_distance"]


@st.composite
def cases(draw):
    clients = draw(st.integers(1, 8))
    min_samples = draw(st.integers(1, 3))
    samples = draw(st.integers(clients * min_samples * 5, 200))
    labels = np.array(draw(st.lists(st.integers(0, 5), min_size=samples, max_size=samples)))
    return labels, clients, min_samples


@pytest.mark.parametrize("kind", KINDS)
@given(case=cases(), alpha=st.sampled_from([0.5, 1.0, 100.0]), seed=st.integers(0, 2**32))
def test_every_sample_goes_to_one_client_and_draws_repeat(kind, case, alpha, seed):
    labels, clients, min_samples = case
    first = partition(kind, labels, clients, alpha, min_samples, np.random.default_rng(seed))
    assert np.array_equal(np.sort(np.concatenate(first.parts)), np.arange(len(labels)))
    assert len(first.parts) == clients
    assert all(len(part) >= min_samples and np.all(np.diff(part) > 0) for part in first.parts)
    again = partition(kind, labels, clients, alpha, min_samples, np.random.default_rng(seed))
    assert first.redraws == again.redraws
    assert all(np.array_equal(a, b) for a, b in zip(first.parts, again.parts, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_another_generator_gives_another_partition(kind):
    one, two = (partition(kind, LABELS, 10, 1.0, 1, np.random.default_rng(seed)).parts for seed in (0, 1))
    assert any(not np.array_equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("kind", ["iid", "dirichlet_client"])
def test_equal_sizes(kind):
    sizes = [len(part) for part in partition(kind, LABELS[:998], 10, 0.5, 1, np.random.default_rng(0)).parts]
    assert sorted(sizes) == [99, 99] + [100] * 8


@pytest.mark.parametrize("kind", ["dirichlet", "dirichlet_client"])
def test_small_alpha_separates_labels(kind):
    for seed in range(5):
        assert distance(kind, 0.1, seed) > distance(kind, 1, seed) > distance(kind, 100, seed)


def test_dirichlet_gives_a_full_client_no_further_class():
    """A client may pass N / K = 100 by its last class alone, so it holds less than 100 + 100."""
    for seed in range(20):
        sizes = [len(part) for part in partition("dirichlet", LABELS, 10, 0.1, 1, np.random.default_rng(seed)).parts]
        assert max(sizes) < 200


@pytest.mark.parametrize("kind", ["dirichlet", "dirichlet_client"])
def test_vanishing_alpha_is_still_a_partition(kind):
    parts = partition(kind, LABELS, 4, 1e-4, 1, np.random.default_rng(0)).parts
    assert sorted(np.concatenate(parts)) == list(range(1000))


def test_two_shards_hold_at_most_four_labels_and_sizes_agree():
    parts = partition("shards", LABELS, 10, 1.0, 1, np.random.default_rng(0)).parts
    assert [len(part) for part in parts] == [100] * 10
    assert all(len(np.unique(LABELS[part])) <= 2 for part in parts)  # 20 shards of 50 never straddle 100s


def test_quantity_skews_sizes_and_keeps_labels_alike():
    labels = np.tile(np.arange(2), 5000)
    parts = partition("quantity", labels, 5, 0.5, 100, np.random.default_rng(0)).parts
    summary = summarise(labels, parts, 2)
    assert summary["size_spread"] > 2
    assert summary["label_distance"] < 0.05


def test_redraws_are_counted():
    counts = [partition("quantity", LABELS, 10, 0.5, 10, np.random.default_rng(seed)).redraws for seed in range(5)]
    assert max(counts) > 0
    assert partition("iid", LABELS, 10, 0.5, 10, np.random.default_rng(0)).redraws == 0


@st.composite
def many_clients(draw):
    """Up to 2,000 clients, some of which a draw surely leaves with too little."""
    clients, each, alpha = (
        draw(st.integers(100, 3000)),
        draw(st.integers(2, 6)),
        draw(st.sampled_from([1e-4, 0.1, 1.0])),
    )
    labels = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 10, clients * each)
    return labels, clients, alpha, draw(st.integers(2, each))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=4, deadline=None)
@given(case=many_clients(), seed=st.integers(0, 2**32))
def test_drawing_ends_with_a_partition_however_many_clients_there_are(kind, case, seed):
    """No more samples are moved than clients lacked; where none was, it is the draw that was accepted."""
    labels, clients, alpha, min_samples = case
    found = partition(kind, labels, clients, alpha, min_samples, np.random.default_rng(seed))
    assert np.array_equal(np.sort(np.concatenate(found.parts)), np.arange(len(labels)))
    assert len(found.parts) == clients and min(map(len, found.parts)) >= min_samples
    assert all(np.all(np.diff(part) > 0) for part in found.parts)
    rng = np.random.default_rng(seed)
    draws = [KINDS[kind](labels, clients, alpha, rng) for _ in range(found.redraws + 1)]
    lacking = [sum(max(min_samples - len(part), 0) for part in parts) for parts in draws]
    assert all(lacking[:-1]) and found.moved == lacking[-1]
    assert found.redraws < max(10_000 // clients, 1)
    if not found.moved:
        assert all(np.array_equal(part, np.sort(drawn)) for part, drawn in zip(found.parts, draws[-1], strict=True))
    stayed = sum(len(np.intersect1d(*pair)) for pair in zip(found.parts, draws[-1], strict=True))
    assert stayed == len(labels) - found.moved


def test_a_draw_that_never_suffices_is_topped_up():
    """Ten clients, 1,000 samples, 90 each at least: 100 samples are free to differ."""
    found = partition("quantity", LABELS, 10, 0.01, 90, np.random.default_rng(0))
    sizes = [len(part) for part in found.parts]
    assert found.redraws == 999 and found.moved > 0 and min(sizes) == 90 and sum(sizes) == 1000


def test_a_summary_of_many_clients_has_no_row_for_each():
    found = {k: partition("iid", LABELS, k, 1.0, 2, np.random.default_rng(0)).parts for k in (100, 300)}
    few, many = (summarise(LABELS, parts, 10) for parts in found.values())
    assert len(few["histogram"]) == len(few["sizes"]) == len(few["effective_classes"]) == 100
    assert many.keys() == few.keys() - {"histogram"}
    assert many["sizes"] == {"lowest": 3, "mean": 1000 / 300, "highest": 4}
    assert len(json.dumps(many)) < 400
    assert of_each([1.0, 3.0] * 50) == [1.0, 3.0] * 50 and of_each([1.0, 4.0, 4.0] * 50)["mean"] == 3.0


@pytest.mark.parametrize(
    ("kind", "clients", "alpha", "min_samples", "message"),
    [
        ("random", 10, 0.5, 1, "'random'.*iid, dirichlet, dirichlet_client, shards, quantity"),
        ("iid", 1001, 0.5, 1, "need 1001 samples, there are 1000"),
        ("iid", 10, 0.5, 101, "need 1010 samples, there are 1000"),
        ("iid", 0, 0.5, 1, "clients=0"),
        ("iid", 10, 0.5, 0, "min_samples=0"),
        ("dirichlet", 10, 0.0, 1, "alpha=0.0"),
        ("dirichlet", 10, -1.0, 1, "alpha=-1.0"),
        ("dirichlet", 10, math.nan, 1, "alpha=nan"),
        ("dirichlet", 10, math.inf, 1, "alpha=inf"),
    ],
)
def test_bad_values_say_what_is_allowed(kind, clients, alpha, min_samples, message):
    with pytest.raises(ValueError, match=message):
        partition(kind, LABELS, clients, alpha, min_samples, np.random.default_rng(0))


def test_summary_by_hand():
    """Client 0 holds labels 0, 0; client 1 holds 0, 1, 1, 1. All together: 3 of 0, 3 of 1."""
    labels = np.array([0, 0, 0, 1, 1, 1])
    summary = summarise(labels, (np.array([0, 1]), np.array([2, 3, 4, 5])), classes=3)
    assert summary["sizes"] == [2, 4]
    assert summary["histogram"] == [[2, 0, 0], [1, 3, 0]]
    assert summary["label_distance"] == pytest.approx((0.5 + 0.25) / 2)
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert summary["effective_classes"] == pytest.approx([1.0, math.exp(entropy)])
    assert summary["size_spread"] == 2.0
    assert json.loads(json.dumps(summary)) == summary
