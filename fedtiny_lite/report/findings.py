"""What was found of a claim in one setting, from the records that are there: an outcome, its numbers, what is drawn."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from fedtiny_lite.experiments.claim import DENSITIES, MIDDLE
from fedtiny_lite.records.bundles import COMMITTED
from fedtiny_lite.records.files import read_json
from fedtiny_lite.report import deciding, exchanges, labels
from fedtiny_lite.report.arms import (
    BASELINES,
    CIFAR,
    ablated,
    arms_at,
    compared,
    finished,
    gaps_over,
    lead_by_seed,
    leads,
)
from fedtiny_lite.report.differences import Gaps, against_others
from fedtiny_lite.report.frames import at_density
from fedtiny_lite.report.study import CLAIMS, recorded_numbers

DIGITS = "CNN, digits"
UNTUNED = f"{DIGITS}, untuned"
COUNTED = "ResNet18 w64, density 0.01, counted, an adjusting round"
TRAINING = "ResNet18 w64, density 0.01, counted, 300 rounds alone, of which nine adjust"
ROUNDS = 300, 9
"""Rounds of the paper's training, and how many of them adjust."""
SAVED = 0.9591, 0.9401
"""What the paper saves: shares of computation and of memory."""
BATCHES = 395
"""Batches of 64 in a round of the paper: five epochs of some 5,000 images."""
NOT_COMPARED = ("fedavg", "small_model", "fedtiny", "lotteryfl")
"""Of the record of costs: the dense model, another network, FedTiny itself, and LotteryFL, still dense there."""
PER_FILTER = {0.1: "0.01", 0.01: "0.001"}
"""Density on digits -> the paper's density with as many weights a filter: 18 against 24, 1.8 against 2.4."""


class Finding(NamedTuple):
    """What was found in one setting. `outcome`: one of `deciding`'s; `shown`: what a figure draws, a number a seed.

    `sure`: the names in `shown` of the baselines that FedTiny is ahead of with Holm's correction.
    """

    where: str
    outcome: str
    numbers: str
    shown: Gaps
    sure: Sequence[str] = ()


# --- accuracies -------------------------------------------------------------------------------------------


def _over_baselines(gaps: Gaps, where: str, planned: Sequence[str] = ()) -> Finding:
    """FedTiny against every pruned baseline, those among `planned` that have too few seeds yet included."""
    known = {name: values for name, values in gaps.items() if len(values) >= deciding.LEAST}
    if not known:
        return Finding(where, deciding.UNTESTED, "", {})
    best, ahead = deciding.best(known), deciding.ahead_of(known, planned)
    numbers = f"FedTiny − {best}, the best: {deciding.in_numbers(known[best])}; "
    numbers += f"surely ahead of {len(ahead)} of {len(known)}"
    missing = len({*planned} - {*known})
    numbers += f", {missing} more to run" * bool(missing)
    shown = {name: f"FedTiny − {name}" for name in known}
    gaps = {shown[name]: values for name, values in known.items()}
    return Finding(where, deciding.of_all(known, planned), numbers, gaps, [shown[name] for name in ahead])


def _growing(sparse: Mapping[int, float], denser: Mapping[int, float], where: str) -> Finding:
    """FedTiny minus the best baseline at each density, where models are sparse minus where they are less so."""
    gaps = [sparse[seed] - denser[seed] for seed in sorted(sparse.keys() & denser.keys())]
    numbers = f"growth of the lead: {deciding.in_numbers(gaps)}" if len(gaps) > 1 else ""
    return Finding(where, deciding.of_one(gaps), numbers, {"growth of the lead": gaps})


def digits_lead(runs: pd.DataFrame, density: float) -> Finding:
    """FedTiny minus every baseline on digits at this density, paired by seed."""
    gaps = against_others(at_density(runs, density)) if len(runs) else {}
    baselines = {name: values for name, values in gaps.items() if name != labels.DENSE}
    return _over_baselines(
        baselines,
        f"{DIGITS}, density {density:g} (the paper's {PER_FILTER[density]} by weights a filter)",
        labels.KIT_BASELINES,
    )


def digits_rival(runs: pd.DataFrame, rival: str) -> Finding:
    """FedTiny minus another method at the densities of the study, each at the settings that were tuned for it."""
    gaps = {density: against_others(at_density(runs, density)) for density in (0.01, 0.02, 0.05) if len(runs)}
    shown = {f"FedTiny − {rival}, {density:g}": found.get(rival, []) for density, found in gaps.items()}
    outcome = deciding.of_parts([deciding.of_one(values) for values in shown.values()])
    return Finding(f"{DIGITS}, each method tuned", outcome, _each(shown), shown)


def digits_growth(runs: pd.DataFrame, density: float, denser: float) -> Finding:
    """How much larger FedTiny's lead on digits is at `density` than at `denser`, seed by seed."""
    sparse, other = ((_digits_leads(runs, d) if len(runs) else {}) for d in (density, denser))
    return _growing(sparse, other, f"{DIGITS}, density {density:g} and {denser:g}")


