"""Who is ahead of whom: accuracies compared seed by seed, FedTiny against other methods and against its ablations."""

from collections.abc import Mapping, Sequence
from statistics import mean, mode

import pandas as pd

from fedtiny_lite.experiments.plans import ABLATIONS
from fedtiny_lite.report.frames import at_density, by_label, densities
from fedtiny_lite.report.intervals import LEVEL, holm, p_value, t_interval
from fedtiny_lite.report.labels import FEDTINY

Gaps = Mapping[str, Sequence[float]]
"""Name -> differences in accuracy, one number per seed."""


def paired(runs: pd.DataFrame, others: pd.DataFrame) -> list[float]:
    """Final test accuracy of `runs` minus that of `others`, one number per seed of both."""
    one, other = (part.groupby("seed")["accuracy"].last() for part in (runs, others))
    return (one - other).dropna().tolist()


def paired_differences(runs: pd.DataFrame, first: str, second: str) -> dict[float, list[float]]:
    """Density -> accuracy of the label `first` minus that of `second`, one number per seed of both."""
    parts = {density: at_density(runs, density) for density in densities(runs)}
    gaps = {d: paired(part[part["label"] == first], part[part["label"] == second]) for d, part in parts.items()}
    return {density: found for density, found in gaps.items() if found}


def against_others(runs: pd.DataFrame) -> dict[str, list[float]]:
    """Other label -> accuracy of FedTiny minus that one's, a number per seed; `runs` are of one density."""
    groups = by_label(runs)
    ahead = groups.pop(FEDTINY, runs.iloc[:0])
    gaps = {name: paired(ahead, others) for name, others in groups.items()}
    return {name: found for name, found in gaps.items() if found}


# --- ablations --------------------------------------------------------------------------------------------


def ablations(runs: pd.DataFrame) -> dict[str, dict[str, list[float]]]:
    """Setting -> its value -> accuracy of FedTiny with it minus FedTiny's default, a number per seed.

    The default of a setting is the value that most of FedTiny's runs have. The last entry is of `saliency_scope`: per
    saliency method, choosing within each layer minus within the whole model.
    """
    tiny = runs[runs["method"] == "fedtiny"]
    result: dict[str, dict[str, list[float]]] = {}
    usual = {name: mode(tiny[name]) for changed in ABLATIONS for name in changed if name in tiny and len(tiny)}
    default = _having(tiny, usual)
    for settings in ABLATIONS:
        label = ", ".join(map(str, settings.values())) + " (default)" * (settings.items() <= usual.items())
        gaps = paired(_having(tiny, {**usual, **settings}), default)
        result.setdefault(" × ".join(settings), {})[label] = gaps
    return result | {"saliency_scope: layer minus global": _scopes(runs)}


def _having(runs: pd.DataFrame, settings: Mapping) -> pd.DataFrame:
    wanted = pd.Series(settings, dtype=object)
    return runs[(runs.reindex(columns=wanted.index) == wanted).all(axis=1)]


def _scopes(runs: pd.DataFrame) -> dict[str, list[float]]:
    others = runs[runs["method"] != "fedtiny"]
    layer, whole = (by_label(_having(others, {"saliency_scope": scope})) for scope in ("layer", "global"))
    return {name: paired(part, whole[name]) for name, part in layer.items() if name in whole}


# --- what they say ----------------------------------------------------------------------------------------


def verdict(gaps: Sequence[float]) -> int:
    """1 if the 95 % t interval of the mean lies above 0, -1 if below, else 0; 0 for fewer than two seeds."""
    if len(gaps) < 2:
        return 0
    _, low, high = t_interval(gaps)
    return (low > 0) - (high < 0)


def differences_table(gaps: Mapping[str, Gaps]) -> pd.DataFrame:
    """`gaps[column][row]`: mean ± half of its 95 % t interval, and in how many seeds it is above 0."""
    names = dict.fromkeys(name for found in gaps.values() for name in found)
    cells = {title: [difference(found.get(name, ())) for name in names] for title, found in gaps.items()}
    return pd.DataFrame(cells, list(names))


def difference(values: Sequence[float]) -> str:
    """Differences seed by seed in one cell: mean ± half of the 95 % t interval (seeds above 0)."""
    if len(values) < 2:
        return "-"
    average, low, _ = t_interval(values)
    return f"{average:+.3f} ± {average - low:.3f} ({sum(value > 0 for value in values)}/{len(values)})"


def after_holm(gaps: Mapping[str, Gaps]) -> str:
    """Those of `gaps[column][row]` that paired t tests tell from 0 if all of them together may err in 5 % of cases.

    Differences that are 0 in every seed are no test.
    """
    tests = sorted(
        (p_value(values), f"{row}, {column} ({mean(values):+.3f})")
        for column, found in gaps.items()
        for row, values in found.items()
        if len(values) > 1 and any(values)
    )
    corrected = holm([p for p, _ in tests])
    kept = [what for p, (_, what) in zip(corrected, tests, strict=True) if p <= 1 - LEVEL]
    return f"told from 0 with Holm's correction for all {len(tests)} comparisons: {'; '.join(kept) or 'none'}"


def in_words(groups: Mapping[str, pd.DataFrame]) -> str:
    """A line per group of runs: what FedTiny is ahead of, behind, and not told apart from."""
    lines = {title: _sentence(against_others(runs)) for title, runs in groups.items()}
    return "\n".join(f"{title}: {line}" for title, line in lines.items())


def _sentence(gaps: Gaps) -> str:
    sides = {"ahead of": 1, "behind": -1, "not told apart from": 0}
    found = {words: [name for name, values in gaps.items() if verdict(values) == sign] for words, sign in sides.items()}
    return f"{FEDTINY} is " + "; ".join(f"{words} {', '.join(names) or 'none'}" for words, names in found.items())
