"""Who holds which images, what a run is scored on, and what client and server draw from them."""

import types

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtiny_lite.config import METHODS, make_config
from fedtiny_lite.data.datasets import Split, load_dataset, to_float
from fedtiny_lite.federated import server as server_module
from fedtiny_lite.federated.client import build_client, growth_batch, list_gradients, local_schedule
from fedtiny_lite.federated.server import full_mask, pretrained
from fedtiny_lite.model.costs import growth_flops
from fedtiny_lite.model.masks import Mask, apply_mask
from fedtiny_lite.model.networks import load_state, state_of
from fedtiny_lite.model.training import epoch_batches, train
from fedtiny_lite.records.schema import load_records
from fedtiny_lite.seeding import numpy_generator, torch_generator
from fedtiny_lite.simulation import setup as federation_module
from fedtiny_lite.simulation.rounds import run
from fedtiny_lite.simulation.setup import build_federation, largest_first
from tests.helpers import forget_federations, numbered, numbered_dataset, numbers

TINY = dict(width=2, density=0.2, pretrain_epochs=1, server_shots=5, clients=3)


def tiny(**settings):
    return make_config("smoke", **TINY | settings)


def federation_of(train: Split, test: Split, config):
    """A federation on these images, built anew."""
    dataset = numbered_dataset(train, test)
    forget_federations()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(federation_module, "load_dataset", lambda name, data=None: dataset)
            return build_federation(config)
    finally:
        forget_federations()


# --- what a run is scored on ----------------------------------------------------------------------------------


@settings(deadline=None, max_examples=15)
@given(st.integers(160, 400), st.integers(0, 99))
def test_validation_images_are_a_fifth_of_the_training_images_and_nobody_trains_on_them(images, seed):
    config = tiny(score_on="validation", seed=seed, server_set="as_clients", alpha=5.0, min_samples=2)
    federation = federation_of(numbered(0, images), numbered(images, 50), config)
    scored, public = numbers(federation.holdings.test), numbers(federation.server.public)
    private = [number for split in federation.holdings.splits for number in numbers(split)]
    assert sorted([*scored, *public, *private]) == list(range(images))  # nothing twice, nothing of the test split
    assert len(scored) == images // 5 and len(public) == 5 * 5
    assert (
        federation.holdings.summary["validation_images"] == images // 5
        and "test_images" not in federation.holdings.summary
    )


def test_the_validation_images_are_the_same_for_every_method_and_others_for_another_seed():
    found = {}
    for method in METHODS:
        for seed in (0, 1):
            config = tiny(score_on="validation", method=method, seed=seed, lr=0.01, density=0.5)
            found.setdefault(seed, []).append(
                numbers(federation_of(numbered(0, 300), numbered(300, 50), config).holdings.test)
            )
    assert all(other == found[seed][0] for seed in (0, 1) for other in found[seed])
    assert 0 < len(set(found[0][0]) & set(found[1][0])) < 40


def test_samples_and_test_samples_limit_what_validation_leaves():
    config = tiny(score_on="validation", samples=200, test_samples=30, server_set="as_clients")
    federation = federation_of(numbered(0, 300), numbered(300, 50), config)
    held = [number for split in (*federation.holdings.splits, federation.server.public) for number in numbers(split)]
    assert len(set(held)) == 200 and len(federation.holdings.test) == 30
    assert (
        not set(held) & set(numbers(federation.holdings.test)) and max(held + numbers(federation.holdings.test)) < 300
    )
    with pytest.raises(ValueError, match="61 samples asked, allowed: 1 to 60"):
        federation_of(numbered(0, 300), numbered(300, 50), tiny(score_on="validation", test_samples=61))


def test_clients_are_ordered_by_size_without_a_copy_of_their_images(monkeypatch):
    holdings = build_federation(tiny()).holdings
    sizes = [len(split) for split in holdings.splits]
    monkeypatch.delattr(Split, "take")
    ordered = largest_first(holdings, range(len(sizes)))
    assert [sizes[k] for k in ordered] == sorted(sizes, reverse=True) and len(set(sizes)) > 1


@pytest.fixture
def without_test_images(monkeypatch):
    """Digits without a test split: whoever asks for it fails."""
    digits = {name: value for name, value in vars(load_dataset("digits")).items() if name != "test"}
    monkeypatch.setattr(federation_module, "load_dataset", lambda name, data=None: types.SimpleNamespace(**digits))
    forget_federations()
    yield
    forget_federations()


@pytest.mark.parametrize("method", METHODS)
def test_a_run_scored_on_validation_never_asks_for_a_test_image(method, without_test_images, tmp_path):
    config = tiny(method=method, score_on="validation", samples=300, test_samples=60)
    record = run(config, tmp_path)
    assert load_records(tmp_path) == [record] and record["complete"]
    assert "test_" not in str({**record, "config": {}})
    assert record["data"]["validation_images"] == 60
    for entry in (record["start"], *record["rounds"], record["final"]):
        assert 0 <= entry["validation_accuracy"] <= 1 and entry["validation_loss"] > 0
    with pytest.raises(AttributeError, match="test"):
        build_federation(tiny(method=method, samples=300))


