"""What the server knows between exchanges, what it asks, and what a client answers: plain data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fedtiny_lite.model.masks import Mask, apply_mask


@dataclass(frozen=True)
class State:
    """What the server knows between exchanges; never changed in place.

    `weights`: parameters and running BN statistics, zero outside `mask`. `extra`: whatever else the method needs;
    tensors only once training begins, as they are checkpointed with the rest. `of_clients`: client -> tensors that the
    method keeps of it; none of a client that it has nothing of. A checkpoint appends those that a fold exchanged.
    """

    weights: dict[str, Tensor]
    mask: Mask
    extra: Mapping[str, Any] = field(default_factory=dict)
    of_clients: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict)


def masked_start(weights: Mapping[str, Tensor], mask: Mask) -> State:
    """A first state: copies of `weights`, zero outside `mask`."""
    weights = {name: tensor.clone() for name, tensor in weights.items()}
    apply_mask(weights, mask)
    return State(weights, mask)


@dataclass(frozen=True)
class Question:
    """What the server asks of every client in an exchange: tensors and plain values.

    With `with_model` each client is sent the model's kept weights too, under its own mask where the method has one per
    client. What a client lacks of its mask is sent with any question. These travel as the tensors `weights` and `mask`,
    beside the values `version` and `known`: a method gives nothing of its own such a name.
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)
    with_model: bool = True


@dataclass(frozen=True)
class Reply:
    """A client's answer: tensors and plain values to send, and what it cost (counted, not sent).

    `flops`: of this answer. `kept`: prunable weights that the client held at most. `state_bytes`: its model state
    as the paper counts memory (`costs.model_state_memory`); in selection, which trains nothing, the packed models.
    """

    tensors: Mapping[str, Tensor]
    flops: int
    kept: int
    state_bytes: int
    meta: Mapping[str, Any] = field(default_factory=dict)
