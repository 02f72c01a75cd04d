"""One test for each of fourteen mistakes found in public code of federated pruning; each would catch it."""

import copy
import dataclasses
import math
import random
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fedtiny_lite.config import METHODS, PROFILES
from fedtiny_lite.data.datasets import Split, to_float
from fedtiny_lite.federated import client as client_module
from fedtiny_lite.federated.messages import Message, unpack
from fedtiny_lite.federated.server import pretrained
from fedtiny_lite.methods import _selection, fedtiny
from fedtiny_lite.model.costs import index_bits
from fedtiny_lite.model.masks import Mask
from fedtiny_lite.model.networks import bn_names, build_model, load_state, state_of
from fedtiny_lite.pruning.progressive import grow_and_prune, growth_lists
from fedtiny_lite.seeding import derive_seed
from fedtiny_lite.simulation import exchanges, places
from fedtiny_lite.simulation import rounds as simulate
from fedtiny_lite.simulation import setup as federation_module
from fedtiny_lite.simulation.setup import build_federation
from fedtiny_lite.sparse.engine import DENSE, SPARSE
from tests.helpers import forget_federations, numbered, numbered_dataset, numbers, seeded, three_clients, trace

tiny = partial(three_clients, pool_size=3)


@pytest.fixture
def replies(monkeypatch):
    """Every exchange's replies as the server receives them: a list of {client: Message}."""
    seen, accept = [], exchanges.accept

    def spy(*arguments):
        seen.append({k: unpack(packed) for k, packed in arguments[-1].items()})
        return accept(*arguments)

    monkeypatch.setattr(exchanges, "accept", spy)
    return seen


@pytest.fixture
def numbered_images(monkeypatch):
    """The run's data set: images that carry their own number, which `numbers` reads, on random pixels."""
    train, test = (
        numbered(first, count, torch.randint(256, (count, 1, 8, 8), generator=seeded(first)))
        for first, count in ((0, 300), (300, 90))
    )
    forget_federations()
    monkeypatch.setattr(federation_module, "load_dataset", lambda name, data=None: numbered_dataset(train, test))
    yield
    forget_federations()


def test_mistake_01_every_clients_statistics_are_in_the_aggregate_not_the_last_ones_alone():
    server = build_federation(tiny()).server
    state = _selection.start_with_pool(server)
    numbers = sum(server.task.state_shapes[name].numel() for name in bn_names(server.model))
    pool = len(state.extra["pool"])
    received = [
        Message({"samples": 25, "judged": 10}, {"stats": torch.full((pool, numbers), float(k))}) for k in range(1, 11)
    ]
    folded, _ = _selection.fold_statistics(server, state, -1, received)
    for stats in folded.extra["stats"]:
        assert all(torch.allclose(tensor, torch.tensor(5.5)) for tensor in stats.values())  # mean of 1..10


def test_mistake_02_every_block_has_its_turn_when_adjusting_every_tenth_round():
    config = tiny(model="resnet18", width=2, adjust_every=10, adjust_until=100)
    server = build_federation(config).server
    mask = _selection.start_with_pool(server).mask
    adjusted = [tuple(fedtiny.planned_exchange(server, mask, r)) for r in range(100)]
    turns = [server.task.blocks.index(names) + 1 for names in adjusted if names]
    assert turns == [4, 3, 2, 1, 4, 3, 2, 1, 4]


def test_mistake_03_the_exchange_rate_decays_with_the_round_not_with_the_number_of_adjustments():
    config = tiny(adjust_every=10, adjust_until=100, granularity="entire")
    server = build_federation(config).server
    mask = _selection.start_with_pool(server).mask
    for r in range(10, 100, 10):
        rate = 0.15 * (1 + math.cos(math.pi * r / 100))
        expected = {name: max(1, math.floor(rate * kept)) for name, kept in mask.kept.items()}
        assert fedtiny.planned_exchange(server, mask, r) == expected
    halfway = fedtiny.planned_exchange(server, mask, 50)  # the fifth adjustment
    assert halfway["conv3.weight"] == math.floor(0.15 * mask.kept["conv3.weight"])


def test_mistake_04_the_public_set_is_of_the_training_split_and_of_no_client(numbered_images):
    config = tiny(samples=0, test_samples=0, server_set="as_clients")
    federation = build_federation(config)
    public, test = set(numbers(federation.server.public)), set(numbers(federation.holdings.test))
    clients = [number for split in federation.holdings.splits for number in numbers(split)]
    assert public <= set(range(300)) and test == set(range(300, 390))
    assert len(public) == 5 * 6
    assert sorted([*public, *clients]) == list(range(300))  # nothing twice, nothing lost


