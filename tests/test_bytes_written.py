"""What a round writes does not grow with the rounds before it, nor with the clients that it does not ask."""

import itertools
from pathlib import Path

import pytest

from fedtiny_lite.simulation import setup
from fedtiny_lite.simulation.rounds import run
from tests.helpers import forget_federations, four_clients, numbered, numbered_dataset

ROUNDS, EACH, ASKED = 24, 4, 3
SETTINGS = {
    "fedtiny": dict(selection_clients=ASKED, pool_size=2, adjust_until=2),
    "lotteryfl": dict(adjust_until=1, lottery_accuracy=0.0),
    "fl_pqsu": dict(selective_upload="no"),
    "fedrts": dict(adjust_until=2),
}


@pytest.fixture
def bytes_by_round(monkeypatch, tmp_path):
    """bytes_by_round(method, clients): the bytes that a run wrote in each of its rounds; the first has the start's."""
    written, write = [0], Path.write_bytes

    def counted(path, data):
        written[0] += len(data)
        return write(path, data)

    def measure(method, clients):
        dataset = numbered_dataset(numbered(0, 5 * 5 + EACH * clients), numbered(0, 10))
        monkeypatch.setattr(setup, "load_dataset", lambda *_: dataset)
        forget_federations()
        config = four_clients(
            method=method, clients=clients, clients_per_round=ASKED, partition="iid", samples=0, test_samples=0,
            min_samples=2, rounds=ROUNDS, batch_size=4, **SETTINGS[method],
        )  # fmt: skip
        totals = []
        run(config, tmp_path / f"{method}{clients}", lambda entry, state: totals.append(written[0]))
        return [later - earlier for earlier, later in itertools.pairwise(totals)]

    monkeypatch.setattr(Path, "write_bytes", counted)
    yield measure
    forget_federations()


@pytest.mark.parametrize("method", SETTINGS)
def test_what_a_round_writes_is_bounded(method, bytes_by_round):
    """By what three clients take, whether they are three of 8 or of 200, in round 23 as in round 5.

    Numbers with a digit more and lists that are shorter by chance are a few per cent.
    """
    few, many = bytes_by_round(method, 8), bytes_by_round(method, 200)
    for found in (few, many):
        assert max(found[-5:]) <= 1.1 * max(found[5:10])
    assert max(many[1:]) <= 1.1 * max(few[1:])
