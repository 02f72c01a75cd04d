"""PruneFL: its rule against arithmetic by hand and brute force, its squared gradients, its costs, whole tiny runs."""

import copy
from fractions import Fraction
from functools import partial
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from fedtiny_lite.data.datasets import to_float
from fedtiny_lite.federated.client import local_schedule
from fedtiny_lite.federated.formats import encode_mask
from fedtiny_lite.federated.ledger import address, begin
from fedtiny_lite.federated.messages import Message, encode_state, unpack
from fedtiny_lite.federated.server import pretrained
from fedtiny_lite.federated.state import masked_start
from fedtiny_lite.methods import prunefl
from fedtiny_lite.methods._reconfiguring import (
    SENDING,
    average_squares,
    reconfigure,
    train_and_square,
    without_smallest,
)
from fedtiny_lite.model import costs
from fedtiny_lite.model.costs import LayerShape, forward_flops, layer_shapes, model_state_memory, training_flops
from fedtiny_lite.model.masks import Mask, erk_counts, magnitude_mask
from fedtiny_lite.model.networks import build_model, load_state, prunable_names
from fedtiny_lite.records import schema
from fedtiny_lite.simulation import rounds as simulate
from fedtiny_lite.simulation.setup import build_federation, client_of
from tests.helpers import forget_federations, seeded, three_clients, trace

tiny = partial(three_clients, method="prunefl")


def small_client(config, k=0, r=1):
    """A client, the pretrained weights under an ERK mask, and that mask."""
    federation = build_federation(config)
    server = federation.server
    weights = pretrained(server)
    mask = magnitude_mask(weights, erk_counts(server.task.mask_shapes, server.task.budget))
    for name, pruned in mask.pruned.items():
        weights[name].masked_fill_(pruned, 0)
    return client_of(config, federation.task.pixels, k, r), weights, mask


# --- the rule ---------------------------------------------------------------------------------------------

LAYERS = [LayerShape("a", 4, 2, 2, 2), LayerShape("b", 5, 34, 1, 5)]  # a weight takes 32, and 64
WEIGHTS = {"a": torch.tensor([[3.0, -1.0], [2.0, 0.0]]), "b": torch.tensor([5.0, -4.0, 0.0, 0.0, 0.0])}
MASK = Mask({"a": torch.tensor([[True, True], [True, False]]), "b": torch.tensor([True, True, False, False, False])})
SQUARES = {
    "a": torch.tensor([[32.0, 96.0], [32.0, 64.0]]),  # g^2 / t = 1, 3, 1, 2
    "b": torch.tensor([64.0, 32.0, 256.0, 0.0, 128.0]),  # 1, 1/2, 4, 0, 2
    "bias": torch.tensor([30.0]),  # 1
}


def test_the_rule_by_hand():
    # Dropped: a[0, 1] and b[1]. In: 32 + 32 + 64 + 30 = 158 for a time of 158, so Gamma = 1. In order of g^2 / t come
    # b[2]: 414 / 222 = 1.86; a[0, 1], dropped just now: 510 / 254 = 2.008; then 2 is too little.
    assert SENDING == 30
    mask = reconfigure(WEIGHTS, MASK, SQUARES, LAYERS, 0.34, most=9)
    assert mask["a"].tolist() == [[True, True], [True, False]]
    assert mask["b"].tolist() == [True, False, True, False, False]


def test_a_weight_that_is_worth_just_gamma_is_added():
    """As above Gamma is 158 / 158 = 1 after the drop; b[2] is worth 64 / 64 = 1, and the others nothing."""
    squares = {
        "a": torch.tensor([[32.0, 0.0], [32.0, 0.0]]),
        "b": torch.tensor([64.0, 0.0, 64.0, 0.0, 0.0]),
        "bias": torch.tensor([30.0]),
    }
    mask = reconfigure(WEIGHTS, MASK, squares, LAYERS, 0.34, most=9)
    assert mask["a"].tolist() == [[True, False], [True, False]]
    assert mask["b"].tolist() == [True, False, True, False, False]


