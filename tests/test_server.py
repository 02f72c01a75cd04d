import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtiny_lite.config import load_method, make_config
from fedtiny_lite.data.datasets import Split
from fedtiny_lite.federated import server as server_module
from fedtiny_lite.federated.checks import numbers
from fedtiny_lite.federated.formats import decode_mask
from fedtiny_lite.federated.ledger import accept, address, begin, note_changes
from fedtiny_lite.federated.messages import Message, encode_state, pack, unpack
from fedtiny_lite.federated.protocol import Exchange
from fedtiny_lite.federated.server import (
    average,
    average_over_holders,
    full_mask,
    pretrained,
    shares,
)
from fedtiny_lite.federated.state import Question, State, masked_start
from fedtiny_lite.model.masks import Mask, apply_mask, check_masked
from fedtiny_lite.model.networks import load_state
from fedtiny_lite.simulation.setup import build_federation
from tests.helpers import seeded


def reply(values: list[float] | torch.Tensor, samples: int = 1) -> Message:
    return Message({"samples": samples}, {"weights": torch.as_tensor(values)})


def random_state(server, seed: int, mask: Mask) -> dict[str, torch.Tensor]:
    generator = seeded(seed)
    state = {name: torch.randn(shape, generator=generator) for name, shape in server.task.state_shapes.items()}
    return state | {name: state[name] * keep for name, keep in mask.items()}


def every_third(server) -> Mask:
    shapes = server.task.mask_shapes.items()
    return Mask({name: (torch.arange(shape.numel()) % 3 == 0).view(shape) for name, shape in shapes})


# --- who counts -------------------------------------------------------------------------------------------


METHOD = load_method("magnitude")


def received(server, replies: dict[int, Message], **checks):
    """What the server accepts of replies that hold just these tensors."""
    exchange = Exchange("any", None, None, lambda *_: checks, None)
    state = masked_start(random_state(server, 0, every_third(server)), every_third(server))
    ledger = begin(METHOD, server, state, {})
    packed = {k: pack(m.tensors, **m.meta | {"version": 1, "holds": 1}) for k, m in replies.items()}
    return accept(METHOD, exchange, server, state, 0, ledger, packed)


def test_replies_are_folded_in_order_of_client_number(server):
    accepted = received(server, {k: reply([float(k)]) for k in (3, 0, 2, 1)}, weights=numbers(1))
    assert [message.tensors["weights"].item() for message in accepted.replies] == [0, 1, 2, 3]
    assert [message.meta["client"] for message in accepted.replies] == [0, 1, 2, 3]
    assert accepted.rejections == {}


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, -1e38, math.nan, math.inf, -math.inf]), min_size=1, max_size=8))
def test_clients_without_finite_numbers_are_named_and_left_out(server, values):
    replies = {k: reply([1.0, value], samples=k + 1) for k, value in reversed(list(enumerate(values)))}
    finite = [k for k, value in enumerate(values) if math.isfinite(value)]
    if 2 * len(finite) < len(values):
        rejected = len(values) - len(finite)
        with pytest.raises(FloatingPointError, match=f"^{rejected} of {len(values)} replies were rejected .*NaN or"):
            received(server, replies, weights=numbers(2))
        return
    accepted = received(server, replies, weights=numbers(2))
    assert [message.meta["samples"] for message in accepted.replies] == [k + 1 for k in finite]
    bad = [k for k in range(len(values)) if k not in finite]
    assert accepted.rejections == dict.fromkeys(bad, "weights: it has NaN or infinite numbers")
    assert accepted.ledger.samples == {k: k + 1 for k in range(len(values))}


def test_any_tensor_of_a_reply_can_condemn_it(server):
    lists = {"weights": torch.zeros(2), "growth_index": torch.zeros(1, dtype=torch.uint8)}
    good = Message({"samples": 1}, lists | {"growth_value": torch.zeros(1)})
    bad = Message({"samples": 1}, lists | {"growth_value": torch.tensor([math.nan])})
    checks = dict(weights=numbers(2), growth_index=numbers(1, dtype=torch.uint8), growth_value=numbers(1))
    accepted = received(server, {0: bad, 1: good}, **checks)
    assert accepted.rejections == {0: "growth_value: it has NaN or infinite numbers"}
    (left,) = accepted.replies
    assert left.meta == {"samples": 1, "version": 1, "holds": 1, "client": 1}
    assert list(left.tensors) == list(good.tensors)
    assert all(torch.equal(left.tensors[name], tensor) for name, tensor in good.tensors.items())


