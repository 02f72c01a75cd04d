"""The answer in one picture: FedTiny's lead over each baseline, and what it saves of each method's cost."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedtiny_lite.plots.comparison import interval_dots
from fedtiny_lite.plots.style import GREY, PALETTE, figure, subtitle
from fedtiny_lite.report.verdicts import SAVED, Finding, Verdict

CAPTION = (
    "Left: FedTiny's accuracy minus each baseline's, seed by seed, with mean and 95 % interval. Blue: ahead; "
    "red: behind; grey: the interval holds 0. Right: what a client of FedTiny saves of a client's cost in another "
    "method. Dashed: the paper's numbers."
)


def verdicts_figure(found: Sequence[Verdict]) -> Figure:
    """Of the verdicts the first, accuracy over all baselines, and the third and fourth, computation and memory."""
    lead, _, work, memory = (verdict.decisive for verdict in found[:4])
    fig = figure((11.0, 1.9 + 0.3 * max(len(lead.shown), len(work.shown))))
    left, right = fig.subplots(1, 2)
    interval_dots(left, lead.shown)
    left.set(xlabel="difference in accuracy (share of test images)", title=f"Accuracy\n{lead.where}")
    _savings(right, work, memory)
    subtitle(fig, "What the records say of the paper's claims", "accuracy: measured, paired by seed; costs: counted")
    return fig


def _savings(ax: Axes, work: Finding, memory: Finding) -> None:
    names = list(work.shown)
    for shift, (title, paper, found) in enumerate((("computation", SAVED[0], work), ("memory", SAVED[1], memory))):
        colour = PALETTE[shift]
        values = [found.shown[name][0] for name in names]
        ax.barh(np.arange(len(names)) + 0.38 * shift - 0.19, values, 0.36, color=colour, label=title)
        ax.axvline(paper, color=colour, linestyle="--", linewidth=1)
    ax.axvline(0, color=GREY, linewidth=0.8)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set(xlabel="saved by FedTiny, share of the method's cost", title=f"Cost\n{work.where}")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False)
