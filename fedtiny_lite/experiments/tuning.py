"""How a method is tuned: the settings that are tried for it, and the choice by accuracy on held-out training images.

Every method gets the same number of trials. Methods without a knob of their own try six learning rates, the others
three with two values of their knob.
"""

from collections.abc import Sequence
from itertools import product
from statistics import mean

from fedtiny_lite.config import load_method

TRIALS = 6
LEARNING_RATES = (0.02, 0.035, 0.05, 0.07, 0.1, 0.14)


def trials(method: str) -> list[dict]:
    """The settings that are tried for a method: learning rates, and fewer of them beside the values of its knobs.

    Raises ValueError for a method whose knobs do not leave the same number of trials as every other method has.
    """
    knobs = load_method(method).knobs
    values = list(product(*knobs.values()))
    rates = LEARNING_RATES[:: len(values)]
    if len(rates) * len(values) != TRIALS:
        raise ValueError(
            f"{method} has {len(values)} settings of its knobs to try; {TRIALS} must be a multiple of that"
        )
    return [{"lr": lr} | dict(zip(knobs, chosen, strict=True)) for lr in rates for chosen in values]


def scores(records: Sequence[dict], method: str, tried: Sequence[dict]) -> list[float]:
    """The mean validation accuracy in `records` of each of the `tried` settings; a trial that diverged counts as 0.

    Raises ValueError for settings that no record has.
    """

    def score(settings: dict) -> float:
        runs = [r for r in records if r["config"]["method"] == method and settings.items() <= r["config"].items()]
        if not runs:
            raise ValueError(f"no tuning run of {method} with {settings} is in the records; repeat its tuning plan")
        return mean(r["final"]["validation_accuracy"] if r["complete"] else 0.0 for r in runs)

    return [score(settings) for settings in tried]


def chosen(records: Sequence[dict], method: str, tried: Sequence[dict]) -> dict:
    """Of `tried` settings the one with the best of `scores`; of equals the first."""
    found = scores(records, method, tried)
    return tried[found.index(max(found))]
