"""Sliders above a figure, or, where nobody can move them, the figure at their starting values."""

from collections.abc import Callable

import ipywidgets
import matplotlib.pyplot as plt
from IPython.display import display
from matplotlib.figure import Figure


def panel(draw: Callable[..., Figure], interactive: bool, **controls: ipywidgets.Widget) -> ipywidgets.Widget | Figure:
    """`draw(**values)` under one control per argument; not `interactive`: the figure at the starting values."""
    values = {name: control.value for name, control in controls.items()}
    if not interactive:
        return draw(**values)

    def redraw(**chosen: object) -> None:
        figure = draw(**chosen)
        display(figure)
        plt.close(figure)

    return ipywidgets.VBox([*controls.values(), ipywidgets.interactive_output(redraw, controls)])
