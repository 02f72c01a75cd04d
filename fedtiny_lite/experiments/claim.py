"""The plans that decide the paper's claim: ResNet18 on CIFAR-10 where it is very sparse. See docs/protocol.md.

Width 16 keeps as many weights a filter at four times the density as width 64 does: a filter of its layers has a quarter
of the inputs. So `DENSITIES` maps the paper's densities to those of width 16. What the paper derives from its density,
the size of the pool and whether the last layer is pruned, is taken from the paper's value.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from fedtiny_lite.config import Config, make_config
from fedtiny_lite.experiments.tuning import chosen, finished, widened
from fedtiny_lite.records.bundles import load_plan, records_so_far

Values = Mapping[str, object]
LATE = {"validation": 3, "test": 5}
"""Rounds at the end of a run whose accuracies are averaged, as a single round's swings by several points."""
GUESS = 0.1
"""Accuracy of a guess among ten classes: what a run that diverged counts for."""
SEEDS = (10, 11, 12, 13, 14)
TUNING_SEED = 100
ROUNDS = 20
DENSITIES = {0.01: 0.04, 0.003: 0.012, 0.001: 0.004}
"""The paper's density -> that of ResNet18 w16 with as many weights a filter."""
POOLS = {0.01: 10, 0.003: 33, 0.001: 100}
"""The paper's density -> candidates in the paper's pool."""
MIDDLE = 0.003
RATES = (0.02, 0.05, 0.1, 0.2)
PILOT_ROUNDS = 3 * ROUNDS
PILOT = ("SynFlow", "FedTiny", "magnitude", "random", "small model")
"""The arms that are trained three times as long, to see whether their order stands."""
ON_BOTH = ("FedTiny", "small model", "magnitude")
"""The arms that run on two kinds of device: the CPU computes the small model by dense torch, the others' clients by the
sparse engine."""

SETTING = dict(
    dataset="folder:data/cifar10-jpeg", model="resnet18", width=16, clients=10, alpha=0.5, server_shots=20,
    server_set="as_clients", augment="crop_flip", pretrain_epochs=15, rounds=ROUNDS, local_epochs=1, batch_size=64,
    weight_decay=5e-4, dev_fraction=0.1, adjust_every=1, adjust_until=10, torch_device="auto", engine="auto",
)  # fmt: skip
"""Nine adjustments (rounds 1 to 9), as many as the paper makes; a million training samples a run."""

OURS = "FedTiny, pool of allocations (ours)"
UNPRUNED = "FedAvg"
ARMS: Mapping[str, Values] = {
    "FedTiny": {"method": "fedtiny", "pool": "paper", "trial_epochs": 0},
    "SynFlow": {"method": "synflow", "saliency_scope": "global", "saliency_steps": 0},
    "magnitude": {"method": "magnitude"},
    "SNIP": {"method": "snip"},
    "FedDST": {"method": "feddst"},
    "SynFlow as in the 2022 code": {"method": "synflow", "saliency_scope": "layer", "saliency_steps": 5},
    OURS: {"method": "fedtiny", "pool": "allocations", "trial_epochs": 5},
    "FedRTS": {"method": "fedrts"},
    "PruneFL": {"method": "prunefl"},
    "random": {"method": "random"},
    "GraSP": {"method": "grasp"},
    "small model": {"method": "small_model"},
    UNPRUNED: {"method": "fedavg"},
}
"""What is compared, in the order of importance; each is tuned for itself."""

ABLATIONS: tuple[Values, ...] = (
    {"selection": "fixed"},
    {"progressive": "no"},
    {"selection": "fixed", "progressive": "no"},
)
"""FedTiny without selection, without progressive pruning, without both."""
CONTROLS: tuple[Values, ...] = ({"alpha": 0.1}, {"alpha": 5.0}, {"server_set": "distorted"})
"""The settings under which FedTiny and the leading arms are compared again."""
WIDE: Mapping[str, float] = {"width": 64, "density": 0.01}
"""The paper's own point."""
WIDE_ARMS = 4
"""The arms there: FedTiny, SynFlow, magnitude, and the best other baseline."""


def at_density(paper: float) -> Values:
    """The settings of width 16 that stand for the paper's density."""
    pruned = "yes" if paper > 0.005 else "no"  # the paper's model keeps its last layer dense below
    return {"density": DENSITIES[paper], "pool_size": POOLS[paper], "prune_linear": pruned}


def config_of(arm: Values, **settings: object) -> Config:
    """A run of an arm at the plan's setting, of which each method takes what it has."""
    return make_config({**SETTING, **at_density(MIDDLE), **settings}, **arm)


