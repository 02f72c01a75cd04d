"""A notebook's few seeds inside the distribution that the study recorded over many."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from fedtiny_lite.plots.comparison import interval_dots
from fedtiny_lite.plots.style import figure, subtitle
from fedtiny_lite.report.study import CLAIMS, recorded_numbers

LIVE = "#222222"
_EXPLAINED = (
    "seeds of the study: dots; bar and line: their mean and its 95 % t interval (blue above 0, orange below, grey: 0 is"
    " inside)\nblack diamonds: the notebook's seeds, whose mean a claim compares with its band"
)


def study_figure(live: Mapping[str, Sequence[float]], profile: str, xlabel: str, text: str) -> Figure:
    """A row per claim in `live`: its numbers in the study and, above them, those of the seeds that were run just now.

    The runs of other profiles than `digits` are not those of the study; their numbers are left out.
    """
    recorded = {CLAIMS[name].label: recorded_numbers()[name] for name in live}
    fig, seeds = figure((9.0, 1.7 + 0.5 * len(live))), max(map(len, recorded.values()))
    ax = fig.subplots()
    interval_dots(ax, recorded)
    for y, numbers in enumerate(live.values() if profile == "digits" else ()):
        ax.scatter(numbers, [y - 0.33] * len(numbers), s=26, marker="D", color=LIVE, edgecolor="black", linewidth=0.4)
    ax.set_xlabel(xlabel)
    subtitle(fig, "The seeds of this notebook beside those of the study", f"{text}\n{seeds} {_EXPLAINED}")
    return fig
