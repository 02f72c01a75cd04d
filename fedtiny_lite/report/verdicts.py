"""One verdict per claim: what the records that are there say of it. It changes by itself as further runs finish.

The paper's accuracy claim is decided by the plan `claim` (ResNet18 on CIFAR-10; docs/protocol.md). What is not run yet
is judged on digits alone, and says so.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from fedtiny_lite.experiments.claim import DENSITIES
from fedtiny_lite.records.bundles import COMMITTED
from fedtiny_lite.records.files import read_json
from fedtiny_lite.report import deciding, exchanges
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
from fedtiny_lite.report.labels import DENSE
from fedtiny_lite.report.loading import load
from fedtiny_lite.report.study import CLAIMS, recorded_numbers

ABSTRACT, METHOD = "the paper's abstract", "the paper's method"
DIGITS = "CNN, digits"
COUNTED = "ResNet18 w64, density 0.01, counted, an adjusting round"
TRAINING = "300 rounds, nine of them adjusting"
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
    """What was found in one setting. `outcome`: one of `deciding`'s; `shown`: what a figure draws, a number a seed."""

    where: str
    outcome: str
    numbers: str
    shown: Gaps


class Verdict(NamedTuple):
    """A claim in a whole sentence, who makes it, and what was found, the weightiest setting first."""

    claim: str
    source: str
    findings: Sequence[Finding]

    @property
    def decisive(self) -> Finding:
        """The weightiest finding that is one; the first if nothing was tested."""
        tested = [found for found in self.findings if found.outcome != deciding.UNTESTED]
        return (tested or self.findings)[0]

    @property
    def answer(self) -> str:
        """The decisive outcome; of digits, where the paper's model is not tested yet, it says so."""
        untested = self.decisive is not self.findings[0]
        return f"{self.decisive.outcome} on digits" if untested else self.decisive.outcome


def verdicts(out: str | Path) -> list[Verdict]:
    """Every claim of the paper that the kit tests. `out`: results of this machine, which come before committed ones."""
    digits, resnet = load("digits", out).runs, load("claim", out).records
    return [
        Verdict(
            "At density 0.01 FedTiny is more accurate than every baseline (the paper: by 2.61 points).",
            ABSTRACT,
            [_resnet_lead(out, resnet, 0.01), *(_digits_lead(digits, density) for density in PER_FILTER)],
        ),
        Verdict(
            "Its lead over the best baseline is larger where models are extremely sparse.",
            ABSTRACT,
            [_resnet_growth(out, resnet, 0.001, 0.01), _digits_growth(digits, 0.01, 0.1)],
        ),
        Verdict(
            "It saves 95.91 % of the state of the art's computation.",
            ABSTRACT,
            [
                _saved(COUNTED, lambda name, cost: exchanges.round_flops(name, cost, BATCHES), SAVED[0]),
                _saved(TRAINING, lambda name, cost: exchanges.run_flops(name, cost, BATCHES, *ROUNDS), SAVED[0]),
            ],
        ),
        Verdict(
            "It saves 94.01 % of the state of the art's memory.",
            ABSTRACT,
            [_saved(COUNTED, lambda name, cost: exchanges.largest(cost, "state_bytes"), SAVED[1])],
        ),
        Verdict(
            "Progressive pruning and selection both make the final model more accurate.",
            ABSTRACT,
            [_modules(out), _of_study("04-progressive-0.01", "04-selection-0.01")],
        ),
        Verdict(
            "The loss under the clients' BN statistics ranks candidates better than that under stale ones.",
            METHOD,
            [_of_study("02-adaptive-beats-vanilla")],
        ),
        Verdict(
            "The server cannot rank the candidates as well with its own images alone.",
            METHOD,
            [_of_study("02-server-only-close", "02-control-server-only")],
        ),
        Verdict(
            "Adjusting block by block, from output to input, is better than another order or step.",
            METHOD,
            [_of_study("03-forward", "03-layer", "03-entire", sign=-1)],
        ),
        Verdict(
            "FedTiny ends more accurate than uniform magnitude pruning.",
            METHOD,
            [_digits_rival(digits, "magnitude"), _of_study("04-gap-0.01", "04-gap-0.02", "04-gap-0.05")],
        ),
    ]


def verdict_table(found: Sequence[Verdict]) -> pd.DataFrame:
    """A row per finding, the weightiest of a claim first and beside the claim: outcome, setting, numbers."""
    table = _table((row, finding) for row in found for finding in row.findings)
    return table.assign(claim=table["claim"].mask(table["claim"].duplicated(), ""))


def resnet_table(found: Sequence[Verdict]) -> pd.DataFrame:
    """What was found of the abstract's claims at the paper's model, a row per claim and setting."""
    rows = ((row, finding) for row in found if row.source == ABSTRACT for finding in row.findings)
    return _table((row, finding) for row, finding in rows if finding.where.startswith("ResNet18"))


def _table(rows: Iterable[tuple[Verdict, Finding]]) -> pd.DataFrame:
    cells = [(row.claim, finding.outcome, finding.where, finding.numbers) for row, finding in rows]
    return pd.DataFrame(cells, columns=["claim", "verdict", "found on", "numbers"])


def in_markdown(found: Sequence[Verdict]) -> str:
    """The verdicts on the abstract as a table for the README."""
    rows = [f"| {row.claim} | **{row.answer}** | {_lines(row.findings)} |" for row in found if row.source == ABSTRACT]
    return "\n".join(["| the paper claims | here | numbers |", "|---|---|---|", *rows])


