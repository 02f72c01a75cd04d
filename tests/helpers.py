"""What several test files need beside fixtures: seeded generators, small runs, runs that are watched or interrupted.

A test file imports from here by name: `from tests.helpers import seeded, three_clients`. Fixtures stand in conftest.py.
"""

import struct
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from torch import nn

from fedtiny_lite.config import PROFILES, Config, load_method, make_config
from fedtiny_lite.data.datasets import Dataset, Split
from fedtiny_lite.experiments.claim import ARMS, config_of
from fedtiny_lite.federated.client import Client, take_mask
from fedtiny_lite.federated.ledger import address, begin
from fedtiny_lite.federated.messages import Message, unpack
from fedtiny_lite.federated.state import State
from fedtiny_lite.simulation import rounds as simulate
from fedtiny_lite.simulation import setup
from fedtiny_lite.simulation.places import InProcess, Place

THREE_CLIENTS = dict(samples=240, test_samples=60, server_shots=6, clients=3, width=4, density=0.2)
"""Clients with 50 to 60 digits each, and a small CNN in which every block can be adjusted."""
FOUR_CLIENTS = dict(samples=300, test_samples=60, server_shots=5, width=2, density=0.2, pretrain_epochs=1)
"""The clients of profile smoke, the smallest CNN and hardly any pretraining."""


def three_clients(**settings) -> Config:
    """A run of `THREE_CLIENTS`, with those of `settings` that its method has.

    A test file whose runs differ from it binds its own settings with `partial`."""
    return make_config(PROFILES["smoke"] | THREE_CLIENTS | settings)


def four_clients(**settings) -> Config:
    """A run of `FOUR_CLIENTS`, likewise."""
    return make_config(PROFILES["smoke"] | FOUR_CLIENTS | settings)


def claim_record(
    arm: str, accuracies: list[float], flops: int, seed: int = 10, before: int = 0, complete: bool = True, **settings
) -> dict:
    """A run of the plan `claim` whose rounds cost `flops` each after `before`; the first accuracy is that at the start.

    `settings`: what differs from the plan's at its middle density.
    """
    config = config_of(ARMS[arm], seed=seed, **settings)
    method = load_method(config.method)
    start, *rounds = [{"test_accuracy": a, "model_density": 0.01} for a in accuracies]
    return {
        "run_id": arm,
        "config": config.identity(),
        "method": {"label": method.label, "family": method.family},
        "environment": {"cpu": "a processor", "packages": {"torch": "2"}, "commit": "abcdef012345"},
        "complete": complete,
        "prelude": [{"training_flops": before}],
        "start": start,
        "rounds": [entry | {"round": r, "training_flops": flops} for r, entry in enumerate(rounds)],
        "final": {"test_accuracy": accuracies[-1]} if complete else {},
    }


def trace(config: Config, **keywords) -> tuple[dict, list]:
    """The record of a run, and the states at its start and after each round."""
    states = []
    return simulate.run(config, on_round=lambda entry, state: states.append(state), **keywords), states


def asked(federation: setup.Federation, state: State, r: int, k: int = 0) -> tuple[Client, Message]:
    """Client k, which was never asked before and has taken its mask, and its training question of round r."""
    server, config = federation.server, federation.task.config
    method = load_method(config.method)
    question = method.training.ask(server, state, r)
    message = unpack(address(method, server, state, begin(method, server, state, {}), question, [k])[k])
    client = setup.client_of(config, federation.task.pixels, k, r)
    assert take_mask(client, message)
    return client, message


def forget_federations() -> None:
    """Build what runs share anew: for tests that exchange the data set under it, before and after."""
    for remembered in (setup.hand_out, setup.build_federation, setup._task, setup._scratch):
        remembered.cache_clear()


class Stop(Exception):
    """Stands for an interruption."""


class Reordered(InProcess):
    """The clients of a run in this process, asked in the order into which `order` brings them."""

    def __init__(self, config: Config, order: Callable[[list[int]], Iterable[int]], folder: Path | None = None):
        super().__init__(config, folder)
        self.order, self.executed = order, []

    def ask(self, call, questions):
        questions = {k: questions[k] for k in self.order(list(questions))}
        self.executed += questions
        return super().ask(call, questions)


def interrupted(config: Config, out: Path, after: int = 0, place: Place | None = None):
    """The state after round `after`, at which the run in `out` was interrupted."""
    states = []

    def stop(entry, state):
        states.append(state)
        if entry["round"] == after:
            raise Stop

    with pytest.raises(Stop):
        simulate.run(config, out, stop, place)
    return states[-1]


def sealed(content: bytes) -> bytes:
    """The content of a message, with the checksum that makes it whole."""
    return content + struct.pack("<I", zlib.crc32(content))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def numbered(first: int, count: int, background: torch.Tensor | None = None) -> Split:
    """Images of five classes that carry their own number in the first two pixels, on black unless told."""
    number = torch.arange(first, first + count)
    images = torch.zeros(count, 1, 8, 8, dtype=torch.uint8) if background is None else background.to(torch.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = number // 256, number % 256
    return Split(images, number % 5)


def numbers(split: Split) -> list[int]:
    """What `numbered` images carry."""
    return (split.images[:, 0, 0, 0].int() * 256 + split.images[:, 0, 0, 1]).tolist()


def numbered_dataset(train: Split, test: Split) -> Dataset:
    return Dataset("numbered", train, test, tuple("abcde"), "")


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that ended and was not yet collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
