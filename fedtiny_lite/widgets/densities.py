"""What a density leaves of a model's layers under uniform and ERK masks, and how fast a sparse step then is."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

from torch import nn

from fedtiny_lite.config import Config
from fedtiny_lite.experiments.counted import kept_by_mask
from fedtiny_lite.model.costs import LayerShape
from fedtiny_lite.report import engines


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


def speed_at(config: Config, model: nn.Module, layers: Sequence[LayerShape]) -> dict[str, float]:
    """Mask -> how many times as fast as the best dense step a sparse one is at the config's density, as predicted.

    Empty if the committed record of `benchmarks.sparse_step` has no step of this model, width and size of images.
    """
    record = _recorded_steps()
    steps = engines.rows_with(record["steps"], model=config.model, width=config.width, engine="dense contiguous")
    if sum(layer.positions * layer.weights for layer in layers) not in [step["macs"] for step in steps]:
        return {}
    speeds = predicted_speed(record, config, model, layers, [config.density])
    return {mask: of_mask[config.density] for mask, of_mask in speeds.items()}


@cache
def _recorded_steps() -> Mapping:
    return engines.step_record()