@pytest.mark.parametrize("most, total", [(3, 3), (4, 4), (5, 5), (9, 5)])
def test_the_rule_stops_at_the_budget(most, total):
    assert reconfigure(WEIGHTS, MASK, SQUARES, LAYERS, 0.34, most).total == total


def test_weights_of_layers_that_are_never_pruned_take_the_time_of_their_pixels():
    # The conv's two weights take 18 + 30 each and gain nothing: Gamma is 158 / 254 = 0.6 at first, then 414 / 318 = 1.3
    # with b[2] and 510 / 350 = 1.5 with a[0, 1], which the 2 of a[1, 1] and b[4] exceeds.
    layers, squares = [*LAYERS, LayerShape("conv", 2, 18, 1, 2)], SQUARES | {"conv": torch.zeros(2)}
    mask = reconfigure(WEIGHTS, MASK, squares, layers, 0.34, most=9)
    assert mask["a"].all()
    assert mask["b"].tolist() == [True, False, True, False, True]


@st.composite
def toys(draw):
    """Up to eight weights in two layers, distinct magnitudes, whole g^2, a rate and a budget."""
    sizes = draw(st.tuples(st.integers(1, 5), st.integers(1, 4)))
    order = draw(st.permutations(range(1, sum(sizes) + 1)))
    keep = draw(st.lists(st.booleans(), min_size=sum(sizes), max_size=sum(sizes)))
    keep[0] = keep[sizes[0]] = True
    squares = draw(st.lists(st.integers(0, 50), min_size=sum(sizes), max_size=sum(sizes)))
    pixels = draw(st.tuples(st.integers(1, 64), st.integers(1, 64)))
    bias = draw(st.integers(0, 100))
    rate, most = draw(st.floats(0, 0.9)), draw(st.integers(1, sum(sizes)))

    def split(values, dtype):
        return dict(zip("ab", torch.tensor(values, dtype=dtype).split(list(sizes)), strict=True))

    mask = Mask(split(keep, torch.bool))
    weights = {name: w * mask[name] for name, w in split(order, torch.float32).items()}
    layers = [LayerShape(n, size, p, 1, size) for n, size, p in zip("ab", sizes, pixels, strict=True)]
    squares = split(squares, torch.float32) | {"bias": torch.tensor([float(bias)])}
    return weights, mask, squares, layers, rate, most


def flat(mask):
    return [bool(k) for name in mask for k in mask[name]]


def exact(toy):
    """Of a toy: g^2, t, both sums of what is never pruned, and what is kept after the drop; fractions and lists."""
    weights, mask, squares, layers, rate, _ = toy
    kept = flat(without_smallest(weights, mask, rate))
    gain = [Fraction(int(g)) for name in mask for g in squares[name]]
    time = [Fraction(layer.positions + SENDING) for layer in layers for _ in range(layer.weights)]
    return gain, time, Fraction(int(squares["bias"])), Fraction(SENDING), kept


def gamma(inside, gain, time, fixed_gain, fixed_time):
    return (fixed_gain + sum(gain[i] for i in inside)) / (fixed_time + sum(time[i] for i in inside))


@given(toys())
@settings(max_examples=150, deadline=None)
def test_no_other_set_with_the_same_kept_weights_has_a_larger_gamma(toy):
    weights, mask, squares, layers, rate, _ = toy
    gain, time, fixed_gain, fixed_time, kept = exact(toy)
    found = flat(reconfigure(weights, mask, squares, layers, rate, most=len(kept)))
    assert all(f or not k for f, k in zip(found, kept, strict=True))
    always, free = [i for i, k in enumerate(kept) if k], [i for i, k in enumerate(kept) if not k]
    others = [always + list(more) for count in range(len(free) + 1) for more in combinations(free, count)]
    best = max(gamma(other, gain, time, fixed_gain, fixed_time) for other in others)
    assert gamma([i for i, f in enumerate(found) if f], gain, time, fixed_gain, fixed_time) == best


