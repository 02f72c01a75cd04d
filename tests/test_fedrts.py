"""FedRTS: votes, posteriors and draws on toy layers, and a whole run."""

from copy import deepcopy as copy
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtiny_lite.federated.formats import decode_mask
from fedtiny_lite.methods import fedrts
from fedtiny_lite.model.masks import Mask, erk_counts
from fedtiny_lite.pruning.thompson import draw_mask, kept_outcomes, observe, prior, pruned_outcomes
from fedtiny_lite.seeding import numpy_generator
from fedtiny_lite.simulation import rounds as simulate
from fedtiny_lite.simulation.setup import build_federation
from tests.helpers import asked, three_clients, trace

tiny = partial(three_clients, method="fedrts")
"""A mask is drawn in round 1."""
pytestmark = pytest.mark.usefixtures("one_thread")


# --- votes ------------------------------------------------------------------------------------------------


def test_kept_weights_are_judged_by_the_average_and_by_each_client():
    mean = torch.tensor([3.0, 1.0, -2.0, 0.0])  # its core: 0 and 2
    clients = [torch.tensor([1.0, -5.0, 4.0, 0.0]), torch.tensor([9.0, 0.0, 0.5, -1.0])]  # 1 and 2; 0 and 3
    outcomes = kept_outcomes(mean, clients, [0.75, 0.25], core=2, fusion=0.5)
    assert outcomes.tolist() == [0.5 + 0.125, 0.375, 0.5 + 0.375, 0.125]


@pytest.mark.parametrize(("fusion", "expected"), [(0.0, [1.0, 0.0]), (1.0, [0.25, 0.75])])
def test_fusion_weighs_the_clients_against_the_average(fusion, expected):
    clients = [torch.tensor([1.0, 2.0]), torch.tensor([2.0, 1.0])]
    assert kept_outcomes(torch.tensor([2.0, 1.0]), clients, [0.75, 0.25], 1, fusion).tolist() == expected


def test_pruned_positions_are_judged_by_who_lists_them_and_by_an_undecided_average():
    votes = [torch.tensor([True, False, True]), torch.tensor([True, False, False])]
    assert pruned_outcomes(votes, [0.75, 0.25], fusion=0.5).tolist() == [0.75, 0.25, 0.25 + 0.375]
    assert pruned_outcomes(votes, [0.75, 0.25], fusion=0.0).tolist() == [0.5, 0.5, 0.5]


def test_a_posterior_counts_what_it_saw_and_where():
    flat = prior(3)
    seen = observe(flat, torch.tensor([True, False, True]), torch.tensor([0.625, 0.25], dtype=torch.float64), 10)
    assert seen.tolist() == [[7.25, 1.0, 3.5], [4.75, 1.0, 8.5]]
    assert flat.tolist() == [[1, 1, 1], [1, 1, 1]] and seen.dtype == torch.float32


# --- draws ------------------------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30))
def test_a_weight_beats_a_flat_one_as_often_as_its_beta_mean(alpha, beta):
    """P(X > U) = E[X] for a uniform U: the share of draws is alpha / (alpha + beta), within five deviations."""
    posterior = {"w": torch.tensor([[1.0, alpha], [1.0, beta]])}
    mask, rng = Mask({"w": torch.tensor([True, False])}), np.random.default_rng(0)
    wins = np.mean([draw_mask(posterior, mask, rng)["w"][1].item() for _ in range(800)])
    assert wins == pytest.approx(alpha / (alpha + beta), abs=5 * 0.5 / 800**0.5)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=4), st.integers(0, 99))
def test_a_draw_keeps_as_many_weights_in_each_layer(shapes, seed):
    rng = np.random.default_rng(seed)
    mask = Mask({f"w{i}": torch.from_numpy(rng.random(shape) < 0.4) for i, shape in enumerate(shapes)})
    posteriors = {n: torch.from_numpy(rng.uniform(1, 500, (2, k.numel()))).float() for n, k in mask.items()}
    drawn = draw_mask(posteriors, mask, np.random.default_rng(seed))
    assert drawn.kept == mask.kept
    assert drawn == draw_mask(posteriors, mask, np.random.default_rng(seed))


