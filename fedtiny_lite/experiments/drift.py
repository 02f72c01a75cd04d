"""How far the clients' BN statistics lie apart, and the server's from theirs: the study of notebook 01."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fedtiny_lite.config import Config
from fedtiny_lite.federated.server import pretrained
from fedtiny_lite.model.networks import load_state
from fedtiny_lite.pruning.bn_selection import BnStats, aggregate_bn_stats, recalibrate_bn
from fedtiny_lite.simulation.setup import build_federation

BN_EPSILON = 1e-5  # what batch normalisation adds to a variance before it divides by it
MEANS, VARIANCES = ".running_mean", ".running_var"
Stats = Mapping[str, ArrayLike]
Distances = dict[str, tuple[float, float]]
"""BN layer -> how far means and variances lie apart."""


class Drift(NamedTuple):
    """One federation before training.

    `summary`: how its labels differ (`partition.summarise`). `server`: the pretrained state; `clients`: the statistics
    that each client re-estimates for it, dense, on all its images. `spread`: the clients' distances from those of all
    their images together; `gap`: the server's.
    """

    summary: dict[str, Any]
    server: BnStats
    clients: list[BnStats]
    spread: Distances
    gap: Distances


def measure(config: Config) -> Drift:
    """The drift of one federation. Raises ValueError for settings and data that clash."""
    federation = build_federation(config)
    server, holdings = federation.server, federation.holdings
    weights = pretrained(server)
    load_state(server.model, weights)
    stats = [recalibrate_bn(server.model, split, federation.task.pixels) for split in holdings.splits]
    images = sum(holdings.sizes)
    pooled = aggregate_bn_stats(stats, [size / images for size in holdings.sizes], "pooled")
    spread, gap = bn_distance(stats, pooled), bn_distance([weights], pooled)
    return Drift(holdings.summary, weights, stats, spread, gap)


def bn_distance(stats: Sequence[Stats], reference: Stats) -> Distances:
    """Per BN layer, how far `stats` lie from `reference`: (means, variances).

    Each of `stats` and `reference` maps names of running means and variances to arrays [channels]. Root mean
    square over stats and channels of (mean_k - mean) / sigma and of var_k / var - 1, sigma and var being the
    reference's. Of several clients this is their spread, of the server alone its gap to them.
    """
    distances = {}
    for layer in (name.removesuffix(MEANS) for name in reference if name.endswith(MEANS)):
        mean, variance = np.asarray(reference[layer + MEANS]), np.asarray(reference[layer + VARIANCES]) + BN_EPSILON
        means = np.stack([np.asarray(s[layer + MEANS]) for s in stats])
        variances = np.stack([np.asarray(s[layer + VARIANCES]) for s in stats]) + BN_EPSILON
        distances[layer] = (_rms((means - mean) / np.sqrt(variance)), _rms(variances / variance - 1))
    return distances


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt((values.astype(float) ** 2).mean()))
