"""Exercises of notebook 03: a client's list, the server's merge, grow and prune."""

import torch
from torch import Generator, Tensor

from fedtiny_lite.exercises.judging import Exercise, whole_number
from fedtiny_lite.model.masks import Mask, largest
from fedtiny_lite.pruning import progressive

Lists = list[tuple[Tensor, Tensor]]
Pair = tuple[Tensor, Tensor]


# --- a client's list --------------------------------------------------------------------------------------


def _gradient_of_layer(generator: Generator) -> tuple[Tensor, Tensor, int]:
    gradient = torch.randn(4, 3, 3, 3, generator=generator)
    return gradient, torch.rand(gradient.shape, generator=generator) < 0.4, whole_number(generator, 5, 15)


def _listed(gradient: Tensor, score: Tensor, count: int) -> Pair:
    places = largest(score.flatten(), count)
    return places, gradient.flatten()[places]


def _list(gradient: Tensor, keep: Tensor, count: int) -> Pair:
    pruned = (~keep).flatten().nonzero().squeeze(1)
    return progressive.keep_largest(pruned, gradient.flatten()[pruned], count)


def _signed(gradient: Tensor, keep: Tensor, count: int) -> Pair:
    """Your list holds the largest signed gradients; a large negative one matters as much, so compare |g|."""
    return _listed(gradient, gradient.masked_fill(keep, -torch.inf), count)


def _smallest(gradient: Tensor, keep: Tensor, count: int) -> Pair:
    """Your list holds the smallest |g|; the largest gain most from growing."""
    return _listed(gradient, -gradient.abs().masked_fill(keep, torch.inf), count)


def _all_places(gradient: Tensor, keep: Tensor, count: int) -> Pair:
    """Your list names kept weights too; only pruned positions can grow."""
    return _listed(gradient, gradient.abs(), count)


def _kept_places(gradient: Tensor, keep: Tensor, count: int) -> Pair:
    """Your list names kept weights; True in the mask means kept, and only pruned positions can grow."""
    return _listed(gradient, gradient.abs().masked_fill(~keep, -torch.inf), count)


def _without_sign(gradient: Tensor, keep: Tensor, count: int) -> Pair:
    """Your values have lost their sign; send g itself, because gradients of opposite sign cancel at the server."""
    places, values = _list(gradient, keep, count)
    return places, values.abs()


def _places_among_pruned(gradient: Tensor, keep: Tensor, count: int) -> Pair:
    """Your positions count pruned weights only; the server needs the index in the whole flattened layer."""
    values = gradient[~keep]
    places = largest(values.abs(), count)
    return places, values[places]


def _by_position(places: Tensor, values: Tensor) -> Pair:
    order = places.argsort()
    return places[order], values[order]


_GROWTH_LIST = Exercise(
    inputs=_gradient_of_layer,
    right=_list,
    parts=("positions", "values"),
    mistakes=(_signed, _smallest, _all_places, _kept_places, _without_sign, _places_among_pruned),
    hints=(
        "Give kept positions a score that never wins, then take the `count` largest |g|; send the signed values.",
        "`gradient.abs().masked_fill(keep, -1).flatten().topk(count).indices` are the positions.",
    ),
    ordered=_by_position,
)


# --- the server's merge -----------------------------------------------------------------------------------


def _three_lists(generator: Generator) -> tuple[Lists, list[float], int]:
    size, entries = 20, 8
    lists = [
        (torch.randperm(size, generator=generator)[:entries], torch.randn(entries, generator=generator))
        for _ in range(3)
    ]
    counts = torch.randint(5, 60, (3,), generator=generator)
    return lists, (counts / counts.sum()).tolist(), size


def _merged(lists: Lists, shares: list[float], size: int) -> Tensor:
    places, values = progressive.merge_growth_lists(lists, shares)
    return torch.zeros(size, dtype=values.dtype).index_add_(0, places, values)


