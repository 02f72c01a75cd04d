"""Panels of notebooks 00 and 01: density -> masks, layer densities, FLOPs; alpha and clients -> partition."""

from dataclasses import replace

from ipywidgets import Dropdown, FloatLogSlider, IntSlider, Widget
from matplotlib.figure import Figure

from fedtiny_lite.config import Config
from fedtiny_lite.data import partition
from fedtiny_lite.model.costs import forward_flops, model_bytes, other_sizes
from fedtiny_lite.model.masks import magnitude_mask, uniform_counts
from fedtiny_lite.plots import clients, method
from fedtiny_lite.simulation.setup import build_federation, hand_out
from fedtiny_lite.widgets.panel import panel


def draw_density(config: Config, density: float) -> Figure:
    """Magnitude masks of the untrained model at `density`, alike in every layer, and what they cost."""
    try:
        federation = build_federation(replace(config, density=density))
    except ValueError as error:
        return clients.message(str(error))
    task, layers = federation.task, federation.task.layers
    kept = uniform_counts(task.sizes, task.budget)
    name = max(task.sizes, key=task.sizes.__getitem__)
    mask = magnitude_mask(federation.server.initial, kept)[name]
    counts = [(layer, {layer.name: kept.get(layer.name, layer.weights)}) for layer in layers]
    flops = [(forward_flops([layer], {}), forward_flops([layer], count)) for layer, count in counts]
    sizes = {layer.name: layer.weights for layer in layers}
    sent = model_bytes(layers, kept, sum(other_sizes(federation.server.model)))
    text = f"{config.model} width {config.width}, untrained, seed {config.seed}; uniform layer densities; "
    text += f"{sent / 1e3:,.1f} kB one way; counted"
    return method.density_panel(mask.flatten(1).numpy(), name, kept, sizes, flops, text)


def density_panel(config: Config, interactive: bool) -> Widget | Figure:
    """A density slider over `draw_density`; it starts at the config's density."""
    slider = FloatLogSlider(config.density, min=-3, max=0, step=0.05, description="density", continuous_update=False)
    return panel(lambda density: draw_density(config, density), interactive, density=slider)


def draw_partition(config: Config, kind: str, alpha: float, number: int) -> Figure:
    """The partition of the config's data into `number` clients, or why there is none."""
    try:
        summary = hand_out(replace(config, partition=kind, alpha=alpha, clients=number)).summary
    except ValueError as error:
        return clients.message(str(error))
    text = f"{config.dataset}, seed {config.seed}, {summary['redraws']} redraws; counted"
    title = f"label distance {summary['label_distance']:.2f}, largest / smallest client {summary['size_spread']:.1f}"
    name = kind if kind in partition.WITHOUT_ALPHA else f"{kind}, α = {alpha:.2g}"
    return clients.label_maps({name: summary["histogram"]}, title, text)


def partition_panel(config: Config, interactive: bool) -> Widget | Figure:
    """Kind, alpha and number of clients over `draw_partition`; they start at the config's."""
    kind = Dropdown(options=list(partition.KINDS), value=config.partition, description="partition")
    alpha = FloatLogSlider(config.alpha, min=-2, max=2, step=0.1, description="α", continuous_update=False)
    number = IntSlider(value=config.clients, min=2, max=50, description="clients", continuous_update=False)
    return panel(lambda **chosen: draw_partition(config, **chosen), interactive, kind=kind, alpha=alpha, number=number)
