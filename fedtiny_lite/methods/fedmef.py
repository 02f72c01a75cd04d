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
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fedtiny_lite.federated.client import Client, receive, train_locally
from fedtiny_lite.federated.messages import Message
from fedtiny_lite.federated.protocol import Exchange, Method, Reply, State
from fedtiny_lite.federated.server import Server
from fedtiny_lite.methods._growing import (
    answer_with_lists,
    ask_for_lists,
    counts_of_all_layers,
    fold_lists,
    start_at_erk,
)
from fedtiny_lite.model.masks import Mask, largest
from fedtiny_lite.model.training import OnGradient
from fedtiny_lite.pruning.activations import activation_memory, pruned_activations


def lowest_kept(weights: Mapping[str, Tensor], mask: Mask, counts: Mapping[str, int]) -> dict[str, Tensor]:
    """The counts[name] kept weights of each listed layer that are smallest in absolute value, as bool tensors."""
    lowest = {}
    for name, count in counts.items():
        kept = mask[name].flatten().nonzero().squeeze(1)
        flat = torch.zeros(mask[name].numel(), dtype=torch.bool)
        flat[kept[largest(-weights[name].flatten()[kept].abs(), count)]] = True
        lowest[name] = flat.view(mask[name].shape)
    return lowest


def extrusion(low: Mapping[str, Tensor], strength: float) -> OnGradient:
    """Adds the gradient of the penalty strength x |w|^2 over the weights w that `low` marks (the paper's Eq. 2)."""

    @torch.no_grad()
    def add_penalty(parameters: Mapping[str, nn.Parameter], progress: float) -> None:
        for name, marked in low.items():
            parameters[name].grad.add_(parameters[name] * marked, alpha=2 * strength)

    return add_penalty


def ask(server: Server, state: State, r: int) -> tuple[dict[str, Tensor], dict]:
    """The model, and in adjustment rounds how many weights of each layer will be exchanged."""
    return ask_for_lists(server, state, r, counts_of_all_layers(server, state.mask, r))


def answer(client: Client, message: Message) -> Reply:
    """Weights trained on pruned activations; in adjustment rounds with extrusion, and with growth lists."""
    state, mask = receive(client, message)
    counts, config = message.meta.get("grow", {}), client.config
    low = Mask(lowest_kept(state, mask, counts)).to(client.split.images.device)
    with pruned_activations(client.model, config.activation_density):
        trained, flops = train_locally(client, state, mask, on_gradient=extrusion(low, config.extrusion))
    return answer_with_lists(client, mask, trained, flops, counts)


def fold(server: Server, state: State, r: int, replies: list[Message]) -> tuple[State, dict]:
    """The average, in adjustment rounds with weights exchanged; the note says what activations clients kept."""
    state, note = fold_lists(server, state, replies, counts_of_all_layers(server, state.mask, r))
    config, in_shape = server.config, tuple(server.public.images.shape[1:])
    kept = activation_memory(server.model, in_shape, config.batch_size, config.activation_density)
    return state, note | {"client_activation_bytes": kept}


METHOD = Method(start_at_erk, Exchange("train", ask, answer, fold))