def _clients_alike(lists: Lists, shares: list[float], size: int) -> Tensor:
    """Your mean counts every client alike; weigh a client's gradient by its share of the images."""
    return _merged(lists, [1 / len(lists)] * len(lists), size)


def _unweighted_sum(lists: Lists, shares: list[float], size: int) -> Tensor:
    """Your result is a plain sum; weigh a client's gradient by its share of the images."""
    return _merged(lists, [1.0] * len(lists), size)


def _listed_alone(lists: Lists, shares: list[float], size: int) -> Tensor:
    """Your mean is over the clients that list a position; a missing entry counts 0 and keeps its weight."""
    owned = _merged([(places, torch.ones_like(values)) for places, values in lists], shares, size)
    return _merged(lists, shares, size) / owned.clamp(min=1e-12)


def _overwritten(lists: Lists, shares: list[float], size: int) -> Tensor:
    """Your later clients overwrite the earlier ones; add where a position is listed twice."""
    merged = torch.zeros(size)
    for (places, values), share in zip(lists, shares, strict=True):
        merged[places] = share * values
    return merged


def _magnitudes(lists: Lists, shares: list[float], size: int) -> Tensor:
    """Your sum is over |g|; keep the signs, so that clients who pull in opposite directions cancel."""
    return _merged([(places, values.abs()) for places, values in lists], shares, size)


def _last_list(lists: Lists, shares: list[float], size: int) -> Tensor:
    """Your result holds the last client alone; does the sum start anew inside the loop?"""
    return _merged(lists[-1:], shares[-1:], size)


_MERGE = Exercise(
    inputs=_three_lists,
    right=_merged,
    parts=("merged gradient",),
    mistakes=(_clients_alike, _unweighted_sum, _listed_alone, _overwritten, _magnitudes, _last_list),
    hints=(
        "Start from zeros of length `size`, and for each client add its share times its values at its positions.",
        "`merged[places] += share * values`, once for each client.",
    ),
)


# --- grow and prune ---------------------------------------------------------------------------------------


def _matrix(generator: Generator) -> tuple[Tensor, Tensor, Tensor, int]:
    """Weights of 6 x 6, in some cases one kept at 0, their mask, a merged gradient that also covers kept positions, and
    a count.
    """
    order = torch.randperm(36, generator=generator).view(6, 6)
    keep = order < 16
    weight = torch.randn(6, 6, generator=generator) * keep * (order >= whole_number(generator, 0, 1))
    return weight, keep, torch.randn(6, 6, generator=generator), whole_number(generator, 2, 5)


def _exchanged(weight: Tensor, keep: Tensor, gradient: Tensor, count: int) -> Pair:
    lists = {"w": (torch.arange(weight.numel()), gradient.flatten())}
    state, mask = progressive.grow_and_prune({"w": weight}, Mask({"w": keep}), lists, {"w": count})
    return mask["w"], state["w"]


def _moved(weight: Tensor, keep: Tensor, grown: Tensor, pruned: Tensor) -> Pair:
    new = keep.flatten().clone()
    new[grown] = True
    new[pruned] = False
    return new.view(keep.shape), weight * new.view(keep.shape)


def _places(score: Tensor, allowed: Tensor, count: int) -> Tensor:
    """Where the `count` largest scores among the allowed places are."""
    return largest(score.masked_fill(~allowed, -torch.inf), count)


def _regrown(weight: Tensor, keep: Tensor, gradient: Tensor, count: int) -> Pair:
    """Your function can grow what it has just pruned; grow among positions that were pruned before."""
    pruned = _places(-weight.abs(), keep, count)
    left, weights = _moved(weight, keep, pruned[:0], pruned)
    new = left.flatten().clone()
    new[_places(gradient.abs(), ~left, count)] = True
    return new.view(keep.shape), weights


def _revived(weight: Tensor, keep: Tensor, gradient: Tensor, count: int) -> Pair:
    """Your function can grow what it has just pruned, with its old value; grow where the old mask pruned."""
    new, _ = _regrown(weight, keep, gradient, count)
    return new, weight * new


