"""Records by what they are compared on: which run is which, differences between paired runs, costs."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from statistics import mean

# (selection, progressive) -> what the run is called
_FEDTINY = {
    ("adaptive", "yes"): "FedTiny",
    ("adaptive", "no"): "selection only",
    ("vanilla", "yes"): "progressive only",
    ("vanilla", "no"): "vanilla",
}
NAMES = {
    "fedavg": "dense",
    "small_model": "small model",
    "random": "random",
    "magnitude": "magnitude",
    "snip": "SNIP",
    "synflow": "SynFlow",
    "grasp": "GraSP",
    "ssfl": "SSFL",
    "fl_pqsu": "FL-PQSU",
    "lotteryfl": "LotteryFL",
    "prunefl": "PruneFL",
    "feddst": "FedDST",
    "fedmef": "FedMef",
    "fedrts": "FedRTS",
    "fedtiny": "FedTiny",
}
"""Method -> its name in figures, in the order of the comparison."""
FAMILIES = {
    "masks that stay": (*list(NAMES.values())[:9], "FedTiny"),
    "masks that change": ("dense", *list(NAMES.values())[9:]),
}
"""The panels of a comparison of all methods; dense and FedTiny stand in both."""
ORDER = (*_FEDTINY.values(), "magnitude", "random", *list(NAMES.values())[4:-1], "small model", "dense")


def arm(record: dict) -> str:
    """What a run is called in figures: a method, or one of FedTiny's ablations."""
    config = record["config"]
    if config["method"] != "fedtiny":
        return NAMES.get(config["method"], config["method"])
    selection, progressive = config["selection"], config["progressive"]
    other = f"selection={selection}" + ", progressive=no" * (progressive == "no")
    return _FEDTINY.get((selection, progressive), other)


def by_arm(records: Iterable[dict], order: Sequence[str] = ORDER) -> dict[str, list[dict]]:
    """Records by `arm`, in `order`, that of the legend; those that it leaves out come last."""
    groups = grouped(records, arm)
    return {name: groups[name] for name in (*order, *sorted(groups.keys() - set(order))) if name in groups}


def by_method(records: Iterable[dict]) -> dict[str, list[dict]]:
    """Records by `arm`, in the order of the comparison."""
    return by_arm(records, tuple(NAMES.values()))


def families(records: Iterable[dict]) -> dict[str, tuple[str, ...]]:
    """`FAMILIES`; an arm that stands in neither, such as a method of one's own, comes last in both."""
    named = {name for names in FAMILIES.values() for name in names}
    others = [name for name in by_method(records) if name not in named]
    return {title: (*names, *others) for title, names in FAMILIES.items()}


def densities(records: Iterable[dict]) -> list[float]:
    """The densities asked for, largest first; the dense model has none."""
    return sorted({r["config"]["density"] for r in records if arm(r) != "dense"}, reverse=True)


def at_density(records: Iterable[dict], density: float) -> list[dict]:
    """The runs at this density, and the dense ones, which stand beside any."""
    return [r for r in records if arm(r) == "dense" or r["config"]["density"] == density]


def accuracies(records: Iterable[dict]) -> list[float]:
    """Test accuracy after the last round, by seed."""
    return [r["final"]["test_accuracy"] for r in sorted(records, key=lambda r: r["config"]["seed"])]


def paired_differences(records: Sequence[dict], first: str, second: str) -> dict[float, list[float]]:
    """Density -> final test accuracy of arm `first` minus that of arm `second`, one number per seed of both."""
    result = {}
    for density in densities(records):
        arms = by_arm(at_density(records, density))
        one, other = ({r["config"]["seed"]: r for r in arms.get(name, [])} for name in (first, second))
        seeds = sorted(one.keys() & other.keys())
        gaps = [one[s]["final"]["test_accuracy"] - other[s]["final"]["test_accuracy"] for s in seeds]
        result |= {density: gaps} if gaps else {}
    return result


def budget_used(record: dict) -> float:
    """The largest share of its weight budget that a run's model held, over the start and all rounds."""
    model = record["model"]
    allowed = model["budget"] / sum(model["prunable"].values())
    return max(entry["prunable_density"] for entry in (record["start"], *record["rounds"])) / allowed


def above_budget(record: dict) -> list[int]:
    """The rounds, from 1, in which a client held more weights than the budget; 0 stands for before training."""
    before = max((entry["client_kept"] for entry in record["prelude"]), default=0)
    held = (before, *(entry["client_kept"] for entry in record["rounds"]))
    return [r for r, count in enumerate(held) if count > record["model"]["budget"]]


def emptied(record: dict) -> list[str]:
    """The layers that kept no weight at the start or after any round; the network then passes nothing through them."""
    entries = (record["start"], *record["rounds"])
    return list(dict.fromkeys(name for entry in entries for name in entry.get("empty_layers", ())))


def grouped(records: Iterable[dict], key: Callable[[dict], Hashable]) -> dict[Hashable, list[dict]]:
    """Records by the value that `key` gives them, in the order of first sight."""
    groups: dict = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return groups


def cost_table(records: Sequence[dict]) -> str:
    """Mean counted cost of one client per arm and density, as text: bytes and FLOPs, against the dense model.

    Bytes are those of the packed messages. "before" is what selection costs ahead of the first round.
    """
    dense = by_arm(records).get("dense", [])
    head = ("density", "run", "accuracy", "down kB/round", "up kB/round", "before kB", "MFLOPs/round", "of dense")
    rows = [head]
    for density in [None, *densities(records)]:
        arms = {"dense": dense} if density is None else by_arm(at_density(records, density))
        for name, runs in arms.items():
            if runs and (density is None or name != "dense"):
                rows.append(("-" if density is None else f"{density:g}", name, *_cost_cells(runs, dense)))
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as text, each column as wide as its longest cell: the first flush left, the others flush right."""
    first, *widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = ([row[0].ljust(first), *map(str.rjust, row[1:], widths)] for row in rows)
    return "\n".join("  ".join(cells).rstrip() for cells in padded)


def _cost_cells(runs: Sequence[dict], dense: Sequence[dict]) -> tuple[str, ...]:
    down, up, flops = (per_round(runs, what) for what in ("bytes_down", "bytes_up", "training_flops"))
    before = mean(sum(e["bytes_down"] + e["bytes_up"] for e in r["prelude"]) / r["config"]["clients"] for r in runs)
    share = f"{flops / per_round(dense, 'training_flops'):.3f}" if dense else "-"
    numbers = (f"{down / 1e3:.2f}", f"{up / 1e3:.2f}", f"{before / 1e3:.2f}", f"{flops / 1e6:.2f}", share)
    return (f"{mean(accuracies(runs)):.3f}", *numbers)


def per_round(runs: Sequence[dict], what: str) -> float:
    """Mean over runs, rounds and clients."""
    return mean(mean(e[what] for e in r["rounds"]) / r["config"]["clients"] for r in runs if r["rounds"])


def amortised(runs: Sequence[dict], what: str) -> float:
    """Mean over runs and clients of a run's total, what comes before training included, divided by its rounds."""
    return mean(r["final"][what] / r["config"]["clients"] / len(r["rounds"]) for r in runs if r["rounds"])
