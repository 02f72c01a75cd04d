"""FedTiny end to end on a few digits: what is sent, who sees what, which mask is chosen, how it changes."""

import copy
import dataclasses
import json
import math
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fedtiny_lite.config import load_method
from fedtiny_lite.data.datasets import distort, limit, load_dataset, public_split, to_float
from fedtiny_lite.federated.client import build_client
from fedtiny_lite.federated.ledger import accept, begin
from fedtiny_lite.federated.messages import Message, encode_state, pack
from fedtiny_lite.federated.server import average, pretrained
from fedtiny_lite.federated.state import masked_start
from fedtiny_lite.federated.task import described, task_from
from fedtiny_lite.methods import _judging, _selection
from fedtiny_lite.methods._selection import Selection, pool_size
from fedtiny_lite.methods._settings import GrowthBatch
from fedtiny_lite.model.masks import apply_mask
from fedtiny_lite.model.networks import bn_names, load_state, state_of
from fedtiny_lite.model.training import epoch_batches, train
from fedtiny_lite.pruning.bn_selection import candidate_pool
from fedtiny_lite.records import schema
from fedtiny_lite.seeding import numpy_generator, torch_generator
from fedtiny_lite.simulation import places, setup
from fedtiny_lite.simulation import rounds as simulate
from fedtiny_lite.simulation.setup import build_federation
from fedtiny_lite.sparse.engine import DENSE
from tests.helpers import Reordered, seeded, three_clients, trace

SELECTIONS = ("adaptive", "vanilla", "server", "fixed")

tiny = partial(three_clients, pool_size=3)


def parts(config):
    """The federation, the pretrained weights and the pool, as the server has them before it asks anyone."""
    server = build_federation(config).server
    weights, rng = pretrained(server), numpy_generator(config.seed, "pool")
    noise = config.of(Selection).pool_noise
    pool = candidate_pool(weights, server.task.sizes, server.task.budget, pool_size(config), noise, rng)
    return build_federation(config), weights, pool


def development_splits(config, federation):
    """Each client's share for selection, drawn as `seeding` says: by seed and client, in no round."""
    for k, split in enumerate(federation.holdings.splits):
        order = numpy_generator(config.seed, "development", k).permutation(len(split))
        yield split.take(order[: round(config.of(Selection).dev_fraction * len(split))])


# --- selection --------------------------------------------------------------------------------------------


def batch_statistics(model, images):
    """Mean and unbiased variance of what enters each BN layer of a model in train mode, by buffer name."""
    model, found = copy.deepcopy(model).train(), {}

    def record(name):
        def hook(_, args):
            x = args[0].transpose(0, 1).flatten(1)
            found[f"{name}.running_mean"], found[f"{name}.running_var"] = x.mean(1), x.var(1)

        return hook

    for name in {n.rsplit(".", 1)[0] for n in bn_names(model)}:
        model.get_submodule(name).register_forward_pre_hook(record(name))
    with torch.no_grad():
        model(images)
    return found


def expected_losses(config):
    """Each candidate's loss and statistics, computed the plain way: whole splits, no messages."""
    federation, weights, pool = parts(config)
    model, pixels = copy.deepcopy(federation.server.model), federation.server.task.pixels
    splits = list(development_splits(config, federation))
    images = [to_float(split.images, pixels.mean, pixels.std) for split in splits]
    total, losses, installed = sum(map(len, splits)), [], []
    for mask in pool:
        state = {name: tensor.clone() for name, tensor in weights.items()}
        apply_mask(state, mask)
        load_state(model, state)
        stats = {}
        if config.of(Selection).selection == "server":
            public = to_float(federation.server.public.images, pixels.mean, pixels.std)
            stats = batch_statistics(model, public)
        if config.of(Selection).selection == "adaptive":
            every = [batch_statistics(model, x) for x in images]
            stats = {n: sum(s[n] * len(x) / total for s, x in zip(every, images, strict=True)) for n in every[0]}
        load_state(model, state | stats)
        with torch.no_grad():
            loss = sum(
                float(F.cross_entropy(model.eval()(x), s.labels, reduction="sum"))
                for x, s in zip(images, splits, strict=True)
            )
        losses.append(loss / total)
        installed.append(state | stats)
    return losses, installed, pool


