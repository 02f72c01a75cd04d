"""Masks: which weights are kept, how many each layer may keep, and the one place where masks are applied.

A `Mask` maps the name of a prunable weight to a bool tensor of the same shape, True = kept. Layers that a mask does not
name are dense. Densities are shares of *kept* weights, never sparsities.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from fedtiny_lite.model.networks import is_statistic


class Mask(Mapping[str, Tensor]):
    """A checked set of keep/prune decisions: parameter name -> bool tensor, True = kept.

    A mask is never changed in place. A layer may keep nothing, as under a global threshold such as SNIP's. Raises
    TypeError for a tensor that is not bool.
    """

    def __init__(self, tensors: Mapping[str, Tensor]):
        for name, keep in tensors.items():
            if keep.dtype != torch.bool:
                raise TypeError(f"the mask of {name} has dtype {keep.dtype}; a mask holds torch.bool, True = kept")
        self._tensors = dict(tensors)
        self._pruned = {name: ~keep for name, keep in tensors.items()}
        self._kept = {name: int(keep.sum()) for name, keep in tensors.items()}

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mask):
            return NotImplemented
        return list(self) == list(other) and all(torch.equal(keep, other[name]) for name, keep in self.items())

    @property
    def kept(self) -> dict[str, int]:
        """Kept weights per layer."""
        return dict(self._kept)

    @property
    def pruned(self) -> dict[str, Tensor]:
        """The complement: parameter name -> bool tensor, True = pruned."""
        return self._pruned

    @property
    def total(self) -> int:
        """Kept weights of all layers together."""
        return sum(self._kept.values())

    @property
    def empty(self) -> tuple[str, ...]:
        """Layers that keep nothing, through which no signal of the input passes."""
        return tuple(name for name, kept in self._kept.items() if kept == 0)

    @property
    def prunable_density(self) -> float:
        """Kept / all weights of the layers in the mask."""
        return self.total / sum(keep.numel() for keep in self.values())

    def replace(self, changed: Mapping[str, Tensor]) -> "Mask":
        """A mask with the layers of `changed` in place of this mask's."""
        return Mask(self._tensors | dict(changed))

    def to(self, device: torch.device | str) -> "Mask":
        """The same mask on another device; this very object if all its tensors are there already."""
        if all(keep.device == torch.device(device) for keep in self.values()):
            return self
        return Mask({name: keep.to(device) for name, keep in self.items()})


def apply_mask(tensors: Mapping[str, Tensor], mask: Mask) -> None:
    """Sets to zero, in place, what the mask prunes. Called after every optimiser step and at every hand-over."""
    with torch.no_grad():
        for name, pruned in mask.pruned.items():
            tensors[name].masked_fill_(pruned, 0)


def union_of(masks: Iterable[Mask]) -> Mask:
    """The mask that keeps what any of these masks keeps; two are held at a time."""
    return reduce(lambda one, other: Mask({name: one[name] | other[name] for name in one}), masks)


def check_masked(tensors: Mapping[str, Tensor], mask: Mask) -> None:
    """Raises ValueError if a tensor has another shape than its mask, or a non-zero or NaN where the mask prunes."""
    for name, keep in mask.items():
        if tensors[name].shape != keep.shape:
            raise ValueError(f"{name} has shape {tuple(tensors[name].shape)}, its mask {tuple(keep.shape)}")
        # Two counts instead of an index of the pruned weights: NaN counts as non-zero in both.
        stray = int(torch.count_nonzero(tensors[name]) - torch.count_nonzero(tensors[name].masked_select(keep)))
        if stray:
            raise ValueError(f"{name} has {stray} non-zero weights outside its mask; apply the mask first")


def kept_parameters(parameters: Mapping[str, Tensor], mask: Mask) -> int:
    """How many parameters of the model are kept, with dense layers and batch norm's scale and shift.

    `parameters` may be a model's whole state. Its running statistics are not parameters and do not count.
    """
    return sum(mask.kept.get(name, t.numel()) for name, t in parameters.items() if not is_statistic(name))


