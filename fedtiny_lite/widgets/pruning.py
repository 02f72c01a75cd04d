"""Round -> what grew and what was pruned in it."""

from collections.abc import Sequence

import ipywidgets
import numpy as np
from matplotlib.figure import Figure

from fedtiny_lite.model.masks import Mask
from fedtiny_lite.plots.pruning import change_figure
from fedtiny_lite.widgets.panel import panel


def change_panel(masks: Sequence[Mask], interactive: bool, text: str) -> ipywidgets.Widget | Figure:
    """A slider over the rounds; `masks` holds the mask before training and after each round.

    Starts at the first round in which the mask changed.
    """
    changed = [r for r in range(len(masks) - 1) if masks[r] != masks[r + 1]]

    def draw(round: int) -> Figure:
        return change_figure(matrices(masks[round]), matrices(masks[round + 1]), f"round {round}; {text}")

    slider = ipywidgets.IntSlider((changed or [0])[0], 0, len(masks) - 2, description="round", continuous_update=False)
    return panel(draw, interactive, round=slider)


def matrices(mask: Mask) -> dict[str, np.ndarray]:
    """Each layer's mask as bool [output channels, weights per output channel]."""
    return {name: keep.flatten(1).numpy() for name, keep in mask.items()}
