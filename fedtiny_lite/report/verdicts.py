"""One verdict per claim: what the records that are there say of it. It changes by itself as further runs finish.

The paper's accuracy claim is decided by the plan `claim` (ResNet18 on CIFAR-10; docs/protocol.md). What is not run yet
is judged on digits alone, and says so.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from fedtiny_lite.report import deciding
from fedtiny_lite.report.findings import (
    PER_FILTER,
    Finding,
    digits_growth,
    digits_lead,
    digits_rival,
    modules,
    of_study,
    resnet_growth,
    resnet_lead,
    saved_flops,
    saved_memory,
)
from fedtiny_lite.report.loading import load

ABSTRACT, MODULES, METHOD = "the paper's abstract", "the paper's ablation, recalled", "the paper's method"


class Verdict(NamedTuple):
    """A claim in a whole sentence, who makes it, and what was found, the weightiest setting first.

    `beside`: what was found where the paper says less of it; the README has no row for that.
    """

    claim: str
    source: str
    findings: Sequence[Finding]
    beside: Sequence[Finding] = ()

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
    digits = load("digits", out).runs
    return [*_of_abstract(out, digits), _of_modules(out), *_of_method(digits)]


def _of_abstract(out: str | Path, digits: pd.DataFrame) -> list[Verdict]:
    resnet = load("claim", out).records
    return [
        Verdict(
            "At density 0.01 FedTiny is more accurate than every baseline (the paper: by 0.026).",
            ABSTRACT,
            [resnet_lead(out, resnet, 0.01), *(digits_lead(digits, density) for density in PER_FILTER)],
            [resnet_lead(out, resnet, paper) for paper in (0.003, 0.001)],
        ),
        Verdict(
            "Its lead over the best baseline is larger where models are extremely sparse.",
            ABSTRACT,
            [resnet_growth(out, resnet, 0.001, 0.01), digits_growth(digits, 0.01, 0.1)],
        ),
        Verdict(
            "It saves 95.91 % of the state of the art's computation.",
            ABSTRACT,
            saved_flops(),
        ),
        Verdict(
            "It saves 94.01 % of the state of the art's memory.",
            ABSTRACT,
            [saved_memory()],
        ),
    ]


def _of_modules(out: str | Path) -> Verdict:
    findings = [modules(out), of_study("04-progressive-0.01", "04-selection-0.01")]
    return Verdict("Progressive pruning and selection both make the final model more accurate.", MODULES, findings)


def _of_method(digits: pd.DataFrame) -> list[Verdict]:
    return [
        Verdict(
            "The loss under the clients' BN statistics ranks candidates better than that under stale ones.",
            METHOD,
            [of_study("02-adaptive-beats-vanilla")],
        ),
        Verdict(
            "The server cannot rank the candidates as well with its own images alone.",
            METHOD,
            [of_study("02-server-only-close", "02-control-server-only")],
        ),
        Verdict(
            "Adjusting block by block, from output to input, is better than another order or step.",
            METHOD,
            [of_study("03-forward", "03-layer", "03-entire", sign=-1)],
        ),
        Verdict(
            "FedTiny ends more accurate than uniform magnitude pruning.",
            METHOD,
            [digits_rival(digits, "magnitude"), of_study("04-gap-0.01", "04-gap-0.02", "04-gap-0.05")],
        ),
    ]


def verdict_table(found: Sequence[Verdict]) -> pd.DataFrame:
    """A row per finding, the weightiest of a claim first and beside the claim: outcome, setting, numbers."""
    table = _table((row, finding) for row in found for finding in (*row.findings, *row.beside))
    return table.assign(claim=table["claim"].mask(table["claim"].duplicated(), ""))


def resnet_table(found: Sequence[Verdict]) -> pd.DataFrame:
    """What was found of the paper's results at its model, a row per claim and setting."""
    rows = [(row, finding) for row in found if row.source != METHOD for finding in (*row.findings, *row.beside)]
    return _table((row, finding) for row, finding in rows if finding.where.startswith("ResNet18"))


def _table(rows: Iterable[tuple[Verdict, Finding]]) -> pd.DataFrame:
    cells = [(row.claim, finding.outcome, finding.where, finding.numbers) for row, finding in rows]
    return pd.DataFrame(cells, columns=["claim", "verdict", "found on", "numbers"])


def in_short(found: Sequence[Verdict]) -> str:
    """What the abstract's claims of accuracy, computation and memory come to, for the README's first lines."""
    accuracy, _, computation, memory = (row for row in found if row.source == ABSTRACT)
    a_round, training = computation.findings
    return (
        f"**Its abstract, checked here.** More accurate than every baseline: **{accuracy.answer}** "
        f"({accuracy.decisive.where}{_elsewhere(accuracy)}). "
        f"95.91 % less computation: **{a_round.outcome}** in an adjusting round, "
        f"**{training.outcome}** over 300 rounds; 94.01 % less memory in a round: **{memory.answer}**."
    )


def _elsewhere(row: Verdict) -> str:
    """The outcomes beside the decisive one, which differ in density alone: `; at 0.012, 0.004: **does not hold**`."""
    places: dict[str, list[str]] = {}
    for found in row.beside:
        if found.outcome != deciding.UNTESTED:
            density = found.where.partition(", density ")[2].partition(",")[0]
            outcome = "the same" if found.outcome == row.decisive.outcome else f"**{found.outcome}**"
            places.setdefault(outcome, []).append(density)
    return "".join(f"; at {', '.join(those)}: {outcome}" for outcome, those in places.items())


def in_markdown(found: Sequence[Verdict]) -> str:
    """The verdicts on the abstract as a table for the README."""
    rows = [f"| {row.claim} | **{row.answer}** | {_lines(row.findings)} |" for row in found if row.source != METHOD]
    return "\n".join(["| the paper claims | here | numbers |", "|---|---|---|", *rows])


def _lines(findings: Sequence[Finding]) -> str:
    """A line per finding; of several, each says its outcome."""
    if len(findings) == 1:
        return f"{findings[0].where}: {findings[0].numbers}"
    return "<br>".join(
        f"{found.where}: {'; '.join(filter(None, (found.outcome, found.numbers)))}" for found in findings
    )