@given(toys())
@settings(max_examples=150, deadline=None)
def test_the_rule_equals_a_loop_that_adds_one_weight_at_a_time(toy):
    weights, mask, squares, layers, rate, most = toy
    gain, time, fixed_gain, fixed_time, kept = exact(toy)
    inside = [i for i, k in enumerate(kept) if k]
    waiting = sorted(set(range(len(kept))) - set(inside), key=lambda i: (-gain[i] / time[i], i))
    for i in waiting:
        if len(inside) >= most or gain[i] / time[i] < gamma(inside, gain, time, fixed_gain, fixed_time):
            break
        inside.append(i)
    found = reconfigure(weights, mask, squares, layers, rate, most)
    assert [i for i, f in enumerate(flat(found)) if f] == sorted(inside)
    assert found.total <= max(most, sum(kept))


@given(toys())
@settings(max_examples=100, deadline=None)
def test_a_layer_drops_its_smallest_weights_at_most_the_rate_and_never_the_last(toy):
    weights, mask, _, _, rate, _ = toy
    left = without_smallest(weights, mask, rate)
    for name, keep in mask.items():
        dropped = keep & ~left[name]
        assert not (left[name] & ~keep).any()
        assert left.kept[name] >= 1
        assert int(dropped.sum()) <= max(rate * mask.kept[name], 1)
        assert int(dropped.sum()) == (0 if rate == 0 or mask.kept[name] == 1 else max(int(rate * mask.kept[name]), 1))
        if dropped.any():
            assert weights[name][dropped].abs().max() < weights[name][left[name]].abs().min()


# --- squared gradients ------------------------------------------------------------------------------------


def squares_by_hand(client, state, mask, schedule):
    """Sum over batches of autograd's squared gradients, SGD with momentum written out, and the weights after it."""
    model, config = copy.deepcopy(client.model).train(), client.config
    load_state(model, state)
    parameters = dict(model.named_parameters())
    squares = {name: torch.zeros_like(p) for name, p in parameters.items()}
    velocity = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for index in schedule:
        images = to_float(client.split.images[index], client.task.pixels.mean, client.task.pixels.std)
        loss = F.cross_entropy(model(images), client.split.labels[index])
        for (name, weight), gradient in zip(
            parameters.items(), torch.autograd.grad(loss, list(parameters.values())), strict=True
        ):
            squares[name] += gradient**2
            velocity[name] = config.momentum * velocity[name] + gradient
            weight.data -= config.lr * velocity[name]
            if name in mask:
                weight.data *= mask[name]
    return squares, {name: weight.detach() for name, weight in parameters.items()}


def test_squares_are_the_mean_over_batches_of_autograds_gradients_pruned_positions_too():
    client, state, mask = small_client(tiny(local_epochs=2))
    schedule = local_schedule(client)
    expected, weights = squares_by_hand(client, state, mask, schedule)
    trained, squares, flops = train_and_square(client, state, mask, schedule)
    assert len(schedule) > 4
    assert list(squares) == list(expected)
    for name, square in squares.items():
        assert torch.allclose(square * len(schedule), expected[name], rtol=1e-4, atol=1e-9), name
        assert torch.allclose(trained[name], weights[name], rtol=1e-4, atol=1e-6), name
    assert all((squares[name][~keep] > 0).any() for name, keep in mask.items())
    images = 2 * len(client.split)
    assert flops == images * (2 * forward_flops(client.task.layers, mask.kept) + forward_flops(client.task.layers, {}))


def test_squares_are_averaged_by_samples():
    config = tiny()
    server = build_federation(config).server
    count = sum(p.numel() for p in server.model.parameters())
    replies = [Message({"samples": n}, {"squares": torch.arange(count) * scale}) for n, scale in ((30, 1.0), (10, 5.0))]
    squares = average_squares(server, replies)
    assert {name: s.shape for name, s in squares.items()} == {n: p.shape for n, p in server.model.named_parameters()}
    assert torch.equal(torch.cat([s.flatten() for s in squares.values()]), torch.arange(count) * 2.0)