@pytest.mark.parametrize("selection", ["adaptive", "vanilla", "server"])
def test_the_candidate_of_least_loss_is_chosen_with_the_statistics_it_was_judged_on(selection):
    config = tiny(selection=selection, rounds=0)
    record, (start,) = trace(config)
    losses, installed, pool = expected_losses(config)
    note = record["prelude"][-1]["selection"]
    assert note["losses"] == pytest.approx(losses, rel=1e-4)
    assert note["chosen"] == int(np.argmin(losses))
    assert note["kept"] == [mask.kept for mask in pool]
    assert start.mask == pool[note["chosen"]]
    for name, tensor in installed[note["chosen"]].items():
        assert torch.allclose(start.weights[name], tensor, rtol=1e-3, atol=1e-4), name


def test_selections_ask_what_they_need():
    asked = {s: [e["exchange"] for e in trace(tiny(selection=s, rounds=0))[0]["prelude"]] for s in SELECTIONS}
    assert asked == {
        "adaptive": ["pixel_statistics", "bn_statistics", "candidate_losses"],
        "vanilla": ["pixel_statistics", "candidate_losses"],
        "server": ["pixel_statistics", "candidate_losses"],
        "fixed": ["pixel_statistics"],
    }


@pytest.mark.parametrize("candidate", [0, 2, 4])
def test_fixed_selection_takes_the_numbered_candidate_of_the_same_pool(candidate):
    config = tiny(selection="fixed", candidate=candidate, rounds=0)
    _, (start,) = trace(config)
    _, weights, pool = parts(tiny(pool_size=5))
    assert start.mask == pool[candidate]
    assert all(torch.equal(start.weights[name], weights[name]) for name in weights if "bn" in name)


@pytest.mark.parametrize("selection", ["adaptive", "server"])
def test_a_network_without_batch_norm_has_nothing_to_re_estimate(selection):
    server = build_federation(tiny(selection=selection)).server
    bare = dataclasses.replace(server, task=dataclasses.replace(server.task, stats_shapes={}))
    with pytest.raises(ValueError, match=rf"^selection = '{selection}': .* PlainNet has no batch norm; set sel"):
        _selection.start_with_pool(bare)


@pytest.mark.parametrize("density", [0.02, 0.3, 0.9])
def test_the_pool_that_clients_unpack_is_the_servers(density, monkeypatch):
    received, unpack_pool = [], _judging.decode_pool
    monkeypatch.setattr(
        _judging, "decode_pool", lambda data, union: received.append(unpack_pool(data, union)) or received[-1]
    )
    config = tiny(density=density, rounds=0)
    simulate.run(config)
    assert received == [parts(config)[2]] * 6  # three clients, two exchanges


def test_the_pool_is_sent_once_and_statistics_then_cost_four_bytes_a_number():
    config = tiny(rounds=0)
    _, statistics, losses = trace(config)[0]["prelude"]
    numbers = 2 * (4 + 8 + 16 + 16) * pool_size(config)
    assert numbers * 4 < losses["bytes_down"] / 3 < numbers * 4 + 100
    assert numbers * 4 < statistics["bytes_up"] / 3 < numbers * 4 + 120
    server = build_federation(config).server
    state = _selection.start_with_pool(server)
    assert statistics["bytes_down"] / 3 > 4 * len(encode_state(state.weights, state.mask))