# --- pretraining ----------------------------------------------------------------------------------------------


def test_pretraining_is_dense_sgd_at_its_own_learning_rate(monkeypatch):
    monkeypatch.setattr(server_module, "_PRETRAINED", {})
    server = build_federation(tiny(lr=0.5, pretrain_lr=0.02, pretrain_epochs=2)).server
    found = pretrained(server)
    config, generator = tiny(lr=0.02), torch_generator(0, "pretrain")
    load_state(server.model, server.initial)
    schedule = epoch_batches(server.public, 2, config, generator)
    mask = full_mask(server.task.mask_shapes)
    train(server.model, server.public, server.task.pixels, mask, config, schedule, generator)
    assert all(torch.equal(found[name], tensor) for name, tensor in state_of(server.model).items())


# --- what a client draws --------------------------------------------------------------------------------------


@pytest.fixture
def clients():
    """clients(r, **settings): the clients of round r on numbered images."""

    def build(r=0, **settings):
        config = tiny(server_set="as_clients", **settings)
        federation = federation_of(numbered(0, 300), numbered(300, 50), config)
        return [build_client(federation.task, k, r, split) for k, split in enumerate(federation.holdings.splits)]

    return build


def test_a_rounds_schedule_has_every_image_once_an_epoch_and_is_the_clients_and_the_rounds_own(clients):
    for client in clients(local_epochs=2, batch_size=7):
        schedule, size = local_schedule(client), len(client.split)
        batches = len(schedule) // 2
        for epoch in (schedule[:batches], schedule[batches:]):
            assert sorted(torch.cat(epoch).tolist()) == list(range(size))
        assert all(torch.equal(one, again) for one, again in zip(schedule, local_schedule(client), strict=True))
    places = [(0, 0), (0, 1), (1, 0)]
    orders = [torch.cat(local_schedule(clients(r)[k])).tolist() for r, k in places]
    shorter = min(map(len, orders))
    assert len({tuple(order[:shorter]) for order in orders}) == 3


@pytest.mark.parametrize("size", [1, 2, 20, 1000])
def test_a_growth_batch_is_of_the_clients_own_images_each_once(size, clients):
    for client in clients():
        images, labels = growth_batch(client, size)
        whole = to_float(client.split.images, client.task.pixels.mean, client.task.pixels.std)
        index = [int((whole == image).flatten(1).all(1).nonzero()) for image in images]
        assert len(index) == len(set(index)) == min(size, len(client.split))
        assert labels.tolist() == client.split.labels[index].tolist()
        again, _ = growth_batch(client, size)
        assert torch.equal(images, again)
    others = [growth_batch(clients(r)[k], 20)[0] for r, k in ((0, 0), (0, 1), (1, 0))]
    assert not any(torch.equal(others[0], other) for other in others[1:])


def test_what_a_client_draws_from(clients):
    """Growth batches and augmentation from the purpose, the round and the client; each of them has its own numbers."""
    for r, k in ((0, 0), (0, 1), (3, 1)):
        client = clients(r)[k]
        size, seed = len(client.split), client.config.seed
        order = torch.randperm(size, generator=torch_generator(seed, "growth", r, k))
        assert growth_batch(client, 5)[1].tolist() == client.split.labels[order[:5]].tolist()
        expected = torch.rand(4, generator=torch_generator(seed, "augment", r, k))
        assert torch.rand(4, generator=client.augmentation).tolist() == expected.tolist()


def test_a_development_split_is_the_same_in_every_exchange_and_the_clients_own(clients):
    for k in (0, 1):
        first, *later = (numbers(clients(r)[k].development_split(0.3)) for r in (-1, 0, 5))
        size = len(clients()[k].split)
        assert first == later[0] == later[1] and len(set(first)) == round(0.3 * size)
        order = numpy_generator(0, "development", k).permutation(size)[: len(first)]
        assert first == numbers(clients()[k].split.take(torch.from_numpy(order)))


def test_growth_costs_flops_for_the_images_that_there_are(clients):
    """A batch of 1000 of a client with fewer images is all of them."""
    client = clients()[0]
    task = client.task
    mask = Mask({name: torch.arange(shape.numel()).view(shape) % 2 == 0 for name, shape in task.mask_shapes.items()})
    state = {name: tensor.clone() for name, tensor in state_of(client.model).items()}
    apply_mask(state, mask)
    of_one = growth_flops(task.layers, mask.kept, ("conv4.weight",))
    for size, images in ((1000, len(client.split)), (5, 5)):
        _, flops = list_gradients(client, state, mask, {"conv4.weight": 3}, size)
        assert len(client.split) < 1000 and flops == of_one * images


def test_a_growth_batch_is_augmented_as_training_is(clients):
    plain, cropped = (growth_batch(clients(augment=kind)[0], 50) for kind in ("none", "crop_flip"))
    assert torch.equal(plain[1], cropped[1]) and plain[0].shape == cropped[0].shape
    assert not torch.equal(plain[0], cropped[0])