def test_published_costs_of_an_adjustment_round_of_resnet18_at_one_percent():
    model = build_model("resnet18", 64, 10, (3, 32, 32), seeded())
    layers, names = layer_shapes(model, (3, 32, 32)), prunable_names(model, prune_linear=True)
    kept = {layer.name: layer.weights // 100 for layer in layers if layer.name in names}
    flops = training_flops(layers, kept) + costs.growth_flops(layers, kept, names)
    assert flops / training_flops(layers, {}) == pytest.approx(0.342, abs=5e-4)
    assert flops == 2 * forward_flops(layers, kept) + forward_flops(layers, {})
    others = costs.other_sizes(model)
    memory = model_state_memory(layers, kept, *others, dense_gradient=names)
    assert memory / model_state_memory(layers, {}, *others) == pytest.approx((1 + 2 * 0.01) / 2, abs=2e-3)


# --- whole runs -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run():
    config = tiny(rounds=4, adjust_until=3)
    return config, *trace(config)


def test_one_client_prunes_the_dense_model_before_the_others_get_anything(run):
    config, record, _ = run
    federation = build_federation(config)
    server = federation.server
    _, initial = record["prelude"]
    state, method = prunefl.start(server), prunefl.METHOD
    ledger = begin(method, server, state, {})
    message = address(method, server, state, ledger, prunefl.INITIAL.ask(server, state, -1), [0])[0]
    assert initial["exchange"] == "initial_pruning"
    assert initial["bytes_down"] == len(message)
    assert initial["bytes_up"] < len(message) / 2
    assert initial["client_kept"] == sum(server.task.sizes.values())
    assert initial["client_state_bytes"] == model_state_memory(
        federation.task.layers, {}, *costs.other_sizes(server.model)
    )
    epoch = training_flops(federation.task.layers, {}) * len(federation.holdings.splits[0])
    assert epoch < initial["training_flops"] == initial["client_flops"]
    assert initial["asked"] == [0]
    assert unpack(message).tensors.keys() == {"weights", "mask"}


@pytest.mark.parametrize("density", [0.02, 0.5, 1.0])
@pytest.mark.parametrize("layers", ["free", "fixed"])
def test_the_budget_holds_in_every_state(density, layers):
    config = tiny(density=density, prunefl_layers=layers, rounds=3, adjust_until=3, samples=160)
    record, states = trace(config)
    server = build_federation(config).server
    for state in states:
        assert state.mask.total <= server.task.budget
        assert not any(state.weights[name][pruned].any() for name, pruned in state.mask.pruned.items())
    assert max(entry["client_kept"] for entry in record["rounds"]) <= server.task.budget


def test_adjustment_rounds_cost_a_dense_upload_and_dense_gradients(run):
    config, record, states = run
    federation = build_federation(config)
    parameters = sum(p.numel() for p in federation.server.model.parameters())
    images = sum(map(len, federation.holdings.splits))
    for r, (entry, before) in enumerate(zip(record["rounds"], states, strict=False)):
        adjusts, kept = r in (1, 2), before.mask.kept
        sparse, dense = forward_flops(federation.task.layers, kept), forward_flops(federation.task.layers, {})
        weights = 4 * len(encode_state(before.weights, before.mask))
        assert entry["training_flops"] == images * (2 * sparse + dense if adjusts else 3 * sparse)
        assert 0 < entry["bytes_up"] / 3 - weights - 4 * parameters * adjusts < 200
        # what changed of the mask goes down; in round 0 all of it, to client 0 too, which sent it
        changed = {n: k for n, k in before.mask.items() if r == 0 or not torch.equal(k, states[r - 1].mask[n])}
        assert bool(changed) == (r != 1)
        masks = len(encode_mask(changed, list(before.mask)))
        assert 0 < entry["bytes_down"] / 3 - weights - masks < 200
        assert ("adjusted" in entry) == adjusts
        names = tuple(before.mask) if adjusts else ()
        memory = model_state_memory(
            federation.task.layers, kept, *costs.other_sizes(federation.server.model), dense_gradient=names
        )
        assert entry["client_state_bytes"] == memory
    assert states[2].mask != states[1].mask
    assert states[4].mask == states[3].mask


def test_the_server_reconfigures_its_average_within_the_budget(run):
    _, record, states = run
    for entry, before, after in zip(record["rounds"], states, states[1:], strict=False):
        grown = {name: int((keep & ~before.mask[name]).sum()) for name, keep in after.mask.items()}
        grown = {name: count for name, count in grown.items() if count}
        assert entry.get("adjusted", grown) == grown
        for name, keep in after.mask.items():  # a layer loses at most its 30 %
            assert int((before.mask[name] & ~keep).sum()) <= max(0.3 * before.mask.kept[name], 1)
            assert not after.weights[name][keep & ~before.mask[name]].any()  # grown weights start at zero


def test_what_one_layer_gains_the_others_lose():
    server = build_federation(tiny()).server
    weights, counts = pretrained(server), erk_counts(server.task.mask_shapes, server.task.budget)
    state = masked_start(weights, magnitude_mask(weights, counts))
    shapes = {name: shape for name, shape in server.task.state_shapes.items() if "running_" not in name}
    squares = {name: torch.zeros(shape) for name, shape in shapes.items()}
    squares["conv4.weight"][state.mask.pruned["conv4.weight"]] = 1.0
    tensors = {"weights": encode_state(state.weights, state.mask)}
    tensors["squares"] = torch.cat([square.flatten() for square in squares.values()])
    after, note = prunefl.fold(server, state, 1, [Message({"samples": 5, "client": 0}, tensors)])
    lost = {name: int(0.15 * kept) for name, kept in counts.items()}  # 0.3 / 2 (1 + cos(pi / 2))
    gained = sum(lost.values()) + server.task.budget - sum(counts.values())
    assert note == {"adjusted": {"conv4.weight": gained}}
    assert after.mask.kept == {n: kept - lost[n] + gained * (n == "conv4.weight") for n, kept in counts.items()}
    assert after.mask.total == server.task.budget
    for name, keep in state.mask.items():
        assert torch.equal(after.mask[name] & keep, without_smallest(weights, state.mask, 0.15)[name])


def test_fixed_layers_start_as_erk_and_keep_their_counts():
    config = tiny(prunefl_layers="fixed", rounds=3, adjust_until=3)
    record, states = trace(config)
    server = build_federation(config).server
    counts = erk_counts(server.task.mask_shapes, server.task.budget)
    assert [entry["exchange"] for entry in record["prelude"]] == ["pixel_statistics"]
    assert [state.mask.kept for state in states] == [counts] * 4
    assert states[0].mask == magnitude_mask(pretrained(server), counts)
    assert all(count > 0 for count in record["rounds"][1]["adjusted"].values())


def test_fixed_layers_grow_by_squared_gradients():
    server = build_federation(tiny(prunefl_layers="fixed")).server
    state = prunefl.start(server)
    sizes = {name: shape.numel() for name, shape in server.task.state_shapes.items() if "running_" not in name}
    squares = torch.rand(sum(sizes.values()), generator=seeded(3))
    tensors = {"weights": encode_state(state.weights, state.mask), "squares": squares}
    after, note = prunefl.fold(server, state, 1, [Message({"samples": 5, "client": 0}, tensors)])
    by_name = dict(zip(sizes, squares.split(list(sizes.values())), strict=True))
    for name, keep in state.mask.items():
        grown, pruned = (after.mask[name] & ~keep).flatten(), (keep & ~after.mask[name]).flatten()
        still_out = ~(keep | after.mask[name]).flatten()
        assert grown.sum() == pruned.sum() == note["adjusted"][name] == max(1, int(0.15 * keep.sum()))
        assert by_name[name][grown].min() >= by_name[name][still_out].max()
        weight = state.weights[name].abs().flatten()
        assert weight[pruned].max() <= weight[(keep & after.mask[name]).flatten()].min()


def test_a_run_repeats_bit_for_bit(run):
    config, record, _ = run
    forget_federations()
    assert schema.canonical(simulate.run(config)) == schema.canonical(record)
