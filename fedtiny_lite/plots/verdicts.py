"""The answer in one picture: FedTiny's lead over each baseline, and what it saves of each method's cost."""

from collections.abc import Sequence
from textwrap import wrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedtiny_lite.plots.comparison import interval_dots
from fedtiny_lite.plots.style import GREY, PALETTE, figure, subtitle
from fedtiny_lite.report.findings import SAVED, Finding
from fedtiny_lite.report.verdicts import Verdict

TITLE_WIDTH = 40
"""Letters in a line of a panel's title."""
CAPTION = (
    "FedTiny's accuracy minus that of each baseline with three seeds or more, with mean and single 95 % interval. "
    "Blue: ahead; orange: behind; grey: the interval holds 0. Bold names: FedTiny is ahead with Holm's correction too, "
    "as the verdicts count. Last panel: what a client of FedTiny saves of a client's cost in another method. Dashed: "
    "the paper's numbers."
)


def verdicts_figure(found: Sequence[Verdict]) -> Figure:
    """Of the verdicts the first, accuracy over all baselines, and the third and fourth, computation and memory."""
    first, *others = found[0].findings
    leads = [finding for finding in (first, *found[0].beside, *others) if finding.shown]
    rows = (len(leads) + 2) // 2
    fig = figure((12.0, 1.0 + 4.2 * rows))
    *panels, last = fig.subplots(rows, 2, squeeze=False).flat[: len(leads) + 1]
    for ax, lead in zip(panels, leads, strict=True):
        _lead(ax, lead)
    work, training = found[2].findings
    _savings(last, work, training, found[3].decisive)
    what = "accuracy: measured, paired by seed, single 95 % intervals; blue: ahead, orange: behind, grey: 0 inside;\n"
    what += "bold: ahead after Holm's correction too; costs: counted; dashed: what the paper saves"
    subtitle(fig, "What the records say of the paper's claims", what)
    return fig


def _lead(ax: Axes, lead: Finding) -> None:
    interval_dots(ax, {name.removeprefix("FedTiny − "): gaps for name, gaps in lead.shown.items()})
    for name, label in zip(lead.shown, ax.get_yticklabels(), strict=True):
        label.set_fontweight("bold" if name in lead.sure else "normal")
    least, most = (count(map(len, lead.shown.values())) for count in (min, max))
    seeds = f"{most}" if least == most else f"{least} to {most}"
    ax.locator_params(axis="x", nbins=6)
    ax.set(xlabel="accuracy of FedTiny minus that of …", title=_title(f"Accuracy, {seeds} seeds", lead))


def _title(what: str, found: Finding) -> str:
    """Lines that are no wider than a panel."""
    model, _, density = found.where.partition(", density")
    lines = (f"{what}: {model}", *f"density{density}".replace(" (", "\n(").splitlines())
    return "\n".join(part for line in lines for part in wrap(line, TITLE_WIDTH))


def _savings(ax: Axes, work: Finding, training: Finding, memory: Finding) -> None:
    names = list(work.shown)
    bars = {  # blue and orange say ahead and behind in the other panels
        "computation, an adjusting round": (work, SAVED[0], PALETTE[2]),
        "computation, 300 rounds": (training, None, PALETTE[5]),
        "memory": (memory, SAVED[1], PALETTE[4]),
    }
    for shift, (label, (found, paper, colour)) in enumerate(bars.items()):
        values = [found.shown[name][0] for name in names]
        ax.barh(np.arange(len(names)) + 0.27 * (shift - 1), values, 0.25, color=colour, label=label)
        if paper is not None:
            ax.axvline(paper, color=colour, linestyle="--", linewidth=1)
    ax.axvline(0, color=GREY, linewidth=0.8)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set(xlabel="saved by FedTiny, share of the method's cost", title="Cost: ResNet18 w64\ndensity 0.01, counted")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False, fontsize=9)