# --- averages ---------------------------------------------------------------------------------------------


def test_shares_by_hand():
    assert shares([reply([0.0], 10), reply([0.0], 30)]) == [0.25, 0.75]


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=100))
def test_shares_sum_to_one(samples):
    assert math.isclose(math.fsum(shares([reply([0.0], n) for n in samples])), 1, rel_tol=1e-14)


def test_average_by_hand(server):
    mask = every_third(server)
    ones = {name: torch.ones(shape) for name, shape in server.task.state_shapes.items()}
    vector = encode_state(ones | {name: keep.float() for name, keep in mask.items()}, mask)
    mean = average(server, State({}, mask), [reply(vector, 10), reply(5 * vector, 30)])
    for name, tensor in mean.items():  # 0.25 * 1 + 0.75 * 5, running statistics like the weights
        assert torch.equal(tensor, 4 * (mask[name].float() if name in mask else torch.ones(tensor.shape)))


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 1000), min_size=1, max_size=6), st.integers(0, 2**32))
def test_average_is_the_weighted_mean_of_whole_states(server, samples, seed):
    mask = every_third(server)
    states = [random_state(server, seed + k, mask) for k in range(len(samples))]
    replies = [reply(encode_state(s, mask), n) for s, n in zip(states, samples, strict=True)]
    mean = average(server, State({}, mask), replies)
    check_masked(mean, mask)
    assert {name: tensor.shape for name, tensor in mean.items()} == dict(server.task.state_shapes)
    for name, tensor in mean.items():
        expected = np.average([s[name].double().numpy() for s in states], axis=0, weights=samples)
        np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-6, atol=1e-7)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 1000), min_size=1, max_size=6), st.integers(0, 2**32))
def test_clients_that_agree_are_their_own_average(server, samples, seed):
    mask = every_third(server)
    state = random_state(server, seed, mask)
    mean = average(server, State({}, mask), [reply(encode_state(state, mask), n) for n in samples])
    assert all(torch.equal(mean[name], state[name]) for name in state)


# --- what is sent -----------------------------------------------------------------------------------------


def test_masked_start_prunes_a_copy(server):
    mask = every_third(server)
    dense = {name: torch.ones(shape) for name, shape in server.task.state_shapes.items()}
    state = masked_start(dense, mask)
    assert all(torch.equal(state.weights[name], keep.float()) for name, keep in mask.items())
    assert all(bool((tensor == 1).all()) for tensor in dense.values())


def test_only_masks_that_changed_are_sent(server):
    """To a client that holds none, all; to one that holds the mask before, the layer that changed; else nothing."""
    mask = every_third(server)
    state, last = masked_start(random_state(server, 0, mask), mask), list(mask)[-1]
    changed = masked_start(state.weights, Mask({**mask, last: torch.zeros_like(mask[last])}))
    ledger = note_changes(METHOD, server, state, changed, begin(METHOD, server, state, {}))
    ledger = replace(ledger, held={1: 1, 2: 2})
    for k, expected in enumerate((tuple(mask), (last,), ())):
        message = unpack(address(METHOD, server, changed, ledger, Question(meta={"a": 3}), [k])[k])
        assert torch.equal(message.tensors["weights"], encode_state(changed.weights, changed.mask))
        assert message.meta == {"a": 3, "version": 2, "known": k}
        assert ("mask" in message.tensors) == bool(expected)
        sent = decode_mask(message.tensors["mask"], server.task.mask_shapes) if expected else {}
        assert tuple(sent) == expected
        assert all(torch.equal(keep, changed.mask[name]) for name, keep in sent.items())


