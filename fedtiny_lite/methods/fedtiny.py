"""FedTiny (Huang et al., ICDCS 2023): adaptive BN selection of a coarse mask, then progressive pruning.

Settings switch either module off (`selection=fixed`, `progressive=no`), so its ablations are this file too.
"""

from torch import Tensor

from fedtiny_lite.federated.client import Client, receive, train_locally
from fedtiny_lite.federated.messages import Message
from fedtiny_lite.federated.protocol import Exchange, Method, Reply, State
from fedtiny_lite.federated.server import Server
from fedtiny_lite.methods._growing import answer_with_lists, ask_for_lists, fold_lists
from fedtiny_lite.methods._selection import EXCHANGES, start_with_pool
from fedtiny_lite.model.masks import Mask
from fedtiny_lite.pruning.progressive import (
    adjustment_units,
    exchange_counts,
    exchange_rate,
    is_adjustment,
    unit_for_round,
)


def planned_exchange(server: Server, mask: Mask, r: int) -> dict[str, int]:
    """Weights to exchange per layer in round r: empty but in adjustment rounds, and then of one block."""
    config = server.config
    units = adjustment_units(server.blocks, config.granularity, config.order, config.adjust_blocks)
    if config.progressive == "no" or not is_adjustment(r, config.adjust_every, config.adjust_until):
        return {}
    rate = exchange_rate(r, config.adjust_until, config.adjust_rate)
    return exchange_counts(mask, unit_for_round(units, r, config.adjust_every), rate)


def ask(server: Server, state: State, r: int) -> tuple[dict[str, Tensor], dict]:
    """The model, and in adjustment rounds how long each layer's list shall be."""
    return ask_for_lists(server, state, r, planned_exchange(server, state.mask, r))


def answer(client: Client, message: Message) -> Reply:
    """The trained weights; in adjustment rounds also the largest gradients of pruned positions on one batch."""
    state, mask = receive(client, message)
    trained, flops = train_locally(client, state, mask)
    return answer_with_lists(client, mask, trained, flops, message.meta.get("grow", {}))


def fold(server: Server, state: State, r: int, replies: list[Message]) -> tuple[State, dict]:
    """The average; in adjustment rounds one block then grows where the clients' gradients agree, and is pruned."""
    return fold_lists(server, state, replies, planned_exchange(server, state.mask, r))


METHOD = Method(start_with_pool, Exchange("train", ask, answer, fold), lambda config: EXCHANGES[config.selection])
