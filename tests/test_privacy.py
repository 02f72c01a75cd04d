"""Clipping and noise of what clients send: the arithmetic, and that it stays off unless it is asked for."""

import pytest
import torch

from fedtiny_lite.config import METHODS, make_config
from fedtiny_lite.federated.client import receive
from fedtiny_lite.federated.messages import decode_state, encode_state
from fedtiny_lite.federated.privacy import disturb
from fedtiny_lite.federated.quantisation import dequantise_parts
from fedtiny_lite.methods import fl_pqsu
from fedtiny_lite.simulation import rounds as simulate
from fedtiny_lite.simulation.setup import build_federation
from tests.helpers import asked, four_clients, seeded


@pytest.fixture
def received():
    """received(settings): a client of such a run, and the state that it was sent."""

    def build(**settings):
        federation = build_federation(four_clients(method="magnitude", pretrain_epochs=0, **settings))
        state = simulate.load_method("magnitude").start(federation.server)
        client, message = asked(federation, state, 0)
        return client, receive(client, message)[0]

    return build


def trained(client, before, length: float) -> torch.Tensor:
    """The weights after an update of this length, packed."""
    packed = encode_state(before, client.mask)
    step = torch.rand(len(packed), generator=seeded(1)) + 0.5  # variances grow
    return packed + step * (length / float(step.norm()))


def test_a_long_update_is_scaled_down_to_the_limit(received):
    """4 long, and 1 is allowed: a quarter of each number is sent."""
    client, before = received(clip_norm=1.0)
    packed, sent = encode_state(before, client.mask), trained(client, before, 4.0)
    found = disturb(client, before, {"weights": sent})["weights"]
    torch.testing.assert_close(found - packed, (sent - packed) / 4, rtol=1e-4, atol=1e-6)
    short = trained(client, before, 0.9)
    torch.testing.assert_close(disturb(client, before, {"weights": short})["weights"], short)


def test_noise_has_the_spread_that_is_asked_for(received):
    """Of some thousand numbers the spread is that of 0.05 * 2; variances below zero become zero."""
    client, before = received(clip_norm=2.0, noise=0.05, width=6)
    packed = encode_state(before, client.mask)
    found = disturb(client, before, {"weights": packed})["weights"]
    state = decode_state(found, client.mask, client.task.state_shapes)
    assert all(bool((part >= 0).all()) for name, part in state.items() if name.endswith("running_var"))
    moved = torch.cat([(state[n] - before[n])[before[n] != 0] for n in client.mask])
    assert len(moved) > 200 and float(moved.std()) == pytest.approx(0.1, rel=0.15)
    again = disturb(client, before, {"weights": packed})["weights"]
    assert torch.equal(found, again)  # drawn from the run's seed


def test_values_of_lists_are_treated_likewise_and_nothing_else(received):
    client, before = received(clip_norm=1.0)
    reply = {"growth_value": torch.tensor([3.0, -4.0]), "growth_index": torch.tensor([1, 2], dtype=torch.uint8)}
    others = {"loss": torch.tensor(7.0), "squares": torch.tensor([5.0, 12.0])}
    found = disturb(client, before, reply | others)
    torch.testing.assert_close(found["growth_value"], torch.tensor([0.6, -0.8]))
    assert found["growth_index"] is reply["growth_index"]
    assert all(found[name] is tensor for name, tensor in others.items())


def test_the_update_of_fl_pqsu_is_clipped_before_it_is_rounded_to_8_bits(monkeypatch):
    """4 long, and 1 is allowed: a quarter of each number is sent, off by half a step of its codes at most."""
    federation = build_federation(four_clients(method="fl_pqsu", pretrain_epochs=0, clip_norm=1.0))
    task = federation.task
    client, message = asked(federation, fl_pqsu.start(federation.server), 0)
    sizes = fl_pqsu.lengths(task, client.mask)
    packed = dequantise_parts(message.tensors, sizes)
    before = decode_state(packed, client.mask, task.state_shapes)
    after = trained(client, before, 4.0)
    state = decode_state(after, client.mask, task.state_shapes)
    monkeypatch.setattr(fl_pqsu, "train_locally", lambda *given: (state, 0))
    tensors = fl_pqsu.answer(client, message).tensors
    step = tensors["scales"].repeat_interleave(torch.tensor(sizes))
    off = dequantise_parts(tensors, sizes) - (packed + (after - packed) / 4)
    assert bool((off.abs() <= step / 2 + 1e-6).all())


def test_noise_without_a_limit_is_refused():
    with pytest.raises(ValueError, match=r"noise = 0\.1: it is a multiple of clip_norm, which is 0; set clip_norm too"):
        make_config(noise=0.1)


@pytest.mark.parametrize("method", METHODS)
def test_noisy_replies_are_accepted_in_every_method(method):
    record = simulate.run(four_clients(method=method, rounds=2, adjust_until=2, clip_norm=1.0, noise=0.001))
    assert [entry["rejected_clients"] for entry in record["rounds"]] == [[], []]
    assert record["complete"] is True
