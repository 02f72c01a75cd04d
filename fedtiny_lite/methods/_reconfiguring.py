"""PruneFL's adaptive pruning: squared gradients from the clients, and which weights they say to keep.

Jiang et al., TNNLS 2022 (arXiv 1909.12326); `control/algorithm.py` of github.com/jiangyuang/PruneFL.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fedtiny_lite.federated.client import Client, train_locally
from fedtiny_lite.federated.messages import Message, decode_state
from fedtiny_lite.federated.server import Server, weighted_mean
from fedtiny_lite.model.costs import LayerShape, growth_flops
from fedtiny_lite.model.masks import Mask, largest, share_of
from fedtiny_lite.model.networks import is_statistic
from fedtiny_lite.model.training import gradient

SENDING = 30
"""Output pixels that take a client as long as sending one weight: 5.6e-6 s against 1.8e-7 s a pixel in the wide layers
of VGG11, the authors' measured coefficients for CIFAR-10 (1 MB/s, rounds of 5 batches of 20 images)."""


def train_and_square(
    client: Client, state: dict[str, Tensor], mask: Mask, schedule: Sequence[Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor], int]:
    """The trained state, each parameter's squared gradient (mean over the batches), and the FLOPs, 2 F_s + F_d."""
    squares: dict[str, Tensor] = {}

    def add(parameters: Mapping[str, nn.Parameter]) -> None:
        for name, parameter in parameters.items():
            square = gradient(parameter).square()
            squares[name] = squares[name] + square if name in squares else square

    trained, flops = train_locally(client, state, mask, schedule, add)
    flops += growth_flops(client.task.layers, mask.kept, mask) * sum(map(len, schedule))
    return trained, {name: (total / len(schedule)).cpu() for name, total in squares.items()}, flops


def average_squares(server: Server, replies: Sequence[Message]) -> dict[str, Tensor]:
    """The clients' squared gradients of every parameter, averaged by their images."""
    mean = weighted_mean(replies, "squares")
    shapes = {name: shape for name, shape in server.task.state_shapes.items() if not is_statistic(name)}
    return decode_state(mean.float(), Mask({}), shapes)


def reconfigure(
    weights: Mapping[str, Tensor],
    mask: Mask,
    squares: Mapping[str, Tensor],
    layers: Sequence[LayerShape],
    rate: float,
    most: int,
) -> Mask:
    """The mask, of at most `most` weights, of greatest Gamma = (sum of g^2) / (sum of t), found greedily.

    `squares`: g^2 of every parameter; those of no layer in `mask` are always in. Each layer first drops its smallest
    weights (`without_smallest`). Whatever is then out, dropped weights too, is added by g^2 / t from the largest,
    while that is at least the Gamma of all that is in. Example: what is in has a g^2 of 4 and a t of 2, so Gamma is 2.
    Two positions are out, of g^2 / t = 3 / 1 and 2 / 1. The first enters, as 3 >= 2. Gamma is then 7 / 3, and the
    second, at 2, stays out.

    A measured time would differ from run to run, so t is counted, in pixels of output per sample: a weight takes those
    of its layer and SENDING more; a parameter that is never pruned likewise.
    """
    kept, pixels = without_smallest(weights, mask, rate), {layer.name: layer.positions for layer in layers}
    inside = torch.cat([keep.flatten() for keep in kept.values()])
    gain = torch.cat([squares[name].flatten() for name in mask]).double()
    time = torch.cat([torch.full((keep.numel(),), pixels[name] + SENDING) for name, keep in mask.items()]).double()
    fixed = [name for name in squares if name not in mask]
    gained = gain[inside].sum() + sum(squares[name].double().sum() for name in fixed)
    spent = time[inside].sum() + sum((pixels.get(name, 0) + SENDING) * squares[name].numel() for name in fixed)

    room = min(len(inside), most) - kept.total
    order = largest((gain / time).masked_fill(inside, -1), max(room, 0))
    gains, times = gain[order], time[order]
    gamma = (gained + gains.cumsum(0) - gains) / (spent + times.cumsum(0) - times)  # before each is added
    inside[order[: int((gains / times >= gamma).cumprod(0).sum())]] = True
    parts = inside.split([keep.numel() for keep in mask.values()])
    return Mask({name: part.view(mask[name].shape) for name, part in zip(mask, parts, strict=True)})


def without_smallest(weights: Mapping[str, Tensor], mask: Mask, rate: float) -> Mask:
    """`mask` without the share `rate` of each layer's kept weights, the smallest: at least one, never the last."""
    kept = {}
    for name, keep in mask.items():
        dropped = min(max(share_of(mask.kept[name], rate), 1 if rate else 0), max(mask.kept[name] - 1, 0))
        flat = torch.zeros(keep.numel(), dtype=torch.bool)
        flat[largest(weights[name].abs().masked_fill(~keep, -1), mask.kept[name] - dropped)] = True
        kept[name] = flat.view(keep.shape)
    return Mask(kept)
