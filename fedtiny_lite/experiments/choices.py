"""The plan that asks which choice of the setting decides who is ahead: digits, density 0.01, twenty seeds.

FedTiny does not win there. Every change below is made for all arms alike. An arm keeps the settings that its tuning
chose without the change, at density 0.02; SynFlow as in the 2022 code takes those of SynFlow. The seeds were fixed
before any of these runs was seen, and nothing was tuned on them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from fedtiny_lite.config import PROFILES, Config, make_config
from fedtiny_lite.experiments import allocations, claim
from fedtiny_lite.experiments.allocations import CONTROL, Values

SEEDS = tuple(range(6000, 6020))
DENSITY = 0.01
WEAKENED = "SynFlow as in the 2022 code"
ARMS: Mapping[str, Values] = {
    "FedTiny": allocations.ARMS["FedTiny"],
    CONTROL: allocations.ARMS[CONTROL],
    "SynFlow": allocations.ARMS["SynFlow"],
    WEAKENED: claim.ARMS[WEAKENED],
    "FedMef": allocations.ARMS["FedMef"],
    "magnitude": allocations.ARMS["magnitude"],
}
AS_COMPARED = "as compared"
CHANGES: Mapping[str, Values] = {
    AS_COMPARED: {},
    "server does not train": {"pretrain_epochs": 0},
    "server trains four times as long": {"pretrain_epochs": 60},
    "server's images like the clients'": {"server_set": "as_clients"},
    "five local epochs": {"local_epochs": 5},
    "five times the rounds": {"rounds": 60, "adjust_every": 5, "adjust_until": 40},
    "five times the rounds and adjustments": {"rounds": 60, "adjust_every": 1, "adjust_until": 40},
}
"""Five local epochs and five times the rounds train alike long; momentum begins anew in every round."""


class Cell(NamedTuple):
    """What a run is for."""

    change: str
    arm: str
    seed: int


def planned(arms: Mapping[str, Values] = ARMS) -> dict[Cell, Config]:
    """The run of each change, arm and seed. Arms whose masks stay have the same run with more adjustments and without.

    `arms`: name -> settings; `ARMS` have no tuned ones.
    """
    return {
        Cell(change, name, seed): make_config(
            {**PROFILES["digits"], "density": DENSITY, **settings}, **arms[name], seed=seed
        )
        for seed in SEEDS
        for name in ARMS
        for change, settings in CHANGES.items()
    }


def digits_choices(out: str | Path) -> list[Config]:
    """The runs of the plan, at tuned settings. Raises FileNotFoundError if a tuning was not run."""
    arms = allocations.tuned(out)
    return list(planned({**arms, WEAKENED: {**arms["SynFlow"], **ARMS[WEAKENED]}}).values())
