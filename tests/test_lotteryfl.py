"""LotteryFL: each client's mask and model, when and what it prunes, whose weights are averaged."""

import dataclasses
import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtiny_lite.federated.client import EMPTY_MEMORY
from fedtiny_lite.federated.formats import decode_mask, encode_mask
from fedtiny_lite.federated.ledger import accept, address, begin, note_changes
from fedtiny_lite.federated.messages import Message, decode_state, encode_state, pack, unpack
from fedtiny_lite.federated.protocol import answer_question
from fedtiny_lite.federated.server import full_mask, pretrained
from fedtiny_lite.federated.state import masked_start
from fedtiny_lite.methods import lotteryfl
from fedtiny_lite.methods.lotteryfl import METHOD
from fedtiny_lite.model.costs import forward_flops, training_flops
from fedtiny_lite.model.masks import Mask, apply_mask, uniform_counts
from fedtiny_lite.records import schema
from fedtiny_lite.simulation import exchanges
from fedtiny_lite.simulation.setup import build_federation, client_of
from tests.helpers import three_clients, trace

tiny = partial(three_clients, method="lotteryfl", density=0.1)


def masks_of(server, state):
    return [lotteryfl.mask_of(server, state, k) for k in range(server.task.config.clients)]


def own_values(server, state) -> list[torch.Tensor]:
    """What the server sends each client of the model."""
    return [encode_state(masked_start(state.weights, mask).weights, mask) for mask in masks_of(server, state)]


def every(server, n: int, offset: int = 0) -> Mask:
    """A mask that keeps one weight in n of each layer."""
    shapes = server.task.mask_shapes.items()
    return Mask({name: (torch.arange(shape.numel()) % n == offset).view(shape) for name, shape in shapes})


# --- what a client does -----------------------------------------------------------------------------------


def first_answers(config, monkeypatch, rounds=1):
    """Client 0's answers in the first rounds, each with the state and mask that it trained from; its memory."""
    federation, memory, found = build_federation(config), EMPTY_MEMORY, []
    server, training = federation.server, METHOD.training
    train = lotteryfl.train_locally
    monkeypatch.setattr(
        lotteryfl, "train_locally", lambda client, *rest: found.append([dict(rest[0]), rest[1]]) or train(client, *rest)
    )
    state = lotteryfl.start(server)
    ledger = begin(METHOD, server, state, {})
    for r in range(rounds):
        message = address(METHOD, server, state, ledger, training.ask(server, state, r), [0])[0]
        answered = answer_question(client_of(config, federation.task.pixels, 0, r, memory), training, message)
        memory = answered.memory
        found[-1].append(answered)
        accepted = accept(METHOD, training, server, state, r, ledger, {0: answered.reply})
        following, _ = training.fold(server, state, r, accepted.replies)
        ledger = note_changes(METHOD, server, state, following, accepted.ledger)
        state = following
    return federation, found, unpack(memory).tensors


def test_an_accurate_client_prunes_each_layer_and_trains_from_the_initial_weights(monkeypatch):
    config = tiny(lottery_accuracy=0.0, lottery_rate=0.2, rounds=9, adjust_until=9)
    federation, answers, memory = first_answers(config, monkeypatch, rounds=2)
    server, initial = federation.server, pretrained(federation.server)
    kept = server.task.sizes
    for state, mask, answered in answers:
        reply = unpack(answered.reply)
        smaller = {name: int(0.8 * count) for name, count in kept.items()}
        assert mask.kept == smaller and answered.kept == sum(kept.values())
        expected = {name: tensor.clone() for name, tensor in initial.items()}
        apply_mask(expected, mask)
        assert all(torch.equal(state[name], expected[name]) for name in expected)
        assert Mask(decode_mask(reply.tensors["mask"], server.task.mask_shapes)) == mask
        trained = decode_state(reply.tensors["weights"], mask, server.task.state_shapes)
        assert not torch.equal(trained["conv2.weight"], expected["conv2.weight"])
        kept = smaller
    dense = sum(tensor.numel() for tensor in initial.values())
    assert len(memory["initial"]) == dense
    _, mask, answered = answers[0]
    plain = lotteryfl.reply(client_of(config, federation.task.pixels, 0, 0), {}, mask, 0).state_bytes
    assert answered.state_bytes == plain + 4 * dense


