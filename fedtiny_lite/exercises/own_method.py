"""The capstone of notebook 04: whether a method of the reader's own is ready for a race, or what is wrong with it."""

from typing import Any

import torch

from fedtiny_lite.config import Config, load_method
from fedtiny_lite.federated.server import Server, pretrained
from fedtiny_lite.federated.state import State
from fedtiny_lite.model.masks import check_masked
from fedtiny_lite.simulation.setup import build_federation


def check_method(config: Config) -> None:
    """Print one line on how the method of `config` starts: ready, or what is wrong.

    Raises ValueError for settings and data that clash.
    """
    print(judge_start(build_federation(config).server))


def judge_start(server: Server) -> str:
    """One line on the state from which the method of the server's run starts; an error in it becomes a sentence too."""
    start = load_method(server.task.config.method).start
    try:
        first, again = start(server), start(server)
    except Exception as error:
        return f"✗ start(server) raises {type(error).__name__}: {' '.join(str(error).split())}"
    wrong = _what_is_wrong(server, first, again)
    return f"✗ {wrong}" if wrong else _ready(server, first)


def _what_is_wrong(server: Server, first: Any, again: Any) -> str | None:
    task = server.task
    if not isinstance(first, State):
        return f"start(server) returns a {type(first).__name__}; end it with `return masked_start(weights, mask)`."
    if list(first.mask) != list(task.mask_shapes):
        return f"The mask must name {', '.join(task.mask_shapes)}, in this order; it names {', '.join(first.mask)}."
    try:
        check_masked(first.weights, first.mask)
    except ValueError as error:
        return f"{error}."
    if first.mask.total > task.budget:
        return f"The mask keeps {first.mask.total} weights and the budget is {task.budget}; the others keep to it."
    if first.mask != again.mask:
        return "A second start gives another mask; draw from `torch_generator(server.task.config.seed, 'mask')` alone."
    return _other_weights(server, first)


def _other_weights(server: Server, state: State) -> str | None:
    for name, tensor in pretrained(server).items():
        kept = state.mask[name] if name in state.mask else torch.ones_like(tensor, dtype=torch.bool)
        if not torch.equal(state.weights[name][kept], tensor[kept]):
            return f"{name} starts from other values than pretraining's, from which every method in the race starts."
    return None


def _ready(server: Server, state: State) -> str:
    empty = f"; {', '.join(state.mask.empty)} keeps nothing" if state.mask.empty else ""
    return f"✓ Ready: it keeps {state.mask.total} of at most {server.task.budget} weights{empty}."
