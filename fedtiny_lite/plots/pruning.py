"""Figures of progressive pruning: when, which block, what grew and was pruned, and what the lists weigh."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from fedtiny_lite.plots.strips import strip
from fedtiny_lite.plots.style import GREY, PALETTE, WIDE, figure, subtitle

KEPT, GROWN, PRUNED = "#bbbbbb", PALETTE[0], PALETTE[3]
RULE_STYLES = (dict(marker="s", s=34, color=PALETTE[0]), dict(marker="x", s=30, color=PALETTE[3]))


def schedule_figure(panels: Mapping[str, tuple[Sequence[float], Mapping[str, Sequence[int | None]], int]]) -> Figure:
    """How much is exchanged in each round, and which block's turn it is.

    `panels[title] = (rates, turns, units)`: the rate of each round; per rule the number of the unit adjusted
    in each round (0 = nearest the output), None in rounds without adjustment; and the number of units.
    """
    fig = figure((WIDE[0], 5.0))
    axes = fig.subplots(2, len(panels), sharex="col", squeeze=False)
    for (top, bottom), (title, (rates, turns, units)) in zip(axes.T, panels.items(), strict=True):
        top.plot(rates, color=GREY, linewidth=1)
        rule = next(iter(turns.values()))
        rounds = [r for r, turn in enumerate(rule) if turn is not None]
        top.plot(rounds, [rates[r] for r in rounds], "o", color=PALETTE[0], label="adjustment round")
        top.set_title(title, fontsize=10)
        top.set(ylabel="share of kept weights\nexchanged", ylim=(0, None))
        top.legend(fontsize=8)
        _turns(bottom, turns, units)
    fig.legend(*axes[1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9)
    subtitle(fig, "The schedule", "computed from the settings; nothing is trained here")
    return fig


def _turns(ax: Axes, turns: Mapping[str, Sequence[int | None]], units: int) -> None:
    for (rule, turn), style in zip(turns.items(), RULE_STYLES, strict=False):
        points = [(r, unit) for r, unit in enumerate(turn) if unit is not None]
        ax.scatter(*np.array(points).reshape(-1, 2).T, label=rule, **style)
    ax.set_yticks(range(units), [f"{units - unit}" for unit in range(units)])
    ax.set(ylim=(units - 0.5, -0.5), xlabel="round", ylabel="block (1 = input)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(axis="y", alpha=0.3)


def change_figure(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray], text: str) -> Figure:
    """Mask maps: what is kept, what grew and what was pruned between two states.

    `before`, `after`: bool [out channels, weights per channel] per layer, True = kept.
    """
    rows = [keep.shape[0] for keep in before.values()]
    fig = figure((WIDE[0], 1.8 + 0.07 * sum(rows)))
    axes = fig.subplots(len(before), 1, height_ratios=[max(count, 14) for count in rows], squeeze=False)[:, 0]
    for ax, (name, old) in zip(axes, before.items(), strict=True):
        _mask_map(ax, old, after[name])
        exchanged = int((after[name] & ~old).sum())
        title = f"{name.removesuffix('.weight')}: {exchanged} of {int(old.sum())} exchanged"
        ax.set_title(title, fontsize=9, loc="left")
    axes[-1].set_xlabel("weight of the filter: input channel and place in the kernel")
    fig.supylabel("filter (output channel)", fontsize=10)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
    subtitle(fig, "Which of the kept weights were exchanged", text)
    return fig


def _mask_map(ax: Axes, old: np.ndarray, new: np.ndarray) -> None:
    groups = {
        "kept before and after": (old & new, dict(color=KEPT, marker="s")),
        "grown": (new & ~old, dict(color=GROWN, marker="P")),
        "pruned": (old & ~new, dict(color=PRUNED, marker="x")),
    }
    for label, (where, style) in groups.items():
        row, column = where.nonzero()
        ax.scatter(column, row, s=14, linewidths=1, label=label, **style)
    ax.set(xlim=(-1, old.shape[1]), ylim=(old.shape[0], -1))


def density_figure(
    densities: Mapping[str, Sequence[float]], replaced: Mapping[str, Sequence[float]], text: str
) -> Figure:
    """Per layer over the rounds: its density, and the share of its first kept weights that has been replaced.

    Both start with the state before round 0, drawn at -1.
    """
    fig = figure(WIDE)
    left, right = fig.subplots(1, 2)
    for ax, series in ((left, densities), (right, replaced)):
        for i, (name, values) in enumerate(series.items()):
            rounds = range(-1, len(values) - 1)
            ax.plot(rounds, values, marker="os^Dv"[i % 5], color=PALETTE[i % len(PALETTE)], markersize=4,
                    label=name.removesuffix(".weight"))  # fmt: skip
        ax.set_xlabel("round (-1 = before training)")
        ax.set_ylim(0, None)
    left.set_ylabel("layer density (kept / all)")
    right.set_ylabel("share of the first kept weights\nthat has been replaced")
    left.legend(fontsize=8, ncols=2)
    subtitle(fig, "How many weights a layer keeps does not change; which ones does", text)
    return fig


def list_figure(panels: Mapping[str, Mapping[str, tuple[int, int]]], text: str) -> Figure:
    """`panels[title][layer or block] = (dense gradient, list)` in bytes, side by side on a logarithmic scale."""
    fig = figure((WIDE[0], 4.0))
    for ax, (title, sizes) in zip(fig.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        x = np.arange(len(sizes))
        for shift, label, colour, column in ((-0.2, "dense gradient", KEPT, 0), (0.2, "growth list", GROWN, 1)):
            heights = [pair[column] / 1e3 for pair in sizes.values()]
            bars = ax.bar(x + shift, heights, 0.4, color=colour, label=label)
            ax.bar_label(bars, fmt=lambda kilobytes: f"{kilobytes:,.{0 if kilobytes >= 100 else 2}f}", fontsize=7)
        ax.set_xticks(x, [name.removesuffix(".weight") for name in sizes], fontsize=8)
        ax.set(yscale="log", ylabel="kB per client", xlabel="layer or block")
        ax.set_title(title, fontsize=10)
        ax.margins(y=0.15)
    fig.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9)
    subtitle(fig, "A list of the largest gradients instead of all of them", text)
    return fig


def variant_figure(accuracy: Mapping[str, Sequence[float]], text: str) -> Figure:
    """Final accuracy per variant and seed, and the difference to the first variant seed by seed."""
    fig = figure((WIDE[0], 4.2))
    left, right = fig.subplots(1, 2)
    strip(left, accuracy, "test accuracy after training")
    first, *others = accuracy
    gains = {name: [a - b for a, b in zip(accuracy[name], accuracy[first], strict=True)] for name in others}
    strip(right, gains, f"accuracy minus that of\n'{first}', same seed", zero=True)
    subtitle(fig, "What adjusting the mask brings", text)
    return fig


def gradient_figure(kept: Sequence[float], pruned: Sequence[float], entry: float, text: str) -> Figure:
    """How |gradients| of kept and of pruned weights of a layer are distributed.

    `entry`: the least of the list, drawn as a line.
    """
    fig = figure((WIDE[0] * 0.8, 3.6))
    ax = fig.subplots()
    edges = np.linspace(0, max(*kept, *pruned), 41)
    for values, label, colour in ((kept, "kept", GREY), (pruned, "pruned", GROWN)):
        share = np.full(len(values), 1 / len(values))
        ax.hist(values, edges.tolist(), weights=share, histtype="step", linewidth=1.5, color=colour, label=label)
    ax.axvline(entry, color=PRUNED, linestyle="--", label="least |gradient| of the list")
    ax.set(xlabel="|gradient| of the loss", ylabel="share of the weights", yscale="log")
    ax.legend(fontsize=8)
    subtitle(fig, "Pruned weights have gradients too", text)
    return fig


def exchange_figure(
    weight: Sequence[Sequence[float]], gradient: Sequence[Sequence[float]], before: np.ndarray, after: np.ndarray
) -> Figure:
    """A small layer weight by weight: its weights, the merged gradients of pruned ones, and the mask afterwards.

    `before`, `after`: bool [rows, columns], True = kept.
    """
    fig = figure((WIDE[0], 3.6))
    left, middle, right = fig.subplots(1, 3)
    grown, pruned = after & ~before, before & ~after
    _cells(left, weight, before, pruned, PRUNED)
    left.set_title("kept: smallest |w| marked", fontsize=10)
    _cells(middle, gradient, ~before, grown, GROWN)
    middle.set_title("pruned: largest |g| marked", fontsize=10)
    _cells(right, np.where(after, weight, 0.0), after, grown, GROWN)
    right.set_title("afterwards: grown start at 0", fontsize=10)
    subtitle(fig, "As many weights come as go", "a layer of 4 × 4 made up for this figure")
    return fig


def _cells(ax: Axes, values: Sequence[Sequence[float]] | np.ndarray, shown: np.ndarray, marked: np.ndarray,
           colour: str) -> None:  # fmt: skip
    """The shown values in their places, the marked ones in colour; places that are not shown are left white."""
    ax.set(xlim=(-0.5, shown.shape[1] - 0.5), ylim=(shown.shape[0] - 0.5, -0.5), aspect="equal", xticks=[], yticks=[])
    for (row, column), value in np.ndenumerate(np.asarray(values)):
        face = colour if marked[row, column] else KEPT if shown[row, column] else "white"
        ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=face, edgecolor="white", linewidth=2))
        if shown[row, column]:
            ink = "white" if marked[row, column] else "black"
            ax.text(column, row, f"{value:g}", ha="center", va="center", color=ink, fontsize=10)
