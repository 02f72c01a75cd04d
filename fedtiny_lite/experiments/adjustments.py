"""When a run adjusts which block, and how long its lists are, computed from the settings; nothing is trained."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from fedtiny_lite.config import Config
from fedtiny_lite.methods.fedtiny import Settings
from fedtiny_lite.model import costs, masks
from fedtiny_lite.model.architectures import Blocks
from fedtiny_lite.model.networks import empty_model, prunable_blocks
from fedtiny_lite.pruning import progressive

CLASSES, IN_SHAPE = 10, (3, 32, 32)
"""Of the paper's CIFAR-10."""
BY_ADJUSTMENT, BY_ROUND = "by the number of the adjustment", "by the number of the round"


class Schedule(NamedTuple):
    """`rates`: share of kept weights exchanged, round by round. `turns`: by rule, the number of the block adjusted in
    each round (0 = nearest the output), None in rounds without adjustment. `units`: how many blocks take turns.
    """

    rates: list[float]
    turns: dict[str, list[int | None]]
    units: int


def schedule(config: Config, blocks: Blocks) -> Schedule:
    """The rounds until the last adjustment, with turns by the number of the adjustment and, as public code did, by
    the number of the round.
    """
    own = config.of(Settings)
    rounds, units = range(own.adjust_until), list(progressive.adjustment_units(blocks, "block", own.order))
    due = [progressive.is_adjustment(r, own.adjust_every, own.adjust_until) for r in rounds]
    mine = [units.index(progressive.unit_for_round(units, r, own.adjust_every)) if due[r] else None for r in rounds]
    turns = {BY_ADJUSTMENT: mine, BY_ROUND: [r % len(units) if due[r] else None for r in rounds]}
    rates = [progressive.exchange_rate(r, own.adjust_until, own.adjust_rate) for r in rounds]
    return Schedule(rates, turns, len(units))


def never_adjusted(found: Schedule) -> dict[str, int]:
    """By rule, how many blocks have no turn."""
    return {rule: found.units - len(set(turns) - {None}) for rule, turns in found.turns.items()}


def paper_blocks(config: Config) -> Blocks:
    """The prunable blocks of the network of `config` on CIFAR-10, input to output."""
    return prunable_blocks(empty_model(config.model, config.width, CLASSES, IN_SHAPE), config.prunes_linear)


def paper_lists(config: Config) -> dict[str, tuple[int, int]]:
    """By block of that network, bytes of a dense gradient and of the growth lists, at the highest rate.

    The mask keeps the same share of every layer.
    """
    model, blocks = empty_model(config.model, config.width, CLASSES, IN_SHAPE), paper_blocks(config)
    sizes = {name: model.get_parameter(name).numel() for block in blocks for name in block}
    kept = masks.uniform_counts(sizes, masks.weight_budget(sizes, config.density))
    mask = masks.Mask({name: torch.arange(size) < kept[name] for name, size in sizes.items()})
    rate = config.of(Settings).adjust_rate
    return {
        f"block {number}": _bytes(sizes, block, progressive.exchange_counts(mask, block, rate))
        for number, block in enumerate(blocks, start=1)
    }


def _bytes(sizes: dict[str, int], block: Sequence[str], counts: dict[str, int]) -> tuple[int, int]:
    lists = sum(costs.growth_list_bytes(sizes[name], count) for name, count in counts.items())
    return sum(4 * sizes[name] for name in block), lists
