"""Density -> what each layer keeps and costs, what the model comes to, and how fast a sparse step is."""

from collections.abc import Sequence
from dataclasses import replace

from ipywidgets import FloatLogSlider, Widget
from matplotlib.figure import Figure
from torch import nn

from fedtiny_lite.config import Config
from fedtiny_lite.experiments.counted import kept_by_mask
from fedtiny_lite.model.costs import LayerShape, model_bytes, model_state_memory, other_sizes, training_flops
from fedtiny_lite.plots import clients, costs
from fedtiny_lite.report import engines
from fedtiny_lite.widgets.densities import speed_at
from fedtiny_lite.widgets.panel import panel


def draw_layers(config: Config, model: nn.Module, layers: Sequence[LayerShape], predict: bool = False) -> Figure:
    """Each layer's density and FLOPs under the masks of `kept_by_mask`, and their totals; or why there are none.

    With `predict` the legend also tells how fast a step of the sparse engine is (`densities.speed_at`).
    """
    try:
        masks = kept_by_mask(config, model)
    except ValueError as error:
        return clients.message(str(error))
    density = {mask: {s.name: kept.get(s.name, s.weights) / s.weights for s in layers} for mask, kept in masks.items()}
    flops = {
        mask: {s.name: training_flops([s], {s.name: kept[s.name]} if s.name in kept else {}) for s in layers}
        for mask, kept in masks.items()
    }
    dense = sum(flops["dense"].values())
    totals = {
        mask: f"{sum(flops[mask].values()) / dense:.4f} of the dense FLOPs; {_sizes(model, layers, kept)}"
        for mask, kept in masks.items()
    }
    for mask, speed in speed_at(config, model, layers).items() if predict else ():
        totals[engines.mask_name(mask)] += f"; sparse engine, predicted: {speed:.1f} times as fast"
    always = "the first layer stays dense" if config.prunes_linear else "the first and the last layer stay dense"
    text = f"{config.model} width {config.width}, prunable density {config.density:.3g}, {always}; counted"
    text += f"; predicted for {engines.REFERENCE}" * predict
    return costs.layer_figure(density, flops, {s.name: s.positions for s in layers}, totals, text)


def _sizes(model: nn.Module, layers: Sequence[LayerShape], kept: dict[str, int]) -> str:
    others = other_sizes(model)
    sent, held = model_bytes(layers, kept, sum(others)), model_state_memory(layers, kept, *others)
    return f"{sent / 1e6:.2f} MB one way, {held / 1e6:.2f} MB of model state"


def density_panel(config: Config, model: nn.Module, layers: Sequence[LayerShape], interactive: bool) -> Widget | Figure:
    """A density slider over `draw_layers`, with predicted speeds; it starts at the config's density."""
    slider = FloatLogSlider(config.density, min=-3, max=0, step=0.05, description="density", continuous_update=False)
    return panel(
        lambda density: draw_layers(replace(config, density=density), model, layers, predict=True),
        interactive,
        density=slider,
    )
