"""What the plans that decide the claim say so far: differences by baseline, leads by seed, how far they are."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from fedtiny_lite.experiments import claim
from fedtiny_lite.experiments.claim import late_accuracy
from fedtiny_lite.experiments.plans import plan_configs
from fedtiny_lite.records.bundles import provenance
from fedtiny_lite.report.claim_checks import ablated_pairs
from fedtiny_lite.report.claim_costs import arm_of
from fedtiny_lite.report.claim_tables import Runs, gaps_at_equal_rounds, runs_at
from fedtiny_lite.report.deciding import LEAST
from fedtiny_lite.report.labels import FEDTINY
from fedtiny_lite.report.loading import load

CIFAR = "ResNet18 w16, CIFAR-10 (JPEG copies)"
WHOLE = len(claim.main_table(claim.ARMS))
"""Runs of the main table with every arm; the plan holds those of the arms that are tuned."""
BASELINES = [name for name, arm in claim.ARMS.items() if arm["method"] not in ("fedtiny", "fedavg")]


def arms_at(records: Sequence[Mapping], paper: float) -> Runs:
    """The runs at the density that stands for one of the paper's, by arm and seed."""
    return runs_at(records, claim.DENSITIES[paper])


def gaps_over(runs: Runs) -> dict[str, list[float]]:
    """Baseline -> FedTiny's accuracy minus that one's, a number per seed of both."""
    return {name: gaps_at_equal_rounds(runs, name) for name in BASELINES if name in runs}


def compared(*tables: Runs) -> list[str]:
    """The baselines that have enough seeds beside FedTiny's in each of these tables."""
    gaps = [gaps_over(runs) for runs in tables]
    return [name for name in BASELINES if all(len(found.get(name, ())) >= LEAST for found in gaps)]


def leads(runs: Runs, baselines: Sequence[str]) -> dict[int, float]:
    """Seed -> FedTiny's accuracy minus that of the baseline of the best mean, for the seeds that they all have."""
    if not baselines:
        return {}
    names = (FEDTINY, *baselines)
    reached = {name: {seed: late_accuracy(record) for seed, record in runs[name].items()} for name in names}
    return lead_by_seed(pd.DataFrame(reached).dropna())


def lead_by_seed(reached: pd.DataFrame) -> dict[int, float]:
    """Seed -> FedTiny's accuracy minus that of the baseline of the best mean; `reached`: accuracies [seed, name].

    The best baseline of each seed would be a maximum of noisy numbers, too high where accuracies scatter most.
    """
    if reached.empty:
        return {}
    rivals = reached.drop(columns=FEDTINY)
    lead = (reached[FEDTINY] - rivals[rivals.mean().idxmax()]).sort_index()
    return dict(zip(lead.index.astype(int), lead.astype(float), strict=True))


def finished(plan: str, out: str | Path) -> str:
    """How many runs of a plan are finished, or nothing where none or all of them are."""
    done = len(load(plan, out).records)
    if not done:
        return ""
    try:
        planned = WHOLE if plan == "claim" else len(plan_configs(plan, out))
    except FileNotFoundError:  # it follows from runs that were not made yet
        return f"{done} runs finished"
    return "" if done >= planned else f"{done} of {planned} runs finished"


def progress(out: str | Path) -> str:
    """How far the main table is, in one sentence, and the command that goes on with it."""
    records, command = load("claim", out).records, "python -m fedtiny_lite sweep claim"
    if not records:
        return f"Of the main table's {WHOLE} runs none is there yet; make them with: {command}{_waiting(out)}"
    if len(records) >= WHOLE:
        return f"All {WHOLE} runs of the main table are there ({provenance(records)})."
    densities = sorted({record["config"]["density"] for record in records})
    places = ", ".join(f"{density:g}" for density in densities)
    there = f"{len(records)} of {WHOLE} runs of the main table are there, at density {places}"
    return f"{there}: {_by_runs(records)} ({provenance(records)}); go on with: {command} --go-on{_waiting(out)}"


def _waiting(out: str | Path) -> str:
    """How many arms the sweep leaves out, since they are not tuned."""
    try:
        waiting = len(claim.ARMS) - len(claim.tuned(out))
    except FileNotFoundError:
        waiting = len(claim.ARMS)
    return f" ({waiting} arms wait for their learning rate: sweep claim_tuning first)" if waiting else ""


def _by_runs(records: Sequence[Mapping]) -> str:
    """How many arms there are, and which of them with how many runs, all densities and seeds together."""
    made = [arm_of(record) for record in records]
    counts = {arm: made.count(arm) for arm in claim.ARMS}
    found = {count: [arm for arm in counts if counts[arm] == count] for count in sorted({*counts.values()} - {0})}
    groups = [f"{count} run{'s' * (count > 1)} of {', '.join(arms)}" for count, arms in found.items()]
    return f"{sum(map(len, found.values()))} of {len(counts)} arms, {'; '.join(groups[::-1])}"


def ablated(out: str | Path, changed: claim.Values) -> list[float]:
    """FedTiny's accuracy minus that of FedTiny with these settings `changed`, per seed, at the middle density."""
    whole = [run for plan in ("claim", "claim_devices") for run in load(plan, out).records]
    pairs = ablated_pairs(changed, load("claim_ablations", out).records, whole)
    return [late_accuracy(ours) - late_accuracy(theirs) for ours, theirs in pairs]
