"""LotteryFL: each client's mask and model, when and what it prunes, whose weights are averaged."""

import dataclasses
import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtiny_lite.federated.messages import Message, decode_mask, decode_state, encode_mask, encode_state, pack, unpack
from fedtiny_lite.federated.server import full_mask, pretrained
from fedtiny_lite.methods import lotteryfl
from fedtiny_lite.model.costs import forward_flops, training_flops
from fedtiny_lite.model.masks import Mask, apply_mask, uniform_counts
from fedtiny_lite.records import schema
from fedtiny_lite.simulation.setup import build_federation, client_of
from tests.helpers import three_clients, trace

tiny = partial(three_clients, method="lotteryfl", density=0.1)


def masks_of(server, state):
    return [lotteryfl.personal(server, state, k)[1] for k in range(server.config.clients)]


def every(server, n: int, offset: int = 0) -> Mask:
    """A mask that keeps one weight in n of each layer."""
    shapes = server.mask_shapes.items()
    return Mask({name: (torch.arange(shape.numel()) % n == offset).view(shape) for name, shape in shapes})


# --- what a client does -----------------------------------------------------------------------------------


def first_answers(config, monkeypatch, rounds=1):
    """Client 0's answers in the first rounds, each with the state and mask that it trained from."""
    federation, memory, found = build_federation(config), {}, []
    train = lotteryfl.train_locally
    monkeypatch.setattr(
        lotteryfl, "train_locally", lambda client, *rest: found.append([dict(rest[0]), rest[1]]) or train(client, *rest)
    )
    state = lotteryfl.start(federation.server)
    for r in range(rounds):
        tensors, meta = lotteryfl.ask(federation.server, state, r, 0)
        client = client_of(federation, 0, r, memory)
        reply = lotteryfl.answer(client, unpack(pack(tensors, **meta)))
        memory = client.memory
        found[-1].append(reply)
        sent = Message(reply.meta | {"client": 0}, reply.tensors)
        state, _ = lotteryfl.fold(federation.server, state, r, [sent])
    return federation, found, memory


def test_an_accurate_client_prunes_each_layer_and_trains_from_the_initial_weights(monkeypatch):
    config = tiny(lottery_accuracy=0.0, lottery_rate=0.2, rounds=9, adjust_until=9)
    federation, answers, memory = first_answers(config, monkeypatch, rounds=2)
    server, initial = federation.server, pretrained(federation.server)
    kept = server.sizes
    for state, mask, reply in answers:
        smaller = {name: int(0.8 * count) for name, count in kept.items()}
        assert mask.kept == smaller and reply.kept == sum(kept.values())
        expected = {name: tensor.clone() for name, tensor in initial.items()}
        apply_mask(expected, mask)
        assert all(torch.equal(state[name], expected[name]) for name in expected)
        assert Mask(decode_mask(reply.tensors["mask"], server.mask_shapes)) == mask
        trained = decode_state(reply.tensors["weights"], mask, server.state_shapes)
        assert not torch.equal(trained["conv2.weight"], expected["conv2.weight"])
        kept = smaller
    dense = sum(tensor.numel() for tensor in initial.values())
    assert len(memory["initial"]) == dense
    found = answers[0][2]
    assert found.state_bytes == lotteryfl.reply(client_of(federation, 0, 0, {}), {}, answers[0][1], 0).state_bytes + (
        4 * dense
    )


