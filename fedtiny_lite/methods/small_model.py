"""The paper's dense small baseline (recalled): a small network with as many parameters as the pruned one may keep.

Three convolutions of w channels each and a hidden layer of 8 w: the widest that fits. w = 8 is the paper's 8-8-8;64
of 10,298 parameters; of its larger shapes, which grow unevenly (32-64-32;128), the ladder has none. Nothing is pruned.
"""

import math
from bisect import bisect_right

from torch import nn

from fedtiny_lite.config import Config
from fedtiny_lite.federated.protocol import Method
from fedtiny_lite.methods._averaging import AVERAGING
from fedtiny_lite.methods.fedavg import start
from fedtiny_lite.model.networks import empty_model, prunable_names


def model(config: Config, allowed: int, classes: int, in_shape: tuple[int, int, int]) -> nn.Module:
    """The widest small model of at most `allowed` parameters, without data.

    Raises ValueError, naming a density that would do, if not even w = 1 fits.
    """

    def parameters(width: int) -> int:
        return sum(p.numel() for p in empty_model("small", width, classes, in_shape).parameters())

    width = bisect_right(range(1, math.isqrt(allowed) + 2), allowed, key=parameters)  # it has more than w^2 parameters
    if width == 0:
        least = least_density(config, parameters(1), classes, in_shape)
        raise ValueError(
            f"density = {config.density:g} allows {allowed:,} parameters, but the smallest small model has "
            f"{parameters(1):,}; choose a density of {least:g} or more"
        )
    return empty_model("small", width, classes, in_shape)


def least_density(config: Config, needed: int, classes: int, in_shape: tuple[int, int, int]) -> float:
    """A density, in steps of 0.0001, at which the pruned `config.model` may keep `needed` parameters.

    With the last layer counted as prunable, which asks for more than if it is dense.
    """
    dense = empty_model(config.model, config.width, classes, in_shape)
    total = sum(p.numel() for p in dense.parameters())
    prunable = sum(dense.get_parameter(name).numel() for name in prunable_names(dense, prune_linear=True))
    share = needed / total if config.density_of == "model" else (needed - total + prunable) / prunable
    return math.ceil(share * 1e4) / 1e4


METHOD = Method("small model", "reference", start, AVERAGING, model=model)
