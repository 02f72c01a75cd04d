"""Progressive pruning: when to adjust, which block, how many weights; growth gradients in O(a_l) memory.

An adjustment in round r exchanges a_l weights in each layer l of *one* block. The a_l kept weights of smallest |value|
are pruned. The a_l pruned positions of largest |gradient|, averaged over the clients, grow. Clients never hold or send
a dense layer gradient: each client sends a list of its a_l largest gradients, as (flat index, signed value).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from fedtiny_lite.model.masks import Mask, apply_mask, largest, share_of, smallest_kept
from fedtiny_lite.settings import check_choice

GrowthList = tuple[Tensor, Tensor]
"""(flat index int64 [a_l], signed gradient float32 [a_l]) of one layer."""

MIN_TILE = 4096
"""Gradient values computed at a time where a_l is small. A constant keeps the memory in O(a_l)."""


# --- the schedule -----------------------------------------------------------------------------------------


def is_adjustment(r: int, every: int, until: int) -> bool:
    """Whether round r adjusts: r > 0, r mod every = 0 and r < until. Rounds count from 0."""
    return 0 < r < until and r % every == 0


def exchange_rate(r: int, until: int, rate: float) -> float:
    """Share of a layer's kept weights exchanged in round r: rate / 2 (1 + cos(pi r / until)); rate = 0.3 in the paper.

    The share depends on the round and not on the number of adjustments, so that it decays in every round. Example:
    until = 100 gives the whole rate at r = 0, half of it at r = 50 and 0 at r = 100.
    """
    return rate / 2 * (1 + math.cos(math.pi * r / until))


def exchange_count(kept: int, weights: int, rate: float) -> int:
    """a_l of a layer: floor(rate * kept), at least 1 while rate > 0, at most the pruned and the kept weights."""
    return min(max(share_of(kept, rate), 1 if rate > 0 else 0), weights - kept, kept)


def exchange_counts(mask: Mask, names: Sequence[str], rate: float) -> dict[str, int]:
    """a_l of each of these layers; those of which nothing is exchanged are left out."""
    counts = {name: exchange_count(mask.kept[name], mask[name].numel(), rate) for name in names}
    return {name: count for name, count in counts.items() if count}


def adjustment_units(
    blocks: Sequence[Sequence[str]], granularity: str, order: str, adjust_blocks: str = "all"
) -> tuple[tuple[str, ...], ...]:
    """The groups of layers that are adjusted in turn, each group a tuple of parameter names.

    `blocks`: names of the prunable layers of each block, input to output. `granularity`: "layer", "block" or "entire"
    (all layers at once). `order`: "backward" (output to input, the paper's) or "forward". `adjust_blocks`: "all", or
    block numbers such as "1,3", where block 1 is nearest the input.
    Raises ValueError for a block that the model lacks, and for another granularity or order.
    """
    check_choice("granularity", granularity, ("layer", "block", "entire"))
    check_choice("order", order, ("backward", "forward"))
    chosen = [tuple(blocks[i]) for i in _block_numbers(adjust_blocks, len(blocks))]
    if granularity == "layer":
        chosen = [(name,) for block in chosen for name in block]
    if granularity == "entire":
        chosen = [tuple(name for block in chosen for name in block)]
    return tuple(reversed(chosen)) if order == "backward" else tuple(chosen)


def _block_numbers(text: str, blocks: int) -> list[int]:
    if text == "all":
        return list(range(blocks))
    try:
        numbers = sorted({int(part) for part in text.split(",")})
    except ValueError:
        numbers = [0]
    if numbers[0] < 1 or numbers[-1] > blocks:
        raise ValueError(
            f"adjust_blocks = {text!r}: this model has blocks 1 to {blocks}; write all, or such as 1,{blocks}"
        )
    return [number - 1 for number in numbers]


def unit_for_round(units: Sequence[Sequence[str]], r: int, every: int) -> tuple[str, ...]:
    """The group adjusted in round r. The groups take turns by the number of the adjustment, not of the round.

    Example: with four groups and `every` = 10, rounds 10, 20, 30 and 40 adjust groups 0, 1, 2 and 3. Turns by the
    number of the round would give groups 2, 0, 2 and 0, and never 1 or 3.
    """
    return tuple(units[(r // every - 1) % len(units)])


# --- on the client: gradients of pruned positions, in O(a_l) memory ---------------------------------------


def growth_lists(
    model: nn.Module, mask: Mask, counts: Mapping[str, int], images: Tensor, labels: Tensor
) -> dict[str, GrowthList]:
    """The counts[name] largest |gradients| of the mean loss among the pruned positions of each named layer.

    `images`: one batch, float [N, C, H, W], N >= 2; `labels`: int64 [N]. The model normalises by the batch's own
    statistics, as in training. Its parameters, running statistics and batch counters stay as they are. Parameters are
    frozen, so that autograd computes the gradients of activations only. The gradient of a layer's weights is then made
    tile by tile from the layer's input and output gradient, and only the largest values so far are kept.

    Raises ValueError for fewer than two images.
    """
    check_growth_batch(images)
    layers = {name: model.get_submodule(name.removesuffix(".weight")) for name in counts}
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}

    def capture(name: str, _: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
        inputs[name] = args[0].detach()
        outputs[name] = output if output.requires_grad else output.requires_grad_()
        return output.clone()  # which the network may change in place, as an in-place ReLU does

    hooks = [layer.register_forward_hook(partial(capture, name)) for name, layer in layers.items()]
    try:
        with _frozen(model):
            loss = F.cross_entropy(model(images), labels)
            gradients = torch.autograd.grad(loss, [outputs[name] for name in counts])
    finally:
        for hook in hooks:
            hook.remove()
    return {
        name: layer_growth_list(layers[name], inputs[name], gradient, mask[name], counts[name])
        for name, gradient in zip(counts, gradients, strict=True)
    }


def check_growth_batch(images: Tensor) -> None:
    """Raises ValueError for fewer than two images: batch norm cannot normalise one value per channel.

    One image would do where every map has two pixels or more. The rule is the same for all networks, so that a setting
    is allowed or refused whatever the size of the maps.
    """
    if len(images) < 2:
        raise ValueError(f"growth gradients are taken on two images or more, not on {len(images)}; raise growth_batch")


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Train mode in which no parameter and no buffer changes; afterwards the model is as it was."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d) and m.track_running_stats]
    was_training = model.training
    model.train()
    for parameter in parameters:
        parameter.requires_grad_(False)
    for norm in norms:
        # A momentum of 0 would not do: the batch counter would move, and 0 * NaN is NaN.
        norm.track_running_stats = False
    try:
        yield
    finally:
        model.train(was_training)
        for parameter in parameters:
            parameter.requires_grad_(True)
        for norm in norms:
            norm.track_running_stats = True


def layer_growth_list(layer: nn.Module, x: Tensor, grad_output: Tensor, keep: Tensor, count: int) -> GrowthList:
    """The `count` largest |dL/dw| where `keep` is False, in O(count) memory.

    `x`: the layer's input [N, C_in, ...]; `grad_output`: the gradient of its output [N, C_out, ...]; `keep`: bool
    [C_out, C_in, ...]. The gradient is made in tiles of at most max(MIN_TILE, count / 4) values. A tile is a run of
    whole output channels; where one output channel is larger than a tile, the tile is a run of its input channels.
    Once the list is full, a value enters only if it is at least as large as the smallest value of the list.
    """
    c_out, c_in, taps = keep.shape[0], keep.shape[1], keep[0, 0].numel()
    tile_size = max(MIN_TILE, count // 4)
    columns = max(1, min(c_in, tile_size // taps))
    rows = max(1, min(c_out, tile_size // (taps * columns)))
    index = torch.empty(0, dtype=torch.int64, device=keep.device)
    value = torch.empty(0, dtype=x.dtype, device=keep.device)
    for top in range(0, c_out, rows):
        for left in range(0, c_in, columns):
            kept = keep[top : top + rows, left : left + columns]
            x_tile, grad_tile = x[:, left : left + columns], grad_output[:, top : top + rows]
            gradient = _weight_gradient(layer, x_tile, grad_tile, kept.shape).reshape(*kept.shape[:2], taps)
            eligible = ~kept.reshape(gradient.shape)
            if len(value) == count:
                eligible &= gradient.abs() >= value.abs().min()
            row, column, tap = eligible.nonzero(as_tuple=True)
            flat = ((row + top) * c_in + column + left) * taps + tap  # index in the whole layer, not in the tile
            index, value = keep_largest(torch.cat([index, flat]), torch.cat([value, gradient[eligible]]), count)
    return index.cpu(), value.cpu()


def _weight_gradient(layer: nn.Module, x: Tensor, grad_output: Tensor, shape: torch.Size) -> Tensor:
    """The gradient of one tile of a convolution's or linear layer's weights, of the tile's shape."""
    if isinstance(layer, nn.Linear):
        return grad_output.T @ x
    return conv2d_weight(x, shape, grad_output, stride=layer.stride, padding=layer.padding)


def keep_largest(index: Tensor, value: Tensor, count: int) -> GrowthList:
    """The `count` entries of largest |value|, ascending by index; of equal values the first."""
    by_index = index.argsort()  # before the choice: ties are then settled alike whatever the tiles
    index, value = index[by_index], value[by_index]
    best = largest(value.abs(), count).sort().values
    return index[best], value[best]


# --- on the server: merge, grow, prune --------------------------------------------------------------------


def merge_growth_lists(lists: Sequence[GrowthList], weights: Sequence[float]) -> GrowthList:
    """g = sum_k w_k g_k over the listed positions; an entry that client k does not list counts 0 (the paper's Eq. 8).

    `lists`: one list per client; `weights`: one share per client, which sum to one. Returns the union of the positions,
    int64 and ascending, and the gradients at them, float64.
    """
    index = torch.cat([entries for entries, _ in lists])
    value = torch.cat([gradient.double() * w for (_, gradient), w in zip(lists, weights, strict=True)])
    positions, place = index.unique(return_inverse=True)
    return positions, torch.zeros(len(positions), dtype=torch.float64).index_add_(0, place, value)


def grow_and_prune(
    state: Mapping[str, Tensor], mask: Mask, merged: Mapping[str, GrowthList], counts: Mapping[str, int]
) -> tuple[dict[str, Tensor], Mask]:
    """Exchanges counts[name] weights in each layer of `merged`: grow by |gradient|, prune by |weight|.

    `merged`: what `merge_growth_lists` returns, per layer. Grown weights start at zero. Weights grow among the
    positions pruned before, and weights are pruned among those kept before. The two sets are disjoint, so that each
    layer keeps as many weights as before. Returns the new state and mask; `state` and `mask` stay as they are.
    """
    changed, new_state = {}, dict(state)
    for name, (index, gradient) in merged.items():
        keep = mask[name].flatten()
        eligible = ~keep[index]
        grown = index[eligible][largest(gradient[eligible].abs(), counts[name])]
        pruned = smallest_kept(state[name], mask[name], len(grown))
        new_keep = keep.clone()
        new_keep[grown], new_keep[pruned] = True, False
        changed[name] = new_keep.view(mask[name].shape)
        new_state[name] = state[name].clone()
    new_mask = mask.replace(changed)
    apply_mask(new_state, new_mask)
    return new_state, new_mask
