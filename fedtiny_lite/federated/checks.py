"""What a reply has to be before anything of it is folded: names, shapes, types, lengths, indices, finite numbers.

A check takes a tensor and raises ValueError, saying what is wrong with it. An exchange's `expect` names the check of
each tensor that its replies hold; `inspect` is the one place where they are carried out.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from fedtiny_lite.federated.encodings import GROWTH_INDEX, GROWTH_PARTS, GROWTH_VALUE, decode_growth_lists
from fedtiny_lite.federated.formats import decode_mask
from fedtiny_lite.federated.messages import Message, encode_state, state_lengths
from fedtiny_lite.federated.state import masked_start
from fedtiny_lite.federated.task import Task
from fedtiny_lite.model.masks import Mask

Check = Callable[[Tensor], None]
MOST_SAMPLES = 2**40
"""More images than any client holds; a whole number up to this one is exact in float64."""


LONGEST_REASON = 2000
"""Characters of a reason that the record keeps: what a client sends may be quoted in it."""


def reason(error: Exception) -> str:
    """Why a reply was rejected, for the record."""
    return str(error)[:LONGEST_REASON]


def inspect(reply: Message, expected: Mapping[str, Check]) -> None:
    """Raises ValueError unless the reply holds the expected tensors, and no other, and each passes its check."""
    if reply.tensors.keys() != expected.keys():
        raise ValueError(f"it holds {sorted(reply.tensors) or 'no tensor'}, and {sorted(expected)} was asked for")
    for name, check in expected.items():
        try:
            check(reply.tensors[name])
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error


def numbers(*shape: int, dtype: torch.dtype = torch.float32, low: float = -math.inf, high: float = math.inf) -> Check:
    """A check for finite numbers of this shape and type, none of them below `low` or above `high`."""

    def check(tensor: Tensor) -> None:
        if tensor.dtype != dtype or tuple(tensor.shape) != shape:
            raise ValueError(f"{tensor.dtype} {list(tensor.shape)} in place of {dtype} {list(shape)}")
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError("it has NaN or infinite numbers")
        if tensor.numel() and float(tensor.min()) < low:
            raise ValueError(f"it has numbers below {low:g}")
        if tensor.numel() and float(tensor.max()) > high:
            raise ValueError(f"it has numbers above {high:g}")

    return check


def model_values(task: Task, mask: Mask) -> Check:
    """A check for a model's state under `mask`, as `messages.encode_state` packs it; variances are not negative."""
    lengths = state_lengths(mask, task.state_shapes)
    finite = numbers(sum(lengths))

    def check(vector: Tensor) -> None:
        finite(vector)
        check_variances(task.state_shapes, vector.split(lengths))

    return check


def bn_statistics(task: Task, models: int) -> Check:
    """A check for the statistics of several models, as `encodings.encode_stats` packs them."""
    lengths = [shape.numel() for shape in task.stats_shapes.values()]
    finite = numbers(models, sum(lengths))

    def check(rows: Tensor) -> None:
        finite(rows)
        check_variances(task.stats_shapes, rows.split(lengths, dim=1))

    return check


def check_variances(names: Iterable[str], parts: Iterable[Tensor]) -> None:
    """Raises ValueError if one of the parts is a running variance, by its name, with a number below zero."""
    for name, part in zip(names, parts, strict=True):
        if name.endswith("running_var") and part.numel() and float(part.min()) < 0:
            raise ValueError(f"{name} has negative variances")


def expected_lists(task: Task, mask: Mask, counts: Mapping[str, int]) -> dict[str, Check]:
    """Checks for the two tensors of growth lists: as long as asked, each position once and pruned, finite numbers."""
    if not counts:
        return {}

    def indices(packed: Tensor) -> None:
        """Decoding refuses positions that come twice or lie beyond the layer. It takes zeros for the values, which the
        other check looks at.
        """
        zeros = torch.zeros(sum(counts.values()))
        _of_type(packed, torch.uint8)
        for name, (index, _) in decode_growth_lists(
            dict(zip(GROWTH_PARTS, (packed, zeros), strict=True)), counts, task.sizes
        ).items():
            if bool(mask[name].flatten()[index].any()):
                raise ValueError(f"the list of {name} has positions that are not pruned")

    return {GROWTH_INDEX: indices, GROWTH_VALUE: numbers(sum(counts.values()))}


