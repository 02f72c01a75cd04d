"""The comparison of all methods as text: tuning, budgets, accuracies, differences, ratios to the dense model."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from statistics import mean, stdev

from fedtiny_lite.experiments.plans import chosen, scores, trials
from fedtiny_lite.report.arms import (
    above_budget,
    accuracies,
    aligned,
    amortised,
    at_density,
    by_method,
    densities,
    emptied,
    grouped,
)
from fedtiny_lite.report.comparison import against_others, verdict
from fedtiny_lite.report.statistics import p_value, t_interval


def tuning_table(records: Sequence[dict]) -> str:
    """Per method: how many settings were tried, which was taken, and the validation accuracies."""
    rows = [("method", "tried", "taken", "its accuracy", "others")]
    ends = grid_ends(records)
    for name, runs in by_method(records).items():
        method = runs[0]["config"]["method"]
        tried = trials(method)
        best, found = chosen(records, method, tried), sorted(scores(records, method, tried))
        knobs = [f"{key}={value:g}" for key, value in best.items() if key != "lr"]
        taken = ", ".join([f"lr={best['lr']:g}" + f" ({ends.get(name)})" * (name in ends), *knobs])
        rows.append((name, str(len(tried)), taken, f"{found[-1]:.3f}", f"{found[0]:.3f} … {found[-2]:.3f}"))
    return aligned(rows)


def grid_ends(records: Sequence[dict]) -> dict[str, str]:
    """Arms whose learning rate is the lowest or the highest that was tried for them: a better one may lie outside."""
    ends = {}
    for name, runs in by_method(records).items():
        method = runs[0]["config"]["method"]
        tried = trials(method)
        rates, taken = [settings["lr"] for settings in tried], chosen(records, method, tried)["lr"]
        if taken in (min(rates), max(rates)):
            ends[name] = "lowest tried" if taken == min(rates) else "highest tried"
    return ends


def same_for_all(records: Sequence[dict]) -> str:
    """What the records say of what runs share: the settings in which they differ, data, partitions, rounds."""
    configs, found = [record["config"] for record in records], [record["data"] for record in records]
    differ = [key for key in configs[0] if any(config.get(key) != configs[0][key] for config in configs)]
    parts = ("fingerprint", "label_distance", "size_spread", "redraws")
    seeds = grouped(records, lambda record: record["config"]["seed"])
    splits = [{tuple(run["data"].get(part) for part in parts) for run in runs} for runs in seeds.values()]
    rounds = sorted({len(record["rounds"]) for record in records})
    lines = (
        f"settings in which the runs differ: {', '.join(differ)}; in no other",
        f"data (by fingerprint): {len({data.get('fingerprint') for data in found})}; rounds finished: {rounds}",
        f"seeds: {len(seeds)}; partitions within a seed (by skew, sizes and redraws): {max(map(len, splits))}",
    )
    return "\n".join(lines)


def budget_shares(record: dict) -> dict[str, float]:
    """What a run held, 1 = all that it may: weights of a client at most; parameters of the server's model at last."""
    model, rounds = record["model"], [entry["client_kept"] for entry in record["rounds"]]
    before = [entry["client_kept"] for entry in record["prelude"]]
    held = {
        "before training": max(before, default=0),
        "first round": rounds[0],
        "any round": max(rounds),
        "last round": rounds[-1],
    }
    server = round(record["final"]["model_density"] * model["parameters"])  # bundles round it to 7 digits
    return {key: count / model["budget"] for key, count in held.items()} | {"server's model": server / model["allowed"]}


def largest_shares(records: Sequence[dict]) -> dict[str, dict[str, float]]:
    """Pruned arm -> `budget_shares`, each the largest of its runs."""
    arms = {name: list(map(budget_shares, runs)) for name, runs in by_method(records).items() if name != "dense"}
    return {name: {key: max(s[key] for s in shares) for key in shares[0]} for name, shares in arms.items()}


def budget_table(records: Sequence[dict]) -> str:
    """`largest_shares` as text, and who was above the budget when."""
    shares = largest_shares(records)
    head = ("method", *next(iter(shares.values())))
    rows = [(name, *(f"{value:.3f}" if value else "-" for value in found.values())) for name, found in shares.items()]
    over = {
        key: ", ".join(f"{name} ({found[key]:.3g} times)" for name, found in shares.items() if found[key] > 1)
        for key in head[1:]
    }
    lines = [f"above 1, {key}: {names or 'none'}" for key, names in over.items()]
    return "\n".join([aligned([head, *rows]), *lines])


