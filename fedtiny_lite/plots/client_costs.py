"""What one client pays in each method: message by message, memory three ways, and beside the paper's headline.

Drawn from the record of `benchmarks.client_costs`, which holds for each method `prelude` (a list: the exchanges before
training) and a round of each kind in `ROUNDS`. FLOPs, bytes and model state are counted, peaks are measured.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from fedtiny_lite.plots.style import GREY, PALETTE, figure, subtitle
from fedtiny_lite.report.arms import NAMES, aligned

ROUNDS = ("first", "ordinary", "adjusting")
PHASES = ("before training", *(f"{kind} round" for kind in ROUNDS))
EVERY_BATCH = ("prunefl",)
"""Methods whose adjusting rounds cost more in every batch; the others' do in one batch of the round."""

_CONTENTS = {  # what a message carries -> its names in the record
    "weights": ("weights",),
    "weights in 8 bits": ("codes", "scales", "zeros"),
    "mask": ("mask",),
    "candidates' masks": ("candidate",),
    "BN statistics": ("stats",),
    "growth list or votes": ("growth list", "votes"),
    "dense gradients or scores": ("squares", "scores"),
    "losses": ("loss", "correct"),
}
_CONTENT_COLOURS = (0, 9, 1, 8, 2, 4, 3, 7)


def phases(cost: Mapping) -> dict[str, list[Mapping]]:
    """The exchanges of a method's record by phase; phases that it does not have are left out."""
    found = [cost["prelude"], *([cost[kind]] if cost.get(kind) else [] for kind in ROUNDS)]
    return {phase: exchanges for phase, exchanges in zip(PHASES, found, strict=True) if exchanges}


def largest(cost: Mapping, key: str, before: bool = False) -> float:
    """The most of `key` in any round of a method's record, or in any exchange `before` training; 0 if there is none."""
    chosen = [found for phase, found in phases(cost).items() if before == (phase == PHASES[0])]
    return max((entry[key] for found in chosen for entry in found), default=0)


def message_figure(methods: Mapping[str, Mapping], limit: float, text: str) -> Figure:
    """Bytes of one client's messages by what they carry, upper bar down, lower bar up; cut off at `limit` MB."""
    kinds = [phase for phase in PHASES if any(phase in phases(cost) for cost in methods.values())]
    fig = figure((3.4 * len(kinds), 1.9 + 0.42 * len(methods)))
    for ax, kind in zip(fig.subplots(1, len(kinds), sharey=True), kinds, strict=True):
        for y, cost in enumerate(methods.values()):
            for shift, way in ((-0.19, "down"), (0.19, "up")):
                _message_bar(ax, y + shift, by_content(phases(cost).get(kind, []), way), limit)
        ax.set_title(kind, fontsize=10)
        ax.set(xlabel="MB of one client", xlim=(0, 1.22 * limit))
    ax.set_yticks(range(len(methods)), [NAMES.get(name, name) for name in methods])
    ax.set_ylim(len(methods) - 0.5, -0.5)
    handles = [Patch(color=PALETTE[colour]) for colour in _CONTENT_COLOURS]
    fig.legend(handles, list(_CONTENTS), loc="outside lower center", ncols=4, fontsize=8.5)
    subtitle(fig, "What the messages carry: upper bar down to the client, lower bar up to the server", text)
    return fig


def by_content(exchanges: Sequence[Mapping], way: str) -> dict[str, int]:
    """Bytes of the tensors sent `way` (up or down) in these exchanges, by what they are."""
    sizes = dict.fromkeys(_CONTENTS, 0)
    for exchange in exchanges:
        for tensor, size in exchange[way].items():
            [content] = [c for c, names in _CONTENTS.items() if tensor.rstrip("0123456789") in names]
            sizes[content] += size
    return sizes


def _message_bar(ax: Axes, y: float, sizes: Mapping[str, int], limit: float) -> None:
    start, total = 0.0, sum(sizes.values()) / 1e6
    for size, colour in zip(sizes.values(), _CONTENT_COLOURS, strict=True):
        end = min(start + size / 1e6, limit)
        if end > start:
            ax.barh(y, end - start, 0.36, left=start, color=PALETTE[colour])
        start = end
    if total:
        label = f"{total:.1f} ▸" if total > limit else f"{total:.2f}"
        ax.text(start + 0.015 * limit, y, label, va="center", fontsize=7, color=GREY)


def memory_figure(memory: Mapping[str, Mapping[str, float]], before: Mapping[str, float], text: str) -> Figure:
    """`memory[what][method]` in bytes: a bar per method and way of counting; diamonds: state held `before` training."""
    names = list(next(iter(memory.values())))
    fig = figure((9.5, 1.9 + 0.45 * len(names)))
    ax, y = fig.subplots(), np.arange(len(names))
    for i, (what, colour) in enumerate(zip(memory, (PALETTE[0], PALETTE[9], PALETTE[3]), strict=True)):
        place, sizes = y + 0.8 * ((i + 0.5) / len(memory) - 0.5), [memory[what][name] / 1e6 for name in names]
        bars = ax.barh(place, sizes, 0.8 / len(memory), color=colour, label=what)
        labels = [f"{size:,.0f}" if size >= 10 else f"{size:.2f}" for size in sizes]
        ax.bar_label(bars, labels, padding=3, fontsize=7, color=GREY)
    earlier = [(before[name] / 1e6, i - 0.27) for i, name in enumerate(names) if before[name]]
    ax.plot(*np.array(earlier).reshape(-1, 2).T, "D", color="black", ms=4, label="model state before training")
    ax.set(xscale="log", xlabel="MB of one client", ylim=(len(names) - 0.5, -0.5))
    ax.set_yticks(y, [NAMES.get(name, name) for name in names])
    ax.margins(x=0.08)
    fig.legend(loc="outside lower center", ncols=2, fontsize=9)
    subtitle(fig, "Memory of a client, three ways", text)
    return fig


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
) -> str:
    """Each method's FLOPs of a round of `steps` batches and its model state, as shares of dense FedAvg's, as text.

    `formulas` and `paper`: (FLOPs, memory) of those methods for which there are such; the rest is counted from the
    record `methods`.
    """
    dense = methods["fedavg"]
    flops, state = dense["ordinary"]["flops"], largest(dense, "state_bytes")
    rows = [
        ("FLOPs", "paper", "formula", "ordinary", "adjusting", "| memory", "paper", "formula", "rounds", "before them")
    ]
    for name, cost in methods.items():
        said, computed = (known.get(name, (None, None)) for known in (paper, formulas))
        work = said[0], computed[0], cost["ordinary"]["flops"] / flops, round_flops(name, cost, steps) / flops / steps
        held = (largest(cost, "state_bytes", before) / state for before in (False, True))
        rows.append((NAMES.get(name, name), *map(_share, work), "|", *map(_share, (said[1], computed[1], *held))))
    return aligned(rows)


def _share(value: float | None) -> str:
    return f"{value:.4g}" if value else "-"
