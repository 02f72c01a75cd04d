"""How a method is tuned: the settings that are tried for it, and the choice by accuracy on held-out training images.

Every method begins with the same number of trials. Methods without a knob of their own try six learning rates, the
others three with two values of their knob. Where the best trial has the lowest or the highest learning rate, a better
one may lie outside: the grid is widened until that is no longer so.
"""

from collections.abc import Callable, Sequence
from itertools import product
from statistics import mean

from fedtiny_lite.config import load_method

TRIALS = 6
LEARNING_RATES = (0.02, 0.035, 0.05, 0.07, 0.1, 0.14)
LOWEST, HIGHEST = 0.0025, 0.8
"""Learning rates beyond which no grid is widened."""


def trials(method: str) -> list[dict]:
    """The settings that are tried first for a method: learning rates, and fewer of them beside the values of its knobs.

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


def held_out(record: dict) -> float:
    """The validation accuracy at the end of a trial; 0 if it diverged."""
    return record["final"]["validation_accuracy"] if record["complete"] else 0.0


Accuracy = Callable[[dict], float]
"""What a trial is judged by."""


def runs_of(records: Sequence[dict], method: str, settings: dict) -> list[dict]:
    """The runs of a method among `records` that have these settings."""
    return [r for r in records if r["config"]["method"] == method and settings.items() <= r["config"].items()]


def scores(records: Sequence[dict], method: str, tried: Sequence[dict], accuracy: Accuracy = held_out) -> list[float]:
    """The mean accuracy in `records` of each of the `tried` settings.

    Raises ValueError for settings that no record has.
    """

    def score(settings: dict) -> float:
        runs = runs_of(records, method, settings)
        if not runs:
            raise ValueError(f"no tuning run of {method} with {settings} is in the records; repeat its tuning plan")
        return mean(map(accuracy, runs))

    return [score(settings) for settings in tried]


def chosen(records: Sequence[dict], method: str, tried: Sequence[dict], accuracy: Accuracy = held_out) -> dict:
    """Of `tried` settings the one with the best of `scores`; of equals the first."""
    found = scores(records, method, tried, accuracy)
    return tried[found.index(max(found))]


def finished(records: Sequence[dict], method: str, tried: Sequence[dict]) -> bool:
    """Whether each of the `tried` settings was run."""
    return all(runs_of(records, method, settings) for settings in tried)


def widened(records: Sequence[dict], method: str, tried: Sequence[dict], accuracy: Accuracy = held_out) -> list[dict]:
    """`tried`, by rising learning rate, and trials beyond its ends as long as `records` show an end to be best.

    Example: of 0.02, 0.05 and 0.1 the last is best, so 0.2 is added, with all settings that were tried beside 0.1. It
    stays the last that is added until `records` have its runs.
    """
    tried = sorted(tried, key=lambda settings: settings["lr"])
    while finished(records, method, tried):
        best = chosen(records, method, tried, accuracy)["lr"]
        beyond = _beyond(best, [settings["lr"] for settings in tried])
        if not LOWEST <= beyond <= HIGHEST or beyond == best:
            break
        more = [{**settings, "lr": beyond} for settings in tried if settings["lr"] == best]
        tried = sorted([*tried, *more], key=lambda settings: settings["lr"])
    return tried


def _beyond(best: float, rates: Sequence[float]) -> float:
    """Half of the lowest rate if that is best, twice the highest if that is; otherwise the best itself."""
    return best / 2 if best == min(rates) else best * 2 if best == max(rates) else best


def grid(records: Sequence[dict], method: str) -> list[dict]:
    """The settings that are tried for a method, as far as `records` show which: its `trials`, widened."""
    return widened(records, method, trials(method))
