"""FedMef (Huang et al., CVPR 2024, arXiv 2403.14737): extrusion before pruning, and pruned activations.

An ERK mask; in adjustment rounds clients train with an L2 penalty on the weights of all layers that are about to go
(budget-aware extrusion, lambda = 0.01), so that others take over what they do; then weights are exchanged by growth
lists as in FedTiny. Convolutions keep only the largest activations for the backward pass (scaled activation pruning;
half of them, the default of the authors' library FedPruning). The library adjusts every 10 rounds until round 300.

The paper's body was not at hand: its Eqs. 2 to 5 are taken from public code that cites them. Where this differs:
- BN stays, as in the library; the paper trains without it, with weights standardised per channel (NSConv). That
  would be another network than the other methods train, and a channel with one weight left would be zero.
- The mask keeps the largest pretrained weights (the library's ERK_magnitude); the paper's figure prunes at random.
- The extrusion's learning rate max(eta_t, beta_t), where beta_t <= eta_0 decays within the round, only lifts a rate
  that has decayed over the rounds. Here rates are constant, eta_t = eta_0, so nothing is left of it.
- The penalty is the paper's squared norm times lambda, in adjustment rounds. The library adds the plain norm, without
  lambda, in every round, and marks the smallest of all weights, pruned ones included.
- Growth gradients are taken with whole activations, on one batch.
- The library leaves activation pruning off by default and, when it is on, prunes the inputs of linear layers too.
- While the rate is above zero, each layer exchanges at least one weight.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from fedtiny_lite.config import Config
from fedtiny_lite.federated.checks import Check
from fedtiny_lite.federated.client import Client, receive, train_locally
from fedtiny_lite.federated.messages import Message
from fedtiny_lite.federated.protocol import Exchange, Method, Note
from fedtiny_lite.federated.server import Server
from fedtiny_lite.federated.state import Reply, State
from fedtiny_lite.methods._growing import (
    answer_with_lists,
    ask_for_all_layers,
    counts_of_all_layers,
    expect_lists,
    fold_lists,
    start_at_erk,
)
from fedtiny_lite.methods._settings import Growth
from fedtiny_lite.model.masks import Mask, smallest_kept
from fedtiny_lite.model.networks import empty_model
from fedtiny_lite.model.training import OnGradient, gradient
from fedtiny_lite.pruning.activations import pruned_activations, saved_input_bytes
from fedtiny_lite.settings import setting


@dataclass(frozen=True, kw_only=True)
class Settings(Growth):
    """FedMef's own settings beside those of growth lists."""

    extrusion: float = setting(0.01, "L2 penalty on the weights about to be pruned (lambda)", low=0)
    activation_density: float = setting(
        0.5, "share of a convolution's input kept for the backward pass", above=0, high=1
    )


def lowest_kept(weights: Mapping[str, Tensor], mask: Mask, counts: Mapping[str, int]) -> dict[str, Tensor]:
    """The counts[name] kept weights of each listed layer that are smallest in absolute value, as bool tensors."""
    lowest = {}
    for name, count in counts.items():
        flat = torch.zeros(mask[name].numel(), dtype=torch.bool)
        flat[smallest_kept(weights[name], mask[name], count)] = True
        lowest[name] = flat.view(mask[name].shape)
    return lowest


def extrusion(low: Mapping[str, Tensor], strength: float) -> OnGradient:
    """Adds the gradient of the penalty strength x |w|^2 over the weights w that `low` marks (the paper's Eq. 2)."""

    @torch.no_grad()
    def add_penalty(parameters: Mapping[str, nn.Parameter]) -> None:
        for name, marked in low.items():
            gradient(parameters[name]).add_(parameters[name] * marked, alpha=2 * strength)

    return add_penalty


def answer(client: Client, message: Message) -> Reply:
    """Weights trained on pruned activations; in adjustment rounds with extrusion, and with growth lists."""
    state, mask = receive(client, message)
    counts, own = message.meta.get("grow", {}), client.config.of(Settings)
    low = Mask(lowest_kept(state, mask, counts)).to(client.split.images.device)
    with pruned_activations(client.model, own.activation_density):
        trained, flops = train_locally(client, state, mask, on_gradient=extrusion(low, own.extrusion))
    return answer_with_lists(client, mask, trained, flops, counts)


def expect(server: Server, state: State, r: int, k: int, reply: Message) -> Mapping[str, Check]:
    """The trained weights, and in adjustment rounds the lists."""
    return expect_lists(server, state, counts_of_all_layers(server, state.mask, r))


def fold(server: Server, state: State, r: int, replies: list[Message]) -> tuple[State, Note]:
    """The average, in adjustment rounds with weights exchanged; the note says what activations clients kept."""
    task = server.task
    state, note = fold_lists(server, state, replies, counts_of_all_layers(server, state.mask, r))
    return state, note | {"client_activation_bytes": input_bytes_of(task.config, task.classes, task.in_shape)}


@lru_cache(maxsize=2)
def input_bytes_of(config: Config, classes: int, in_shape: tuple[int, int, int]) -> int:
    """Bytes of the inputs of convolutions that a client of such a run keeps of a batch, the same in every round.

    `in_shape`: (channels, height, width) of an image.
    """
    network = empty_model(config.model, config.width, classes, in_shape)
    return saved_input_bytes(network, in_shape, config.batch_size, config.of(Settings).activation_density)


METHOD = Method(
    "FedMef",
    "masks that change",
    start_at_erk,
    Exchange("train", ask_for_all_layers, answer, expect, fold),
    settings=Settings,
    knobs={"adjust_rate": (0.3, 0.5)},
)
