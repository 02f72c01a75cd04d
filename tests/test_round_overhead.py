"""The benchmark's arithmetic and its turns; times themselves are never asserted."""

from dataclasses import replace

import pytest
import torch

from benchmarks import round_overhead as bench
from fedtiny_lite.federated.server import full_mask
from fedtiny_lite.model.networks import state_of
from fedtiny_lite.simulation.setup import build_federation
from fedtiny_lite.sparse.network import SparseNetwork
from tests.helpers import seeded

SHORT = replace(bench.DIGITS, rounds=2, clients=4, samples=300)


def test_rounds_take_turns():
    calls = []
    other = replace(SHORT, seed=1)
    bench.alternate([SHORT, other], lambda number, entry, state, wall: calls.append((entry["round"], number)))
    assert calls == [(r, number) for r in (-1, 0, 1) for number in (0, 1)]


def test_a_failed_run_does_not_hold_up_the_other():
    calls = []
    broken = replace(SHORT, lr=1e17)
    with pytest.raises(FloatingPointError):
        bench.alternate([broken, SHORT], lambda number, entry, state, wall: calls.append((entry["round"], number)))
    assert (1, 1) in calls


def test_each_round_after_the_first_is_timed():
    timings = bench.time_rounds([replace(SHORT, rounds=3)])
    assert [row["adjusted"] for row in timings] == [False, True]  # adjusted in rounds 2, 4, ...
    assert timings[1]["bare"] == pytest.approx((timings[0]["after"] + timings[1]["after"]) / 2)
    assert all(row.keys() == {"round0", "after", "bare", "checkpoint", "adjusted"} for row in timings)


@pytest.mark.parametrize("engine", ["dense", "sparse"])
def test_bare_loop_takes_the_steps_of_a_round(engine):
    config = replace(SHORT, local_epochs=2, engine=engine)
    federation = build_federation(config)
    taken, step = [], bench.bare_step(config, federation)(full_mask(federation.task.mask_shapes))
    # batches of 16; a last one of a single image joins the one before it
    steps = [-(-len(split) // 16) - (len(split) % 16 == 1) for split in federation.holdings.splits]
    assert (
        bench.bare_round(lambda *batch: taken.append(step(*batch)), federation, config) == 2 * sum(steps) == len(taken)
    )


def test_bare_steps_of_both_engines_train():
    federation = build_federation(SHORT)
    model, mask = federation.server.model, full_mask(federation.task.mask_shapes)
    before, images = state_of(model), torch.randn(16, 1, 8, 8, generator=seeded())
    network = SparseNetwork(model, (1, 8, 8))
    for step in (bench.sparse_step(network, model, mask, SHORT), bench.dense_step(model, SHORT)):
        step(images, torch.arange(16) % 10)
    network.weight.sub_(model.linear.weight.detach())
    assert not torch.equal(before["conv2.weight"], state_of(model)["conv2.weight"])
    assert float(network.weight.abs().max()) < 1e-4  # the same step


def row(round0, bare, adjusted, round1=1.0):
    return {"round0": round0, "round1": round1, "bare": bare, "adjusted": adjusted, "checkpoint": 0}


def test_verdict_is_the_median_of_pairs(capsys):
    # ratios 1.1, 1.2 and 3.0 (a disturbed round); adjusting rounds have no target
    timings = [row(1.1, 1.0, False), row(2.4, 2.0, False), row(3.0, 1.0, False), row(9.0, 1.0, True)]
    assert bench.overhead("x", timings, 1.2) == []
    [miss] = bench.overhead("x", timings, 1.19)
    assert "1.200" in miss and "1.19" in miss
    assert "ratio 9.000 (1 pairs), no target" in capsys.readouterr().out


def test_speed_up_of_two_workers():
    assert bench.speed_up([row(1.6, 1, False), row(1.7, 1, False), row(1.8, 1, False)]) == []
    [miss] = bench.speed_up([row(1.5, 1, False)])
    assert "1.50" in miss
