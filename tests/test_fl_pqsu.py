"""FL-PQSU: quantisation by hand and by property, what crosses, who uploads, and what the server averages."""

import copy
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedtiny_lite.federated.client import EMPTY_MEMORY, packed_memory
from fedtiny_lite.federated.messages import Message, pack
from fedtiny_lite.federated.quantisation import dequantise, dequantise_parts, quantise, quantise_parts
from fedtiny_lite.federated.server import full_mask
from fedtiny_lite.methods import fl_pqsu
from fedtiny_lite.model.networks import load_state, state_of
from fedtiny_lite.model.training import Evaluation, epoch_batches, train
from fedtiny_lite.records import schema
from fedtiny_lite.seeding import torch_generator
from fedtiny_lite.simulation.setup import build_federation, client_of
from fedtiny_lite.sparse.engine import DENSE
from tests.helpers import three_clients, trace

tiny = partial(three_clients, method="fl_pqsu")


# --- quantisation -----------------------------------------------------------------------------------------


def test_quantisation_by_hand():
    codes, scale, zero = quantise(torch.tensor([-1.0, 0.0, 4.1, 0.004]))  # 5.1 / 255 = 0.02
    assert codes.dtype == torch.uint8 and codes.tolist() == [0, 50, 255, 50]
    assert float(scale) == pytest.approx(0.02) and float(zero) == -1


floats = st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)


@given(hnp.arrays(np.float32, st.integers(1, 60), elements=floats))
def test_no_value_is_off_by_more_than_half_a_step(values):
    codes, scale, zero = quantise(torch.from_numpy(values))
    back = dequantise(codes, scale, zero)
    assert back.dtype == torch.float32
    rounding = 1e-6 * np.abs(values).max() + 1e-38
    assert np.abs(back.double().numpy() - values.astype(np.float64)).max() <= float(scale) / 2 + rounding


@given(floats, st.integers(1, 9))
def test_equal_values_come_back_exactly(value, count):
    values = torch.full((count,), value)
    assert torch.equal(dequantise(*quantise(values)), values)


@pytest.mark.parametrize("values", [[5.0, 5.5, 6.0], [-6.0, -5.5, -5.0]])
def test_values_on_one_side_of_zero_are_not_cut_off(values):
    """A zero point that is a code from 0 to 255 would turn [5, 5.5, 6] into [1, 1, 1]."""
    assert dequantise(*quantise(torch.tensor(values))).tolist() == pytest.approx(values, abs=0.002)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stays_visible(bad):
    _, scale, zero = quantise(torch.tensor([1.0, bad, 2.0]))
    assert not (scale.isfinite() and zero.isfinite())


def test_parts_are_quantised_on_their_own_and_may_be_empty():
    vector = torch.tensor([0.0, 1.0, 7.0, 0.0, 1000.0])
    packed = quantise_parts(vector, [2, 0, 1, 2])
    assert {name: (t.dtype, len(t)) for name, t in packed.items()} == {
        "codes": (torch.uint8, 5),
        "scales": (torch.float32, 4),
        "zeros": (torch.float32, 4),
    }
    assert torch.allclose(dequantise_parts(packed, [2, 0, 1, 2]), vector)


# --- what crosses -----------------------------------------------------------------------------------------


def test_a_kept_value_costs_one_byte_in_both_directions():
    config = tiny(selective_upload="no", density=0.1)
    record, states = trace(config)
    server = build_federation(config).server
    numbers = states[0].mask.total + sum(
        shape.numel() for name, shape in server.task.state_shapes.items() if name not in states[0].mask
    )
    empty = {name: torch.empty(0) for name in ("codes", "scales", "zeros")}
    headers = {"bytes_up": pack(empty, samples=80, version=1, holds=1), "bytes_down": pack(empty, version=1, known=1)}
    for direction, header in headers.items():
        sent = record["rounds"][1][direction] / config.clients
        assert abs(sent - numbers - 8 * len(server.task.state_shapes) - len(header)) < 20
    masks = record["rounds"][0]["bytes_down"] - record["rounds"][1]["bytes_down"]
    assert masks > config.clients * server.task.budget / 8


def test_a_round_equals_quantised_training_the_plain_way():
    config = tiny(selective_upload="no", rounds=1)
    _, (start, after) = trace(config)
    federation = build_federation(config)
    model, total = copy.deepcopy(federation.server.model), sum(map(len, federation.holdings.splits))

    def in_8_bits(state):
        found = {}
        for name, tensor in state.items():
            kept = tensor[start.mask[name]] if name in start.mask else tensor
            low, step = kept.min().double(), (kept.max().double() - kept.min().double()) / 255
            found[name] = (low + step * ((tensor.double() - low) / step).round()).float()
        return {name: t * start.mask[name] if name in start.mask else t for name, t in found.items()}

    expected = {name: torch.zeros(t.shape, dtype=torch.float64) for name, t in start.weights.items()}
    for k, split in enumerate(federation.holdings.splits):
        load_state(model, in_8_bits(start.weights))
        schedule = epoch_batches(split, config.local_epochs, config, torch_generator(config.seed, "train", 0, k))
        generator = torch_generator(config.seed, "augment", 0, k)
        train(model, split, federation.server.task.pixels, start.mask, config, schedule, generator)
        for name, tensor in in_8_bits(state_of(model)).items():
            expected[name] += len(split) / total * tensor
    for name, tensor in after.weights.items():
        span = float(tensor.max() - tensor.min())
        assert torch.allclose(tensor, expected[name].float(), rtol=1e-4, atol=0.005 * span + 1e-6), name


