"""The exported model, from the record of `benchmarks.inference`: bytes of its file, and seconds of a prediction.

The record holds `sizes`, bytes of a model at several densities, and `rows`, seconds of one batch by engine. Where
`density` is null, nothing is pruned.
"""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedtiny_lite.plots.sparse import LIGHT, log_axes
from fedtiny_lite.plots.style import DENSITY, PALETTE, figure, subtitle
from fedtiny_lite.records.bundles import provenance

SIZES = {  # of the record -> what it is, colour, marker, line
    "dense": ("dense, float32", LIGHT, "s", "-"),
    "counted": ("counted by the cost model", PALETTE[0], "", "-"),
    "file": ("the file", PALETTE[1], "o", ""),
    "folded": ("the file, batch norm folded", PALETTE[2], "v", "--"),
}


def export_figure(record: Mapping, text: str) -> Figure:
    """Left: MB of the model over density, in the ways of `SIZES`. Right: ms of a batch over density, by engine."""
    fig = figure((11.0, 4.6))
    left, right = fig.subplots(1, 2)
    sizes = [row for row in record["sizes"] if row["density"]]
    for key, (label, colour, marker, line) in SIZES.items():
        megabytes = [row[key] / 1e6 for row in sizes]
        left.plot([row["density"] for row in sizes], megabytes, marker=marker, ls=line, color=colour, label=label)
    left.set_ylabel("MB of the model")
    batches = sorted({row["batch"] for row in record["rows"]})
    for colour, engine in zip(PALETTE, dict.fromkeys(row["engine"] for row in record["rows"]), strict=False):
        for batch, (marker, line) in zip(batches, (("o", "-"), ("^", "--"), ("s", ":")), strict=False):
            rows = [row for row in record["rows"] if (row["engine"], row["batch"]) == (engine, batch)]
            style = dict(color=colour, marker=marker, ls=line, ms=5)
            _latency(right, rows, f"{engine}, batch {batch}", style)
    right.set_ylabel("ms of one batch")
    for ax in (left, right):
        log_axes(ax, DENSITY)
        ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    subtitle(fig, "The exported model: its file, and a prediction", f"{text}; measured: {provenance([record])}")
    return fig


def _latency(ax: Axes, rows: Sequence[Mapping], label: str, style: Mapping) -> None:
    """A line over the densities; a level line where only the dense model was timed."""
    pruned = [row for row in rows if row["density"]]
    if pruned:
        ax.plot([row["density"] for row in pruned], [1e3 * row["seconds"] for row in pruned], label=label, **style)
    for row in rows if not pruned else ():
        ax.axhline(1e3 * row["seconds"], color=style["color"], ls=style["ls"], label=label)
