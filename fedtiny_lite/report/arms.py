"""What the plans that decide the claim say so far: differences by baseline, leads by seed, how far they are."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from fedtiny_lite.experiments import claim
from fedtiny_lite.experiments.claim import late_accuracy
from fedtiny_lite.experiments.plans import plan_configs
from fedtiny_lite.report.claim_tables import Runs, gaps_at_equal_rounds, runs_at
from fedtiny_lite.report.labels import FEDTINY
from fedtiny_lite.report.loading import load

CIFAR = "ResNet18 w16, CIFAR-10 (JPEG copies)"
BASELINES = [name for name, arm in claim.ARMS.items() if arm["method"] not in ("fedtiny", "fedavg")]


def arms_at(records: Sequence[Mapping], paper: float) -> Runs:
    """The runs at the density that stands for one of the paper's, by arm and seed."""
    return runs_at(records, claim.DENSITIES[paper])


def gaps_over(runs: Runs) -> dict[str, list[float]]:
    """Baseline -> FedTiny's accuracy minus that one's, a number per seed of both."""
    return {name: gaps_at_equal_rounds(runs, name) for name in BASELINES if name in runs}


def leads(runs: Runs) -> dict[int, float]:
    """Seed -> FedTiny's accuracy minus the best baseline's, for the seeds that they all have."""
    pruned = {name: of_arm for name, of_arm in runs.items() if name in (FEDTINY, *BASELINES)}
    if FEDTINY not in pruned or len(pruned) < 2:
        return {}
    reached = {
        seed: {name: late_accuracy(of_arm[seed]) for name, of_arm in pruned.items()}
        for seed in set.intersection(*(set(of_arm) for of_arm in pruned.values()))
    }
    return {seed: found.pop(FEDTINY) - max(found.values()) for seed, found in sorted(reached.items())}


def finished(plan: str, out: str | Path) -> str:
    """How many runs of a plan are finished, or nothing where none or all of them are."""
    done = len(load(plan, out).records)
    if not done:
        return ""
    try:
        planned = len(plan_configs(plan, out))
    except FileNotFoundError:  # it follows from a tuning that was not run yet
        return f"{done} runs finished"
    return "" if done >= planned else f"{done} of {planned} runs finished"


def ablated(out: str | Path, changed: claim.Values) -> list[float]:
    """FedTiny's accuracy minus that of FedTiny with these settings `changed`, per seed, at the middle density."""
    ours = arms_at(load("claim", out).records, claim.MIDDLE).get(FEDTINY, {})
    usual = {name: claim.SETTING[name] for name in ("alpha", "server_set")}
    wanted = {**claim.ARMS[FEDTINY], **usual, "selection": "adaptive", "progressive": "yes", **changed}
    parts = load("claim_ablations", out).records
    theirs = {r["config"]["seed"]: r for r in parts if wanted.items() <= r["config"].items()}
    return [late_accuracy(ours[seed]) - late_accuracy(theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())]
