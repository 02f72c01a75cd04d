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
from fedtiny_lite.widgets.costs import kept_by_mask
from fedtiny_lite.widgets.panel import panel


def macs_by_mask(config: Config, model: nn.Module, layers: Sequence[LayerShape]) -> dict[str, dict[int, int]]:
    """Multiply-adds of one image's forward pass under the masks of `kept_by_mask`, by pixels of the output map.

    Raises ValueError if the density does not leave a weight for each layer.
    """
    found = {}
    for mask, kept in kept_by_mask(config, model).items():
        sizes = dict.fromkeys((layer.positions for layer in layers), 0)
        for layer in layers:
            sizes[layer.positions] += layer.positions * kept.get(layer.name, layer.weights)
        found[mask.lower()] = sizes
    return found


def predicted_speed(
    record: Mapping, config: Config, model: nn.Module, layers: Sequence[LayerShape], densities: Sequence[float]
) -> dict[str, dict[float, float]]:
    """Times as fast as the best dense step, mask -> density -> ratio, by the line that `engines.fitted` lays.

    One line serves both masks of the config's model, of which `record` holds the steps.
    """
    rows = engines.rows_with(record["steps"], model=config.model, width=config.width)
    fixed, rate = engines.fitted(engines.rows_with(rows, engine="sparse"))
    dense = engines.best_dense(rows)["seconds"]
    speeds: dict[str, dict[float, float]] = {mask: {} for mask in engines.MASKS}
    for density in densities:
        counts = macs_by_mask(replace(config, density=density), model, layers)
        for mask in speeds:
            speeds[mask][density] = dense / (fixed + rate * sum(counts[mask].values()))
    return speeds


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
