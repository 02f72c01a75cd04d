"""FedDST: what a client exchanges and the server averages, by hand and against a plain dense round; tiny runs."""

import copy
import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from fedtiny_lite.federated.client import growth_batch, local_schedule
from fedtiny_lite.federated.formats import decode_mask, encode_mask
from fedtiny_lite.federated.messages import Message, decode_state, encode_state
from fedtiny_lite.federated.server import pretrained
from fedtiny_lite.federated.state import State
from fedtiny_lite.methods import feddst
from fedtiny_lite.methods._settings import GrowthBatch
from fedtiny_lite.model import costs
from fedtiny_lite.model.costs import forward_flops, model_state_memory, training_flops
from fedtiny_lite.model.masks import Mask, erk_counts, magnitude_mask
from fedtiny_lite.model.networks import load_state, state_of
from fedtiny_lite.model.training import train
from fedtiny_lite.records import schema
from fedtiny_lite.simulation import rounds as simulate
from fedtiny_lite.simulation.setup import build_federation
from tests.helpers import asked, forget_federations, three_clients, trace

tiny = partial(three_clients, method="feddst")


def asked_at_start(config):
    """Client 0, the server's first state, and the client's question of round 1."""
    federation = build_federation(config)
    state = feddst.METHOD.start(federation.server)
    client, message = asked(federation, state, 1)
    return client, state, message


def unpacked(reply, shapes, state_shapes):
    mask = Mask(decode_mask(reply.tensors["mask"], shapes))
    return decode_state(reply.tensors["weights"], mask, state_shapes), mask


# --- the server -------------------------------------------------------------------------------------------


SHAPES = {"a.weight": torch.Size([6])}
TOY = SimpleNamespace(
    task=SimpleNamespace(config=tiny(), mask_shapes=SHAPES, state_shapes=SHAPES | {"a.bias": torch.Size([1])})
)
"""What folding in an adjustment round (1) needs of a server: one layer of six weights and a bias."""


def holding(samples, weights, bias):
    """A client's reply that holds the weights which are not None."""
    mask = Mask({"a.weight": torch.tensor([w is not None for w in weights])})
    state = {"a.weight": torch.tensor([w or 0.0 for w in weights]), "a.bias": torch.tensor([bias])}
    packed = {"weights": encode_state(state, mask), "mask": encode_mask(mask, ["a.weight"])}
    return Message({"samples": samples}, packed)


def test_a_weight_is_averaged_over_its_holders_and_the_layer_pruned_to_its_count():
    before = State(
        {"a.weight": torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0]), "a.bias": torch.zeros(1)},
        Mask({"a.weight": torch.tensor([True, True, True, False, False, False])}),
    )
    replies = [
        holding(10, [4.0, -1.0, None, 2.0, None, None], 8.0),
        holding(30, [8.0, None, 0.5, -6.0, None, None], 0.0),
    ]
    # (10 * 4 + 30 * 8) / 40 = 7; -1 and 0.5 have one holder each; (20 - 180) / 40 = -4; the bias is everyone's
    after, note = feddst.fold(TOY, before, 1, replies)
    assert after.weights["a.weight"].tolist() == [7.0, -1.0, 0.0, -4.0, 0.0, 0.0]
    assert after.weights["a.bias"].tolist() == [2.0]
    assert after.mask["a.weight"].tolist() == [True, True, False, True, False, False]
    assert note == {"adjusted": {"a.weight": 1}}


def test_what_nobody_holds_is_not_kept_even_if_a_held_weight_is_zero():
    before = State({"a.weight": torch.zeros(6), "a.bias": torch.zeros(1)}, Mask({"a.weight": torch.arange(6) < 2}))
    after, _ = feddst.fold(TOY, before, 1, [holding(10, [None, None, None, None, 0.0, 3.0], 0.0)])
    assert after.mask["a.weight"].tolist() == [False] * 4 + [True] * 2


# --- the client -------------------------------------------------------------------------------------------


def dense_gradients(client, model):
    """The gradient of every weight on the growth batch, by plain autograd."""
    images, labels = growth_batch(client, client.config.of(GrowthBatch).growth_batch)
    model.train()
    names = list(client.task.mask_shapes)
    loss = F.cross_entropy(model(images), labels)
    return dict(zip(names, torch.autograd.grad(loss, [model.get_parameter(name) for name in names]), strict=True))