def test_the_smallest_of_the_received_weights_go_and_none_comes_back():
    federation = build_federation(tiny())
    server = federation.server
    mask = every(server, 2)
    state = {name: torch.zeros(shape) for name, shape in server.state_shapes.items()}
    for name, keep in mask.items():  # 0, 1, 2, ... where kept; what is pruned is 0 as well
        state[name][keep] = torch.arange(keep.sum(), dtype=torch.float32) * (-1) ** torch.arange(keep.sum())
    client = client_of(federation, 0, 0, {"initial": torch.ones(sum(s.numel() for s in server.state_shapes.values()))})
    goal = {"prune_to": {name: kept // 3 for name, kept in mask.kept.items()}, "anyway": True}
    weights, smaller, flops = lotteryfl.try_ticket(client, goal, state, mask)
    assert flops == 0
    for name, keep in mask.items():
        positions = keep.flatten().nonzero().flatten()
        assert torch.equal(smaller[name].flatten().nonzero().flatten(), positions[-(len(positions) // 3) :])
        assert torch.equal(weights[name], smaller[name].float())
    whole = {"prune_to": mask.kept, "anyway": True}  # kept zeros rank before pruned ones
    assert lotteryfl.try_ticket(client, whole, state, mask)[1] == mask


def test_an_inaccurate_client_trains_what_it_received(monkeypatch):
    config = tiny(lottery_accuracy=1.0, lottery_rate=0.2, rounds=9, adjust_until=9)
    federation, ((state, mask, reply),), _ = first_answers(config, monkeypatch)
    server, split = federation.server, federation.splits[0]
    assert mask == full_mask(server.mask_shapes) and "mask" not in reply.tensors
    assert all(torch.equal(state[name], tensor) for name, tensor in pretrained(server).items())
    judged = round(config.dev_fraction * len(split)) * forward_flops(federation.layers, mask.kept)
    assert reply.flops == judged + len(split) * training_flops(federation.layers, mask.kept)


@given(st.floats(0.01, 1), st.floats(0.02, 0.9), st.integers(1, 12))
@settings(deadline=None, max_examples=30)
def test_counts_fall_in_every_layer_until_they_are_the_budgets(rate, density, until):
    base = build_federation(tiny()).server
    budget = int(density * sum(base.sizes.values()))
    config = dataclasses.replace(base.config, lottery_rate=rate, adjust_until=until, rounds=20)
    server = dataclasses.replace(base, config=config, budget=budget)
    target, kept = uniform_counts(server.sizes, budget), server.sizes
    for r in range(until + 1):
        mask = Mask({n: (torch.arange(s.numel()) < kept[n]).view(s) for n, s in server.mask_shapes.items()})
        after = lotteryfl.next_counts(server, mask, r)
        assert all(after[name] == target[name] or target[name] < after[name] < kept[name] for name in kept)
        kept = after
    assert kept == target


# --- when clients prune -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rounds, until, forced", [(5, 3, 3), (3, 8, 1), (2, 2, 0), (1, 0, 0)])
def test_clients_above_the_budget_are_pruned_to_it_in_the_end_whatever_their_accuracy(rounds, until, forced):
    config = tiny(lottery_accuracy=1.0, rounds=rounds, adjust_until=until)
    record, states = trace(config)
    server = build_federation(config).server
    target = uniform_counts(server.sizes, server.budget)
    for r, (entry, state) in enumerate(zip(record["rounds"], states[1:], strict=True)):
        expected = server.sizes if r < forced else target
        assert [mask.kept for mask in masks_of(server, state)] == [expected] * 3
        assert entry["client_kept"] == sum((server.sizes if r <= forced else target).values())
    assert record["rounds"][-1]["client_density"] == [sum(target.values()) / sum(server.sizes.values())] * 3


def test_the_automatic_rate_arrives_in_time_and_the_initial_weights_are_then_forgotten():
    config = tiny(lottery_accuracy=0.0, rounds=6, adjust_until=4, density=0.05)
    record, states = trace(config)
    server = build_federation(config).server
    totals = [server.sizes, *(masks_of(server, state)[0].kept for state in states[1:])]
    shares = [sum(kept.values()) / sum(server.sizes.values()) for kept in totals]
    assert shares[:5] == pytest.approx([0.05 ** (r / 4) for r in range(5)], abs=0.01)
    assert totals[4] == totals[5] == totals[6] == uniform_counts(server.sizes, server.budget)
    memory = [entry["client_state_bytes"] for entry in record["rounds"]]
    dense = 4 * sum(shape.numel() for shape in server.state_shapes.values())
    assert min(memory[:4]) > dense > memory[4] == memory[5]


# --- what the server does ---------------------------------------------------------------------------------


def test_each_weight_is_averaged_over_its_holders_alone():
    server = build_federation(tiny()).server
    masks = [every(server, 4, 0), every(server, 2, 0), every(server, 4, 1)]  # positions 0, 4, ..; 0, 2, ..; 1, 5, ..
    replies = []
    for k, (mask, samples, value) in enumerate(zip(masks, (10, 30, 60), (1.0, 5.0, 7.0), strict=True)):
        state = {name: torch.full(shape, value) for name, shape in server.state_shapes.items()}
        apply_mask(state, mask)
        tensors = {"weights": encode_state(state, mask), "mask": encode_mask(mask, list(server.mask_shapes))}
        replies.append(Message({"samples": samples, "client": k}, tensors))
    state, note = lotteryfl.fold(server, lotteryfl.start(server), 0, replies)
    for name, tensor in state.weights.items():
        if name in state.mask:  # 0.25 * 1 + 0.75 * 5, then 7, then 5, then nobody
            expected = torch.tensor([4.0, 7.0, 5.0, 0.0]).repeat(tensor.numel() // 4)
            assert torch.allclose(tensor.flatten(), expected), name
            assert torch.equal(state.mask[name].flatten(), expected > 0)
        else:  # 0.1 * 1 + 0.3 * 5 + 0.6 * 7
            assert torch.allclose(tensor, torch.tensor(5.8)), name
    assert masks_of(server, state) == masks and not state.extra["unsent"].any()
    assert note == {"client_density": [0.25, 0.5, 0.25]}
    for k, mask in enumerate(masks):
        weights, own = lotteryfl.personal(server, state, k)
        for name, tensor in state.weights.items():
            assert torch.equal(weights[name], tensor * own[name] if name in own else tensor)
        tensors, _ = lotteryfl.ask(server, state, 1, k)
        assert torch.equal(tensors["weights"], encode_state(weights, mask)) and "mask" not in tensors


def test_the_servers_mask_is_the_union_of_the_clients():
    config = tiny(lottery_accuracy=0.3, rounds=4, adjust_until=3)
    record, states = trace(config)
    server = build_federation(config).server
    for before, state in pairwise(states):
        masks = masks_of(server, state)
        for name, keep in state.mask.items():
            assert torch.equal(keep, torch.stack([mask[name] for mask in masks]).any(0))
        for old, new in zip(masks_of(server, before), masks, strict=True):
            assert not any((new[name] & ~old[name]).any() for name in new)
    assert len({mask.total for mask in masks_of(server, states[-1])}) == 1
    assert 0 < record["final"]["personal_accuracy"] <= 1


def test_a_client_that_was_rejected_gets_its_mask_again(monkeypatch):
    """It holds a smaller mask than the server knows of, and could not read the next message without."""
    train = lotteryfl.train_locally

    def diverge(client, *rest):
        trained, flops = train(client, *rest)
        if client.id == 1 and client.round == 1:
            trained["linear.bias"][0] = math.nan
        return trained, flops

    monkeypatch.setattr(lotteryfl, "train_locally", diverge)
    config = tiny(lottery_accuracy=0.0, rounds=5, adjust_until=3)
    record, states = trace(config)
    server = build_federation(config).server
    assert [entry["rejected_clients"] for entry in record["rounds"]] == [[], [1], [], [], []]
    densities = [entry["client_density"] for entry in record["rounds"]]
    assert densities[0][1] == densities[1][1] > densities[1][0] and densities[2][1] == densities[1][0]
    assert [list(state.extra["unsent"]) for state in states[1:3]] == [[False] * 3, [False, True, False]]
    assert all(mask.total <= server.budget for mask in masks_of(server, states[-1]))


def test_a_mask_travels_only_when_it_changed():
    config = tiny(lottery_accuracy=0.0, rounds=6, adjust_until=2)
    record, states = trace(config)
    server = build_federation(config).server
    values = [4 * sum(len(encode_state(*lotteryfl.personal(server, s, k))) for k in range(3)) for s in states]
    beside_up = [entry["bytes_up"] - v for entry, v in zip(record["rounds"], values[1:], strict=True)]
    beside_down = [entry["bytes_down"] - v for entry, v in zip(record["rounds"], values, strict=False)]
    assert min(beside_up[:2]) > 3 * 100 + max(beside_up[2:])
    assert max(beside_down[3:]) < 3 * 70  # the header alone


def test_a_run_repeats_bit_for_bit():
    config = tiny(rounds=4)
    assert schema.canonical(trace(config)[0]) == schema.canonical(trace(config)[0])