def test_full_mask_keeps_every_weight(server):
    assert full_mask(server.task.mask_shapes).kept == server.task.sizes
    assert server.task.sizes == {  # cnn of width 2: 2-4-8-8 channels, a last map of 2x2 pixels, 10 classes
        "conv2.weight": 2 * 4 * 9,
        "conv3.weight": 4 * 8 * 9,
        "conv4.weight": 8 * 8 * 9,
        "linear.weight": 8 * 4 * 10,
    }


# --- pretraining ------------------------------------------------------------------------------------------


def test_pretraining_starts_anew_whatever_the_model_held_before(server):
    first = pretrained(server)
    load_state(server.model, random_state(server, 1, full_mask(server.task.mask_shapes)))
    second = pretrained(server)
    assert list(first) == list(server.task.state_shapes)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], server.initial[name]) for name in first)


def test_pretraining_is_the_same_whatever_the_number_of_threads(monkeypatch):
    """So a run that finds it remembered does not depend on what this process did before."""
    server, found = build_federation(make_config(clients=2, width=32, pretrain_epochs=2)).server, []
    for threads in (1, 2):
        monkeypatch.setattr(server_module, "_PRETRAINED", {})
        torch.set_num_threads(threads)
        found.append(server_module.pretrained(server))
        assert torch.get_num_threads() == threads
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_pretraining_is_dense_and_learns_from_the_public_set(server):
    trained = pretrained(server)
    moved = {name: int((trained[name] != server.initial[name]).sum()) for name in server.task.sizes}
    assert all(moved[name] > 0.5 * size for name, size in server.task.sizes.items())


def test_the_server_holds_the_public_set_and_nothing_else(server):
    held = [value for value in vars(server).values() if isinstance(value, Split)]
    assert held == [server.public]
    assert torch.bincount(server.public.labels).tolist() == [5] * 10


def test_pretraining_is_remembered_only_for_the_very_same_start(monkeypatch):
    """Another seed, learning rate or public set is pretrained anew; another method or density is not."""
    calls, inner = [], server_module._pretrain
    monkeypatch.setattr(server_module, "_PRETRAINED", {})
    monkeypatch.setattr(server_module, "_pretrain", lambda server: calls.append(1) or inner(server))
    small = dict(clients=2, pretrain_epochs=1, width=2, server_shots=2)
    base = server_module.pretrained(build_federation(make_config(**small)).server)
    base["linear.bias"].add_(1)  # what a caller does to its copy is not remembered
    again = server_module.pretrained(build_federation(make_config(**small, method="random", density=0.5)).server)
    assert len(calls) == 1 and torch.equal(again["linear.bias"] + 1, base["linear.bias"])
    for changed in (dict(seed=1), dict(pretrain_lr=0.01), dict(server_set="as_clients"), dict(pretrain_epochs=2)):
        server_module.pretrained(build_federation(make_config(**small | changed)).server)
    assert len(calls) == 5


def test_the_average_over_holders_by_hand():
    server = build_federation(make_config("smoke", width=1, density=0.5)).server
    one = {name: torch.ones(shape) for name, shape in server.task.state_shapes.items()}
    names = list(server.task.mask_shapes)
    keeps = [
        {name: torch.zeros(shape, dtype=torch.bool) for name, shape in server.task.mask_shapes.items()} for _ in "ab"
    ]
    for name in names:
        keeps[0][name].view(-1)[[0, 1]], keeps[1][name].view(-1)[[1, 2]] = True, True
    masks, replies = [Mask(keep) for keep in keeps], []
    for mask, value, samples in zip(masks, (2.0, 6.0), (10, 30), strict=True):
        state = {name: tensor * value for name, tensor in one.items()}
        apply_mask(state, mask)
        replies.append(Message({"samples": samples}, {"weights": encode_state(state, mask)}))
    mean, union = average_over_holders(server, replies, masks)
    assert union.kept == dict.fromkeys(names, 3)
    for name in names:  # only the first, both (2 + 3 x 6) / 4, only the second, nobody
        assert mean[name].flatten()[:4].tolist() == [2, 5, 6, 0]
    assert set(mean["bn1.weight"].tolist()) == {5}