def whole_mask(task: Task, counts: Mapping[str, int] | None = None, at_most: int | None = None) -> Check:
    """A check for an encoded mask of every layer: of `counts[name]` weights in each, or of `at_most` in all."""

    def check(packed: Tensor) -> None:
        mask = read_whole_mask(task, packed)
        if counts is not None and mask.kept != dict(counts):
            raise ValueError(f"it keeps {mask.kept} weights a layer in place of {dict(counts)}")
        if at_most is not None and mask.total > at_most:
            raise ValueError(f"it keeps {mask.total} weights, and the budget is {at_most}")

    return check


def pruned_positions(task: Task, mask: Mask, counts: Mapping[str, int]) -> Check:
    """A check for an encoded mask of just the layers in `counts`, each of as many weights that `mask` prunes."""

    def check(packed: Tensor) -> None:
        _of_type(packed, torch.uint8)
        layers = decode_mask(packed, task.mask_shapes)
        marked = {name: int(keep.sum()) for name, keep in layers.items()}
        if marked != dict(counts):
            raise ValueError(f"it marks {marked} weights in place of {dict(counts)}")
        if any(bool((keep & mask[name]).any()) for name, keep in layers.items()):
            raise ValueError("it marks weights that are not pruned")

    return check


def read_whole_mask(task: Task, packed: Tensor) -> Mask:
    """The mask that a client sent. Raises ValueError for bytes that are not one, or that leave out a layer."""
    _of_type(packed, torch.uint8)
    layers = decode_mask(packed, task.mask_shapes)
    missing = [name for name in task.mask_shapes if name not in layers]
    if missing:
        raise ValueError(f"its mask leaves out {', '.join(missing)}")
    return Mask({name: layers[name] for name in task.mask_shapes})


def _of_type(tensor: Tensor, dtype: torch.dtype) -> None:
    if tensor.dtype != dtype or tensor.ndim != 1:
        raise ValueError(f"{tensor.dtype} {list(tensor.shape)} in place of {dtype} [bytes]")


def whole_number(meta: Mapping[str, object], name: str, low: int = 0, high: int = MOST_SAMPLES) -> int:
    """The whole number of this name in a reply. Raises ValueError if it is missing, of another kind or out of range."""
    value = meta.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} is {value!r} in place of a whole number from {low} to {high}")
    return value


# --- the norm rule ----------------------------------------------------------------------------------------


def update_norm(weights: Mapping[str, Tensor], mask: Mask, sent: Tensor) -> float:
    """The Euclidean length of a client's update: of the weights that it sent, less those that the server holds.

    `mask`: what `sent` is packed under. Where it keeps more than the server's model, that was zero on the server.
    """
    before = encode_state(masked_start(weights, mask).weights, mask)
    return float((sent.double() - before.double()).norm())


def too_long(norms: Mapping[int, float], limit: float) -> dict[int, str]:
    """Why clients' updates are rejected, whose length is above `limit` times the median of the round's updates.

    `limit`: at least 1, so that equal updates pass. Example: of lengths 1, 2, 2 and 9 the median is 2; with a limit of
    4 the last is rejected, with one of 5 none. The median is that of honest clients only as long as these are the most;
    of two replies neither is ever 2 medians long.
    """
    longest = limit * statistics.median(norms.values())
    return {
        k: f"its update is {norm:.3g} long, and {longest:.3g} is allowed: {limit:g} times the round's median"
        for k, norm in norms.items()
        if norm > longest
    }
