"""The sparse engine against dense torch, from `report.engines`: speed, parts, layers, memory."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from fedtiny_lite.plots.style import DENSITY, GREY, PALETTE, figure, subtitle
from fedtiny_lite.report.engines import (
    Step,
    best_dense,
    grouped_parts,
    mask_name,
    measured,
    models,
    rows_with,
    sparse_steps,
    times_as_fast,
)

LIGHT = "#bbbbbb"
MASKS = {"uniform": ("o", "-"), "erk": ("^", "--")}
MEANS = "CPU seconds, means of {turns} steps, timed part by part"
PROCESSES = "medians;\nmemory of whole processes, growth in CPU seconds, two clients in wall seconds"


# --- speed ------------------------------------------------------------------------------------------------


def speed_figure(record: Mapping) -> Figure:
    """Times as fast as the best dense float32 step: over density, and over the share of multiply-adds kept."""
    fig = figure((11.0, 5.2))
    left, right = fig.subplots(1, 2, sharey=True)
    for colour, (model, width) in zip(PALETTE, models(record), strict=False):
        rows = rows_with(record["steps"], model=model, width=width)
        dense = best_dense(rows)
        for mask, (marker, line) in MASKS.items():
            ratios = times_as_fast(record, model, width, mask)
            shares = [row["macs"] / dense["macs"] for row in sparse_steps(record, model, width, mask).values()]
            style = dict(marker=marker, ls=line, color=colour, markersize=5)
            left.plot(list(ratios), list(ratios.values()), label=f"{model} width {width}, {mask_name(mask)}", **style)
            right.plot(shares, list(ratios.values()), **style)
        for bf16 in rows_with(rows, engine="dense bf16"):
            ratio, label = dense["seconds"] / bf16["seconds"], f"{model} width {width}, dense in bfloat16"
            left.axhline(ratio, color=colour, ls=":", label=label)
            right.axhline(ratio, color=colour, ls=":")
    left.plot([], [], color=GREY, lw=1, label="if time followed multiply-adds alone")
    right.axline((1, 1), (0.1, 10), color=GREY, lw=1)
    limits = left.get_ylim()
    for ax, label in ((left, DENSITY), (right, "multiply-adds kept / dense, forward pass")):
        ax.axhline(1, color="black", lw=1)
        log_axes(ax, label)
    left.set(ylabel="times as fast as the best\ndense float32 step", ylim=(None, 1.2 * limits[1]))
    fig.legend(loc="outside lower center", ncols=3, fontsize=8.5)
    subtitle(fig, "A training step, sparse against dense", measured(record))
    return fig


def log_axes(ax: Axes, xlabel: str) -> None:
    """Both axes logarithmic, with plain numbers on them."""
    ax.set(xscale="log", yscale="log", xlabel=xlabel)
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.grid(alpha=0.3)


# --- where the time goes ----------------------------------------------------------------------------------


def parts_figure(record: Mapping, model: str, width: int, mask: str) -> Figure:
    """Left: the dense step beside sparse ones, in one scale. Right: the sparse ones alone, part by part."""
    steps = sparse_steps(record, model, width, mask)
    dense = best_dense(rows_with(record["steps"], model=model, width=width))
    fig = figure((11.0, 4.6))
    left, right = fig.subplots(1, 2, width_ratios=(1.15, 1))
    left.bar(0, 1e3 * dense["seconds"], 0.7, color=LIGHT, label=dense["engine"])
    for ax, first in ((left, 1), (right, 0)):
        places = np.arange(len(steps)) + first
        _stack(ax, places, [grouped_parts(row["parts"]) for row in steps.values()])
        names = ["dense"] * first + [f"{density:g}" for density in steps]
        ax.set_xticks(range(len(names)), names)
        ax.set(xlabel="density of the mask", ylabel="ms of one step")
        ax.grid(axis="y", alpha=0.3)
        ax.set_axisbelow(True)
    fig.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8.5)
    title = f"Where the time of a step goes: {model} width {width}, {mask_name(mask)} masks"
    subtitle(fig, title, measured(record, MEANS))
    return fig


def _stack(ax: Axes, places: np.ndarray, steps: Sequence[Mapping[str, float]]) -> None:
    floor = np.zeros(len(steps))
    for part, colour in zip(steps[0], (PALETTE[0], PALETTE[9], PALETTE[1], PALETTE[2], PALETTE[7]), strict=True):
        heights = np.array([1e3 * groups[part] for groups in steps])
        if heights.any():
            ax.bar(places, heights, 0.7, bottom=floor, color=colour, label=part)
        floor += heights
    for place, total in zip(places, floor, strict=True):
        ax.text(place, total, f"{total:.0f}", ha="center", va="bottom", fontsize=8, color=GREY)


def layer_figure(record: Mapping, model: str, width: int, mask: str) -> Figure:
    """Milliseconds of each convolution with its norm, forward and backward: dense, and sparse at each density."""
    steps = sparse_steps(record, model, width, mask)
    dense = best_dense([row for row in rows_with(record["steps"], model=model, width=width) if "layers" in row])
    fig = figure((11.0, 6.0))
    axes, names = fig.subplots(2, 1, sharex=True), [layer["name"] for layer in dense["layers"]]
    for ax, way in zip(axes, ("forward", "backward"), strict=True):
        ax.plot(names, _layer_ms(dense, names, way), "s-", color=GREY, ms=5, lw=1, label=dense["engine"])
        for i, (density, row) in enumerate(steps.items()):
            style = dict(marker="ov^DP"[i % 5], color=PALETTE[i % len(PALETTE)], ms=5, lw=1)
            ax.plot(names, _layer_ms(row, names, way), label=f"sparse, {density:g}", **style)
        ax.set(yscale="log", ylabel=f"ms, {way}")
        ax.yaxis.set_major_formatter("{x:g}")
        ax.grid(alpha=0.3)
    axes[1].set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=8)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8.5)
    subtitle(
        fig, f"Each convolution with its norm: {model} width {width}, {mask_name(mask)} masks", measured(record, MEANS)
    )
    return fig


def _layer_ms(row: Step, names: Sequence[str], way: str) -> list[float]:
    found = {layer["name"]: 1e3 * layer[way] for layer in row["layers"]}
    return [found.get(name, np.nan) for name in names]


# --- memory, growth, two clients --------------------------------------------------------------------------


def memory_figure(record: Mapping, model: str, width: int) -> Figure:
    """Peak memory of a step; a growth step in training steps; two clients at once against one after the other."""
    fig = figure((11.0, 4.2))
    left, middle, right = fig.subplots(1, 3, width_ratios=(1.25, 1, 1))
    rows = rows_with(record["memory"], model=model, width=width)
    names = [row["engine"] if row["density"] is None else f"sparse, {row['density']:g}" for row in rows]
    colours = [LIGHT if row["density"] is None else PALETTE[0] for row in rows]
    bars = left.barh(names, [row["peak_bytes"] / 1e6 for row in rows], color=colours)
    left.bar_label(bars, fmt="%.0f", padding=3, fontsize=8, color=GREY)
    left.invert_yaxis()
    left.set(xlabel="peak of a training step (MB)", title="memory")
    left.margins(x=0.12)
    growth = {f"{row['density']:g}": row["seconds"] / row["step_seconds"] for row in record["growth"]}
    bars = middle.bar(list(growth), list(growth.values()), 0.6, color=PALETTE[2])
    middle.bar_label(bars, fmt="%.2f", padding=2, fontsize=8, color=GREY)
    middle.set(xlabel="density of the mask", ylabel="growth step / training step", title="growth step")
    pairs = {f"{row['engine'].replace(' ', chr(10))}\n{_density(row)}": row["speedup"] for row in record["pairs"]}
    bars = right.bar(list(pairs), list(pairs.values()), 0.6, color=PALETTE[4])
    right.bar_label(bars, fmt="%.2f", label_type="center", fontsize=8)
    right.axhline(2, color="black", lw=1, ls=":")
    right.set(ylabel="times as fast as one after the other", title="two clients, a core each", ylim=(0, 2.3))
    right.tick_params(axis="x", labelsize=8)
    middle.axhline(1, color="black", lw=1)
    middle.margins(y=0.12)
    subtitle(fig, f"Memory, growth and two clients: {model} width {width}", measured(record, PROCESSES))
    return fig


def _density(row: Step) -> str:
    return "unmasked" if row["density"] is None else f"density {row['density']:g}"