def test_the_smallest_of_the_received_weights_go_and_none_comes_back():
    config = tiny()
    federation = build_federation(config)
    server = federation.server
    mask = every(server, 2)
    state = {name: torch.zeros(shape) for name, shape in server.task.state_shapes.items()}
    for name, keep in mask.items():  # 0, 1, 2, ... where kept; what is pruned is 0 as well
        state[name][keep] = torch.arange(keep.sum(), dtype=torch.float32) * (-1) ** torch.arange(keep.sum())
    initial = torch.ones(sum(s.numel() for s in server.task.state_shapes.values()))
    client = client_of(config, federation.task.pixels, 0, 0, pack({"initial": initial}, version=0))
    assert lotteryfl.last_call(server.task) == 0  # it prunes whatever its accuracy
    counts = {name: kept // 3 for name, kept in mask.kept.items()}
    weights, smaller, flops = lotteryfl.try_ticket(client, counts, state, mask)
    assert flops == 0
    for name, keep in mask.items():
        positions = keep.flatten().nonzero().flatten()
        assert torch.equal(smaller[name].flatten().nonzero().flatten(), positions[-(len(positions) // 3) :])
        assert torch.equal(weights[name], smaller[name].float())
    # kept zeros rank before pruned ones
    assert lotteryfl.try_ticket(client, mask.kept, state, mask)[1] == mask


def test_an_inaccurate_client_trains_what_it_received(monkeypatch):
    config = tiny(lottery_accuracy=1.0, lottery_rate=0.2, rounds=9, adjust_until=9)
    federation, ((state, mask, answered),), _ = first_answers(config, monkeypatch)
    server, split = federation.server, federation.holdings.splits[0]
    assert mask == full_mask(server.task.mask_shapes) and "mask" not in unpack(answered.reply).tensors
    assert all(torch.equal(state[name], tensor) for name, tensor in pretrained(server).items())
    images = round(config.of(lotteryfl.Settings).dev_fraction * len(split))
    judged = images * forward_flops(federation.task.layers, mask.kept)
    assert answered.flops == judged + len(split) * training_flops(federation.task.layers, mask.kept)


@given(st.floats(0.01, 1), st.floats(0.02, 0.9), st.integers(1, 12))
@settings(deadline=None, max_examples=30)
def test_counts_fall_in_every_layer_until_they_are_the_budgets(rate, density, until):
    base = build_federation(tiny()).task
    budget = int(density * sum(base.sizes.values()))
    config = base.config.changed(lottery_rate=rate, adjust_until=until, rounds=20)
    task = dataclasses.replace(base, config=config, budget=budget)
    target, kept = uniform_counts(task.sizes, budget), task.sizes
    for r in range(until + 1):
        mask = Mask({n: (torch.arange(s.numel()) < kept[n]).view(s) for n, s in task.mask_shapes.items()})
        after = lotteryfl.next_counts(task, mask, r)
        assert all(after[name] == target[name] or target[name] < after[name] < kept[name] for name in kept)
        kept = after
    assert kept == target


# --- when clients prune -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rounds, until, forced", [(5, 3, 3), (3, 8, 1), (2, 2, 0), (1, 0, 0)])
def test_clients_above_the_budget_are_pruned_to_it_in_the_end_whatever_their_accuracy(rounds, until, forced):
    config = tiny(lottery_accuracy=1.0, rounds=rounds, adjust_until=until)
    record, states = trace(config)
    server = build_federation(config).server
    target = uniform_counts(server.task.sizes, server.task.budget)
    for r, (entry, state) in enumerate(zip(record["rounds"], states[1:], strict=True)):
        expected = server.task.sizes if r < forced else target
        assert [mask.kept for mask in masks_of(server, state)] == [expected] * 3
        assert entry["client_kept"] == sum((server.task.sizes if r <= forced else target).values())
    assert record["rounds"][-1]["client_density"] == [sum(target.values()) / sum(server.task.sizes.values())] * 3


def test_the_automatic_rate_arrives_in_time_and_the_initial_weights_are_then_forgotten():
    config = tiny(lottery_accuracy=0.0, rounds=6, adjust_until=4, density=0.05)
    record, states = trace(config)
    server = build_federation(config).server
    totals = [server.task.sizes, *(masks_of(server, state)[0].kept for state in states[1:])]
    shares = [sum(kept.values()) / sum(server.task.sizes.values()) for kept in totals]
    assert shares[:5] == pytest.approx([0.05 ** (r / 4) for r in range(5)], abs=0.01)
    assert totals[4] == totals[5] == totals[6] == uniform_counts(server.task.sizes, server.task.budget)
    memory = [entry["client_state_bytes"] for entry in record["rounds"]]
    dense = 4 * sum(shape.numel() for shape in server.task.state_shapes.values())
    assert min(memory[:4]) > dense > memory[4] == memory[5]


# --- what the server does ---------------------------------------------------------------------------------


def test_each_weight_is_averaged_over_its_holders_alone():
    server = build_federation(tiny()).server
    masks = [every(server, 4, 0), every(server, 2, 0), every(server, 4, 1)]  # positions 0, 4, ..; 0, 2, ..; 1, 5, ..
    replies = []
    for k, (mask, samples, value) in enumerate(zip(masks, (10, 30, 60), (1.0, 5.0, 7.0), strict=True)):
        state = {name: torch.full(shape, value) for name, shape in server.task.state_shapes.items()}
        apply_mask(state, mask)
        tensors = {"weights": encode_state(state, mask), "mask": encode_mask(mask, list(server.task.mask_shapes))}
        replies.append(Message({"samples": samples, "client": k}, tensors))
    start = lotteryfl.start(server)
    state, note = lotteryfl.fold(server, start, 0, replies)
    for name, tensor in state.weights.items():
        if name in state.mask:  # 0.25 * 1 + 0.75 * 5, then 7, then 5, then nobody
            expected = torch.tensor([4.0, 7.0, 5.0, 0.0]).repeat(tensor.numel() // 4)
            assert torch.allclose(tensor.flatten(), expected), name
            assert torch.equal(state.mask[name].flatten(), expected > 0)
        else:  # 0.1 * 1 + 0.3 * 5 + 0.6 * 7
            assert torch.allclose(tensor, torch.tensor(5.8)), name
    assert masks_of(server, state) == masks
    assert note == {"client_density": [0.25, 0.5, 0.25]}
    ledger = note_changes(METHOD, server, start, state, begin(METHOD, server, start, {}))
    ledger = dataclasses.replace(ledger, held=dict.fromkeys(range(3), 2))  # each client holds the mask it sent
    messages = address(METHOD, server, state, ledger, METHOD.training.ask(server, state, 1), [0, 1, 2])
    for k, mask in enumerate(masks):
        weights = {name: tensor * mask[name] if name in mask else tensor for name, tensor in state.weights.items()}
        tensors = unpack(messages[k]).tensors
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

    given = []

    def watched(*arguments):
        messages = address(*arguments)
        given.append([unpack(messages[k]).tensors.get("mask") for k in range(3)])
        return messages

    monkeypatch.setattr(lotteryfl, "train_locally", diverge)
    monkeypatch.setattr(exchanges, "address", watched)
    config = tiny(lottery_accuracy=0.0, rounds=5, adjust_until=3)
    record, states = trace(config)
    server = build_federation(config).server
    assert [entry["rejected_clients"] for entry in record["rounds"]] == [[], [1], [], [], []]
    densities = [entry["client_density"] for entry in record["rounds"]]
    assert densities[0][1] == densities[1][1] > densities[1][0] and densities[2][1] == densities[1][0]
    sent = [[mask is not None for mask in masks] for masks in given]
    assert sent == [[True] * 3, [False] * 3, [False, True, False], [False] * 3, [False] * 3]
    assert Mask(decode_mask(given[2][1], server.task.mask_shapes)) == masks_of(server, states[2])[1]
    assert all(mask.total <= server.task.budget for mask in masks_of(server, states[-1]))


def test_a_mask_that_comes_is_decoded_once_to_be_checked(monkeypatch):
    """Three clients prune in the first of two rounds, and no mask comes in the second."""
    decoded, read = [], lotteryfl.read_whole_mask
    monkeypatch.setattr(lotteryfl, "read_whole_mask", lambda *given: decoded.append(given) or read(*given))
    record, _ = trace(tiny(lottery_accuracy=0.0, rounds=2, adjust_until=1))
    assert len(decoded) == 3 and record["rounds"][1]["rejected_clients"] == []


def test_a_mask_travels_only_when_it_changed():
    config = tiny(lottery_accuracy=0.0, rounds=6, adjust_until=2)
    record, states = trace(config)
    server = build_federation(config).server
    values = [4 * sum(map(len, own_values(server, s))) for s in states]
    beside_up = [entry["bytes_up"] - v for entry, v in zip(record["rounds"], values[1:], strict=True)]
    beside_down = [entry["bytes_down"] - v for entry, v in zip(record["rounds"], values, strict=False)]
    assert min(beside_up[:2]) > 3 * 100 + max(beside_up[2:])
    assert max(beside_down[3:]) < 3 * 90  # the header alone


def test_a_run_repeats_bit_for_bit():
    config = tiny(rounds=4)
    assert schema.canonical(trace(config)[0]) == schema.canonical(trace(config)[0])


def test_what_no_client_of_the_round_holds_keeps_its_value_while_another_client_holds_it():
    """Client 0 takes part under a mask that keeps every second weight; clients 1 and 2 still hold all."""
    server = build_federation(tiny()).server
    state, half = lotteryfl.start(server), every(server, 2)
    known = dataclasses.replace(state, of_clients={0: {"mask": encode_mask(half, list(half))}})
    trained = masked_start({name: tensor + 1 for name, tensor in state.weights.items()}, half)
    reply = Message({"client": 0, "samples": 7}, {"weights": encode_state(trained.weights, half)})
    following, _ = lotteryfl.fold(server, known, 0, [reply])
    assert following.mask == full_mask(server.task.mask_shapes)
    for name, keep in half.items():
        before, after = state.weights[name], following.weights[name]
        assert torch.equal(after, torch.where(keep, before + 1, before))
