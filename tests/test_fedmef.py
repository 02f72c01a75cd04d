"""FedMef: what extrusion adds and to what, what convolutions keep for the backward pass, and a whole run."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from fedtiny_lite.federated.messages import decode_state
from fedtiny_lite.methods import fedmef
from fedtiny_lite.model.masks import Mask, erk_counts
from fedtiny_lite.pruning.activations import pruned_activations, saved_input_bytes
from fedtiny_lite.simulation import rounds as simulate
from fedtiny_lite.simulation.setup import build_federation
from tests.helpers import asked, seeded, three_clients

tiny = partial(three_clients, method="fedmef")
"""Every layer is adjusted in round 1."""
pytestmark = pytest.mark.usefixtures("one_thread")


# --- extrusion --------------------------------------------------------------------------------------------


def test_the_lowest_kept_weights_are_marked_and_no_pruned_one():
    weights = {"w": torch.tensor([[0.1, -5.0, 0.3], [-0.2, 0.0, 0.0]])}
    mask = Mask({"w": torch.tensor([[True, True, True], [True, False, False]])})
    low = fedmef.lowest_kept(weights, mask, {"w": 2})
    assert low["w"].tolist() == [[True, False, False], [True, False, False]]


def test_extrusion_adds_twice_lambda_times_the_weight_where_it_is_marked_alone():
    w = nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
    w.grad = torch.tensor([0.5, 0.5, 0.5])
    fedmef.extrusion({"w": torch.tensor([True, True, False])}, 0.1)({"w": w})
    assert w.grad.tolist() == pytest.approx([0.5 + 0.2, 0.5 - 0.4, 0.5])


def test_extrusion_is_the_gradient_of_the_penalised_loss():
    x, low = torch.randn(5, 4, generator=seeded()), torch.tensor([True, False, True, False])
    plain, penalised = (nn.Parameter(torch.randn(4, generator=seeded(1))) for _ in range(2))
    (x @ plain).square().mean().backward()
    fedmef.extrusion({"w": low}, 0.3)({"w": plain})
    ((x @ penalised).square().mean() + 0.3 * penalised[low].square().sum()).backward()
    assert torch.allclose(plain.grad, penalised.grad)


def answered(config, r):
    """Client 0's reply in round r, asked from the starting state; its weights decoded, and the state."""
    federation = build_federation(config)
    server = federation.server
    state = fedmef.METHOD.start(server)
    client, message = asked(federation, state, r)
    weights = decode_state(fedmef.answer(client, message).tensors["weights"], state.mask, server.task.state_shapes)
    return weights, state, message.meta.get("grow", {})


def test_marked_weights_shrink_in_an_adjustment_round_and_only_there():
    weak, strong = tiny(extrusion=0.0), tiny(extrusion=1.0)
    (without, state, counts), (extruded, *_) = answered(weak, 1), answered(strong, 1)
    assert set(counts) == set(state.mask)
    for name, low in fedmef.lowest_kept(state.weights, state.mask, counts).items():
        assert extruded[name][low].norm() < 0.8 * without[name][low].norm(), name
    before, after = answered(weak, 0)[0], answered(strong, 0)[0]
    assert all(torch.equal(before[name], after[name]) for name in before)


# --- pruned activations -----------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.floats(0.01, 1.0), st.integers(0, 1000))
def test_a_convolution_keeps_exactly_its_share_of_the_largest_inputs(density, seed):
    conv, x = nn.Conv2d(3, 2, 3), torch.randn(2, 3, 5, 5, generator=seeded(seed))
    with pruned_activations(conv, density):
        saved = conv(x).grad_fn._saved_input
    keep = saved != 0
    assert int(keep.sum()) == int(density * x.numel() + 1e-9)
    assert torch.equal(saved[keep], x[keep])
    if keep.any() and not keep.all():
        assert x[keep].abs().min() >= x[~keep].abs().max()


def test_the_weight_gradient_is_that_of_the_pruned_input_and_all_else_is_exact():
    conv, x = nn.Conv2d(1, 2, 3, padding=1, stride=2), torch.randn(2, 1, 6, 6, generator=seeded())
    x.requires_grad_()
    top = torch.zeros(72).scatter(0, x.detach().flatten().abs().topk(18).indices, 1).view(x.shape)
    with pruned_activations(conv, 0.25):
        output = conv(x)
        weight, bias, inputs = torch.autograd.grad(output.square().sum(), [conv.weight, conv.bias, x])
    assert torch.equal(output, conv(x))
    exact = torch.autograd.grad(conv(x).square().sum(), [conv.weight, conv.bias, x])
    assert torch.allclose(bias, exact[1]) and torch.allclose(inputs, exact[2])
    by_hand = nn.grad.conv2d_weight((x * top).detach(), conv.weight.shape, 2 * output, stride=2, padding=1)
    assert torch.allclose(weight, by_hand, atol=1e-5)
    assert not torch.allclose(weight, exact[0], atol=1e-2)


