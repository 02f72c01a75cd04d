"""What a run is called in figures, and the family that its method belongs to. Both stand in its record."""

from collections.abc import Mapping
from typing import NamedTuple

from fedtiny_lite.records.schema import CHANGE, FAMILIES, REFERENCE, STAY

DENSE, FEDTINY = "dense", "FedTiny"


class Label(NamedTuple):
    """The name of a method and its family."""

    label: str
    family: str


# The kit's methods, for readers that load no torch: method -> (name, family)
_KIT_METHODS = {
    "fedavg": (DENSE, REFERENCE),
    "small_model": ("small model", REFERENCE),
    "random": ("random", REFERENCE),
    "magnitude": ("magnitude", STAY),
    "snip": ("SNIP", STAY),
    "synflow": ("SynFlow", STAY),
    "grasp": ("GraSP", STAY),
    "ssfl": ("SSFL", STAY),
    "fl_pqsu": ("FL-PQSU", STAY),
    "lotteryfl": ("LotteryFL", CHANGE),
    "prunefl": ("PruneFL", CHANGE),
    "feddst": ("FedDST", CHANGE),
    "fedmef": ("FedMef", CHANGE),
    "fedrts": ("FedRTS", CHANGE),
    "fedtiny": (FEDTINY, CHANGE),
}
KIT_BASELINES = [found for found, _ in _KIT_METHODS.values() if found not in (DENSE, FEDTINY)]
"""Labels of the kit's methods that FedTiny is compared with: all but the dense model."""
_ABLATIONS = {  # (selection, progressive) -> what the run of FedTiny is called
    ("adaptive", "no"): "selection only",
    ("vanilla", "yes"): "progressive only",
    ("vanilla", "no"): "neither",
}


def method_label(method: str, named: Mapping | None = None) -> Label:
    """The label of a method: what a record says of it in `named`, or else what the kit calls it.

    A method that is not known keeps its own name.
    """
    if named:
        return Label(named["label"], named["family"])
    return Label(*_KIT_METHODS.get(method, (method, CHANGE)))


def run_label(record: Mapping) -> Label:
    """The label of a run: that of its method, or of one of FedTiny's ablations."""
    config = record["config"]
    found = method_label(config["method"], record.get("method"))
    return found._replace(label=_ablation(config, found.label)) if config["method"] == "fedtiny" else found


def _ablation(config: Mapping, whole: str) -> str:
    """The name of FedTiny with these settings; with both of its modules it is the `whole`."""
    selection, progressive = config.get("selection", "adaptive"), config.get("progressive", "yes")
    if (selection, progressive) == ("adaptive", "yes"):
        return whole + _ours(config)
    other = f"selection={selection}" + ", progressive=no" * (progressive == "no")
    return _ABLATIONS.get((selection, progressive), other) + _ours(config)


def _ours(config: Mapping) -> str:
    """What a label says of candidates that are the kit's own; nothing of the paper's."""
    pool, epochs = config.get("pool", "paper"), config.get("trial_epochs", 0)
    trial = f"{epochs} trial epochs" if epochs else ""
    if pool == "paper":
        return f", {trial} (ours)" if trial else ""
    return f", pool of {pool}" + f" after {trial}" * bool(trial) + " (ours)"


def place(found: Label) -> tuple[int, str]:
    """Sorts labels by family, then by name; a family that is not known comes last."""
    number = FAMILIES.index(found.family) if found.family in FAMILIES else len(FAMILIES)
    return number, found.label.casefold()