def late_accuracy(record: Mapping, on: str = "test") -> float:
    """Mean accuracy over the last rounds (`LATE`); `GUESS` for a run that diverged."""
    if not record["complete"]:
        return GUESS
    return mean(entry[f"{on}_accuracy"] for entry in record["rounds"][-LATE[on] :])


def grid(records: Sequence[dict], arm: Values) -> list[dict]:
    """What is tried for an arm: `RATES`, doubled or halved beyond an end as long as that end is best."""
    return widened(records, str(arm["method"]), [{**arm, "lr": rate} for rate in RATES], _validated)


def _validated(record: dict) -> float:
    return late_accuracy(record, "validation")


def claim_tuning(out: str | Path) -> list[Config]:
    """Learning rates of each arm at the middle density, one seed, eight rounds, scored on held-out training images.

    A rate at an end of its grid that is best widens it.
    """
    records = records_so_far("claim_tuning", out)
    short = dict(seed=TUNING_SEED, score_on="validation", rounds=8, adjust_until=4)
    return [config_of(tried, **short) for arm in ARMS.values() for tried in grid(records, arm)]


def tuned(out: str | Path) -> dict[str, Values]:
    """The arms that are tuned, with the learning rate of each. Raises FileNotFoundError if there is no tuning."""
    records, _ = load_plan("claim_tuning", out)
    grids = {name: (str(arm["method"]), grid(records, arm)) for name, arm in ARMS.items()}
    return {
        name: chosen(records, method, tried, _validated)
        for name, (method, tried) in grids.items()
        if finished(records, method, tried)
    }


def claim_pilot(out: str | Path) -> list[Config]:
    """Some arms at the middle density, three times as long, scored on held-out training images; two seeds of its own.

    FedTiny adjusts in the same nine rounds as in the main table, so that a run's first rounds are such a run.
    """
    arms, long = tuned(out), dict(score_on="validation", rounds=PILOT_ROUNDS)
    return [config_of(arms[name], seed=seed, **long) for seed in (TUNING_SEED, TUNING_SEED + 1) for name in PILOT]


def claim(out: str | Path) -> list[Config]:
    """The main table, of the arms that are tuned."""
    return main_table(tuned(out))


def main_table(arms: Mapping[str, Values]) -> list[Config]:
    """Each of these arms at three densities, three seeds of an arm before the next arm, the other seeds last.

    The density at which the paper claims its lead comes first.
    """
    return [
        config_of(arm, seed=seed, **at_density(paper))
        for seeds in (SEEDS[:3], SEEDS[3:])
        for paper in DENSITIES
        for name, arm in arms.items()
        if name != UNPRUNED or paper == MIDDLE
        for seed in seeds
    ]


def claim_devices(out: str | Path) -> list[Config]:
    """Runs of the main table at the middle density, on the CPU whatever made them there: what a device changes."""
    arms = tuned(out)
    return [config_of(arms[name], seed=seed, torch_device="cpu") for name in ON_BOTH for seed in SEEDS[:3]]


def leading(records: Sequence[dict], arms: Mapping[str, Values], count: int) -> list[str]:
    """The pruned arms of highest mean accuracy at the middle density, over the first three seeds."""
    first = [record for record in records if record["config"]["seed"] in SEEDS[:3]]

    def accuracy(arm: Values) -> float:
        wanted = {**arm, "density": DENSITIES[MIDDLE]}.items()
        return mean([late_accuracy(record) for record in first if wanted <= record["config"].items()] or [0.0])

    return sorted((name for name in arms if name != UNPRUNED), key=lambda name: -accuracy(arms[name]))[:count]


def claim_ablations(out: str | Path) -> list[Config]:
    """At the middle density: FedTiny without its modules; it and the four leading arms under each of `CONTROLS`."""
    arms, (records, _) = tuned(out), load_plan("claim", out)
    some = dict.fromkeys(["FedTiny", *leading(records, arms, 4)])
    changed: list[tuple[Values, Values]] = [(arms["FedTiny"], change) for change in ABLATIONS]
    changed += [(arms[name], control) for control in CONTROLS for name in some]
    return [config_of({**arm, **change}, seed=seed) for seed in SEEDS[:3] for arm, change in changed]


def claim_wide(out: str | Path) -> list[Config]:
    """The paper's own point, width 64 at density 0.01: FedTiny, SynFlow, magnitude, and the best other baseline."""
    arms, (records, _) = tuned(out), load_plan("claim", out)
    first = ("FedTiny", "SynFlow", "magnitude")
    others = [name for name in leading(records, arms, len(arms)) if name not in (*first, OURS)]
    names, settings = [*first, *others][:WIDE_ARMS], {**at_density(0.01), **WIDE}
    return [config_of(arms[name], seed=seed, **settings) for seed in SEEDS[:2] for name in names]
