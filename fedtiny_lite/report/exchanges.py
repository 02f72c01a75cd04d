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
    "candidates' masks": ("pool",),
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
            [content] = [c for c, names in CONTENTS.items() if tensor in names]
            sizes[content] += size
    return sizes


def round_flops(method: str, cost: Mapping, steps: int) -> float:
    """FLOPs of an adjusting round of `steps` batches, from a record of rounds of one batch.

    Growth gradients are taken on one batch of the round, but for the methods in `EVERY_BATCH`.
    """
    ordinary = cost["ordinary"]["flops"]
    extra = (cost.get("adjusting") or cost["ordinary"])["flops"] - ordinary
    return ordinary * steps + extra * (steps if method in EVERY_BATCH else 1)


def run_flops(method: str, cost: Mapping, steps: int, rounds: int, adjusting: int) -> float:
    """FLOPs of training: so many rounds of `steps` batches, of which `adjusting` ones adjust."""
    ordinary = cost["ordinary"]["flops"] * steps
    return (rounds - adjusting) * ordinary + adjusting * round_flops(method, cost, steps)


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
    whole = _held(methods["fedavg"])["rounds"], methods["fedavg"]["ordinary"]["flops"]
    rows: dict[str, pd.Series] = {}
    for name, cost in methods.items():
        said, computed = (known.get(name, (nan, nan)) for known in (paper, formulas))
        work = {kind: flops / whole[1] / steps for kind, flops in _worked(name, cost, steps).items()}
        held = {when: size / whole[0] or nan for when, size in _held(cost).items()}
        flops, memory = ({"paper": said[i], "formula": computed[i]} for i in (0, 1))
        parts: dict[str, pd.Series] = {"FLOPs": pd.Series(flops | work), "memory": pd.Series(memory | held)}
        rows[label_of(name, cost).label] = pd.concat(parts)
    return pd.DataFrame(rows).T.round(5)


def _worked(method: str, cost: Mapping, steps: int) -> dict[str, float]:
    """FLOPs of a round of `steps` batches, by its kind."""
    return {"ordinary": cost["ordinary"]["flops"] * steps, "adjusting": round_flops(method, cost, steps)}


def _held(cost: Mapping) -> dict[str, float]:
    """The largest model state, by when it was held."""
    return {"rounds": largest(cost, "state_bytes"), "before them": largest(cost, "state_bytes", before=True)}
