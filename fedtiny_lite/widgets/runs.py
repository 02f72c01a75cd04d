"""Panels over finished runs."""

from collections.abc import Mapping

import ipywidgets
import pandas as pd
from matplotlib.figure import Figure

from fedtiny_lite.plots.rounds import round_figure
from fedtiny_lite.plots.runs import accuracy_over_rounds
from fedtiny_lite.report.frames import at_density, by_label, densities
from fedtiny_lite.report.labels import FEDTINY
from fedtiny_lite.widgets.panel import panel

FIRST_SHOWN = (FEDTINY, "magnitude")


def curves_panel(finished: pd.DataFrame, interactive: bool) -> ipywidgets.Widget | Figure:
    """Accuracy over rounds of the chosen runs at one density; nothing is trained. None chosen shows all.

    `finished`: as `frames.run_frame` makes it. Raises ValueError if no pruned run is among them.
    """
    labels, choices = list(by_label(finished)), densities(finished)
    if not choices:
        raise ValueError("there is no pruned run to show; give finished runs of a method that prunes")

    def draw(runs: tuple[str, ...], density: float) -> Figure:
        shown = finished[finished["label"].isin(runs or labels)]
        return accuracy_over_rounds(at_density(shown, density))

    first = tuple(name for name in FIRST_SHOWN if name in labels)
    runs = ipywidgets.SelectMultiple(options=tuple(labels), value=first, rows=len(labels), description="runs")
    density = ipywidgets.Dropdown(options=choices, value=min(choices), description="density")
    return panel(draw, interactive, runs=runs, density=density)


def round_panel(record: Mapping, interactive: bool) -> ipywidgets.Widget | Figure:
    """A slider over the rounds of a finished run: which block was adjusted, how much grew, and the accuracy.

    Starts where weights first grew. Raises ValueError for a record without rounds.
    """
    rounds = record["rounds"]
    if not rounds:
        raise ValueError(f"{record['run_id']} has no rounds to step through; give the record of a run with rounds")
    first = next((entry["round"] + 1 for entry in rounds if entry.get("adjusted")), 0)
    slider = ipywidgets.IntSlider(first, 0, len(rounds), description="rounds", continuous_update=False)
    return panel(lambda finished: round_figure(record, finished), interactive, finished=slider)
