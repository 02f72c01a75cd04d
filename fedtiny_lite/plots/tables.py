"""The comparison of all methods as text: tuning, budgets, accuracies, differences, ratios to the dense model."""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev

from fedtiny_lite.config import METHODS
from fedtiny_lite.plans import chosen, scores, trials
from fedtiny_lite.plots.arms import NAMES, accuracies, aligned, at_density, by_method, densities, emptied
from fedtiny_lite.plots.comparison import against_others, verdict
from fedtiny_lite.statistics import t_interval


def tuning_table(records: Sequence[dict]) -> str:
    """Per method: how many settings were tried, which was taken, and the validation accuracies."""
    rows = [("method", "tried", "taken", "its accuracy", "others")]
    for method in (name for name in NAMES if name in METHODS):
        tried = trials(method)
        best, found = chosen(records, method, tried), sorted(scores(records, method, tried))
        rates = {settings["lr"] for settings in tried}
        edge = " (end of grid)" if best["lr"] in (min(rates), max(rates)) else ""
        taken = ", ".join(f"{key}={value:g}" for key, value in best.items()) + edge
        rows.append((NAMES[method], str(len(tried)), taken, f"{found[-1]:.3f}", f"{found[0]:.3f} … {found[-2]:.3f}"))
    return aligned(rows)


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


def accuracy_table(records: Sequence[dict]) -> str:
    """Mean ± standard deviation of final accuracy per arm and density, and the number of seeds; * an emptied layer."""
    shown = densities(records)
    rows = [("method", *(f"density {density:g}" for density in shown))]
    for name, runs in by_method(records).items():
        rows.append((name, *(_cell(at_density(runs, density)) for density in shown)))
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
