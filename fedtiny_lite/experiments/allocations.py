"""The plans that ask what FedTiny gains from candidates that differ in allocation over layers: digits, twenty seeds.

Every arm is tuned for itself, with as many trials as any method of the kit has, on two seeds and held-out training
images. The seeds of the comparison were fixed before anything was measured, and nothing was tuned on them.
"""

from collections.abc import Mapping
from pathlib import Path

from fedtiny_lite.config import Config, make_config
from fedtiny_lite.experiments.tuning import chosen, trials
from fedtiny_lite.records.bundles import load_plan

Values = Mapping[str, object]
SEEDS = tuple(range(4000, 4020))
TUNING_SEEDS = (100, 101)
DENSITIES = (0.01, 0.02)
CANDIDATES = 6
"""Each kind of candidate once."""
TRIAL_EPOCHS = 5

_FEDTINY: Values = dict(method="fedtiny", selection="adaptive", pool="paper", trial_epochs=0)
_OURS: Values = {**_FEDTINY, "pool": "allocations", "pool_size": CANDIDATES}
_FLOW_MASK: Values = {**_OURS, "selection": "fixed", "candidate": 3}
OURS, OURS_TRIED = "pool of allocations (ours)", "pool of allocations, tried (ours)"
CONTROL, CONTROL_TRIED = "SynFlow's mask, then progressive", "SynFlow's mask, tried, then progressive"
ARMS: Mapping[str, Values] = {
    OURS_TRIED: {**_OURS, "trial_epochs": TRIAL_EPOCHS},
    OURS: _OURS,
    CONTROL_TRIED: {**_FLOW_MASK, "trial_epochs": TRIAL_EPOCHS},
    CONTROL: _FLOW_MASK,
    "paper's pool, tried (ours)": {**_FEDTINY, "trial_epochs": TRIAL_EPOCHS},
    "FedTiny": _FEDTINY,
    "SynFlow": {"method": "synflow"},
    "FedMef": {"method": "fedmef"},
    "magnitude": {"method": "magnitude"},
}
"""What is compared. Tried: the server trains each candidate for some epochs before it sends it."""


def allocations_tuning(out: str | Path) -> list[Config]:
    """The trials of every arm at density 0.02."""
    return [
        make_config("digits", **settings, seed=seed, score_on="validation", density=0.02)
        for arm in ARMS.values()
        for settings in tried(arm)
        for seed in TUNING_SEEDS
    ]


def tried(arm: Values) -> list[dict]:
    """The settings that are tried for an arm: those of its method's tuning on top of its own."""
    return [{**arm, **settings} for settings in trials(str(arm["method"]))]


def tuned(out: str | Path) -> dict[str, dict]:
    """Each arm with the settings that its tuning chose. Raises FileNotFoundError if there is no tuning."""
    records, _ = load_plan("allocations_tuning", out)
    return {name: chosen(records, str(arm["method"]), tried(arm)) for name, arm in ARMS.items()}


def allocations(out: str | Path) -> list[Config]:
    """Every arm at both densities, seed by seed."""
    arms = tuned(out)
    return [
        make_config("digits", **arm, seed=seed, density=density)
        for seed in SEEDS
        for density in DENSITIES
        for arm in arms.values()
    ]


def allocations_ranking(out: str | Path) -> list[Config]:
    """Every candidate of the pool taken unjudged, at the settings of the arm that chooses among them."""
    arms = tuned(out)
    return [
        make_config("digits", **{**arms[name], "selection": "fixed", "candidate": number}, seed=seed, density=density)
        for seed in SEEDS
        for density in DENSITIES
        for name in (OURS_TRIED, OURS)
        for number in range(CANDIDATES)
    ]