def test_mistake_05_a_client_sends_its_largest_gradients_only(replies):
    config = tiny(selection="fixed")
    record, states = trace(config)
    sizes, mask = record["model"]["layers"], states[0].mask
    parameters = sum(tensor.numel() for tensor in states[0].weights.values())
    kept = sum(mask.kept.values()) + parameters - sum(record["model"]["prunable"].values())
    counts = record["rounds"][1]["adjusted"]
    assert all(count <= 0.3 * mask.kept[name] for name, count in counts.items())
    index = sum(math.ceil(count * index_bits(sizes[name]) / 8) for name, count in counts.items())
    lists = {"growth_index": index, "growth_value": sum(counts.values())}
    for k in range(config.clients):
        assert {name: t.numel() for name, t in replies[0][k].tensors.items()} == {"weights": kept}
        assert {n: t.numel() for n, t in replies[1][k].tensors.items()} == {"weights": kept} | lists
    without, with_lists = (entry["bytes_up"] for entry in record["rounds"])
    listed = index + 4 * sum(counts.values())
    assert 3 * listed <= with_lists - without <= 3 * (listed + 100)  # names and shapes of two tensors


@pytest.mark.parametrize(
    "method, engine", [*((method, DENSE) for method in METHODS), ("fedtiny", SPARSE), ("feddst", SPARSE)]
)
def test_mistake_06_what_leaves_a_client_is_masked_after_its_last_step(method, engine, monkeypatch):
    strays = []

    def spy(model, split, pixels, mask, *rest):
        engine.train(model, split, pixels, mask, *rest)
        weights = state_of(model)
        strays.append(sum(int(torch.count_nonzero(weights[name][~keep])) for name, keep in mask.items()))

    spying = dataclasses.replace(engine, train=spy)
    monkeypatch.setattr(client_module, "DENSE", spying)
    monkeypatch.setattr(client_module, "engine_for", lambda *_: spying)
    simulate.run(tiny(method=method, weight_decay=0.01))
    assert len(strays) >= 6 and not any(strays)  # two rounds of three clients, and what comes before them


def test_mistake_07_a_weight_just_pruned_does_not_grow_in_the_same_step():
    mask = Mask({"a": torch.tensor([True, True, True, False, False])})
    state = {"a": torch.tensor([0.1, 2.0, 3.0, 0.0, 0.0])}
    # position 0 is the smallest weight and has the largest gradient
    merged = {"a": (torch.tensor([0, 1, 3, 4]), torch.tensor([9.0, 8.0, 1.0, 2.0], dtype=torch.float64))}
    new_state, new_mask = grow_and_prune(state, mask, merged, {"a": 1})
    assert new_mask["a"].tolist() == [False, True, True, False, True]
    assert new_state["a"].tolist() == [0, 2, 3, 0, 0]


