"""Panels over finished runs."""

from collections.abc import Sequence

import ipywidgets
from matplotlib.figure import Figure

from fedtiny_lite.plots.runs import accuracy_over_rounds, at_density, by_arm, densities
from fedtiny_lite.widgets.panel import panel

FIRST_SHOWN = ("FedTiny", "magnitude")


def curves_panel(records: Sequence[dict], interactive: bool) -> ipywidgets.Widget | Figure:
    """Accuracy over rounds of the chosen runs at one density; nothing is trained. None chosen shows all."""
    arms, choices = by_arm(records), densities(records)

    def draw(runs: tuple[str, ...], density: float) -> Figure:
        chosen = [record for name in runs or arms for record in arms[name]]
        return accuracy_over_rounds(at_density(chosen, density))

    first = tuple(name for name in FIRST_SHOWN if name in arms)
    runs = ipywidgets.SelectMultiple(options=tuple(arms), value=first, rows=len(arms), description="runs")
    density = ipywidgets.Dropdown(options=choices, value=min(choices), description="density")
    return panel(draw, interactive, runs=runs, density=density)
