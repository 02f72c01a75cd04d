"""The plans that ask what FedTiny gains from candidates that differ in allocation over layers: digits, twenty seeds.

Every arm begins with as many trials as any method of the kit, on two seeds and held-out training images: those of
`TUNED` in a plan of their own, the others in the plan `digits_tuning`. The seeds of the comparison were fixed before
anything was measured, and nothing was tuned on them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from fedtiny_lite.config import Config, make_config
from fedtiny_lite.experiments.tuning import chosen, grid, trials, widened
from fedtiny_lite.records.bundles import load_plan, records_so_far

Values = Mapping[str, object]
SEEDS = tuple(range(4000, 4020))
TUNING_SEEDS = (100, 101)
DENSITIES = (0.01, 0.02)
RANKED = 0.01
"""The density at which candidates are ranked."""
CANDIDATES = 6
"""Each kind of candidate once."""
TRIAL_EPOCHS = 5

_FEDTINY: Values = dict(method="fedtiny", selection="adaptive", progressive="yes", pool="paper", trial_epochs=0)
_OURS: Values = {**_FEDTINY, "pool": "allocations", "pool_size": CANDIDATES}
_FLOW_MASK: Values = {**_OURS, "selection": "fixed", "candidate": 3}
OURS, OURS_TRIED = "pool of allocations (ours)", "pool of allocations, tried (ours)"
CONTROL, CONTROL_TRIED = "SynFlow's mask, then progressive", "SynFlow's mask, tried, then progressive"
STATIC_TRIED = "SynFlow's mask, tried, static"
ARMS: Mapping[str, Values] = {
    OURS_TRIED: {**_OURS, "trial_epochs": TRIAL_EPOCHS},
    OURS: _OURS,
    CONTROL_TRIED: {**_FLOW_MASK, "trial_epochs": TRIAL_EPOCHS},
    CONTROL: _FLOW_MASK,
    STATIC_TRIED: {**_FLOW_MASK, "trial_epochs": TRIAL_EPOCHS, "progressive": "no"},
    "paper's pool, tried (ours)": {**_FEDTINY, "trial_epochs": TRIAL_EPOCHS},
    "FedTiny": _FEDTINY,
    "SynFlow": {"method": "synflow"},
    "FedMef": {"method": "fedmef"},
    "magnitude": {"method": "magnitude"},
}
"""What is compared. Tried: the server trains each candidate for some epochs before it sends it."""
TUNED = (OURS_TRIED, OURS, CONTROL_TRIED, CONTROL, STATIC_TRIED)


def allocations_tuning(out: str | Path) -> list[Config]:
    """The trials of `TUNED`, at the density at which all methods are tuned."""
    records = records_so_far("allocations_tuning", out)
    return [
        make_config("digits", **settings, seed=seed, score_on="validation")
        for name in TUNED
        for settings in tried(records, ARMS[name])
        for seed in TUNING_SEEDS
    ]


def tried(records: Sequence[dict], arm: Values) -> list[dict]:
    """The settings that are tried for an arm: those of its method's tuning on top of its own, widened."""
    method = str(arm["method"])
    return widened(records, method, [{**arm, **settings} for settings in trials(method)])


def tuned(out: str | Path) -> dict[str, dict]:
    """Each arm with the settings that its tuning chose. Raises FileNotFoundError if a tuning was not run."""
    ours, kits = (load_plan(plan, out)[0] for plan in ("allocations_tuning", "digits_tuning"))
    return {
        name: chosen(ours, str(arm["method"]), tried(ours, arm)) if name in TUNED else {**arm, **_of_method(kits, arm)}
        for name, arm in ARMS.items()
    }


def _of_method(records: Sequence[dict], arm: Values) -> dict:
    method = str(arm["method"])
    return chosen(records, method, grid(records, method))


def allocations(out: str | Path) -> list[Config]:
    """Every arm at both densities, seed by seed."""
    arms = tuned(out)
    return [
        make_config("digits", **arm, seed=seed, density=density)
        for density in DENSITIES
        for seed in SEEDS
        for arm in arms.values()
    ]


def allocations_ranking(out: str | Path) -> list[Config]:
    """Every candidate of the pool taken unjudged, at the settings of the arm that chooses among them."""
    arms = tuned(out)
    return [
        make_config("digits", **{**arms[name], "selection": "fixed", "candidate": number}, seed=seed, density=RANKED)
        for seed in SEEDS
        for name in (OURS_TRIED, OURS)
        for number in range(CANDIDATES)
    ]
