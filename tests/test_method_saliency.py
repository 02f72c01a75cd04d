"""The methods that prune by saliency: masks from the right images, exact budgets, and what SSFL's clients pay."""

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fedtiny_lite.config import load_method
from fedtiny_lite.data.datasets import to_float
from fedtiny_lite.federated.server import pretrained
from fedtiny_lite.model.costs import model_state_memory, other_sizes, training_flops
from fedtiny_lite.model.networks import load_state
from fedtiny_lite.seeding import torch_generator
from fedtiny_lite.simulation.setup import build_federation
from tests.helpers import three_clients, trace

ON_SERVER = ("snip", "grasp", "synflow")


def tiny(method: str, **settings):
    return three_clients(method=method, **{"density": 0.1} | settings)


def loaded_model(federation):
    """The pretrained model in training mode, apart from the server's."""
    model = copy.deepcopy(federation.server.model)
    load_state(model, pretrained(federation.server))
    return model.train()


def as_images(federation, split):
    pixels = federation.server.task.pixels
    return to_float(split.images, pixels.mean, pixels.std)


def snip_by_backward(model, images, labels, names) -> np.ndarray:
    """|gradient * weight| of all prunable weights in one vector, the plain way."""
    model.zero_grad()
    F.cross_entropy(model(images), labels).backward()
    return np.concatenate(
        [(model.get_parameter(n).grad * model.get_parameter(n)).detach().numpy().ravel() for n in names]
    )


def grasp_by_differences(model, images, labels, names) -> np.ndarray:
    """The weight times the change of the gradient along itself, by central differences in float64."""
    model, images = model.double(), images.double()
    weights = [model.get_parameter(name) for name in names]
    start = [w.detach().clone() for w in weights]

    def gradient_at(step, along):
        for weight, w, direction in zip(weights, start, along, strict=True):
            weight.data = w + step * direction
        return torch.autograd.grad(F.cross_entropy(model(images) / 200, labels), weights)

    g = gradient_at(0, start)
    step = 1e-8 / max(float(t.abs().max()) for t in g)  # small, for a ReLU that switches would make the gradient jump
    ahead, behind = gradient_at(step, g), gradient_at(-step, g)
    return np.concatenate(
        [(w * (a - b) / (2 * step)).numpy().ravel() for w, a, b in zip(start, ahead, behind, strict=True)]
    )


def chosen(mask) -> set[int]:
    return set(np.flatnonzero(np.concatenate([keep.numpy().ravel() for keep in mask.values()])))


# --- on the server ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ON_SERVER)
def test_masks_keep_exactly_the_budget_on_every_client(method):
    config = tiny(method)
    record, states = trace(config)
    server = build_federation(config).server
    assert all(state.mask.total == server.task.budget for state in states)
    assert all(state.mask == states[0].mask for state in states)
    assert [entry["client_kept"] for entry in record["rounds"]] == [server.task.budget] * config.rounds
    assert [entry["exchange"] for entry in record["prelude"]] == ["pixel_statistics"]


@pytest.mark.parametrize("criterion", [snip_by_backward, grasp_by_differences])
def test_the_best_on_the_whole_public_set_are_kept(criterion):
    config = tiny(criterion.__name__.partition("_")[0])
    federation = build_federation(config)
    server, names = federation.server, list(federation.server.task.mask_shapes)
    scores = criterion(loaded_model(federation), as_images(federation, server.public), server.public.labels, names)
    scores = np.abs(scores) if config.method == "snip" else scores
    state = load_method(config.method).start(server)
    assert chosen(state.mask) == set(np.argsort(-scores, kind="stable")[: server.task.budget])