def test_both_exchanges_use_the_same_development_split(monkeypatch):
    seen = []

    def noted(function):
        return lambda model, mask, split, pixels: seen.append(split) or function(model, mask, split, pixels)

    spy = dataclasses.replace(DENSE, recalibrate_bn=noted(DENSE.recalibrate_bn), evaluate=noted(DENSE.evaluate))
    monkeypatch.setattr("fedtiny_lite.federated.client.engine_for", lambda *_: spy)
    config = tiny(dev_fraction=0.1, pool_size=1, rounds=0)
    simulate.run(config)
    federation = build_federation(config)
    expected = sorted(development_splits(config, federation), key=lambda split: split.images.double().sum().item())
    for exchange in (seen[:3], seen[3:]):
        found = sorted(exchange, key=lambda split: split.images.double().sum().item())
        assert all(torch.equal(a.images, b.images) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("rule", ["paper", "pooled"])
def test_the_rule_for_variances_is_the_configs(rule):
    config = tiny(bn_variance=rule)
    server = build_federation(config).server
    state = dataclasses.replace(_selection.start_with_pool(server), extra={"pool": parts(config)[2][:1]})
    numbers = sum(server.task.state_shapes[name].numel() for name in bn_names(server.model))
    replies = [
        Message({"samples": 99, "judged": n}, {"stats": torch.full((1, numbers), value)})
        for n, value in ((10, 1.0), (30, 5.0))
    ]
    folded, _ = _selection.fold_statistics(server, state, -1, replies)
    (stats,) = folded.extra["stats"]
    for name, tensor in stats.items():
        # mean of 1 and 5 at 1 : 3 is 4; the spread of the means adds 9 / 4 + 3 / 4
        expected = 7.0 if rule == "pooled" and name.endswith("var") else 4.0
        assert (tensor == expected).all(), name


# --- training and adjustment ------------------------------------------------------------------------------


def plain_round(config, state, r, names, rate):
    """One round of FedTiny with whole models and dense gradients: what the messages must amount to."""
    federation = build_federation(config)
    model, pixels, mask = copy.deepcopy(federation.server.model), federation.server.task.pixels, state.mask
    total = sum(map(len, federation.holdings.splits))
    mean, merged = {}, {name: np.zeros(mask[name].numel()) for name in names}
    for k, split in enumerate(federation.holdings.splits):
        share = len(split) / total
        load_state(model, state.weights)
        schedule = epoch_batches(split, config.local_epochs, config, torch_generator(config.seed, "train", r, k))
        train(model, split, pixels, mask, config, schedule, torch_generator(config.seed, "augment", r, k))
        for name, tensor in state_of(model).items():
            mean[name] = mean.get(name, 0) + share * tensor.double().numpy()
        order = torch.randperm(len(split), generator=torch_generator(config.seed, "growth", r, k))
        batch = split.take(order[: config.of(GrowthBatch).growth_batch])
        model.train()
        loss = F.cross_entropy(model(to_float(batch.images, pixels.mean, pixels.std)), batch.labels)
        gradients = torch.autograd.grad(loss, [model.get_parameter(name) for name in names])
        for name, gradient in zip(names, gradients, strict=True):
            gradient = gradient.flatten().double().numpy() * ~mask[name].flatten().numpy()
            best = np.argsort(-np.abs(gradient), kind="stable")[: max(1, int(rate * mask.kept[name]))]
            merged[name][best] += share * gradient[best]
    masks = {name: keep.flatten().numpy().copy() for name, keep in mask.items()}
    for name in names:
        before, weight = masks[name].copy(), np.abs(mean[name].ravel().astype(np.float32))
        count = max(1, int(rate * before.sum()))
        grown = np.argsort(-np.abs(merged[name]), kind="stable")[:count]
        pruned = np.argsort(np.where(before, weight, np.inf), kind="stable")[:count]
        assert not before[grown].any()
        masks[name][grown], masks[name][pruned] = True, False
        mean[name] = (mean[name].ravel() * before * masks[name]).reshape(mean[name].shape)
    return mean, masks


@pytest.mark.parametrize(
    "granularity, names",
    [
        ("block", ("conv4.weight", "linear.weight")),
        ("layer", ("linear.weight",)),
        ("entire", ("conv2.weight", "conv3.weight", "conv4.weight", "linear.weight")),
    ],
)
def test_an_adjustment_round_equals_the_plain_dense_way(granularity, names):
    config = tiny(selection="fixed", granularity=granularity, rounds=2, adjust_until=4)
    record, (_, before, after) = trace(config)
    rate = 0.15 * (1 + math.cos(math.pi / 4))
    weights, masks = plain_round(config, before, 1, names, rate)
    assert list(record["rounds"][1]["adjusted"]) == list(names)
    for name, keep in masks.items():
        assert np.array_equal(after.mask[name].flatten().numpy(), keep), name
    for name, tensor in after.weights.items():
        assert np.allclose(tensor, weights[name], rtol=1e-4, atol=1e-6), name


@pytest.mark.parametrize(
    "settings, turns",
    [
        ({}, [None, 3, 2, 1, 3, None]),
        ({"order": "forward"}, [None, 1, 2, 3, 1, None]),
        ({"adjust_every": 2}, [None, None, 3, None, 2, None]),
        ({"adjust_blocks": "1,2"}, [None, 2, 1, 2, 1, None]),
        ({"progressive": "no"}, [None] * 6),
        ({"adjust_rate": 0.0}, [None] * 6),
    ],
)
def test_only_the_planned_block_changes_and_the_number_of_weights_stays(settings, turns):
    config = tiny(rounds=6, adjust_until=5, selection="fixed", samples=160, **settings)
    record, states = trace(config)
    blocks = build_federation(config).server.task.blocks
    for turn, entry, before, after in zip(turns, record["rounds"], states, states[1:], strict=False):
        changed = [name for name in after.mask if not torch.equal(after.mask[name], before.mask[name])]
        assert changed == list(blocks[turn - 1] if turn else ())
        assert list(entry.get("adjusted", {})) == changed
        assert after.mask.kept == before.mask.kept
        for name, count in entry.get("adjusted", {}).items():
            assert int((after.mask[name] & ~before.mask[name]).sum()) == count


@pytest.mark.parametrize("density", [0.01, 0.1, 0.7])
@pytest.mark.parametrize("selection", SELECTIONS)
def test_the_budget_holds_in_every_state_and_nothing_lies_outside_the_mask(selection, density):
    config = tiny(selection=selection, density=density, rounds=3, adjust_until=3, samples=160)
    record, states = trace(config)
    server = build_federation(config).server
    assert server.task.budget == int(density * sum(server.task.sizes.values()) + 1e-9)
    for state in states:
        assert sum(state.mask.kept.values()) <= server.task.budget
        assert state.mask.prunable_density <= density
        assert not any(state.weights[name][~keep].any() for name, keep in state.mask.items())
    assert [entry["prunable_density"] for entry in record["rounds"]] == [
        state.mask.prunable_density for state in states[1:]
    ]


def test_a_mask_travels_only_when_it_changed():
    config = tiny(rounds=6, adjust_until=4, adjust_every=3, selection="fixed")
    record, states = trace(config)
    down = [entry["bytes_down"] / config.clients for entry in record["rounds"]]
    weights = 4 * len(encode_state(states[0].weights, states[0].mask))
    extra = [sent - weights for sent in down]
    assert extra[1] == extra[2] == extra[5] < 100  # the header alone
    assert extra[0] > extra[4] > extra[5]  # all masks; those of one block; none
    assert extra[3] < 250  # and the lengths of the lists, in the adjustment round


# --- who sees what ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("selection", ["adaptive", "server"])
def test_a_client_answers_the_same_when_all_but_its_own_samples_are_gone(selection, monkeypatch):
    """No public, test or other client's image and no initial weight is there to be seen."""
    config = tiny(selection=selection)
    expected = schema.canonical(simulate.run(config))
    federation, reply = build_federation(config), places.answer
    description = json.dumps(described(federation.task))

    def gone(*_):
        raise AssertionError("a client asked for more than the task and its own samples")

    def answer_alone(call, k, message, memory):
        own = federation.holdings.splits[k]

        def client_alone(config, pixels, asked, r, memory):
            assert asked == k
            return build_client(task_from(json.loads(description)), k, r, own, memory)

        with monkeypatch.context() as patch:
            for name in ("hand_out", "build_federation", "load_dataset"):
                patch.setattr(setup, name, gone)
            patch.setattr(places, "build_federation", gone)
            patch.setattr(places, "client_of", client_alone)
            return reply(call, k, message, memory)

    monkeypatch.setattr(places, "answer", answer_alone)
    assert schema.canonical(simulate.run(config)) == expected


def test_the_order_in_which_clients_answer_changes_nothing():
    config = tiny(rounds=3, adjust_until=3)
    expected = schema.canonical(simulate.run(config))
    assert schema.canonical(simulate.run(config, place=Reordered(config, reversed))) == expected


@pytest.mark.parametrize("server_set", ["as_clients", "distorted"])
def test_the_servers_images_are_distorted_only_if_asked(server_set):
    config = tiny(server_set=server_set)
    dataset = load_dataset("digits")
    train_split = limit(dataset.train, config.samples, numpy_generator(config.seed, "train_samples"))
    public, rest = public_split(train_split, config.server_shots, numpy_generator(config.seed, "public_set"))
    federation = build_federation(config)
    if server_set == "distorted":
        public = distort(public, torch_generator(config.seed, "distortion"))
    assert torch.equal(federation.server.public.images, public.images)
    assert federation.server.public.labels.bincount().tolist() == [6] * 10
    clients = torch.cat([split.images for split in federation.holdings.splits])
    assert sorted(map(bytes, clients.numpy())) == sorted(map(bytes, train_split.take(rest).images.numpy()))


def test_distorted_images_are_brighter_and_flatter_than_the_clients():
    federation = build_federation(tiny(server_set="distorted"))
    clients = torch.cat([split.images for split in federation.holdings.splits]).double() / 255
    public = federation.server.public.images.double() / 255
    assert public.mean() > clients.mean() + 0.2


# --- aggregation ------------------------------------------------------------------------------------------


def test_averaging_is_weighted_by_samples_as_numpy_does_it():
    config = tiny()
    server = build_federation(config).server
    state = _selection.start_with_pool(server)
    generator, states, sizes = seeded(), [], [7, 20, 33]
    for _ in sizes:
        one = {n: torch.randn(shape, generator=generator) for n, shape in server.task.state_shapes.items()}
        apply_mask(one, state.mask)
        states.append(one)
    replies = [
        Message({"samples": n}, {"weights": encode_state(one, state.mask)})
        for n, one in zip(sizes, states, strict=True)
    ]
    mean = average(server, state, replies)
    assert list(mean) == list(server.task.state_shapes)
    for name in mean:
        stacked = np.stack([one[name].double().numpy() for one in states])
        expected = np.average(stacked, axis=0, weights=sizes).astype(np.float32)
        assert np.allclose(mean[name].numpy(), expected, rtol=1e-6, atol=1e-7), name
        assert mean[name].dtype == torch.float32 and mean[name].shape == server.task.state_shapes[name]


def test_replies_are_folded_in_order_of_client_and_those_not_finite_are_named():
    config = tiny(selection="fixed", clients=4)
    method, server = load_method(config.method), build_federation(config).server
    state = method.start(server)
    ledger = begin(method, server, state, {})
    packed = encode_state(state.weights, state.mask)

    def reply(value):
        weights = packed.clone()
        weights[1] = value
        return pack({"weights": weights}, samples=1, version=1, holds=1)

    replies = {2: reply(2.0), 0: reply(0.0), 3: reply(math.nan), 1: reply(math.inf)}
    accepted = accept(method, method.training, server, state, 0, ledger, replies)
    assert [float(message.tensors["weights"][1]) for message in accepted.replies] == [0.0, 2.0]
    assert [message.meta["client"] for message in accepted.replies] == [0, 2]
    assert list(accepted.rejections) == [1, 3]
    assert all("NaN or infinite" in reason for reason in accepted.rejections.values())
    with pytest.raises(FloatingPointError, match="2 of 2 replies were rejected"):
        accept(method, method.training, server, state, 0, ledger, {k: replies[k] for k in (1, 3)})


def test_a_masked_start_leaves_the_pretrained_weights_alone():
    _, weights, pool = parts(tiny())
    before = {name: tensor.clone() for name, tensor in weights.items()}
    start = masked_start(weights, pool[0])
    assert all(torch.equal(weights[name], before[name]) for name in weights)
    assert start.mask is pool[0]
    assert not any(start.weights[name][~keep].any() for name, keep in pool[0].items())
