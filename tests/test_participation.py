"""Rounds in which some clients take part: what they are sent suffices, and who they are depends on the seed alone."""

import itertools
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtiny_lite.config import METHODS, load_method, make_config
from fedtiny_lite.federated import ledger as ledger_module
from fedtiny_lite.federated.formats import encode_mask
from fedtiny_lite.federated.ledger import SHARED, Ledger, address
from fedtiny_lite.federated.messages import unpack
from fedtiny_lite.federated.participation import in_round
from fedtiny_lite.federated.state import Question, masked_start
from fedtiny_lite.methods import _selection as selection_exchanges
from fedtiny_lite.methods._selection import judges
from fedtiny_lite.model.masks import Mask
from fedtiny_lite.records import schema
from fedtiny_lite.records.files import ROOT
from fedtiny_lite.simulation import places
from fedtiny_lite.simulation.rounds import run
from fedtiny_lite.simulation.setup import build_federation
from tests.helpers import Reordered, four_clients, interrupted, trace

TEN = dict(clients=10, clients_per_round=3, rounds=8, adjust_until=8)


def ten(method="fedtiny", **settings):
    """Three of ten clients a round, and an adjustment in every round but the first."""
    return four_clients(method=method, **TEN | settings)


def with_whole_masks(config) -> tuple[dict, list]:
    """Record and states of the same run, where every client is sent its whole mask with each question."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger_module, "lacking", lambda versions, held: list(versions))
        return trace(config)


def assert_equal_states(states, expected):
    assert len(states) == len(expected)
    for state, other in zip(states, expected, strict=True):
        assert state.mask == other.mask and list(state.weights) == list(other.weights)
        assert all(torch.equal(tensor, other.weights[name]) for name, tensor in state.weights.items())


@pytest.fixture
def sent(monkeypatch):
    """(index, r) -> client -> the question that it was sent."""
    found, inner = {}, places.answer

    def spy(call, k, message, memory):
        index, r = call.index, call.r
        found.setdefault((index, r), {})[k] = unpack(message)
        return inner(call, k, message, memory)

    monkeypatch.setattr(places, "answer", spy)
    return found


# --- what is sent suffices --------------------------------------------------------------------------------


def test_layers_that_changed_are_as_good_as_whole_masks():
    """Bit for bit, while clients miss one adjustment or many; and it costs less."""
    (record, states), (reference, expected) = trace(ten()), with_whole_masks(ten())
    assert [bool(entry.get("adjusted")) for entry in record["rounds"]] == [False] + [True] * 7
    assert_equal_states(states, expected)
    assert [entry["asked"] for entry in record["rounds"]] == [entry["asked"] for entry in reference["rounds"]]
    down, whole = (r["final"]["bytes_down"] for r in (record, reference))
    assert down < whole and record["final"]["bytes_up"] == reference["final"]["bytes_up"]
    rounds = {k: [r for r, entry in enumerate(record["rounds"]) if k in entry["asked"]] for k in range(10)}
    gaps = {after - before for r in rounds.values() for before, after in itertools.pairwise(r)}
    assert 1 in gaps and max(gaps) > 2  # some come again at once, others after a while


@settings(deadline=None, max_examples=15)
@given(st.sampled_from(METHODS), st.integers(1, 4), st.integers(0, 3))
def test_no_method_needs_whole_masks_whoever_takes_part(method, per_round, seed):
    config = four_clients(method=method, rounds=4, adjust_until=4, clients_per_round=per_round, seed=seed)
    (record, states), (_, expected) = trace(config), with_whole_masks(config)
    assert_equal_states(states, expected)
    assert all(len(entry["asked"]) == per_round for entry in record["rounds"])
    assert record["complete"] and all(entry["rejected_clients"] == [] for entry in record["rounds"])


@pytest.mark.parametrize("method", METHODS)
def test_who_does_not_take_part_is_not_asked_and_does_not_count(method, sent):
    """Before training all are asked; the average of a round is over its own clients."""
    config = four_clients(method=method, rounds=3, adjust_until=3, clients_per_round=2)
    record = run(config)
    for (index, r), messages in sent.items():
        if index == -1:
            assert sorted(messages) == record["rounds"][r]["asked"] == in_round(config, r)
        else:
            assert sorted(messages) == ([0] if method == "prunefl" else [0, 1, 2, 3])
    assert len({tuple(entry["asked"]) for entry in record["rounds"]}) > 1
    asked_first = {"fedtiny": 2, "ssfl": 1, "prunefl": 1, "lotteryfl": 1}.get(method, 0)
    assert len(record["prelude"]) == 1 + asked_first


# --- bytes, by hand ---------------------------------------------------------------------------------------


def header(tensors: list, **meta) -> int:
    return len(json.dumps({"meta": meta, "tensors": tensors}, separators=(",", ":")))


def test_a_question_holds_just_the_layers_that_its_client_lacks(server):
    """Each layer keeps its first weight. A layer's mask takes 7 bytes and: conv2, one of 72, 7 bits; the others, one of
    288, 576 and 320, 9 or 10 bits. The layers changed last in version 1, 3, 2 and 1.
    """
    method, task = load_method("magnitude"), server.task
    mask = Mask({name: torch.arange(shape.numel()).view(shape) == 0 for name, shape in task.mask_shapes.items()})
    state = masked_start({name: torch.ones(shape) for name, shape in task.state_shapes.items()}, mask)
    versions = dict(zip(task.mask_shapes, (1, 3, 2, 1), strict=True))
    held = {0: 3, 1: 2, 2: 1, 4: 9}  # client 3 never answered, and there is no version 9
    messages = address(method, server, state, Ledger({SHARED: versions}, held), Question(), [0, 1, 2, 3, 4])
    values = 4 + 18 + 4 * 22 + 10  # one of each layer; conv1; scale, shift, mean, variance of 2+4+8+8 maps; biases
    mask_bytes = {"conv2.weight": 8, "conv3.weight": 9, "conv4.weight": 9, "linear.weight": 9}
    for k, layers in enumerate(([], ["conv3.weight"], ["conv3.weight", "conv4.weight"], mask_bytes, mask_bytes)):
        size = sum(mask_bytes[name] for name in layers)
        tensors = [["weights", "float32", [values]], *([["mask", "uint8", [size]]] if layers else [])]
        known = held.get(k, 0)
        assert len(messages[k]) == 12 + header(tensors, version=3, known=known) + 4 * values + size


def test_the_bytes_of_every_round_are_those_of_what_its_clients_lack():
    record, states = trace(ten(selection="fixed"))
    held, version, before = {}, {}, None
    number = 0
    for r, (entry, state) in enumerate(zip(record["rounds"], states, strict=False)):
        if before is None or state.mask != before:
            number, before = number + 1, state.mask
        grow = {"grow": entry["adjusted"]} if entry.get("adjusted") else {}
        values = sum(state.mask.kept.values()) + 18 + 4 * 22 + 10
        total = 0
        for k in entry["asked"]:
            mine = held.get(k)
            layers = {
                name: keep
                for name, keep in state.mask.items()
                if mine is None or name in changed_since(states, mine, r)
            }
            packed = encode_mask(layers, list(state.mask))
            tensors = [["weights", "float32", [values]], *([["mask", "uint8", [len(packed)]]] if layers else [])]
            total += 12 + header(tensors, **grow, version=number, known=version.get(k, 0)) + 4 * values + len(packed)
            held[k], version[k] = r, number
        assert entry["bytes_down"] == total


def changed_since(states, first: int, last: int) -> set[str]:
    """The layers whose mask changed in a fold from round `first` on and before `last`; states[r] is that before r."""
    pairs = zip(states[first:last], states[first + 1 : last + 1], strict=True)
    return {name for a, b in pairs for name in a.mask if not torch.equal(a.mask[name], b.mask[name])}


# --- who takes part ---------------------------------------------------------------------------------------


def test_clients_are_drawn_by_seed_and_round_and_all_get_their_turn():
    config = make_config(clients=10, clients_per_round=3)
    rounds = [in_round(config, r) for r in range(200)]
    assert all(len(set(asked)) == 3 and asked == sorted(asked) and set(asked) <= set(range(10)) for asked in rounds)
    counts = np.bincount(np.concatenate(rounds), minlength=10)
    assert counts.min() > 35 and counts.max() < 85  # 60 expected, standard deviation 6.5
    assert len({tuple(asked) for asked in rounds}) > 70  # of 120
    assert rounds[:20] != [in_round(config.changed(seed=1), r) for r in range(20)]
    assert rounds[:20] == [in_round(config.changed(method="snip", lr=0.1, workers=3), r) for r in range(20)]
    for everyone in (0, 10):
        assert in_round(config.changed(clients_per_round=everyone), 7) == list(range(10))
    assert in_round(config, -1) == list(range(10))


def test_more_clients_than_there_are_cannot_take_part():
    with pytest.raises(ValueError, match=r"clients_per_round = 11: there are 10 clients; .*0 for all"):
        make_config(clients=10, clients_per_round=11)


def test_they_are_the_same_in_every_process():
    program = (
        "from fedtiny_lite.config import make_config; from fedtiny_lite.federated.participation import in_round;"
        "print([in_round(make_config(clients=10, clients_per_round=3, seed=4), r) for r in range(9)])"
    )
    found = [
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("0", "1")
    ]
    config = make_config(clients=10, clients_per_round=3, seed=4)
    assert found == [str([in_round(config, r) for r in range(9)])] * 2


EVENTFUL = {"lotteryfl": dict(lottery_accuracy=0.15), "fl_pqsu": dict(lr=0.3)}


def some(method: str, **more):
    """Three of five clients in each of five rounds."""
    own = dict(clients=5, clients_per_round=3, rounds=5, adjust_until=5) | EVENTFUL.get(method, {})
    return four_clients(method=method, **own | more)


@pytest.mark.parametrize("method", METHODS)
def test_neither_order_nor_an_interruption_changes_the_record(method, tmp_path):
    expected = schema.canonical(run(some(method)))
    interrupted(some(method), tmp_path, after=2)
    assert schema.canonical(run(some(method), tmp_path)) == expected
    assert schema.canonical(run(some(method), place=Reordered(some(method), reversed))) == expected


@pytest.mark.slow
@pytest.mark.parametrize("method, workers", [("fedtiny", 2), ("lotteryfl", 3)])
def test_neither_do_workers(method, workers, tmp_path):
    """Of which one run is interrupted, and ends in this process."""
    expected = schema.canonical(run(some(method)))
    interrupted(some(method, workers=workers), tmp_path, after=2)
    assert schema.canonical(run(some(method), tmp_path)) == expected
    assert schema.canonical(run(some(method, workers=5 - workers))) == expected


KILLED = """
import json, os, signal, sys
from fedtiny_lite.config import make_config
from fedtiny_lite.simulation.rounds import run