def _digits_leads(runs: pd.DataFrame, density: float) -> dict[int, float]:
    pruned = runs[(runs["density"] == density) & (runs["label"] != labels.DENSE)].astype({"label": str})
    return lead_by_seed(pruned.pivot_table("accuracy", "seed", "label").dropna())


def resnet_lead(out: str | Path, records: Sequence[Mapping], paper: float) -> Finding:
    """FedTiny minus every baseline of the claim's plan, at what stands for the paper's density; the plan's state."""
    where = f"{CIFAR}, density {DENSITIES[paper]:g}, the paper's {paper:g}"
    return _with_progress(_over_baselines(gaps_over(arms_at(records, paper)), where, BASELINES), "claim", out)


def resnet_growth(out: str | Path, records: Sequence[Mapping], paper: float, denser: float) -> Finding:
    """Over the baselines that both densities have, so that the lead is over the same ones; and the lead at `paper`."""
    where = f"{CIFAR}, density {DENSITIES[paper]:g} and {DENSITIES[denser]:g}"
    sparse, other = (arms_at(records, density) for density in (paper, denser))
    baselines = compared(sparse, other)
    found = _growing(leads(sparse, baselines), leads(other, baselines), where)
    if not found.numbers:
        return found
    gaps = {name: values for name, values in gaps_over(sparse).items() if len(values) >= deciding.LEAST}
    best, missing = deciding.best(gaps), len(BASELINES) - len(baselines)
    over = f", over {len(baselines)} of {len(BASELINES)} baselines" * bool(missing)
    at_sparse = f"at {DENSITIES[paper]:g} FedTiny − {best}, the best: {deciding.in_numbers(gaps[best])}"
    return found._replace(numbers=f"{found.numbers}{over}; {at_sparse}")


def _with_progress(found: Finding, plan: str, out: str | Path) -> Finding:
    """The finding and, while its plan is under way, how far that is."""
    return found._replace(numbers="; ".join(filter(None, (found.numbers, finished(plan, out)))))


def modules(out: str | Path) -> Finding:
    """FedTiny minus FedTiny without one of its modules, in the plan of the ablations."""
    parts = {"progressive pruning": {"progressive": "no"}, "selection (unjudged)": {"selection": "fixed"}}
    shown = {f"FedTiny − without {part}": ablated(out, changed) for part, changed in parts.items()}
    tested = {words: values for words, values in shown.items() if len(values) > 1}
    outcome = deciding.of_parts([deciding.of_one(values) for values in shown.values()])
    where = f"{CIFAR}, density {DENSITIES[MIDDLE]:g}"
    return _with_progress(Finding(where, outcome, _each(tested), shown), "claim_ablations", out)


def _each(gaps: Gaps) -> str:
    return "; ".join(f"{words}: {deciding.in_numbers(values)}" for words, values in gaps.items())


def of_study(*names: str, sign: int = 1) -> Finding:
    """Claims of the study on digits; with `sign` = -1 it is differences below 0 that speak for the paper."""
    recorded = recorded_numbers()
    shown = {CLAIMS[name].label: [sign * value for value in recorded[name]] for name in names}
    if sign < 0:
        shown = {" − ".join(reversed(label.split(" − "))): values for label, values in shown.items()}
    outcome = deciding.of_parts([deciding.of_one(values) for values in shown.values()])
    return Finding(UNTUNED, outcome, _each(shown), shown)


# --- costs ------------------------------------------------------------------------------------------------


def saved_flops() -> list[Finding]:
    """The computation that a client saves in a round that adjusts, and over the paper's training."""
    return [
        _saved(COUNTED, lambda name, cost: exchanges.round_flops(name, cost, BATCHES), SAVED[0]),
        _saved(TRAINING, lambda name, cost: exchanges.run_flops(name, cost, BATCHES, *ROUNDS), SAVED[0]),
    ]


def saved_memory() -> Finding:
    """The model state that a client saves in the round in which it is largest."""
    return _saved(COUNTED, lambda name, cost: exchanges.largest(cost, "state_bytes"), SAVED[1])


def _saved(where: str, cost_of: Callable[[str, Mapping[str, Any]], float], paper: float) -> Finding:
    """What a client of FedTiny saves of a client's cost in every other pruned method; counted, so without interval."""
    costs = read_json(COMMITTED / "client_costs.json")["methods"]
    ours = cost_of("fedtiny", costs["fedtiny"])
    others = {name: cost for name, cost in costs.items() if name not in NOT_COMPARED}
    saved = {
        exchanges.label_of(name, cost).label: deciding.saved(ours, cost_of(name, cost)) for name, cost in others.items()
    }
    named = dict.fromkeys([*deciding.reached(saved, paper), "PruneFL", "SynFlow", "magnitude"])
    told = (f"{name} {100 * saved[name]:.2f} %".replace("-", "−") for name in named)
    numbers = f"saved against {', '.join(told)}"
    return Finding(where, deciding.of_shares(saved, paper), numbers, {name: [share] for name, share in saved.items()})