def _pruned_again(weight: Tensor, keep: Tensor, gradient: Tensor, count: int) -> Pair | None:
    """Your function prunes what it has just grown, because grown weights are 0; prune among those kept before."""
    return None if bool((weight[keep] == 0).any()) else (keep, weight)


def _pruned_signed(weight: Tensor, keep: Tensor, gradient: Tensor, count: int) -> Pair:
    """Your function prunes the smallest signed weights; large negative ones matter, so compare |w|."""
    return _moved(weight, keep, _places(gradient.abs(), ~keep, count), _places(-weight, keep, count))


def _pruned_largest(weight: Tensor, keep: Tensor, gradient: Tensor, count: int) -> Pair:
    """Your function prunes the largest |w|; prune the smallest."""
    return _moved(weight, keep, _places(gradient.abs(), ~keep, count), _places(weight.abs(), keep, count))


def _grown_signed(weight: Tensor, keep: Tensor, gradient: Tensor, count: int) -> Pair:
    """Your function grows the largest signed gradients; compare |g|."""
    return _moved(weight, keep, _places(gradient, ~keep, count), _places(-weight.abs(), keep, count))


def _both_signed(weight: Tensor, keep: Tensor, gradient: Tensor, count: int) -> Pair:
    """Your function compares signed numbers; grow by |g| and prune by |w|."""
    return _moved(weight, keep, _places(gradient, ~keep, count), _places(-weight, keep, count))


def _grown_anywhere(weight: Tensor, keep: Tensor, gradient: Tensor, count: int) -> Pair:
    """Your function grows kept weights too, so that fewer are kept in the end; grow among the pruned ones."""
    return _moved(weight, keep, _places(gradient.abs(), keep | ~keep, count), _places(-weight.abs(), keep, count))


def _only_grown(weight: Tensor, keep: Tensor, gradient: Tensor, count: int) -> Pair:
    """Your function grows without pruning, so that the layer keeps more weights than it may; prune as many."""
    grown = _places(gradient.abs(), ~keep, count)
    return _moved(weight, keep, grown, grown[:0])


def _grown_by_gradient(weight: Tensor, keep: Tensor, gradient: Tensor, count: int) -> Pair:
    """Your grown weights start at their gradient; they start at 0, so that growing changes no output."""
    new, weights = _exchanged(weight, keep, gradient, count)
    return new, torch.where(new & ~keep, gradient, weights)


def _guessed(weight: Tensor, keep: Tensor, gradient: Tensor, count: int) -> Pair:
    """You take weights that are not 0 for the kept ones; a kept weight may be 0, as one that just grew: use `keep`."""
    return _exchanged(weight, weight != 0, gradient, count)


def _unmasked(weight: Tensor, keep: Tensor, gradient: Tensor, count: int) -> Pair:
    """Your mask is right, but the pruned weights still hold their values; set them to 0."""
    return _exchanged(weight, keep, gradient, count)[0], weight


_GROW_AND_PRUNE = Exercise(
    inputs=_matrix,
    right=_exchanged,
    parts=("mask", "weights"),
    mistakes=(
        _guessed,
        _regrown,
        _revived,
        _pruned_again,
        _pruned_signed,
        _pruned_largest,
        _grown_signed,
        _both_signed,
        _grown_anywhere,
        _only_grown,
        _grown_by_gradient,
        _unmasked,
    ),
    hints=(
        "Choose both sets from the mask as it was: grow among `~keep` by |g|, prune among `keep` by |w|.",
        "Grow by `gradient.abs().masked_fill(keep, -1)`, prune by `weight.abs().masked_fill(~keep, inf)`, both flat.",
    ),
)

EXERCISES = {"growth_list": _GROWTH_LIST, "merge": _MERGE, "grow_and_prune": _GROW_AND_PRUNE}
