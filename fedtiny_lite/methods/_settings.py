"""Groups of settings that several methods share; a method's own class of settings is derived from those it needs."""

from dataclasses import dataclass

from fedtiny_lite.settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class Development(Settings):
    """For methods whose clients judge a model on a part of their own images."""

    dev_fraction: float = setting(0.4, "share of a client's images used for judging", above=0, high=1)


@dataclass(frozen=True, kw_only=True)
class Adjustment(Settings):
    """For methods whose masks change: when, and by how much."""

    adjust_every: int = setting(
        1,
        "rounds between two adjustments, the first after as many; none where that is adjust_until, rounds or more",
        low=1,
        high=100_000,
    )
    adjust_until: int = setting(8, "adjustments stop before this round", low=0, high=100_000)
    adjust_rate: float = setting(0.3, "share of a layer's kept weights exchanged at round 0", low=0, high=1)


@dataclass(frozen=True, kw_only=True)
class GrowthBatch(Settings):
    """For methods whose clients look at gradients of pruned weights."""

    growth_batch: int = setting(
        64, "images that a client takes such gradients on (paper: one batch of 64)", low=2, high=65_536
    )


@dataclass(frozen=True, kw_only=True)
class Growth(Adjustment, GrowthBatch):
    """For methods that adjust by growth lists."""


@dataclass(frozen=True, kw_only=True)
class Saliency(Settings):
    """For methods that prune by a score of each weight."""

    saliency_scope: str = setting(
        "global",
        "among which weights the best-scored are kept: of the whole model, or of each layer",
        choices=("global", "layer"),
    )


@dataclass(frozen=True, kw_only=True)
class IteratedSaliency(Saliency):
    """For methods that may score and prune step by step."""

    saliency_steps: int = setting(0, "pruning steps; 0 = as in the method's paper", low=0, high=1_000)
