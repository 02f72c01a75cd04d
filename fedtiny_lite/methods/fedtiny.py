"""FedTiny (Huang et al., ICDCS 2023): adaptive BN selection of a coarse mask, then progressive pruning.

The algorithm's steps, and the function that carries out each:

1. The server trains on its public set (`server.pretrained`) and prunes the result coarsely in several ways, which
   gives a pool of candidates (`bn_selection.candidate_pool`, asked for by `_selection.start_with_pool`).
2. Each client re-estimates every candidate's BN statistics on its own images (`_judging.answer_statistics`), and the
   server combines them (`bn_selection.aggregate_bn_stats`, in `_selection.fold_statistics`).
3. Each client measures every candidate's loss with the combined statistics (`_judging.answer_losses`), and the server
   takes the candidate of least loss (`bn_selection.choose_candidate`, in `_selection.fold_losses`).
4. In every round clients train the kept weights (`answer`, by `client.train_locally`) and the server averages them
   (`server.average`).
5. In an adjustment round the server chooses one block and how many weights of each of its layers to exchange
   (`planned_exchange`). Each client lists the largest gradients of pruned weights (`progressive.growth_lists`); the
   server merges the lists, grows and prunes (`progressive.merge_growth_lists`, `progressive.grow_and_prune`, in
   `_growing.fold_lists`).

Settings and schedule follow the first author's code of 2022 and memory of the paper; docs/departures.md has what
differs. Settings switch either module off (`selection=fixed`, `progressive=no`), so its ablations are this file too.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from fedtiny_lite.federated.checks import Check
from fedtiny_lite.federated.client import Client, receive, train_locally
from fedtiny_lite.federated.messages import Message
from fedtiny_lite.federated.protocol import Exchange, Method, Note
from fedtiny_lite.federated.server import Server
from fedtiny_lite.federated.state import Question, Reply, State
from fedtiny_lite.methods._growing import (
    Counts,
    adjusts,
    answer_with_lists,
    ask_for_lists,
    expect_lists,
    fold_lists,
    rate_in,
)
from fedtiny_lite.methods._selection import EXCHANGES, Selection, judges, start_with_pool
from fedtiny_lite.methods._settings import Growth
from fedtiny_lite.model.masks import Mask
from fedtiny_lite.pruning.progressive import adjustment_units, exchange_counts, unit_for_round
from fedtiny_lite.settings import setting


@dataclass(frozen=True, kw_only=True)
class Settings(Selection, Growth):
    """FedTiny's own settings: those of selection and of growth lists, and which blocks are adjusted when."""

    progressive: str = setting("yes", "whether weights grow and are pruned during training", choices=("yes", "no"))
    granularity: str = setting("block", "what is adjusted at a time", choices=("layer", "block", "entire"))
    order: str = setting("backward", "backward = from output to input", choices=("backward", "forward"))
    adjust_blocks: str = setting("all", "blocks that may be adjusted: all, or numbers such as 1,3 (1 = first)")


def units(server: Server) -> tuple[tuple[str, ...], ...]:
    """The groups of layers that are adjusted in turn. Raises ValueError for a block that the model lacks."""
    own = server.task.config.of(Settings)
    return adjustment_units(server.task.blocks, own.granularity, own.order, own.adjust_blocks)


def start(server: Server) -> State:
    """The pool of candidates on the pretrained weights. Raises ValueError for blocks or judges that are not there."""
    units(server), judges(server.task.config, -1)  # refuse unknown blocks and missing clients before all computation
    return start_with_pool(server)


def planned_exchange(server: Server, mask: Mask, r: int) -> Counts:
    """Weights to exchange per layer in round r: empty but in adjustment rounds, and then of one block."""
    own = server.task.config.of(Settings)
    if own.progressive == "no" or not adjusts(server, r):
        return {}
    return exchange_counts(mask, unit_for_round(units(server), r, own.adjust_every), rate_in(server, r))


def ask(server: Server, state: State, r: int) -> Question:
    """The model, and in adjustment rounds how long each layer's list shall be."""
    return ask_for_lists(planned_exchange(server, state.mask, r))


def answer(client: Client, message: Message) -> Reply:
    """The trained weights; in adjustment rounds also the largest gradients of pruned positions on one batch."""
    state, mask = receive(client, message)
    trained, flops = train_locally(client, state, mask)
    return answer_with_lists(client, mask, trained, flops, message.meta.get("grow", {}))


def expect(server: Server, state: State, r: int, k: int, reply: Message) -> Mapping[str, Check]:
    """The trained weights, and in adjustment rounds the lists."""
    return expect_lists(server, state, planned_exchange(server, state.mask, r))


def fold(server: Server, state: State, r: int, replies: list[Message]) -> tuple[State, Note]:
    """The average; in adjustment rounds one block then grows where the clients' gradients agree, and is pruned."""
    return fold_lists(server, state, replies, planned_exchange(server, state.mask, r))


METHOD = Method(
    "FedTiny",
    "masks that change",
    start,
    Exchange("train", ask, answer, expect, fold),
    lambda config: EXCHANGES[config.of(Settings).selection],
    settings=Settings,
    knobs={"adjust_rate": (0.3, 0.5)},
)