def plain_answer(client, state):
    """A client's adjustment with whole models and dense gradients: its final state and mask."""
    model, config, schedule = copy.deepcopy(client.model), client.config, local_schedule(client)
    half, augmentation = len(schedule) // 2, client.generator("augment")
    load_state(model, state.weights)
    train(model, client.split, client.task.pixels, state.mask, config, schedule[:half], augmentation)
    halfway, masks = state_of(model), {}
    for name, gradient in dense_gradients(client, model).items():
        keep = state.mask[name].flatten()
        count = max(1, int(0.15 * keep.sum()))  # 0.3 / 2 (1 + cos(pi / 2))
        weight, gradient = halfway[name].abs().flatten(), gradient.abs().flatten()
        masks[name] = keep.clone()
        masks[name][torch.where(keep, weight, math.inf).argsort(stable=True)[:count]] = False
        masks[name][torch.where(keep, -1.0, gradient).argsort(descending=True, stable=True)[:count]] = True
        masks[name] = masks[name].view(state.mask[name].shape)
        halfway[name] = halfway[name] * (masks[name] & state.mask[name])
    load_state(model, halfway)  # the running statistics of before the growth batch
    train(model, client.split, client.task.pixels, Mask(masks), config, schedule[half:], augmentation)
    return state_of(model), Mask(masks)


@pytest.mark.parametrize("local_epochs", [1, 2])
def test_a_client_trains_half_exchanges_and_trains_the_rest_as_the_plain_dense_way(local_epochs):
    client, state, message = asked_at_start(tiny(local_epochs=local_epochs))
    reply = feddst.answer(client, message)
    weights, mask = unpacked(reply, client.task.mask_shapes, client.task.state_shapes)
    expected, expected_mask = plain_answer(client, state)
    assert mask == expected_mask
    for name, tensor in weights.items():
        assert torch.allclose(tensor, expected[name], rtol=1e-4, atol=1e-6), name


def test_readjustment_keeps_each_layers_count_and_regrows_nothing_it_pruned():
    client, state, message = asked_at_start(tiny())
    _, mask = unpacked(feddst.answer(client, message), client.task.mask_shapes, client.task.state_shapes)
    assert mask.kept == state.mask.kept
    for name, keep in state.mask.items():
        grown, pruned = mask[name] & ~keep, keep & ~mask[name]
        assert int(grown.sum()) == int(pruned.sum()) == message.meta["grow"][name] > 0


def test_an_adjustment_costs_the_dense_gradient_of_one_batch():
    config = tiny(growth_batch=32)
    client, state, message = asked_at_start(config)
    reply = feddst.answer(client, message)
    kept = state.mask.kept
    extra = forward_flops(client.task.layers, {}) - forward_flops(client.task.layers, kept)
    assert reply.flops == training_flops(client.task.layers, kept) * len(client.split) + 32 * extra
    assert reply.kept == state.mask.total
    others = costs.other_sizes(client.model)
    dense = model_state_memory(client.task.layers, kept, *others, dense_gradient=tuple(kept))
    assert reply.state_bytes == dense > 1.3 * model_state_memory(client.task.layers, kept, *others)


def test_a_client_with_a_single_batch_adjusts_first():
    client, state, message = asked_at_start(tiny(batch_size=128))
    assert len(local_schedule(client)) == 1
    _, mask = unpacked(feddst.answer(client, message), client.task.mask_shapes, client.task.state_shapes)
    assert mask == plain_answer(client, state)[1]


# --- whole runs -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run():
    config = tiny(rounds=4, adjust_until=3)
    return config, *trace(config)


def test_the_mask_starts_as_erk_magnitude_and_keeps_its_counts(run):
    config, record, states = run
    server = build_federation(config).server
    counts = erk_counts(server.task.mask_shapes, server.task.budget)
    assert [entry["exchange"] for entry in record["prelude"]] == ["pixel_statistics"]
    assert states[0].mask == magnitude_mask(pretrained(server), counts)
    assert [state.mask.kept for state in states] == [counts] * 5
    assert [entry["client_kept"] for entry in record["rounds"]] == [sum(counts.values())] * 4


def test_masks_travel_up_in_adjustment_rounds_and_down_after_them(run):
    _, record, states = run
    assert [states[r].mask != states[r - 1].mask for r in (1, 2, 3, 4)] == [False, True, True, False]
    assert ["adjusted" in entry for entry in record["rounds"]] == [False, True, True, False]
    packed = len(encode_mask(states[0].mask, list(states[0].mask)))
    weights = 4 * len(encode_state(states[0].weights, states[0].mask))
    up = [entry["bytes_up"] / 3 - weights - packed * (r in (1, 2)) for r, entry in enumerate(record["rounds"])]
    down = [entry["bytes_down"] / 3 - weights - packed * (r != 1) for r, entry in enumerate(record["rounds"])]
    assert all(-20 < extra < 250 for extra in up + down)  # headers; other indices may pack a little smaller


@pytest.mark.parametrize("settings", [{"density": 0.02}, {"density": 1.0}, {"adjust_rate": 0.0}])
def test_the_budget_holds_in_every_state(settings):
    record, states = trace(tiny(rounds=3, adjust_until=3, samples=160, **settings))
    assert all(state.mask.total <= record["model"]["budget"] for state in states)
    exchanged = [sum(entry.get("adjusted", {}).values()) for entry in record["rounds"]]
    assert any(exchanged) == (settings == {"density": 0.02})


def test_a_run_repeats_bit_for_bit(run):
    config, record, _ = run
    forget_federations()
    assert schema.canonical(simulate.run(config)) == schema.canonical(record)