def accuracy_table(records: Sequence[dict], ends: Iterable[str] = ()) -> str:
    """Mean ± standard deviation of final accuracy per arm and density, and the number of seeds; below it its marks.

    `ends`: the arms of `grid_ends`.
    """
    shown = densities(records)
    rows = [("method", *(f"density {density:g}" for density in shown))]
    for name, runs in by_method(records).items():
        over = name != "dense" and any(map(above_budget, runs))
        marks = " †" * over + " ‡" * (name in ends)
        rows.append((name + marks, *(_cell(at_density(runs, density)) for density in shown)))
    notes = {
        "*": "*: a run emptied a layer",
        "†": "†: a client held more than its budget, before training or in a round",
        "‡": "‡: its learning rate is at an end of the grid that was tried; a better one may lie outside",
    }
    table = aligned(rows)
    return "\n".join([table, *(note for mark, note in notes.items() if mark in table)])


def share_table(records: Sequence[dict]) -> str:
    """Per density and arm what a client spends in all, before training included, as shares of the dense model's."""
    dense, rows = by_method(records)["dense"], [("density", "method", "FLOPs", "bytes, both ways")]
    for density in densities(records):
        for name, runs in by_method(at_density(records, density)).items():
            shares = [
                sum(amortised(runs, part) for part in parts) / sum(amortised(dense, part) for part in parts)
                for parts in (("training_flops",), ("bytes_down", "bytes_up"))
            ]
            rows.append((f"{density:g}", name, *(f"{share:.3f}" for share in shares)))
    return aligned(rows)


def _cell(runs: Sequence[dict]) -> str:
    if not runs:
        return "-"
    values, star = accuracies(runs), "*" if any(map(emptied, runs)) else ""
    spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
    return f"{mean(values):.3f}{spread} ({len(values)}){star}"


def emptied_lines(records: Sequence[dict]) -> str:
    """Per arm and density the layers that runs emptied, and in how many runs."""
    lines = []
    for name, runs in by_method(records).items():
        for density in densities(runs):
            found = [emptied(run) for run in at_density(runs, density)]
            layers = ", ".join(sorted({layer.removesuffix(".weight") for names in found for layer in names}))
            if layers:
                lines.append(f"{name}, density {density:g}: {layers} in {sum(map(bool, found))} of {len(found)} runs")
    return "\n".join(lines) or "no run emptied a layer"


def differences_table(gaps: Mapping[str, Mapping[str, Sequence[float]]], head: str) -> str:
    """`gaps[column][row]`, differences seed by seed: mean ± half of its 95 % t interval, and how many are above 0.

    `head` stands above the rows' names.
    """
    names = dict.fromkeys(name for found in gaps.values() for name in found)
    rows = [(name, *(_difference(found.get(name, ())) for found in gaps.values())) for name in names]
    return aligned([(head, *gaps), *rows])


def _difference(values: Sequence[float]) -> str:
    if len(values) < 2:
        return "-"
    average, low, _ = t_interval(values)
    return f"{average:+.3f} ± {average - low:.3f} ({sum(value > 0 for value in values)}/{len(values)})"


def after_holm(gaps: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Those of `gaps[column][row]` that paired t tests tell from 0 if all of them together may err in 5 % of cases.

    Holm (1979): the smallest p value times the number of tests, the next times one less, until one exceeds 0.05.
    Differences that are 0 in every seed are no test.
    """
    tests = sorted(
        (p_value(values), f"{row}, {column} ({mean(values):+.3f})")
        for column, found in gaps.items()
        for row, values in found.items()
        if len(values) > 1 and any(values)
    )
    adjusted = accumulate((p * (len(tests) - place) for place, (p, _) in enumerate(tests)), max)
    kept = [what for bound, (_, what) in zip(adjusted, tests, strict=True) if bound <= 0.05]
    return f"told from 0 with Holm's correction for all {len(tests)} comparisons: {'; '.join(kept) or 'none'}"


def in_words(groups: Mapping[str, Sequence[dict]], first: str = "FedTiny") -> str:
    """A line per group: what `first` is ahead of, behind, and not told apart from."""
    lines = {title: _sentence(against_others(records, first), first) for title, records in groups.items()}
    return "\n".join(f"{title}: {line}" for title, line in lines.items())


def _sentence(gaps: Mapping[str, Sequence[float]], first: str) -> str:
    sides = {"ahead of": 1, "behind": -1, "not told apart from": 0}
    found = {words: [name for name, values in gaps.items() if verdict(values) == sign] for words, sign in sides.items()}
    return f"{first} is " + "; ".join(f"{words} {', '.join(names) or 'none'}" for words, names in found.items())


def personal_table(records: Sequence[dict]) -> str:
    """LotteryFL's global and personal accuracy per density, mean ± standard deviation, and their paired difference."""
    rows = [("density", "global", "personal", "personal minus global")]
    for density in densities(records):
        finals = [run["final"] for run in by_method(at_density(records, density)).get("LotteryFL", [])]
        both = [[final[key] for final in finals] for key in ("test_accuracy", "personal_accuracy")]
        gaps = [final["personal_accuracy"] - final["test_accuracy"] for final in finals]
        if len(finals) > 1:
            cells = [f"{mean(values):.3f} ± {stdev(values):.3f} ({len(values)})" for values in both]
            rows.append((f"{density:g}", *cells, _difference(gaps)))
    return aligned(rows)
