import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtiny_lite.config import make_config
from fedtiny_lite.data.datasets import Split
from fedtiny_lite.federated import server as server_module
from fedtiny_lite.federated.messages import Message, decode_mask, encode_state
from fedtiny_lite.federated.server import (
    accept,
    average,
    average_over_holders,
    full_mask,
    masked_start,
    pretrained,
    send_model,
    shares,
)
from fedtiny_lite.federated.state import State
from fedtiny_lite.model.masks import Mask, apply_mask, check_masked
from fedtiny_lite.model.networks import load_state
from fedtiny_lite.simulation.setup import build_federation
from tests.helpers import seeded


def reply(values: list[float] | torch.Tensor, samples: int = 1) -> Message:
    return Message({"samples": samples}, {"weights": torch.as_tensor(values)})


def random_state(server, seed: int, mask: Mask) -> dict[str, torch.Tensor]:
    generator = seeded(seed)
    state = {name: torch.randn(shape, generator=generator) for name, shape in server.state_shapes.items()}
    return state | {name: state[name] * keep for name, keep in mask.items()}


def every_third(server) -> Mask:
    shapes = server.mask_shapes.items()
    return Mask({name: (torch.arange(shape.numel()) % 3 == 0).view(shape) for name, shape in shapes})


# --- who counts -------------------------------------------------------------------------------------------


def test_replies_are_folded_in_order_of_client_number():
    replies = {k: reply([float(k)]) for k in (3, 0, 2, 1)}
    accepted, rejected = accept(replies)
    assert [message.tensors["weights"].item() for message in accepted] == [0, 1, 2, 3]
    assert rejected == []


@given(st.lists(st.sampled_from([0.0, -1e38, math.nan, math.inf, -math.inf]), min_size=1, max_size=8))
def test_clients_without_finite_numbers_are_named_and_left_out(values):
    replies = {k: reply([1.0, value], samples=k) for k, value in reversed(list(enumerate(values)))}
    finite = [k for k, value in enumerate(values) if math.isfinite(value)]
    if not finite:
        with pytest.raises(FloatingPointError, match=f"^all {len(values)} clients returned NaN or infinite"):
            accept(replies)
        return
    accepted, rejected = accept(replies)
    assert [message.meta["samples"] for message in accepted] == finite
    assert rejected == [k for k in range(len(values)) if k not in finite]


def test_any_tensor_of_a_reply_can_condemn_it():
    lists = {"weights": torch.zeros(2), "conv2.weight:index": torch.zeros(1, dtype=torch.uint8)}
    good = Message({"samples": 1}, lists | {"conv2.weight:value": torch.zeros(1)})
    bad = Message({"samples": 1}, lists | {"conv2.weight:value": torch.tensor([math.nan])})
    assert accept({0: bad, 1: good}) == ([Message(good.meta | {"client": 1}, good.tensors)], [0])


# --- averages ---------------------------------------------------------------------------------------------


def test_shares_by_hand():
    assert shares([reply([0.0], 10), reply([0.0], 30)]) == [0.25, 0.75]


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=100))
def test_shares_sum_to_one(samples):
    assert math.isclose(math.fsum(shares([reply([0.0], n) for n in samples])), 1, rel_tol=1e-14)


def test_average_by_hand(server):
    mask = every_third(server)
    ones = {name: torch.ones(shape) for name, shape in server.state_shapes.items()}
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
    assert {name: tensor.shape for name, tensor in mean.items()} == dict(server.state_shapes)
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
    dense = {name: torch.ones(shape) for name, shape in server.state_shapes.items()}
    state = masked_start(dense, mask)
    assert all(torch.equal(state.weights[name], keep.float()) for name, keep in mask.items())
    assert all(bool((tensor == 1).all()) for tensor in dense.values())
    assert state.unsent == tuple(mask)


def test_only_masks_that_changed_are_sent(server):
    mask = every_third(server)
    weights = random_state(server, 0, mask)
    last = list(mask)[-1]
    for unsent in ((), (last,), tuple(mask)):
        tensors, meta = send_model(server, State(weights, mask, unsent), 1)
        assert torch.equal(tensors["weights"], encode_state(weights, mask)) and meta == {}
        assert ("mask" in tensors) == bool(unsent)
        sent = decode_mask(tensors["mask"], server.mask_shapes) if unsent else {}
        assert tuple(sent) == unsent
        assert all(torch.equal(keep, mask[name]) for name, keep in sent.items())


def test_full_mask_keeps_every_weight(server):
    assert full_mask(server.mask_shapes).kept == server.sizes
    assert server.sizes == {  # cnn of width 2: 2-4-8-8 channels, a last map of 2x2 pixels, 10 classes
        "conv2.weight": 2 * 4 * 9,
        "conv3.weight": 4 * 8 * 9,
        "conv4.weight": 8 * 8 * 9,
        "linear.weight": 8 * 4 * 10,
    }


# --- pretraining ------------------------------------------------------------------------------------------


def test_pretraining_starts_anew_whatever_the_model_held_before(server):
    first = pretrained(server)
    load_state(server.model, random_state(server, 1, full_mask(server.mask_shapes)))
    second = pretrained(server)
    assert list(first) == list(server.state_shapes)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], server.initial[name]) for name in first)


def test_pretraining_is_dense_and_learns_from_the_public_set(server):
    trained = pretrained(server)
    moved = {name: int((trained[name] != server.initial[name]).sum()) for name in server.sizes}
    assert all(moved[name] > 0.5 * size for name, size in server.sizes.items())


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
    one = {name: torch.ones(shape) for name, shape in server.state_shapes.items()}
    names = list(server.mask_shapes)
    keeps = [{name: torch.zeros(shape, dtype=torch.bool) for name, shape in server.mask_shapes.items()} for _ in "ab"]
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