# --- how many weights each layer may keep -----------------------------------------------------------------


def share_of(count: float, share: float) -> int:
    """`share` of `count`, rounded down. Example: 0.29 of 100 is 29, though 0.29 * 100 is computed as 28.999...6."""
    return int(share * count + 1e-9)  # what rounding put just below a whole number is that number


def weight_budget(sizes: Mapping[str, int], density: float, other_parameters: int = 0) -> int:
    """How many weights the prunable layers may keep together, rounded down.

    `sizes`: prunable weights per layer. `other_parameters`: how many parameters are always dense and count against the
    budget; 0 where `density` is a share of the prunable weights only. Example: density 0.1 of 900 prunable weights and
    20 other parameters is a budget of 92 - 20 = 72 weights. Raises ValueError if the budget does not leave one weight
    per layer.
    """
    prunable = sum(sizes.values())
    budget = share_of(prunable + other_parameters, density) - other_parameters
    if budget < len(sizes):
        least = math.ceil((len(sizes) + other_parameters) / (prunable + other_parameters) * 1e4) / 1e4
        dense = f" beside {other_parameters:,} parameters that are always dense" if other_parameters else ""
        raise ValueError(
            f"density = {density:g} leaves {max(budget, 0)} weights for {len(sizes)} prunable layers{dense}; "
            f"each layer keeps at least one, so choose a density of {least:g} or more, or a wider model"
        )
    return min(budget, prunable)


def uniform_counts(sizes: Mapping[str, int], budget: int) -> dict[str, int]:
    """Kept weights per layer at the same density in every layer: at least one each, at most `budget` in all."""
    density = budget / sum(sizes.values())
    return within_budget({name: max(share_of(n, density), 1) for name, n in sizes.items()}, sizes, budget)


NOISE_TOLERANCE = 0.02
"""How far noisy counts may lie from the budget, relative to it."""


def noise_counts(sizes: Mapping[str, int], budget: int, noise: float, rng: np.random.Generator) -> dict[str, int]:
    """Kept weights per layer at noisy densities d_l ~ U[(1 - noise) d, (1 + noise) d], d the density of `budget`.

    Source: the uniform-noise strategy of the authors' 2022 code. All layers are drawn anew until their sum is within
    `NOISE_TOLERANCE` of `budget`. A small model cannot always come so near: after 1,000 draws the nearest
    draw is taken. The largest layers are then trimmed so that `budget` is never exceeded. Each layer keeps at least
    one weight.
    """
    density = budget / sum(sizes.values())
    best, best_miss = {}, np.inf
    for _ in range(1000):
        drawn = rng.uniform((1 - noise) * density, (1 + noise) * density, len(sizes))
        counts = {name: min(max(share_of(n, d), 1), n) for d, (name, n) in zip(drawn, sizes.items(), strict=True)}
        miss = abs(sum(counts.values()) - budget) / budget
        if miss < best_miss:
            best, best_miss = counts, miss
        if miss < NOISE_TOLERANCE:
            break
    return within_budget(best, sizes, budget)


def erk_counts(shapes: Mapping[str, torch.Size], budget: int) -> dict[str, int]:
    """Kept weights per layer at Erdős-Rényi-kernel densities.

    Source: Evci et al., "Rigging the Lottery" (ICML 2020). The density of a layer is proportional to (sum of its
    dimensions) / (product of its dimensions), so that its number of kept weights is proportional to the sum.
    """
    sums = {name: float(sum(shape)) for name, shape in shapes.items()}
    return proportional_counts(sums, {name: shape.numel() for name, shape in shapes.items()}, budget)


