"""The rules by which numbers become a verdict; those for accuracies are the ones of docs/protocol.md."""

from collections.abc import Collection, Mapping, Sequence
from statistics import mean

from fedtiny_lite.report.differences import Gaps, verdict
from fedtiny_lite.report.intervals import LEVEL, holm_of_planned, p_value, t_interval

LEAST = 3
"""Seeds that a verdict takes at least. Student's t of two is 12.7, so two tell hardly any difference from 0."""
HOLDS, PARTLY, FAILS, OPEN, UNTESTED = "holds", "partly", "does not hold", "cannot be told", "not tested yet"


def of_one(values: Sequence[float]) -> str:
    """Whether a difference, one number per seed, is above 0: by its 95 % t interval."""
    if len(values) < LEAST:
        return UNTESTED
    return {1: HOLDS, -1: FAILS, 0: OPEN}[verdict(values)]


def of_parts(outcomes: Sequence[str]) -> str:
    """What holds of a claim with several parts: all, some or none of them.

    Where no part holds, one that does not is enough. While a part is not tested yet, the claim holds "so far" at most.
    """
    tested = [outcome for outcome in outcomes if outcome != UNTESTED]
    if not tested:
        return UNTESTED
    if {*tested} == {HOLDS}:
        return HOLDS if tested == [*outcomes] else f"{HOLDS} so far"
    if any(outcome in (HOLDS, PARTLY) for outcome in tested):
        return PARTLY
    return FAILS if FAILS in tested else OPEN


def of_all(gaps: Gaps, planned: Collection[str] = ()) -> str:
    """Whether FedTiny is ahead of every baseline; `gaps`: baseline -> FedTiny's accuracy minus that one's, per seed.

    It holds if every mean is above 0 and told from 0 with Holm's correction over the baselines, and holds against
    those of which that is so. It does not hold if the interval of the difference to the best baseline is below 0. A
    baseline with fewer than `LEAST` seeds is left out; while a `planned` one is, the claim holds "so far" at most.
    """
    known = {name: values for name, values in gaps.items() if len(values) >= LEAST}
    if not known:
        return UNTESTED
    beaten = ahead_of(known, planned)
    if {*beaten} >= {*known, *planned}:
        return HOLDS
    if verdict(known[best(known)]) < 0:
        return FAILS
    if not beaten:
        return OPEN
    names = ", ".join(beaten)
    return f"{HOLDS} so far against {names}" if {*planned} - {*known} else f"{HOLDS} against {names} only"


def best(gaps: Gaps) -> str:
    """The most accurate baseline: that of the least mean difference."""
    return min(gaps, key=lambda name: mean(gaps[name]))


def ahead_of(gaps: Gaps, planned: Collection[str] = ()) -> list[str]:
    """The baselines that FedTiny is ahead of, with Holm's correction over all of them and those still `planned`."""
    corrected = holm_of_planned([p_value(values) for values in gaps.values()], len({*gaps, *planned}))
    return [
        name for (name, values), p in zip(gaps.items(), corrected, strict=True) if p <= 1 - LEVEL and mean(values) > 0
    ]


def saved(ours: float, theirs: float) -> float:
    """The share of another method's cost that FedTiny saves; below 0 it costs more."""
    return 1 - ours / theirs


def of_shares(saved: Mapping[str, float], paper: float) -> str:
    """Whether what FedTiny saves, as a share of each other method's cost, is at least what the paper says."""
    names = reached(saved, paper)
    if len(names) == len(saved):
        return HOLDS
    return f"{HOLDS} against {', '.join(names)} only" if names else FAILS


def reached(saved: Mapping[str, float], paper: float) -> list[str]:
    """The methods against which FedTiny saves at least the share that the paper says."""
    return [name for name, share in saved.items() if share >= paper]


def in_numbers(values: Sequence[float]) -> str:
    """Mean, 95 % t interval and n of one number per seed, such as `+0.104 [+0.052, +0.157], n = 30`."""
    if len(values) < 2:
        return f"n = {len(values)}"
    average, low, high = (signed(number) for number in t_interval(values))
    return f"{average} [{low}, {high}], n = {len(values)}"


def signed(number: float) -> str:
    """Three digits after the point, and a sign as printers set it."""
    return f"{number:+.3f}".replace("-", "−")