def test_what_every_round_praised_is_kept():
    posterior = {"w": torch.tensor([[1000.0, 1.0, 1000.0, 1.0], [1.0, 1000.0, 1.0, 1000.0]])}
    mask = Mask({"w": torch.tensor([False, True, True, False])})
    assert draw_mask(posterior, mask, np.random.default_rng(0))["w"].tolist() == [True, False, True, False]


# --- the whole method -------------------------------------------------------------------------------------


def test_clients_vote_with_indices_of_pruned_positions_alone():
    federation = build_federation(tiny())
    server = federation.server
    state = fedrts.start(server)
    client, message = asked(federation, state, 1)
    answer = fedrts.answer(client, message)
    assert set(answer.tensors) == {"weights", "votes"}
    votes = decode_mask(answer.tensors["votes"], server.task.mask_shapes)
    assert {name: int(vote.sum()) for name, vote in votes.items()} == message.meta["grow"]
    assert not any((vote & state.mask[name]).any() for name, vote in votes.items())


def test_kept_weights_are_observed_in_every_round_and_pruned_ones_in_adjustments():
    """Each observation adds lambda = 10 to alpha + beta; nothing is learned once adjustments have stopped."""
    _, states = trace(tiny(rounds=3))
    for name, keep in states[0].mask.items():
        counted = [state.extra[name].sum(0).view(keep.shape) - 2 for state in states]
        assert torch.allclose(counted[0], torch.zeros(()))
        assert torch.allclose(counted[1], 10.0 * keep)
        assert not keep.all() and torch.allclose(counted[2], 10.0 + 10.0 * keep)
        assert torch.equal(states[3].extra[name], states[2].extra[name])
        assert states[3].extra[name].dtype == torch.float32


def test_the_first_observation_by_hand():
    """After round 0 alpha - 1 of a kept weight is 10 (half the average's vote, half the clients')."""
    config = tiny(rounds=1)
    _, (start, state) = trace(config)
    for name, keep in start.mask.items():
        core = keep.sum() - min(max(int(config.of(fedrts.Settings).adjust_rate * keep.sum()), 1), (~keep).sum())
        ranked = state.weights[name][keep].abs().argsort(descending=True)
        gained = (state.extra[name][0] - 1).view(keep.shape)[keep]
        assert (gained[ranked[:core]] >= 5).all() and (gained[ranked[core:]] <= 5).all()
        assert gained.sum() == pytest.approx(10 * float(core), rel=1e-5)


def test_a_run_stays_in_its_budget_and_repeats_bit_for_bit():
    config = tiny(rounds=3)
    (record, states), (_, again) = trace(config), trace(config)
    server = build_federation(config).server
    assert states[0].mask.kept == erk_counts(server.task.mask_shapes, server.task.budget)
    assert [state.mask.kept for state in states] == [states[0].mask.kept] * 4
    assert all(entry["client_kept"] <= server.task.budget for entry in record["rounds"])
    grown = {n: int((k & ~states[1].mask[n]).sum()) for n, k in states[2].mask.items()}
    assert record["rounds"][1]["adjusted"] == {n: count for n, count in grown.items() if count} != {}
    assert "adjusted" not in record["rounds"][0] | record["rounds"][2]
    assert all(torch.equal(tensor, again[-1].weights[name]) for name, tensor in states[-1].weights.items())
    assert states[-1].mask == again[-1].mask


def test_every_adjustment_draws_numbers_of_its_own(monkeypatch):
    """Round r draws from the seed, the purpose and r."""
    first, inner = [], fedrts.draw_mask
    monkeypatch.setattr(fedrts, "draw_mask", lambda *given: first.append(copy(given[2]).random()) or inner(*given))
    config = tiny(rounds=4, adjust_until=4)
    simulate.run(config)
    assert first == [numpy_generator(config.seed, "thompson", r).random() for r in (1, 2, 3)]


def test_grown_weights_start_at_zero():
    _, states = trace(tiny())
    for name, keep in states[2].mask.items():
        assert not states[2].weights[name][keep & ~states[1].mask[name]].any()


def test_an_interrupted_run_resumes_with_its_posteriors(tmp_path):
    config = tiny()
    whole, _ = trace(config)

    def stop(entry, state):
        if entry["round"] == 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate.run(config, tmp_path, on_round=stop)
    resumed = simulate.run(config, tmp_path)
    assert resumed["final"]["test_loss"] == whole["final"]["test_loss"]
    assert resumed["final"]["kept"] == whole["final"]["kept"]
