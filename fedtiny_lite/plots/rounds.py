"""One run round by round: accuracy so far beside the mask, and what a recorded round grew."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from fedtiny_lite.own_files import file_of
from fedtiny_lite.plots.pruning import GROWN, KEPT, PRUNED
from fedtiny_lite.plots.style import GREY, PALETTE, WIDE, figure, subtitle

FINISHED = "rounds finished (0: before training)"
STATES = {"pruned": "white", "pruned in this round": PRUNED, "grown in this round": GROWN, "kept": KEPT}
"""What a round may have made of a weight, and its colour; by 2 x kept now + kept before."""


def training_figure(
    entries: Sequence[Mapping],
    rounds: int,
    score_on: str,
    text: str,
    layer: str = "",
    before: np.ndarray | None = None,
    now: np.ndarray | None = None,
) -> Figure:
    """Left: accuracy of the rounds so far, of `rounds` in all. Right: what the last one made of one layer's weights.

    `entries`: of the record, the start first. `before`, `now`: bool [output channels, weights per output channel] of
    `layer` before and after the last of them, True = kept; each is None if nobody knows it. Without `now` there is no
    right panel.
    """
    fig = figure(WIDE)
    left, *right = fig.subplots(1, 1 if now is None else 2, squeeze=False)[0]
    _accuracy(left, entries, rounds, score_on)
    if now is not None:
        _weights(right[0], layer, before, now)
        handles = [Patch(facecolor=colour, edgecolor=GREY, label=state) for state, colour in STATES.items()]
        fig.legend(handles=handles, fontsize=8, loc="outside lower right", ncols=4)
    subtitle(fig, f"Round {entries[-1]['round'] + 1} of {rounds}", text)
    return fig


def round_figure(record: Mapping, finished: int) -> Figure:
    """A run when `finished` of its rounds were done: accuracy, and the weights that the last of them grew, among all.

    Nothing is said of the mask in a round that noted no `adjusted`: it may have changed, as LotteryFL's does.
    """
    entries, on = [record["start"], *record["rounds"]], record["config"]["score_on"]
    fig = figure((WIDE[0], 4.4))
    top, bottom = fig.subplots(2, 1, sharex=True)
    _accuracy(top, entries, len(record["rounds"]), on)
    _grown(bottom, record)
    for ax in (top, bottom):
        ax.axvline(finished, color=GREY, lw=6, alpha=0.3)
    bottom.set(xlabel=FINISHED, ylabel="weights grown")
    top.set_xlabel("")
    title = f"{finished} of {len(record['rounds'])} rounds: {on} accuracy {entries[finished][f'{on}_accuracy']:.3f}"
    subtitle(fig, title + _growth(entries[finished]), _about(record["config"]))
    return fig


def _growth(entry: Mapping) -> str:
    words = [f"{count:,} in {name.removesuffix('.weight')}" for name, count in _adjusted(entry).items()]
    return f"; grown: {', '.join(words)}" if words else ""


def _about(config: Mapping) -> str:
    where = f"{config['method']}, {config['dataset']}, {file_of(config['model']).stem} width {config['width']}"
    return f"{where}, density {config['density']:g}, seed {config['seed']}; accuracy measured, weights counted"


def _adjusted(entry: Mapping) -> Mapping[str, int]:
    """Layer -> weights grown in this round; empty where the round noted none."""
    return entry.get("adjusted", {})


def _accuracy(ax: Axes, entries: Sequence[Mapping], rounds: int, score_on: str) -> None:
    values = [entry[f"{score_on}_accuracy"] for entry in entries]
    ax.plot([entry["round"] + 1 for entry in entries], values, marker="o", ms=4, color=PALETTE[0])
    ax.set(xlim=(-0.5, rounds + 0.5), ylim=(0, 1), xlabel=FINISHED, ylabel=f"{score_on} accuracy")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(alpha=0.3)


def _weights(ax: Axes, layer: str, before: np.ndarray | None, now: np.ndarray) -> None:
    """A layer's weights in the colours of `STATES`."""
    states = 2 * now + (now if before is None else before)
    ax.imshow(states, ListedColormap(list(STATES.values())), vmin=0, vmax=3, aspect="auto", interpolation="nearest")
    ax.set(xlabel="weight of the filter (index)", ylabel="filter (index)")
    grown = "" if before is None else f", {int((now & ~before).sum()):,} grown in this round"
    ax.set_title(f"{layer.removesuffix('.weight')}: {int(now.sum()):,} of {now.size:,} kept{grown}", fontsize=10)


def _grown(ax: Axes, record: Mapping) -> None:
    """Stacked bars: a round's grown weights by layer."""
    layers, rounds = list(record["model"]["prunable"]), record["rounds"]
    x, bottom = np.arange(1, len(rounds) + 1), np.zeros(len(rounds))
    for number, name in enumerate(layers):
        heights = np.array([_adjusted(entry).get(name, 0) for entry in rounds])
        if heights.any():
            label = name.removesuffix(".weight")
            ax.bar(x, heights, 0.6, bottom=bottom, color=PALETTE[number % len(PALETTE)], label=label)
            bottom += heights
    if bottom.any():
        ax.legend(fontsize=8, loc="upper right", title="layer", title_fontsize=8)
    else:
        ax.text(0.5, 0.5, "no round noted grown weights", transform=ax.transAxes, ha="center", va="center", color=GREY)
    ax.margins(y=0.1)
