"""What a step's time follows: a line through recorded steps, and what it says of any density."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from fedtiny_lite.plots.sparse import (
    LIGHT,
    MASKS,
    Step,
    best_dense,
    chosen,
    log_axes,
    mask_name,
    models,
    sparse_steps,
)
from fedtiny_lite.plots.style import DENSITY, GREY, PALETTE, figure, subtitle
from fedtiny_lite.report.arms import aligned


def fitted(rows: Sequence[Step]) -> tuple[float, float]:
    """(seconds of a step that no mask saves, seconds per multiply-add of one image), by least relative squares.

    The line seconds = fixed + rate x macs through the steps of one model, which need two numbers of `macs` at least.
    """
    seconds, macs = (np.array([row[key] for row in rows], float) for key in ("seconds", "macs"))
    fixed, rate = np.linalg.lstsq(np.stack([1 / seconds, macs / seconds], 1), np.ones(len(rows)), rcond=None)[0]
    return float(fixed), float(rate)


def prediction_figure(
    macs: Mapping[str, Mapping[int, int]],
    recorded: Mapping[str, Mapping[float, float]],
    predicted: Mapping[str, Mapping[float, float]],
    density: float,
    text: str,
) -> Figure:
    """Left: multiply-adds of one image by size of the map, `macs[mask][pixels]`, the dense model first.

    Right: times as fast as dense over density, `predicted[mask]` as lines and `recorded[mask]` as markers; the chosen
    `density`, which each line must hold, is marked.
    """
    fig = figure((11.0, 4.2))
    left, right = fig.subplots(1, 2)
    styles = {"dense": (LIGHT, "s", "-")} | {mask: (PALETTE[i], *MASKS[mask]) for i, mask in enumerate(MASKS)}
    for mask, counts in macs.items():
        colour, marker, line = styles[mask]
        heights = [count / 1e6 for count in counts.values()]
        names = [f"{size:,}" for size in counts]
        left.plot(names, heights, color=colour, marker=marker, ls=line, label=mask_name(mask))
    left.set(yscale="log", xlabel="pixels of a layer's output map", ylabel="million multiply-adds\nof one image")
    for mask, speeds in predicted.items():
        colour, marker, line = styles[mask]
        points = zip(*recorded[mask].items(), strict=True)
        right.plot(list(speeds), list(speeds.values()), color=colour, ls=line, label=f"{mask_name(mask)}, fitted")
        right.plot(*points, marker, color=colour, label=f"{mask_name(mask)}, recorded")
        right.plot(density, speeds[density], "*", color=colour, ms=14, mec="black")
    right.axvline(density, color=GREY, lw=1, ls=":")
    log_axes(right, DENSITY)
    right.set_ylabel("times as fast as the best\ndense float32 step")
    left.yaxis.set_major_formatter("{x:g}")
    left.grid(alpha=0.3)
    for ax in (left, right):
        ax.legend(fontsize=8)
    subtitle(fig, "What a density saves: multiply-adds, and time", text)
    return fig


def fit_table(record: Mapping) -> str:
    """Per model what `fitted` finds, and how far the steps under uniform and ERK masks lie from that one line.

    Rates are 10^9 multiply-adds a second, three passes of the batch; the dense one is that of the whole dense step.
    """
    rows = [("model", "no mask saves", "of a step, by density", "sparse rate", "dense rate", "off the line")]
    for model, width in models(record):
        steps = chosen(record["steps"], model=model, width=width)
        sparse, dense, work = chosen(steps, engine="sparse"), best_dense(steps), 3e-9 * record["batch"]
        fixed, rate = fitted(sparse)
        off = max(abs((fixed + rate * row["macs"]) / row["seconds"] - 1) for row in sparse)
        shares = {d: fixed / row["seconds"] for d, row in sparse_steps(record, model, width, "uniform").items()}
        words = ", ".join(f"{density:g}: {share:.0%}" for density, share in shares.items())
        rates = f"{work / rate:.1f}", f"{work * dense['macs'] / dense['seconds']:.1f}"
        rows.append((f"{model} width {width}", f"{1e3 * fixed:.1f} ms", words, *rates, f"{off:.0%}"))
    return aligned(rows)