def proportional_counts(shares: Mapping[str, float], sizes: Mapping[str, int], budget: int) -> dict[str, int]:
    """Kept weights per layer in proportion to `shares`: at least one each, at most `budget` in all.

    A layer that would keep more weights than it has is dense, and the other layers share what is left.
    """
    dense: set[str] = set()
    while True:
        others = {name: share for name, share in shares.items() if name not in dense}
        left = budget - sum(sizes[name] for name in dense)
        scale = left / sum(others.values()) if others else 0
        full = {name for name, share in others.items() if share * scale > sizes[name]}
        if not full:
            break
        dense |= full
    counts = {name: sizes[name] if name in dense else max(share_of(shares[name], scale), 1) for name in sizes}
    return within_budget(counts, sizes, budget)


def within_budget(counts: Mapping[str, int], sizes: Mapping[str, int], budget: int) -> dict[str, int]:
    """`counts` less the excess over `budget`, taken from the largest layer, then the next; each keeps one weight."""
    counts, excess = dict(counts), sum(counts.values()) - budget
    for name in sorted(sizes, key=sizes.__getitem__, reverse=True):
        cut = min(max(excess, 0), counts[name] - 1)
        counts[name], excess = counts[name] - cut, excess - cut
    return counts


# --- which weights are kept -------------------------------------------------------------------------------


def largest(scores: Tensor, count: int) -> Tensor:
    """Flat indices, int64 [count], of the largest scores; of equal scores the first ones."""
    return torch.sort(scores.flatten(), descending=True, stable=True).indices[:count]


def smallest_kept(weight: Tensor, keep: Tensor, count: int) -> Tensor:
    """Flat indices, int64 [count], of the kept weights of a layer that are smallest in absolute value; of equal ones,
    such as grown weights that are still zero, the first.

    `weight`, `keep`: of one shape, `keep` True = kept.
    """
    kept = keep.flatten().nonzero().squeeze(1)
    return kept[largest(-weight.flatten()[kept].abs(), count)]


def top_mask(scores: Mapping[str, Tensor], counts: Mapping[str, int]) -> Mask:
    """The mask of the `counts[name]` best-scored weights of each layer; of equal scores the first.

    Raises FloatingPointError for scores that are NaN, ValueError for too few.
    """
    return Mask({name: _best(scores[name].flatten(), n).view(scores[name].shape) for name, n in counts.items()})


def global_top_mask(scores: Mapping[str, Tensor], budget: int) -> Mask:
    """The mask of the `budget` best-scored weights of all layers together; of equal scores the first.

    A layer may keep nothing. Raises FloatingPointError for scores that are NaN, ValueError for too few.
    """
    keep = _best(torch.cat([score.flatten() for score in scores.values()]), budget)
    parts = keep.split([score.numel() for score in scores.values()])
    return Mask({name: part.view(scores[name].shape) for name, part in zip(scores, parts, strict=True)})


def _best(scores: Tensor, count: int) -> Tensor:
    """Bool [n], True at the `count` largest of `scores` [n]; of equal scores at the first."""
    if count > len(scores):
        raise ValueError(f"{count} weights are to be kept, of {len(scores)}: there must be as many")
    if missing := int(scores.isnan().sum()):
        raise FloatingPointError(f"{missing} of {len(scores)} scores are NaN; a lower learning rate usually helps")
    if count == 0:
        return torch.zeros(len(scores), dtype=torch.bool)
    # The k-th value takes a selection, not a sort. Whatever equals it fills the places that are left.
    threshold = scores.kthvalue(len(scores) - count + 1).values
    keep = scores > threshold
    keep[(scores == threshold).nonzero().flatten()[: count - int(keep.sum())]] = True
    return keep


def magnitude_mask(weights: Mapping[str, Tensor], counts: Mapping[str, int]) -> Mask:
    """The mask of the `counts[name]` weights of each layer that are largest in absolute value."""
    return top_mask({name: weights[name].abs() for name in counts}, counts)


def random_mask(weights: Mapping[str, Tensor], counts: Mapping[str, int], generator: torch.Generator) -> Mask:
    """The mask of `counts[name]` weights of each layer, chosen uniformly at random from `generator`."""
    return top_mask({name: torch.rand(weights[name].shape, generator=generator) for name in counts}, counts)