def die(entry, state):
    if entry["round"] == 2:
        os.kill(os.getpid(), signal.SIGKILL)

run(make_config({}, **json.loads(sys.argv[1])), sys.argv[2], die)
"""


@pytest.mark.parametrize("method", ["fedtiny", "lotteryfl", "fl_pqsu"])
def test_neither_does_a_kill(method, tmp_path):
    arguments = [sys.executable, "-c", KILLED, json.dumps(some(method).identity()), tmp_path]
    assert subprocess.run(arguments, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    seen = []
    record = run(some(method), tmp_path, lambda entry, state: seen.append(entry["round"]))
    assert seen == [3, 4]
    assert schema.canonical(record) == schema.canonical(run(some(method)))


# --- who judges the pool ----------------------------------------------------------------------------------


@pytest.mark.parametrize("selection", ["adaptive", "vanilla", "server"])
def test_as_many_clients_judge_the_pool_as_are_set_and_the_same_in_both_exchanges(selection, sent):
    config = ten(selection=selection, selection_clients=4, rounds=2)
    record = run(config)
    expected = judges(config, -1)
    assert len(expected) == 4
    exchanges = record["prelude"][1:]
    assert [entry["asked"] for entry in exchanges] == [expected] * len(exchanges)
    assert [sorted(sent[index, -1]) for index in range(len(exchanges))] == [expected] * len(exchanges)
    assert record["prelude"][0]["asked"] == list(range(10))  # the pixels of all
    for k, message in sent[-1, 0].items():  # who judged holds the union of the pool, the others nothing
        assert message.meta["known"] == (1 if k in expected else 0)
        assert "mask" in message.tensors


def test_the_choice_is_that_of_the_judges(monkeypatch):
    answers, inner = {}, places.answer

    def spy(call, k, message, memory):
        found = inner(call, k, message, memory)
        answers[call.index, k] = unpack(found.reply)
        return found

    monkeypatch.setattr(places, "answer", spy)
    config = ten(selection_clients=4, rounds=0)
    choice = run(config)["prelude"][-1]["selection"]
    voters = [answers[1, k] for k in judges(config, -1)]
    losses = sum(v.tensors["loss"].numpy() for v in voters) / sum(v.meta["judged"] for v in voters)
    np.testing.assert_allclose(choice["losses"], losses, rtol=1e-12)
    assert choice["chosen"] == int(losses.argmin())


def test_judges_are_drawn_by_the_seed():
    drawn = {seed: judges(ten(selection_clients=4, seed=seed), -1) for seed in range(5)}
    assert all(len(set(found)) == 4 for found in drawn.values())
    assert len({tuple(found) for found in drawn.values()}) > 1
    assert judges(ten(selection_clients=0), -1) == judges(ten(selection_clients=10), -1) == list(range(10))
    with pytest.raises(ValueError, match=r"selection_clients = 11: there are 10 clients; 0 asks all"):
        run(ten(selection_clients=11))


def test_missing_judges_are_refused_before_the_server_trains(monkeypatch):
    def trained(server):
        raise AssertionError("the server has begun to train")

    monkeypatch.setattr(selection_exchanges, "pretrained", trained)
    with pytest.raises(ValueError, match="selection_clients = 11"):
        run(ten(selection_clients=11))


def test_a_federation_of_more_judges_costs_more():
    few, all_of_them = (run(ten(selection_clients=count, rounds=0)) for count in (2, 0))
    for name in ("bytes_up", "bytes_down", "training_flops"):
        assert few["final"][name] < 0.4 * all_of_them["final"][name]
    assert build_federation(ten(selection_clients=2, rounds=0)).task.config.clients == 10
