"""What one client pays in each method, from the record of `benchmarks.client_costs`.

The record holds for each method `prelude` (a list: the exchanges before training) and a round of each kind in `ROUNDS`.
FLOPs, bytes and model state are counted, peaks are measured.
"""

from collections.abc import Mapping, Sequence
from math import nan

import pandas as pd

from fedtiny_lite.report.labels import Label, method_label, place

ROUNDS = ("first", "ordinary", "adjusting")
PHASES = ("before training", *(f"{kind} round" for kind in ROUNDS))
EVERY_BATCH = ("prunefl",)
"""Methods whose adjusting rounds cost more in every batch; the others' do in one batch of the round."""

CONTENTS = {  # what a message carries -> its names in the record
    "weights": ("weights",),
    "weights in 8 bits": ("codes", "scales", "zeros"),
    "mask": ("mask",),
    "candidates' masks": ("candidate",),
    "BN statistics": ("stats",),
    "growth list or votes": ("growth list", "votes"),
    "dense gradients or scores": ("squares", "scores"),
    "losses": ("loss", "correct"),
}


def label_of(method: str, cost: Mapping | None = None) -> Label:
    """The label of a method: what its costs say under `label` and `family`, or else what is known of it."""
    return method_label(method, cost if cost and "label" in cost else None)


def in_order(methods: Mapping[str, Mapping]) -> dict[str, Mapping]:
    """The costs of methods by family and name."""
    return {name: methods[name] for name in sorted(methods, key=lambda name: place(label_of(name, methods[name])))}


def phases(cost: Mapping) -> dict[str, list[Mapping]]:
    """The exchanges of a method's record by phase; phases that it does not have are left out."""
    found = [cost["prelude"], *([cost[kind]] if cost.get(kind) else [] for kind in ROUNDS)]
    return {phase: exchanges for phase, exchanges in zip(PHASES, found, strict=True) if exchanges}


def largest(cost: Mapping, key: str, before: bool = False) -> float:
    """The most of `key` in any round of a method's record, or in any exchange `before` training; 0 if there is none."""
    chosen = [found for phase, found in phases(cost).items() if before == (phase == PHASES[0])]
    return max((entry[key] for found in chosen for entry in found), default=0)


def by_content(exchanges: Sequence[Mapping], way: str) -> dict[str, int]:
    """Bytes of the tensors sent `way` (up or down) in these exchanges, by what they are."""
    sizes = dict.fromkeys(CONTENTS, 0)
    for exchange in exchanges:
        for tensor, size in exchange[way].items():
            [content] = [c for c, names in CONTENTS.items() if tensor.rstrip("0123456789") in names]
            sizes[content] += size
    return sizes


def round_flops(method: str, cost: Mapping, steps: int) -> float:
    """FLOPs of an adjusting round of `steps` batches, from a record of rounds of one batch.

    Growth gradients are taken on one batch of the round, but for the methods in `EVERY_BATCH`.
    """
    ordinary = cost["ordinary"]["flops"]
    extra = (cost.get("adjusting") or cost["ordinary"])["flops"] - ordinary
    return ordinary * steps + extra * (steps if method in EVERY_BATCH else 1)


def headline_table(
    methods: Mapping[str, Mapping],
    steps: int,
    formulas: Mapping[str, tuple[float, float]],
    paper: Mapping[str, tuple[float, float]],
) -> pd.DataFrame:
    """Each method's FLOPs of a round of `steps` batches and its model state, as shares of dense FedAvg's.

    `formulas` and `paper`: (FLOPs, memory) of those methods for which there are such; the rest is counted from the
    record `methods`. What there is not is missing.
    """
    dense = methods["fedavg"]
    flops, state = dense["ordinary"]["flops"], largest(dense, "state_bytes")
    rows = {}
    for name, cost in methods.items():
        said, computed = (known.get(name, (nan, nan)) for known in (paper, formulas))
        held = [largest(cost, "state_bytes", before) / state or nan for before in (False, True)]
        rows[label_of(name, cost).label] = {
            ("FLOPs", "paper"): said[0],
            ("FLOPs", "formula"): computed[0],
            ("FLOPs", "ordinary"): cost["ordinary"]["flops"] / flops,
            ("FLOPs", "adjusting"): round_flops(name, cost, steps) / flops / steps,
            ("memory", "paper"): said[1],
            ("memory", "formula"): computed[1],
            ("memory", "rounds"): held[0],
            ("memory", "before them"): held[1],
        }
    table = pd.DataFrame(list(rows.values()), list(rows)).round(5)
    return table.set_axis(pd.MultiIndex.from_tuples(table.columns), axis=1)
