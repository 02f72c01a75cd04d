"""Everything that may not touch a client's samples: pretraining, what is sent, aggregation."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fedtiny_lite.config import Config
from fedtiny_lite.data.datasets import Split
from fedtiny_lite.federated.messages import Message, decode_state, encode_mask, encode_state
from fedtiny_lite.federated.protocol import State
from fedtiny_lite.model.masks import Mask, apply_mask
from fedtiny_lite.model.networks import load_state, state_of
from fedtiny_lite.model.training import Normalisation, epoch_batches, train
from fedtiny_lite.seeding import torch_generator


@dataclass(frozen=True)
class Server:
    """What the server has: settings, its public set, the untrained model, and the budget.

    `blocks`: prunable weights per block. `mask_shapes`: their shapes, `state_shapes`: those of the whole
    state. `budget`: weights that the prunable layers may keep together; `allowed`: parameters of all kinds that a
    pruned model may keep; `parameters`: those of the dense `config.model`.
    """

    config: Config
    public: Split
    pixels: Normalisation
    model: nn.Module
    initial: dict[str, Tensor]
    blocks: tuple[tuple[str, ...], ...]
    state_shapes: Mapping[str, torch.Size]
    mask_shapes: Mapping[str, torch.Size]
    budget: int
    allowed: int
    parameters: int

    @property
    def sizes(self) -> dict[str, int]:
        """Weights of each prunable layer."""
        return {name: shape.numel() for name, shape in self.mask_shapes.items()}


def full_mask(shapes: Mapping[str, torch.Size]) -> Mask:
    """A mask that keeps every weight."""
    return Mask({name: torch.ones(shape, dtype=torch.bool) for name, shape in shapes.items()})


def pretrained(server: Server) -> dict[str, Tensor]:
    """The state that every method starts from: trained densely on the public set alone.

    The last few are remembered in the process, as the runs of a sweep mostly share them.
    """
    key = _pretraining_key(server)
    if key not in _PRETRAINED:
        while len(_PRETRAINED) >= REMEMBERED:
            del _PRETRAINED[next(iter(_PRETRAINED))]
        _PRETRAINED[key] = _pretrain(server)
    return {name: tensor.clone() for name, tensor in _PRETRAINED[key].items()}


REMEMBERED = 10
_PRETRAINED: dict[tuple, dict[str, Tensor]] = {}


def _pretraining_key(server: Server) -> tuple:
    """All that pretraining depends on: settings, and a digest of the initial weights and the public set."""
    config, digest = server.config, hashlib.sha256()
    for tensor in (*server.initial.values(), server.public.images, server.public.labels):
        digest.update(tensor.cpu().contiguous().numpy())
    names = ("seed", "pretrain_epochs", "pretrain_lr", "batch_size", "momentum", "weight_decay", "augment")
    return config.model, digest.digest(), config.torch_device, *(getattr(config, name) for name in names)


def _pretrain(server: Server) -> dict[str, Tensor]:
    config = server.config
    load_state(server.model, server.initial)
    mask = full_mask(server.mask_shapes).to(server.public.images.device)
    generator = torch_generator(config.seed, "pretrain")
    schedule = epoch_batches(server.public, config.pretrain_epochs, config, generator)
    train(server.model, server.public, server.pixels, mask, replace(config, lr=config.pretrain_lr), schedule, generator)
    return {name: tensor.cpu() for name, tensor in state_of(server.model).items()}


def masked_start(weights: dict[str, Tensor], mask: Mask) -> State:
    """The first state of training: pretrained weights under a mask that no client holds yet."""
    weights = {name: tensor.clone() for name, tensor in weights.items()}
    apply_mask(weights, mask)
    return State(weights, mask, unsent=tuple(mask))


def send_model(server: Server, state: State, r: int) -> tuple[dict[str, Tensor], dict]:
    """The kept weights, and the masks that changed since the last message."""
    tensors = {"weights": encode_state(state.weights, state.mask)}
    if state.unsent:
        tensors["mask"] = encode_mask({name: state.mask[name] for name in state.unsent}, list(server.mask_shapes))
    return tensors, {}


def accept(replies: Mapping[int, Message]) -> tuple[list[Message], list[int]]:
    """Replies in order of client number, which their `meta["client"]` is, and the numbers of the clients that
    returned a NaN or infinity.

    Raises FloatingPointError if no client returned finite numbers.
    """
    rejected = [k for k in sorted(replies) if not _finite(replies[k])]
    numbered = {k: replace(replies[k], meta=replies[k].meta | {"client": k}) for k in sorted(replies)}
    accepted = [reply for k, reply in numbered.items() if k not in rejected]
    if not accepted:
        raise FloatingPointError(
            f"all {len(rejected)} clients returned NaN or infinite numbers; a lower learning rate usually helps"
        )
    return accepted, rejected


def _finite(message: Message) -> bool:
    return all(bool(t.isfinite().all()) for t in message.tensors.values() if t.is_floating_point())


def shares(replies: Sequence[Message]) -> list[float]:
    """Each client's share |D_k| / |D| of the images behind these replies."""
    total = math.fsum(reply.meta["samples"] for reply in replies)
    return [reply.meta["samples"] / total for reply in replies]


def average(server: Server, state: State, replies: Sequence[Message]) -> dict[str, Tensor]:
    """The clients' states averaged by their number of images, in float64, zero outside the mask.

    Batch norm's scale, shift and running statistics are averaged like the weights.
    """
    mean = torch.zeros(len(replies[0].tensors["weights"]), dtype=torch.float64)
    for reply, share in zip(replies, shares(replies), strict=True):
        mean.add_(reply.tensors["weights"].double(), alpha=share)
    return decode_state(mean.float(), state.mask, server.state_shapes)


def average_over_holders(
    server: Server, replies: Sequence[Message], masks: Sequence[Mask]
) -> tuple[dict[str, Tensor], Mask]:
    """Per coordinate, the mean over the clients whose mask keeps it, by their images; and the union of their masks.

    `masks`: one per reply, under which its `weights` are packed. What is never pruned is averaged over all.
    """
    union = Mask({name: torch.stack([mask[name] for mask in masks]).any(0) for name in masks[0]})
    total = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in server.state_shapes.items()}
    held = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in server.mask_shapes.items()}
    for reply, mask, share in zip(replies, masks, shares(replies), strict=True):
        for name, tensor in decode_state(reply.tensors["weights"], mask, server.state_shapes).items():
            total[name].add_(tensor.double(), alpha=share)
        for name, keep in mask.items():
            held[name].add_(keep, alpha=share)
    for name, keep in union.items():
        total[name] /= held[name].where(keep, 1)
    return {name: tensor.float() for name, tensor in total.items()}, union
