"""Adaptive BN selection as messages: the pool goes down, statistics come up, go down combined, losses come up.

The server's side; what a client does is in `_judging`.

The comparisons differ in the statistics that a candidate wears while it is judged: `vanilla` keeps those of the
pretrained model, `server` takes those that the server re-estimates on its own public set.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedtiny_lite.config import Config
from fedtiny_lite.federated.checks import Check, bn_statistics, numbers, whole_number
from fedtiny_lite.federated.client import development_samples
from fedtiny_lite.federated.encodings import decode_stats, encode_pool, encode_stats
from fedtiny_lite.federated.messages import Message
from fedtiny_lite.federated.participation import drawn
from fedtiny_lite.federated.protocol import Exchange, Note
from fedtiny_lite.federated.server import Server, pretrained, shares
from fedtiny_lite.federated.state import Question, State, masked_start
from fedtiny_lite.methods._judging import answer_losses, answer_statistics
from fedtiny_lite.methods._pool import (
    Pool,
    candidate_start,
    candidate_weights,
    describe_pool,
    make_pool,
    pool_size,
    trials,
)
from fedtiny_lite.methods._settings import Development
from fedtiny_lite.model.masks import union_of
from fedtiny_lite.model.networks import load_state
from fedtiny_lite.model.training import Evaluation
from fedtiny_lite.pruning.bn_selection import (
    BnStats,
    aggregate_bn_stats,
    choose_candidate,
    recalibrate_bn,
)
from fedtiny_lite.settings import setting


@dataclass(frozen=True, kw_only=True)
class Selection(Pool, Development):
    """How the coarse mask is chosen from the pool."""

    selection: str = setting(
        "adaptive",
        "whose BN statistics judge a candidate: the clients', none re-estimated, the server's; or `candidate` unjudged",
        choices=("adaptive", "vanilla", "server", "fixed"),
    )
    selection_clients: int = setting(0, "clients that judge the pool, drawn once; 0 = all", low=0)
    candidate: int = setting(
        0, "number of the candidate that selection=fixed takes, whatever pool_size is", low=0, high=10_000
    )
    bn_variance: str = setting("paper", "how clients' BN variances are combined", choices=("paper", "pooled"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.candidate and self.selection != "fixed":
            raise ValueError(
                f"candidate = {self.candidate}: selection = {self.selection!r} chooses among all; "
                "set selection=fixed, or leave candidate out"
            )


def judges(config: Config, r: int) -> list[int]:
    """The clients that judge the pool, the same in both exchanges. Raises ValueError if there are not so many."""
    count = config.of(Selection).selection_clients
    if count > config.clients:
        raise ValueError(f"selection_clients = {count}: there are {config.clients} clients; 0 asks all")
    return drawn(config, count, "selection")


def start_with_pool(server: Server) -> State:
    """The pool of candidates on the pretrained weights; with `selection=fixed` the numbered candidate at once.

    `extra`: the `pool`, the `pretrained` weights, the candidates' `trials` if there are any, and with
    `selection=server` the `stats` of each candidate. Raises ValueError where statistics that a network lacks are to be
    re-estimated.
    """
    config, weights = server.task.config, pretrained(server)
    own = config.of(Selection)
    if own.selection == "fixed":
        return candidate_start(server, weights, make_pool(server, weights, own.candidate + 1)[own.candidate])
    if own.selection != "vanilla" and not server.task.stats_shapes:
        kind = type(server.model).__name__
        raise ValueError(
            f"selection = {own.selection!r}: it re-estimates batch norm's statistics, and {kind} has no batch norm; "
            "set selection=vanilla, or a model that has it"
        )
    pool = make_pool(server, weights, pool_size(config))
    extra = {"pool": pool, "pretrained": weights} | trials(server, weights, pool)
    state = replace(masked_start(weights, union_of(pool)), extra=extra)
    if own.selection != "server":
        return state
    stats = [server_stats(server, candidate_weights(server, state, number)) for number in range(len(pool))]
    return replace(state, extra=extra | {"stats": stats})


def server_stats(server: Server, weights: dict[str, Tensor]) -> BnStats:
    """BN statistics that the server re-estimates on its own public set (a control)."""
    load_state(server.model, weights)
    return recalibrate_bn(server.model, server.public, server.task.pixels)


def send_pool(server: Server, state: State, r: int) -> Question:
    """The weights that any candidate keeps, and each candidate's mask as a choice among those.

    After a trial no weights are shared: the trained models of all candidates are sent, each under its own mask.
    """
    pool = {"pool": encode_pool(state.extra["pool"], state.mask)}
    if "trials" in state.extra:
        return Question(pool | {"trials": torch.cat(state.extra["trials"])}, with_model=False)
    return Question(pool)


def send_stats(server: Server, state: State, r: int) -> Question:
    """BN statistics of every candidate; the clients have the pool already."""
    return Question({"stats": encode_stats(state.extra["stats"], server.task.stats_shapes)}, with_model=False)


def send_pool_and_stats(server: Server, state: State, r: int) -> Question:
    """The pool, with the statistics that the server re-estimated."""
    pool, stats = send_pool(server, state, r), send_stats(server, state, r)
    return replace(pool, tensors={**pool.tensors, **stats.tensors})


def expect_stats(server: Server, state: State, r: int, k: int, reply: Message) -> Mapping[str, Check]:
    """A row of statistics for each candidate."""
    _check_judged(server, reply)
    return {"stats": bn_statistics(server.task, len(state.extra["pool"]))}


def expect_losses(server: Server, state: State, r: int, k: int, reply: Message) -> Mapping[str, Check]:
    """A summed loss and a number of correct answers for each candidate, of as many images as the client judged."""
    images = _check_judged(server, reply)
    candidates = len(state.extra["pool"])
    return {
        "loss": numbers(candidates, dtype=torch.float64, low=0),
        "correct": numbers(candidates, dtype=torch.int64, low=0, high=images),
    }


def _check_judged(server: Server, reply: Message) -> int:
    """The number of images that judged, which follows from the number that the client has. Raises ValueError for
    another.
    """
    samples = whole_number(reply.meta, "samples", low=1)
    right = development_samples(samples, server.task.config.of(Selection).dev_fraction)
    if whole_number(reply.meta, "judged") != right:
        raise ValueError(f"{reply.meta['judged']} of {samples} images judged, where {right} were asked to")
    return right


def judged(replies: Sequence[Message]) -> list[Message]:
    """The same replies, each weighing as many samples as judged."""
    return [replace(reply, meta=reply.meta | {"samples": reply.meta["judged"]}) for reply in replies]


def fold_statistics(server: Server, state: State, r: int, replies: list[Message]) -> tuple[State, Note]:
    """The combined statistics of every candidate."""
    rule, weights = server.task.config.of(Selection).bn_variance, shares(judged(replies))
    of_clients = [decode_stats(reply.tensors["stats"], server.task.stats_shapes) for reply in replies]
    combined = [aggregate_bn_stats(stats, weights, rule) for stats in zip(*of_clients, strict=True)]
    return replace(state, extra={**state.extra, "stats": combined}), {}


def fold_losses(server: Server, state: State, r: int, replies: list[Message]) -> tuple[State, Note]:
    """The chosen candidate as it was sent, with the statistics it was judged on."""
    chosen, losses = choose_candidate([_scores(reply) for reply in replies])
    pool = state.extra["pool"]
    stats = state.extra["stats"][chosen] if "stats" in state.extra else {}
    note = {"chosen": chosen, "losses": losses, "kept": [candidate.kept for candidate in pool]}
    weights = candidate_weights(server, state, chosen) | stats
    return masked_start(weights, pool[chosen]), {"selection": note | describe_pool(server, pool)}


def _scores(reply: Message) -> list[Evaluation]:
    """A client's score of each candidate."""
    both = zip(reply.tensors["loss"].tolist(), reply.tensors["correct"].tolist(), strict=True)
    return [Evaluation(loss, correct, reply.meta["judged"]) for loss, correct in both]


STATISTICS = Exchange("bn_statistics", send_pool, answer_statistics, expect_stats, fold_statistics, judges)
LOSSES_ON_CLIENTS_STATS = Exchange(
    "candidate_losses", send_stats, answer_losses, expect_losses, fold_losses, judges, remind=send_pool_and_stats
)
LOSSES_ON_PRETRAINED_STATS = Exchange("candidate_losses", send_pool, answer_losses, expect_losses, fold_losses, judges)
LOSSES_ON_SERVER_STATS = Exchange(
    "candidate_losses", send_pool_and_stats, answer_losses, expect_losses, fold_losses, judges
)

EXCHANGES = {
    "adaptive": (STATISTICS, LOSSES_ON_CLIENTS_STATS),
    "vanilla": (LOSSES_ON_PRETRAINED_STATS,),
    "server": (LOSSES_ON_SERVER_STATS,),
    "fixed": (),
}
"""The exchanges before training, by the setting `selection`."""
