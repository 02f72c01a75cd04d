"""The pool of candidates, as the server makes it before it asks anyone.

`pool=paper` is FedTiny's: magnitude masks with noisy layer densities on the pretrained weights. `pool=allocations` and
`trial_epochs` are the kit's own: candidates that differ in their allocation over layers, and that the server trains
under their masks before it sends them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fedtiny_lite.config import Config
from fedtiny_lite.federated.messages import decode_state, encode_state
from fedtiny_lite.federated.server import Server, train_on_public
from fedtiny_lite.federated.state import State, masked_start
from fedtiny_lite.methods._saliency import synaptic_flow
from fedtiny_lite.model.costs import forward_flops
from fedtiny_lite.model.masks import Mask
from fedtiny_lite.pruning.allocations import Limits, allocation_pool, kinds_of_pool
from fedtiny_lite.pruning.bn_selection import candidate_pool, usual_pool_size
from fedtiny_lite.records.environment import check_memory
from fedtiny_lite.seeding import numpy_generator
from fedtiny_lite.settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class Pool(Settings):
    """Which candidates there are, and how they are sent."""

    pool: str = setting(
        "paper",
        "candidates: noisy layer densities as in the paper, or other allocations over layers (ours)",
        choices=("paper", "allocations"),
    )
    pool_size: int = setting(0, "candidates in the pool; 0 = max(1, round(0.1 / density))", low=0, high=10_000)
    pool_noise: float = setting(0.5, "layer densities are drawn from density * (1 +- pool_noise)", low=0, high=1)
    pool_work: float = setting(
        2.0, "pool=allocations: most forward FLOPs of a candidate, as a multiple of the uniform mask's", low=1
    )
    trial_epochs: int = setting(
        0, "server epochs that each candidate is trained before it is sent (ours)", low=0, high=10_000
    )


def pool_size(config: Config) -> int:
    """Candidates in the pool: as set, or else as many as in the paper."""
    return config.of(Pool).pool_size or usual_pool_size(config.density)


def make_pool(server: Server, weights: dict[str, Tensor], candidates: int) -> list[Mask]:
    """The masks of the first `candidates` of the pool on the pretrained `weights`."""
    task = server.task
    masks = {f"masks of {candidates:,} candidates": candidates * sum(task.sizes.values())}
    check_memory(masks, "lower pool_size")
    own, rng = task.config.of(Pool), numpy_generator(task.config.seed, "pool")
    if own.pool == "paper":
        return candidate_pool(weights, task.sizes, task.budget, candidates, own.pool_noise, rng)
    limits = Limits(task.sizes, task.layers, task.budget, own.pool_work)
    kinds = kinds_of_pool(candidates)
    return allocation_pool(weights, limits, kinds, own.pool_noise, rng, lambda state: synaptic_flow(server, state))


def candidate_start(server: Server, weights: dict[str, Tensor], candidate: Mask) -> State:
    """The model as which a candidate is sent: the pretrained weights under its mask, trained if there is a trial."""
    epochs = server.task.config.of(Pool).trial_epochs
    return masked_start(train_on_public(server, weights, candidate, epochs, "trial") if epochs else weights, candidate)


def trials(server: Server, weights: dict[str, Tensor], pool: Sequence[Mask]) -> dict[str, list[Tensor]]:
    """The candidates' trained models, each packed under its own mask, as an entry of `State.extra`; without a trial
    nothing, as the pretrained weights serve all.
    """
    if not server.task.config.of(Pool).trial_epochs:
        return {}
    return {"trials": [encode_state(candidate_start(server, weights, c).weights, c) for c in pool]}


def candidate_weights(server: Server, state: State, number: int) -> dict[str, Tensor]:
    """The weights of a candidate as they were sent."""
    candidate = state.extra["pool"][number]
    if "trials" in state.extra:
        return decode_state(state.extra["trials"][number], candidate, server.task.state_shapes)
    return masked_start(state.extra["pretrained"], candidate).weights


def describe_pool(server: Server, pool: Sequence[Mask]) -> dict[str, Any]:
    """What the record says of a pool of allocations: each candidate's kind, and its FLOPs of a sample's forward pass.

    Of the paper's pool nothing.
    """
    if server.task.config.of(Pool).pool == "paper":
        return {}
    flops = [forward_flops(server.task.layers, candidate.kept) for candidate in pool]
    return {"allocations": kinds_of_pool(len(pool)), "forward_flops": flops}
