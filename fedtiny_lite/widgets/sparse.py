"""Density -> where a mask leaves multiply-adds, and how fast a training step of the sparse engine then is."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from ipywidgets import FloatLogSlider, Widget
from matplotlib.figure import Figure
from torch import nn

from fedtiny_lite.config import Config
from fedtiny_lite.model.costs import LayerShape, forward_flops
from fedtiny_lite.plots import clients, prediction
from fedtiny_lite.report import engines
from fedtiny_lite.widgets.densities import macs_by_mask, predicted_speed
from fedtiny_lite.widgets.panel import panel


def draw_speed(record: Mapping, config: Config, model: nn.Module, layers: Sequence[LayerShape]) -> Figure:
    """Multiply-adds, recorded and fitted speed of the config's model at its density; or why there are none."""
    try:
        macs = macs_by_mask(config, model, layers)
    except ValueError as error:
        return clients.message(str(error))
    recorded = {mask: engines.times_as_fast(record, config.model, config.width, mask) for mask in engines.MASKS}
    lowest = min(*recorded["uniform"], config.density)
    densities = sorted({config.density, *(float(d) for d in np.geomspace(lowest, 0.5, 24))})
    predicted = predicted_speed(record, config, model, layers, densities)
    dense, kept = forward_flops(layers, {}) / 2, {mask: sum(macs[mask].values()) for mask in engines.MASKS}
    words = "; ".join(
        f"{engines.mask_name(mask)}: {kept[mask] / dense:.4f} of the multiply-adds, {speeds[config.density]:.1f} times"
        for mask, speeds in predicted.items()
    )
    text = f"{config.model} width {config.width}, density {config.density:.3g}; {words}\n{engines.measured(record)}"
    return prediction.prediction_figure(macs, recorded, predicted, config.density, text)


def speed_panel(
    record: Mapping, config: Config, model: nn.Module, layers: Sequence[LayerShape], interactive: bool
) -> Widget | Figure:
    """A density slider over `draw_speed`; it starts at the config's density."""
    slider = FloatLogSlider(config.density, min=-3, max=-0.3, step=0.05, description="density", continuous_update=False)
    return panel(
        lambda density: draw_speed(record, replace(config, density=density), model, layers), interactive, density=slider
    )