def gradients(model, images):
    model.train()
    loss = F.cross_entropy(model(images), torch.arange(len(images)) % 10)
    return torch.autograd.grad(loss, list(model.parameters()))


def test_with_a_share_of_one_every_gradient_is_the_dense_one():
    federation = build_federation(tiny())
    model, images = federation.server.model, torch.randn(6, 1, 8, 8, generator=seeded())
    dense = gradients(model, images)
    with pruned_activations(model, 1.0):
        whole = gradients(model, images)
    assert all(map(torch.equal, dense, whole))


def test_nothing_stays_pruned_afterwards_even_when_a_forward_pass_failed():
    conv, x = nn.Conv2d(1, 1, 3), torch.randn(1, 1, 4, 4, generator=seeded())
    with pytest.raises(RuntimeError), pruned_activations(conv, 0.5):
        conv(torch.zeros(1, 7, 4, 4))
    y = x.clone().requires_grad_()
    assert torch.equal((y * y).grad_fn._saved_self, x)
    assert torch.equal(conv(x).grad_fn._saved_input, x)


def test_saved_input_bytes_by_hand():
    model = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 1, 3))
    assert saved_input_bytes(model, (3, 4, 4), batch=2) == (96 + 64) * 4
    # a bit for each input and four bytes for each kept one
    assert saved_input_bytes(model, (3, 4, 4), batch=2, density=0.5) == (96 + 64) // 8 + (48 + 32) * 4


# --- the whole method -------------------------------------------------------------------------------------


def test_a_run_stays_in_its_budget_exchanges_in_every_layer_and_repeats_bit_for_bit():
    config, states = tiny(rounds=3), []
    record = simulate.run(config, on_round=lambda entry, state: states.append(state))
    server = build_federation(config).server
    assert states[0].mask.kept == erk_counts(server.task.mask_shapes, server.task.budget)
    assert [state.mask.kept for state in states] == [states[0].mask.kept] * 4
    assert all(entry["client_kept"] <= server.task.budget for entry in record["rounds"])
    changed = [[n for n in old.mask if not torch.equal(old.mask[n], new.mask[n])] for old, new in pairwise(states)]
    assert changed == [[], [n for n in server.task.mask_shapes if n in record["rounds"][1]["adjusted"]], []]
    assert record["rounds"][0]["client_activation_bytes"] < saved_input_bytes(
        server.model, (1, 8, 8), config.batch_size
    )
    again = []
    simulate.run(config, on_round=lambda entry, state: again.append(state))
    assert all(torch.equal(tensor, again[-1].weights[name]) for name, tensor in states[-1].weights.items())


def test_activations_are_counted_once_a_run_as_on_the_servers_network(monkeypatch):
    counted = []
    monkeypatch.setattr(fedmef, "saved_input_bytes", lambda *given: counted.append(given) or saved_input_bytes(*given))
    fedmef.input_bytes_of.cache_clear()
    config = tiny(rounds=3)
    entries, server = simulate.run(config)["rounds"], build_federation(config).server
    expected = saved_input_bytes(server.model, (1, 8, 8), config.batch_size, 0.5)
    assert [entry["client_activation_bytes"] for entry in entries] == [expected] * 3 and len(counted) == 1


def test_less_activation_changes_training_and_less_memory_is_counted():
    half, tenth = (simulate.run(tiny(activation_density=share, rounds=1)) for share in (0.5, 0.1))
    assert half["final"]["test_loss"] != tenth["final"]["test_loss"]
    counted = [record["rounds"][0]["client_activation_bytes"] for record in (half, tenth)]
    assert counted[1] < 0.35 * counted[0]
    assert half["rounds"][0]["bytes_up"] == tenth["rounds"][0]["bytes_up"]


def test_whole_activations_and_no_extrusion_are_plain_averaging():
    config = tiny(activation_density=1.0, extrusion=0.0, rounds=1)
    plain = config.changed(method="fedrts")  # from the same mask, and its first round averages alone
    assert simulate.run(config)["final"]["test_loss"] == simulate.run(plain)["final"]["test_loss"]
