"""A run's progress bar, which moves whenever the run reports the start or a finished round."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from fedtiny_lite.config import Config
from fedtiny_lite.federated.state import State
from fedtiny_lite.progress_bar import progress_bar

OnRound = Callable[[dict[str, Any], State], None]
"""Called with the record's entry of the start (its round is -1) or of a round, and the server's state after it."""


@contextlib.contextmanager
def watched(config: Config, on_round: OnRound | None = None) -> Iterator[OnRound]:
    """`on_round` preceded by a step of the bar; the time left counts neither selection nor the rounds of before."""
    with progress_bar(config.rounds, config.method, "round") as bar:

        def report(entry: dict[str, Any], state: State) -> None:
            if entry["round"] < 0:
                bar.unpause()
            elif bar.n < entry["round"]:
                bar.initial = entry["round"]
            bar.n = entry["round"] + 1
            bar.set_postfix_str(f"{config.score_on} accuracy {entry[f'{config.score_on}_accuracy']:.4f}")
            if on_round:
                on_round(entry, state)

        yield report
