"""What the plans that decide the claim say so far: differences by baseline, leads by seed, how far they are."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from fedtiny_lite.experiments import claim
from fedtiny_lite.experiments.plans import plan_configs
from fedtiny_lite.report.claim_tables import Runs, final_accuracy, gaps_at_equal_rounds, runs_at
from fedtiny_lite.report.differences import paired
from fedtiny_lite.report.frames import run_frame
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
        seed: {name: final_accuracy(of_arm[seed]) for name, of_arm in pruned.items()}
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


def ablated(out: str | Path, label: str) -> list[float]:
    """FedTiny's accuracy minus that of its ablation `label`, per seed, at the middle density."""
    ours = arms_at(load("claim", out).records, claim.MIDDLE).get(FEDTINY, {})
    whole, parts = run_frame(ours.values()), run_frame(load("claim_ablations", out).records)
    if whole.empty or parts.empty:
        return []
    usual = (parts["alpha"] == claim.SETTING["alpha"]) & (parts["server_set"] == claim.SETTING["server_set"])
    return paired(whole, parts[usual & (parts["label"] == label)])
