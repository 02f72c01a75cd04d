"""Candidates that differ in how kept weights are allocated over layers: a pool of the kit's own, not the paper's.

The paper's pool draws all layer densities around one value. Here each kind of candidate takes its numbers of kept
weights per layer from another rule. Every candidate is held to the same limits: weights, and multiply-adds, because
rules such as SynFlow's keep weights where maps are large and each weight is used at many positions.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import chain, cycle, islice

import numpy as np
from torch import Tensor

from fedtiny_lite.model.costs import LayerShape, forward_flops
from fedtiny_lite.model.masks import (
    Mask,
    erk_counts,
    global_top_mask,
    magnitude_mask,
    noise_counts,
    proportional_counts,
    uniform_counts,
    within_budget,
)
from fedtiny_lite.pruning.saliency import SYNFLOW_STEPS, Scores, iterated_mask, mask_of_counts, pruned_in_steps

NOISE, ERK, FLOW_COUNTS, FLOW_MASK, GLOBAL_MAGNITUDE, LOG_UNIFORM = KINDS = (
    "uniform noise",
    "ERK",
    "SynFlow's counts",
    "SynFlow's mask",
    "global magnitude",
    "log-uniform densities",
)
"""The kinds of candidates. All but SynFlow's mask keep the largest weights of each layer."""
DRAWN = (NOISE, LOG_UNIFORM)
DECADES = 1.0
"""Log-uniform densities lie within a tenth and ten times a common value."""


def kinds_of_pool(candidates: int) -> list[str]:
    """The kind of each of `candidates` candidates: each kind once, then those that are drawn at random, in turn."""
    return list(islice(chain(KINDS, cycle(DRAWN)), candidates))


@dataclass(frozen=True)
class Limits:
    """What every candidate is held to.

    `sizes`: weights of each prunable layer; `layers`: every convolution and linear layer; `budget`: kept weights of the
    prunable layers together; `work`: FLOPs of a sample's forward pass as a multiple of the uniform mask's, at least 1.
    """

    sizes: Mapping[str, int]
    layers: Sequence[LayerShape]
    budget: int
    work: float

    def fitted(self, counts: Mapping[str, int]) -> dict[str, int]:
        """`counts` within the limits: a weight or more in each layer, moved towards the uniform counts if need be.

        Where `counts` cost too much, those between them and the uniform counts are taken that cost just enough, rounded
        down. Example: counts of 1 and 9 that cost 21, uniform counts of 5 and 5 that cost 13, and at most 17 allowed
        give the counts half-way, 3 and 7.
        """
        counts = within_budget({name: max(count, 1) for name, count in counts.items()}, self.sizes, self.budget)
        uniform = uniform_counts(self.sizes, self.budget)
        cost, least = (forward_flops(self.layers, kept) for kept in (counts, uniform))
        if cost <= self.work * least:
            return counts
        # Exact, because a rounded share could exceed the limit by a weight.
        share = Fraction(math.floor(self.work * least) - least, cost - least)
        return {name: math.floor(few + share * (counts[name] - few)) for name, few in uniform.items()}


def allocation_pool(
    weights: Mapping[str, Tensor],
    limits: Limits,
    kinds: Sequence[str],
    noise: float,
    rng: np.random.Generator,
    flow: Callable[[Mapping[str, Tensor]], Scores],
) -> list[Mask]:
    """A mask of each of `kinds`, in this order, within `limits`.

    `weights`: the pretrained weights by name. `noise`: as in `bn_selection.candidate_pool`, whose first candidate is
    this pool's, as far as it is within the limits. `flow(state)`: SynFlow's scores under a masked state.
    """
    sizes, budget = limits.sizes, limits.budget
    shapes = {name: weights[name].shape for name in sizes}

    @cache
    def flowing() -> Mask:
        return iterated_mask(weights, flow, budget, SYNFLOW_STEPS, "global")

    counts: Mapping[str, Callable[[], Mapping[str, int]]] = {
        NOISE: lambda: noise_counts(sizes, budget, noise, rng),
        ERK: lambda: erk_counts(shapes, budget),
        FLOW_COUNTS: lambda: flowing().kept,
        FLOW_MASK: lambda: flowing().kept,
        GLOBAL_MAGNITUDE: lambda: global_top_mask({name: weights[name].abs() for name in sizes}, budget).kept,
        LOG_UNIFORM: lambda: log_uniform_counts(sizes, budget, rng),
    }

    def candidate(kind: str) -> Mask:
        kept = limits.fitted(counts[kind]())
        if kind != FLOW_MASK:
            return magnitude_mask(weights, kept)
        if kept == flowing().kept:
            return flowing()
        return pruned_in_steps(weights, flow, lambda scores, done: mask_of_counts(scores, kept, done), SYNFLOW_STEPS)

    return [candidate(kind) for kind in kinds]


def log_uniform_counts(sizes: Mapping[str, int], budget: int, rng: np.random.Generator) -> dict[str, int]:
    """Kept weights per layer at densities whose logarithms are drawn uniformly, `DECADES` to either side of a value."""
    densities = 10 ** rng.uniform(-DECADES, DECADES, len(sizes))
    shares = {name: density * n for density, (name, n) in zip(densities.tolist(), sizes.items(), strict=True)}
    return proportional_counts(shares, sizes, budget)
