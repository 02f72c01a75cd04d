"""What a notebook calls: `check("combine", combine)` judges the reader's function, `hint("combine")` helps."""

from collections.abc import Callable, Mapping
from typing import Any

from fedtiny_lite.exercises import (
    averaging,
    bn_selection,
    bn_statistics,
    closing,
    comparing,
    connecting,
    costs,
    heterogeneity,
    progressive,
    reading,
    schedule,
    shifting,
    storage,
)
from fedtiny_lite.exercises.judging import Exercise, judge

_MODULES = (
    averaging,
    heterogeneity,
    bn_selection,
    bn_statistics,
    schedule,
    progressive,
    comparing,
    reading,
    costs,
    storage,
    shifting,
    connecting,
    closing,
)
EXERCISES: Mapping[str, Exercise] = {
    name: exercise for module in _MODULES for name, exercise in module.EXERCISES.items()
}
"""All exercises by name, in the order of the notebooks."""


def check(name: str, answer: Callable[..., Any]) -> None:
    """Print one line on the reader's function: right, not tried yet, or what is wrong with it.

    Raises ValueError for a name that is no exercise.
    """
    print(judge(_exercise(name), answer))


def hint(name: str, step: int = 1) -> None:
    """Print a hint for an exercise; the second says more. Raises ValueError for an unknown name or step."""
    hints = _exercise(name).hints
    if step not in (1, 2):
        raise ValueError(f"step = {step}: there are two hints, 1 and 2")
    more = f'  More: hint("{name}", 2)' if step == 1 else ""
    print(hints[step - 1] + more)


def _exercise(name: str) -> Exercise:
    if name not in EXERCISES:
        raise ValueError(f"no exercise is called {name!r}; there are: {', '.join(EXERCISES)}")
    return EXERCISES[name]
