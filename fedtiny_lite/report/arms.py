"""The runs of the plans that decide the claim (`experiments.claim`), in the table that all comparisons read."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from fedtiny_lite.experiments import claim
from fedtiny_lite.experiments.plans import plan_configs
from fedtiny_lite.report.differences import paired
from fedtiny_lite.report.frames import run_frame
from fedtiny_lite.report.labels import DENSE, FEDTINY
from fedtiny_lite.report.loading import load

CIFAR = "ResNet18 of width 16, CIFAR-10 from JPEG copies"
BASELINES = [name for name, arm in claim.ARMS.items() if arm["method"] not in ("fedtiny", "fedavg")]


def stands_for(paper: float) -> float:
    """The density of width 16 that stands for one of the paper's."""
    return claim.DENSITIES[paper]


def arm_frame(records: Sequence[Mapping]) -> pd.DataFrame:
    """The finished runs as `run_frame` has them, labelled by their arm; FedAvg is the dense model."""
    done = [record for record in records if record["complete"]]
    return run_frame(done).assign(label=[arm_of(record["config"]) for record in done])


def arm_of(config: Mapping) -> str:
    """The arm of a run: of those whose settings it has, the one with the most."""
    if config["method"] == "fedavg":
        return DENSE
    fitting = [name for name, arm in claim.ARMS.items() if arm.items() <= config.items()]
    return max(fitting, key=lambda name: len(claim.ARMS[name]), default=config["method"])


def finished(plan: str, out: str | Path) -> str:
    """How many runs of a plan are finished, or nothing where all of them are."""
    done = sum(record["complete"] for record in load(plan, out).records)
    try:
        planned = len(plan_configs(plan, out))
    except FileNotFoundError:  # it follows from a tuning that was not run yet
        return f"{done} runs finished"
    return "" if done >= planned else f"{done} of {planned} runs finished"


def ablated(out: str | Path, label: str) -> list[float]:
    """FedTiny's accuracy minus that of its ablation `label`, per seed, at the middle density."""
    whole, parts = arm_frame(load("claim", out).records), run_frame(load("claim_ablations", out).records)
    if whole.empty or parts.empty:
        return []
    here = whole[(whole["label"] == FEDTINY) & (whole["density"] == stands_for(claim.MIDDLE))]
    usual = (parts["alpha"] == claim.SETTING["alpha"]) & (parts["server_set"] == claim.SETTING["server_set"])
    return paired(here, parts[usual & (parts["label"] == label)])