def _lines(findings: Sequence[Finding]) -> str:
    """A line per finding; of several, each says its outcome."""
    if len(findings) == 1:
        return f"{findings[0].where}: {findings[0].numbers}"
    return "<br>".join(
        f"{found.where}: {'; '.join(filter(None, (found.outcome, found.numbers)))}" for found in findings
    )


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
    shown = {f"FedTiny − {name}": values for name, values in known.items()}
    return Finding(where, deciding.of_all(known, planned), numbers, shown)


def _growing(sparse: Mapping[int, float], denser: Mapping[int, float], where: str) -> Finding:
    """FedTiny minus the best baseline at each density, where models are sparse minus where they are less so."""
    gaps = [sparse[seed] - denser[seed] for seed in sorted(sparse.keys() & denser.keys())]
    numbers = f"growth of the lead: {deciding.in_numbers(gaps)}" if len(gaps) > 1 else ""
    return Finding(where, deciding.of_one(gaps), numbers, {"growth of the lead": gaps})


def _digits_lead(runs: pd.DataFrame, density: float) -> Finding:
    gaps = against_others(at_density(runs, density)) if len(runs) else {}
    baselines = {name: values for name, values in gaps.items() if name != DENSE}
    return _over_baselines(baselines, f"{DIGITS}, density {density:g} (per filter the paper's {PER_FILTER[density]})")


def _digits_rival(runs: pd.DataFrame, rival: str) -> Finding:
    """FedTiny minus another method at the densities of the study, each at the settings that were tuned for it."""
    gaps = {density: against_others(at_density(runs, density)) for density in (0.01, 0.02, 0.05) if len(runs)}
    shown = {f"FedTiny − {rival}, {density:g}": found.get(rival, []) for density, found in gaps.items()}
    outcome = deciding.of_parts([deciding.of_one(values) for values in shown.values()])
    return Finding(f"{DIGITS}, each method tuned", outcome, _each(shown), shown)


def _digits_growth(runs: pd.DataFrame, density: float, denser: float) -> Finding:
    sparse, other = ((_digits_leads(runs, d) if len(runs) else {}) for d in (density, denser))
    return _growing(sparse, other, f"{DIGITS}, density {density:g} and {denser:g}")


def _digits_leads(runs: pd.DataFrame, density: float) -> dict[int, float]:
    pruned = runs[(runs["density"] == density) & (runs["label"] != DENSE)].astype({"label": str})
    return lead_by_seed(pruned.pivot_table("accuracy", "seed", "label").dropna())


def _resnet_lead(out: str | Path, records: Sequence[Mapping], paper: float) -> Finding:
    where = f"{CIFAR}, density {DENSITIES[paper]:g}"
    return _with_progress(_over_baselines(gaps_over(arms_at(records, paper)), where, BASELINES), "claim", out)


def _resnet_growth(out: str | Path, records: Sequence[Mapping], paper: float, denser: float) -> Finding:
    """Over the baselines that both densities have, so that the lead is over the same ones."""
    where = f"{CIFAR}, density {DENSITIES[paper]:g} and {DENSITIES[denser]:g}"
    sparse, other = (arms_at(records, density) for density in (paper, denser))
    baselines = compared(sparse, other)
    found = _growing(leads(sparse, baselines), leads(other, baselines), where)
    missing = len(BASELINES) - len(baselines)
    if missing and found.numbers:
        found = found._replace(numbers=f"{found.numbers}, over {len(baselines)} of {len(BASELINES)} baselines")
    return found


def _with_progress(found: Finding, plan: str, out: str | Path) -> Finding:
    """The finding and, while its plan is under way, how far that is."""
    return found._replace(numbers="; ".join(filter(None, (found.numbers, finished(plan, out)))))


def _modules(out: str | Path) -> Finding:
    """FedTiny minus FedTiny without one of its modules, in the plan of the ablations."""
    parts = {"progressive pruning − none": {"progressive": "no"}, "selection − none": {"selection": "fixed"}}
    shown = {words: ablated(out, changed) for words, changed in parts.items()}
    tested = {words: values for words, values in shown.items() if len(values) > 1}
    outcome = deciding.of_parts([deciding.of_one(values) for values in shown.values()])
    return _with_progress(Finding(CIFAR, outcome, _each(tested), shown), "claim_ablations", out)


def _each(gaps: Gaps) -> str:
    return "; ".join(f"{words}: {deciding.in_numbers(values)}" for words, values in gaps.items())


def _of_study(*names: str, sign: int = 1) -> Finding:
    """Claims of the study on digits; with `sign` = -1 it is differences below 0 that speak for the paper."""
    recorded = recorded_numbers()
    shown = {CLAIMS[name].label: [sign * value for value in recorded[name]] for name in names}
    if sign < 0:
        shown = {" − ".join(reversed(label.split(" − "))): values for label, values in shown.items()}
    outcome = deciding.of_parts([deciding.of_one(values) for values in shown.values()])
    return Finding(DIGITS, outcome, _each(shown), shown)


# --- costs ------------------------------------------------------------------------------------------------


def _saved(where: str, cost_of: Callable[[str, Mapping[str, Any]], float], paper: float) -> Finding:
    """What a client of FedTiny saves of a client's cost in every other pruned method; counted, so without interval."""
    costs = read_json(COMMITTED / "client_costs.json")["methods"]
    ours = cost_of("fedtiny", costs["fedtiny"])
    others = {name: cost for name, cost in costs.items() if name not in NOT_COMPARED}
    saved = {
        exchanges.label_of(name, cost).label: deciding.saved(ours, cost_of(name, cost)) for name, cost in others.items()
    }
    told = (f"{name} {100 * saved[name]:.2f} %".replace("-", "−") for name in ("PruneFL", "SynFlow", "magnitude"))
    numbers = f"saved against {', '.join(told)}"
    return Finding(where, deciding.of_shares(saved, paper), numbers, {name: [share] for name, share in saved.items()})
