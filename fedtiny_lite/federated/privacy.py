"""Clipping and Gaussian noise on what a client sends: an experiment that shows what they cost, and no guarantee.

The update, the trained weights less those received, is scaled down to the length `clip_norm`, and every number of it
gets Gaussian noise of standard deviation `noise` * `clip_norm`. The values of growth lists are treated likewise. A
method that sends weights in another form, as FL-PQSU does in 8 bits, calls `disturb` before it brings them there. What
else a client sends is not touched: which positions its lists and masks name, its squared gradients (PruneFL), losses,
statistics and scores, its number of images, the sums of its pixels. So no epsilon follows from these settings, and the
kit states none.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from fedtiny_lite.federated.checks import read_whole_mask
from fedtiny_lite.federated.client import Client
from fedtiny_lite.federated.encodings import GROWTH_VALUE
from fedtiny_lite.federated.messages import encode_state, state_lengths
from fedtiny_lite.federated.state import masked_start
from fedtiny_lite.model.masks import Mask


def disturb(client: Client, before: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a reply, those of weights and of lists clipped and made noisy; with `clip_norm=0` as they are.

    `before`: the state that the client received, by name; empty where it received none.
    """
    if not client.config.clip_norm:
        return dict(tensors)
    sent, draws = dict(tensors), client.generator("privacy noise")
    if before and "weights" in sent:
        mask = read_whole_mask(client.task, sent["mask"]) if "mask" in sent else client.mask
        received = encode_state(masked_start(before, mask).weights, mask)
        moved = received + _noisy(client, sent["weights"] - received, draws)
        sent["weights"] = _with_variances(client, mask, moved)
    if GROWTH_VALUE in sent:
        sent[GROWTH_VALUE] = _noisy(client, sent[GROWTH_VALUE], draws)
    return sent


def _noisy(client: Client, numbers: Tensor, draws: torch.Generator) -> Tensor:
    """The numbers, float32 [n], scaled to at most `clip_norm` together, with noise."""
    limit = client.config.clip_norm
    scale = min(1.0, limit / max(float(numbers.double().norm()), 1e-30))
    return numbers * scale + torch.randn(len(numbers), generator=draws) * (client.config.noise * limit)


def _with_variances(client: Client, mask: Mask, numbers: Tensor) -> Tensor:
    """The same state, with running variances that noise made negative at 0."""
    shapes = client.task.state_shapes
    parts = zip(shapes, numbers.split(state_lengths(mask, shapes)), strict=True)
    return torch.cat([part.clamp(min=0) if name.endswith("running_var") else part for name, part in parts])
