"""How every figure looks: colour-blind-safe colours, sizes, titles that name their data, a second density axis."""

import matplotlib.pyplot as plt
import numpy as np
import seaborn
from matplotlib.axes import Axes
from matplotlib.axes._secondary_axes import SecondaryAxis  # exported nowhere else
from matplotlib.figure import Figure

PALETTE = tuple(seaborn.color_palette("colorblind").as_hex())
GREY = "#666666"
WIDE = (9.0, 3.6)  # inches: panels side by side
SINGLE = (6.4, 4.0)
DENSITY = "prunable density (kept / all)"


def figure(size: tuple[float, float] = SINGLE) -> Figure:
    """An empty figure of `size` inches that pyplot does not keep: it is shown once, where a cell ends with it."""
    fig = plt.figure(figsize=size, layout="constrained")  # through pyplot, so that Jupyter learns to draw figures
    plt.close(fig)
    return fig


def subtitle(fig: Figure, title: str, text: str) -> None:
    """Above all panels: `title`, and smaller below it `text`: data, model, seeds, counted or measured."""
    fig.suptitle(title + "\n" * (1 + text.count("\n")), fontsize=12, fontweight="bold", x=0.5)
    fig.text(0.5, 1 - 0.33 / fig.get_figheight(), text, ha="center", va="top", fontsize=8.5, color=GREY)


def active_weights_axis(ax: Axes, weights_per_filter: float) -> SecondaryAxis:
    """A second axis above a density axis: active weights per filter = density * `weights_per_filter`.

    A slim model at 5-10 % keeps as many weights per filter as the full model at 1 %, so densities of models
    of different width compare on this axis only.
    """
    functions = (lambda d: np.multiply(d, weights_per_filter), lambda w: np.divide(w, weights_per_filter))
    axis = ax.secondary_xaxis("top", functions=functions)
    axis.set_xlabel("active weights per filter")
    return axis
