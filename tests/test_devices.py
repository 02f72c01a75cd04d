"""What notebook 08 looks at: a run in which clients fall silent, versions, the parts of a message, bytes by kind."""

from functools import partial

import pytest
import torch

from fedtiny_lite.config import load_method
from fedtiny_lite.experiments import devices
from fedtiny_lite.federated.ledger import lacking, needed
from fedtiny_lite.federated.messages import pack
from fedtiny_lite.model.masks import Mask
from fedtiny_lite.records.schema import canonical
from fedtiny_lite.simulation.rounds import run
from fedtiny_lite.simulation.setup import build_federation
from tests.helpers import four_clients, trace

tiny = partial(four_clients, rounds=4, adjust_until=4, selection="fixed")


def test_a_silent_client_is_lost_in_that_round_and_sent_more_in_the_next():
    calm = run(tiny())
    record = run(tiny(), place=devices.WithSilences(tiny(), {(2, 3): "gone"}))
    assert devices.silences(record) == {(2, 3): "gone"} and devices.silences(calm) == {}
    assert canonical({"rounds": record["rounds"][:2]}) == canonical({"rounds": calm["rounds"][:2]})
    down = [[entry["bytes_down"] for entry in found["rounds"]] for found in (record, calm)]
    assert down[0][:3] == down[1][:3] and down[0][3] > down[1][3]  # it lacks two adjustments then
    again = run(tiny(), place=devices.WithSilences(tiny(), devices.silences(record)))
    assert canonical(again) == canonical(record)


def test_versions_count_the_adjustments_of_a_layer():
    _, states = trace(tiny())
    server = build_federation(tiny()).server
    found = devices.versions_after(load_method("fedtiny"), server, states)
    assert len(found) == len(states) and set(found[0].values()) == {1} and found[0] == found[1]  # nothing in round 0
    for old, new, before, after in zip(found, found[1:], states, states[1:], strict=False):
        changed = [name for name in new if bool((before.mask[name] != after.mask[name]).any())]
        assert lacking(new, max(old.values())) == changed


def test_parts_of_a_question_add_up():
    """Five numbers, two of them kept weights, without and with three bytes of mask."""
    mask, weights = Mask({"layer": torch.tensor([True, False, True])}), {"weights": torch.zeros(5)}
    for tensors in (weights, weights | {"mask": torch.zeros(3, dtype=torch.uint8)}):
        packed = pack(tensors, version=1)
        of_mask = 3 * (len(tensors) - 1)
        expected = {"header": len(packed) - 20 - of_mask, "kept weights": 8, "never pruned": 12, "mask": of_mask}
        assert devices.parts_of(packed, mask) == expected


def test_bytes_by_kind_are_those_of_one_client():
    entry = {"asked": [0, 1, 2, 3], "bytes_down": 40, "bytes_up": 30, "lost": {"1": "gone"}}
    record = {"prelude": [{"exchange": "bn_statistics"} | entry], "rounds": [entry, entry | {"bytes_down": 80}]}
    assert devices.kinds_of(record) == {"bn statistics": (10, 10), "round": (15, 10)}


@pytest.mark.parametrize(("asked", "least", "expected"), [(4, 1, 2), (5, 1, 2.5), (4, 3, 3), (4, 9, 4)])
def test_half_of_those_asked_and_the_least_number_are_needed(asked, least, expected):
    assert needed(asked, least) == expected