# --- who uploads ------------------------------------------------------------------------------------------


def judge_by(losses, monkeypatch):
    """Lets the clients' engine find the next of `losses` per image whenever it evaluates."""
    engine = replace(DENSE, evaluate=lambda model, mask, split, pixels: Evaluation(next(losses) * len(split), 0, 1))
    monkeypatch.setattr("fedtiny_lite.federated.client.engine_for", lambda *_: engine)


@pytest.mark.parametrize("rule, uploads", [("yes", [True, False, True, False, True]), ("no", [True] * 5)])
def test_a_client_uploads_when_its_loss_fell_below_that_of_its_last_upload(rule, uploads, monkeypatch):
    config = tiny(selective_upload=rule)
    federation, memory = build_federation(config), EMPTY_MEMORY
    losses = iter([5.0, 6.0, 4.0, 4.0, 3.9])
    judge_by(losses, monkeypatch)
    found = []
    for r in range(5):
        client = client_of(config, federation.task.pixels, 0, r, memory)
        mask = full_mask(federation.task.mask_shapes)
        worth, flops = fl_pqsu.worth_uploading(client, federation.server.initial, mask)
        memory = packed_memory(client)
        found.append(worth)
        assert (flops > 0) == (rule == "yes")
    assert found == uploads


def test_a_loss_that_is_no_number_is_uploaded_and_forgotten_again(monkeypatch):
    config = tiny()
    federation = build_federation(config)
    remembered = pack({"loss": torch.tensor(1.0)}, version=0)
    client = client_of(config, federation.task.pixels, 0, 0, remembered)
    mask = full_mask(client.task.mask_shapes)
    losses = iter([math.nan, 9.0])
    judge_by(losses, monkeypatch)
    assert [fl_pqsu.worth_uploading(client, federation.server.initial, mask)[0] for _ in range(2)] == [True, True]


def test_the_server_averages_everyones_last_upload():
    server = build_federation(tiny()).server
    state = fl_pqsu.start(server)
    sizes = fl_pqsu.lengths(server.task, state.mask)

    def upload(k, samples, value):
        values = {} if value is None else quantise_parts(torch.full((sum(sizes),), value), sizes)
        return Message({"samples": samples, "client": k}, values)

    rounds = [
        ([upload(0, 10, 1.0), upload(1, 30, 5.0)], 4.0, [0, 1]),  # 0.25 * 1 + 0.75 * 5; client 2 never uploaded
        ([upload(0, 10, None), upload(1, 30, 9.0)], 7.0, [1]),
        ([upload(0, 10, None), upload(1, 30, None), upload(2, 40, 1.0)], 4.0, [2]),
        ([upload(0, 10, None)], 4.0, []),
    ]
    for r, (replies, expected, sent) in enumerate(rounds):
        state, note = fl_pqsu.fold(server, state, r, replies)
        assert note == {"uploaded": sent}
        for name, tensor in state.weights.items():
            kept = tensor[state.mask[name]] if name in state.mask else tensor
            assert torch.equal(kept, torch.full_like(kept, expected)), name


def test_clients_that_keep_silent_send_next_to_nothing():
    record, _ = trace(tiny(rounds=4, lr=1.0))  # a loss that rises
    silent = [3 - len(entry["uploaded"]) for entry in record["rounds"]]
    assert silent[0] == 0 < sum(silent)
    full = record["rounds"][0]["bytes_up"] / 3
    for quiet, entry in zip(silent, record["rounds"], strict=True):
        assert entry["bytes_up"] == pytest.approx((3 - quiet) * full + 60 * quiet, abs=90)


@settings(deadline=None, max_examples=4)
@given(st.sampled_from(["yes", "no"]), st.sampled_from([0.02, 0.3]))
def test_runs_keep_the_budget_and_repeat_bit_for_bit(selective, density):
    config = tiny(selective_upload=selective, density=density)
    record, states = trace(config)
    assert all(state.mask == states[0].mask and state.mask.total <= record["model"]["budget"] for state in states)
    assert all(entry["client_kept"] == states[0].mask.total for entry in record["rounds"])
    assert schema.canonical(trace(config)[0]) == schema.canonical(record)