@pytest.mark.parametrize("training", [True, False])
def test_mistake_08_collecting_gradients_does_not_shift_batch_norm(training):
    model = build_model("resnet18", 2, 10, (1, 8, 8), seeded()).train(training)
    before = state_of(model)
    mask = Mask({"layer2.0.conv1.weight": torch.rand(4, 2, 3, 3, generator=torch.Generator()) < 0.5})
    images = 5 + torch.randn(6, 1, 8, 8, generator=seeded(1))
    growth_lists(model, mask, {"layer2.0.conv1.weight": 3}, images, torch.arange(6))
    assert all(torch.equal(tensor, before[name]) for name, tensor in state_of(model).items())
    assert {m.momentum for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {0.1}


@pytest.mark.parametrize("granularity, layers", [("block", 2), ("entire", 4)])
def test_mistake_09_every_layer_of_the_group_is_adjusted_not_the_first_alone(granularity, layers, replies):
    record, (_, before, after) = trace(tiny(granularity=granularity, selection="fixed"))
    adjusted = record["rounds"][1]["adjusted"]
    assert len(adjusted) == layers
    for name, count in adjusted.items():
        assert int((after.mask[name] & ~before.mask[name]).sum()) == count > 0
    total = sum(adjusted.values())
    assert all(len(reply.tensors["growth_value"]) == total for reply in replies[1].values())


def test_mistake_10_running_statistics_are_aggregated_and_scale_and_shift_stay(replies):
    config = tiny(pool_size=1, rounds=0, dev_fraction=1.0)
    _, (start,) = trace(config)
    federation = build_federation(config)
    model, pixels, weights = federation.server.model, federation.server.task.pixels, pretrained(federation.server)
    affine = [name for name in weights if name.startswith("bn") and "running" not in name]
    assert len(affine) == 8 and all(torch.equal(start.weights[name], weights[name]) for name in affine)
    total = sum(map(len, federation.holdings.splits))
    mean = 0
    for k, split in enumerate(federation.holdings.splits):
        # what enters the first BN layer, straight from the (dense) first convolution
        images = to_float(split.images, pixels.mean, pixels.std)
        maps = F.conv2d(images, weights["conv1.weight"], padding=1).transpose(0, 1).flatten(1)
        sent = replies[0][k].tensors["stats"][0]
        assert torch.allclose(sent[:4], maps.mean(1), atol=1e-4)
        assert torch.allclose(sent[4:8], maps.var(1), rtol=1e-3)
        mean += maps.mean(1) * len(split) / total
    assert torch.allclose(start.weights["bn1.running_mean"], mean, atol=1e-4)
    assert all(not torch.equal(start.weights[name], weights[name]) for name in bn_names(model))


def test_mistake_11_the_papers_resnet18_has_eleven_million_parameters_in_four_stages():
    paper = PROFILES["paper"]
    model = build_model(paper["model"], paper["width"], 10, (3, 32, 32), torch.Generator())
    assert paper["model"] == "resnet18"
    assert sum(parameter.numel() for parameter in model.parameters()) == 11_173_962
    assert len(model.blocks) == 4 and sum(map(len, model.blocks)) == 20  # all but the first layer


def test_mistake_12_no_choice_is_made_on_test_images_and_every_test_image_counts(numbered_images, monkeypatch):
    config = tiny(samples=0, test_samples=0, rounds=2)
    monkeypatch.setattr("fedtiny_lite.model.training.EVALUATION_BATCH", 32)  # 90 images: the last batch holds 26
    federation = build_federation(config)
    shuffled = Split(federation.holdings.test.images.flip(3), (federation.holdings.test.labels + 1) % 5)
    outcome = {}
    for name, test in (("right", federation.holdings.test), ("wrong", shuffled)):
        swapped = dataclasses.replace(federation, holdings=dataclasses.replace(federation.holdings, test=test))
        monkeypatch.setattr(places, "build_federation", lambda _, swapped=swapped: swapped)
        record, states = trace(config)
        outcome[name] = (record["prelude"][-1]["selection"], [s.weights for s in states])
        model, pixels = copy.deepcopy(federation.server.model).eval(), federation.server.task.pixels
        load_state(model, states[-1].weights)
        with torch.no_grad():
            logits = model(to_float(test.images, pixels.mean, pixels.std))
        assert record["final"]["test_accuracy"] == float((logits.argmax(1) == test.labels).sum()) / 90
        assert record["final"]["test_loss"] == pytest.approx(float(F.cross_entropy(logits, test.labels)), rel=1e-4)
    assert outcome["right"][0] == outcome["wrong"][0]
    for right, wrong in zip(outcome["right"][1], outcome["wrong"][1], strict=True):
        assert all(torch.equal(right[name], wrong[name]) for name in right)


def test_mistake_13_no_seed_is_reset_so_rounds_clients_and_runs_draw_their_own(monkeypatch):
    seeds, epoch_batches = [], client_module.epoch_batches

    def spy(split, epochs, config, generator):
        seeds.append(generator.initial_seed())
        return epoch_batches(split, epochs, config, generator)

    monkeypatch.setattr(client_module, "epoch_batches", spy)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    for seed in (0, 1):
        simulate.run(tiny(seed=seed, rounds=3, selection="fixed", progressive="no"))
    assert len(seeds) == len(set(seeds)) == 2 * 3 * 3  # runs, rounds, clients
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (np.random.get_state()[1].tolist(), random.getstate())
    places = [(s, what, r, k) for s in (0, 1) for what in ("train", "growth") for r in (0, 1) for k in (0, 1)]
    assert len({derive_seed(*place) for place in places}) == 16
    splits = [build_federation(tiny(seed=seed)).holdings.splits for seed in (0, 1)]
    assert [len(split) for split in splits[0]] != [len(split) for split in splits[1]]


def test_mistake_14_every_method_has_the_same_model_start_and_budget():
    starts = {}
    for method in sorted(set(METHODS) - {"small_model"}):
        config = tiny(method=method)
        server = build_federation(config).server
        weights, (_, states) = pretrained(server), trace(config)
        starts[method] = (server.task.sizes, server.task.budget, server.task.allowed, weights)
        assert state_of(server.model).keys() == weights.keys()
        if method in ("fedavg", "lotteryfl"):
            assert states[0].mask.prunable_density == 1
        else:
            assert 0.97 * server.task.budget <= states[0].mask.total <= server.task.budget, method
        for name, tensor in states[0].weights.items() if method != "prunefl" else ():  # whose first client trains them
            kept = states[0].mask[name] if name in states[0].mask else torch.ones_like(tensor, dtype=bool)
            if "running" not in name:
                assert torch.equal(tensor[kept], weights[name][kept]), (method, name)
    *same, weights = starts["fedtiny"]
    for method, other in starts.items():
        assert list(other[:3]) == same, method
        assert all(torch.equal(other[3][name], weights[name]) for name in weights), method
    small = build_federation(tiny(method="small_model")).server
    assert sum(tensor.numel() for tensor in small.initial.values()) <= small.task.allowed == same[2]