def test_synflow_keeps_the_flow_of_positive_weights_step_by_step():
    config = tiny("synflow", saliency_steps=3)
    federation = build_federation(config)
    server, model = federation.server, loaded_model(federation).double().eval()
    names = list(server.task.mask_shapes)
    weights = [model.get_parameter(name) for name in names]
    for tensor in model.parameters():
        tensor.data.abs_()
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.zero_()
    total = sum(w.numel() for w in weights)
    for keep in (round(total * (server.task.budget / total) ** share) for share in (1 / 3, 2 / 3, 1)):
        flow = torch.autograd.grad(model(torch.ones(1, 1, 8, 8, dtype=torch.float64)).sum(), weights)
        scores = torch.cat([(f * w.detach()).flatten() for f, w in zip(flow, weights, strict=True)])
        least = scores.sort(descending=True).values[keep - 1]
        for weight, part in zip(weights, scores.split([w.numel() for w in weights]), strict=True):
            weight.data *= part.view(weight.shape) >= least
    mask = load_method("synflow").start(server).mask
    assert all(torch.equal(mask[name], weight != 0) for name, weight in zip(names, weights, strict=True))


@pytest.mark.parametrize("method", [*ON_SERVER, "ssfl"])
def test_the_mask_is_the_same_each_time(method):
    first, again = (trace(tiny(method, rounds=0))[1][0] for _ in range(2))
    assert first.mask == again.mask


@pytest.mark.parametrize("method", [*ON_SERVER, "ssfl"])
def test_in_each_layer_apart_densities_are_equal(method):
    config = tiny(method, saliency_scope="layer", rounds=0)
    _, (state,) = trace(config)
    server = build_federation(config).server
    assert server.task.budget - len(server.task.sizes) < state.mask.total <= server.task.budget
    for name, kept in state.mask.kept.items():
        assert kept == int(server.task.budget / sum(server.task.sizes.values()) * server.task.sizes[name] + 1e-9)


def test_an_emptied_layer_is_left_so_and_recorded():
    config = tiny("snip", model="vgg11", width=2, density=0.006, prune_linear="yes", rounds=1)
    record, states = trace(config)
    assert states[-1].mask.empty and record["final"]["empty_layers"] == list(states[-1].mask.empty)
    assert sum(record["final"]["kept"].values()) == record["model"]["budget"]


# --- SSFL -------------------------------------------------------------------------------------------------


def test_ssfl_keeps_the_best_mean_score_of_the_clients_own_images():
    config = tiny("ssfl", growth_batch=20, rounds=0)
    federation = build_federation(config)
    server, total = federation.server, sum(map(len, federation.holdings.splits))
    mean = 0
    for k, split in enumerate(federation.holdings.splits):
        order = torch.randperm(len(split), generator=torch_generator(config.seed, "growth", -1, k))
        own = split.take(order[:20])
        model, images = loaded_model(federation), as_images(federation, own)
        scores = np.abs(snip_by_backward(model, images, own.labels, list(server.task.mask_shapes)))
        mean = mean + scores.astype(np.float64) * len(split) / total
    _, (state,) = trace(config)
    assert chosen(state.mask) == set(np.argsort(-mean, kind="stable")[: server.task.budget])


def test_ssfl_clients_hold_the_dense_model_once_and_the_budget_afterwards():
    config = tiny("ssfl", growth_batch=20)
    federation = build_federation(config)
    record, _ = trace(config)
    server, prunable = federation.server, sum(federation.server.task.sizes.values())
    _, prelude = record["prelude"]
    assert prelude["client_kept"] == prunable
    assert prelude["client_state_bytes"] == model_state_memory(federation.task.layers, {}, *other_sizes(server.model))
    assert prelude["training_flops"] == training_flops(federation.task.layers, {}) * 20 * config.clients
    assert 0 < prelude["bytes_up"] - 4 * prunable * config.clients < 1000 * config.clients
    assert prelude["bytes_down"] > 4 * prunable * config.clients
    for entry in record["rounds"]:
        assert entry["client_kept"] == server.task.budget and entry["bytes_up"] < prelude["bytes_up"]
