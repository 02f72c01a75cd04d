"""A setting: its default, the values that are allowed, one line of help. Settings classes are made of nothing else.

A method declares the settings that are its own in a class derived from `Settings`; `Config` is the class of those that
every run has.
"""

import dataclasses
import numbers
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf
from typing import Any

_KINDS: dict[type, str] = {int: "a whole number", float: "a number", str: "a word"}
_ACCEPTED: dict[type, Any] = {int: numbers.Integral, float: numbers.Real, str: str}
_LARGEST = 3e38  # what float32 holds; NaN compares false with it, infinity is above it
_LONGEST = 4096  # characters of a word; no path is longer
Rule = dataclasses.Field[Any]
"""A declared setting: its name, its default, and in `metadata` what `setting` was given."""


def setting(
    default: Any,
    help: str,
    choices: tuple[str, ...] | None = None,
    prefix: str | None = None,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    group: str = "method",
    identity: bool = True,
) -> Any:
    """A dataclass field with its rule; its values have the type of `default`: int, float or str.

    `prefix`: words that begin with it are allowed beside the `choices`. `low` and `high` are allowed themselves,
    `above` is not. `group`: the heading under which help prints the setting. `identity=False`: the setting cannot
    change a result, so it is no part of a run's name. Raises ValueError for a default of another type.
    """
    if type(default) not in _KINDS:
        raise ValueError(f"a setting whose default is {default!r}: give a whole number, a number or a word")
    limits = {"choices": choices, "prefix": prefix, "low": low, "high": high, "above": above}
    return field(default=default, metadata={"help": help, "group": group, "identity": identity} | limits)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Checked settings. Raises ValueError naming the setting, the value given and what is allowed."""

    def __post_init__(self) -> None:
        for rule in rules(type(self)):
            value = getattr(self, rule.name)
            _check(rule, value)
            kind = kind_of(rule)
            object.__setattr__(self, rule.name, kind(value) or kind())  # 1 and 1.0 name the same run, 0.0 and -0.0 too

    def values(self) -> dict[str, Any]:
        """The settings that can change a result, as plain JSON."""
        return {rule.name: getattr(self, rule.name) for rule in rules(type(self)) if rule.metadata["identity"]}


def rules(kind: type[Settings]) -> list[Rule]:
    """The settings that a class declares, those of its bases first."""
    return [rule for rule in dataclasses.fields(kind) if "help" in rule.metadata]


def is_declared(kind: Any) -> bool:
    """Whether this is a class of settings, each of which `dataclass` has seen."""
    if not (isinstance(kind, type) and issubclass(kind, Settings)):
        return False
    return not any(isinstance(value, dataclasses.Field) for value in vars(kind).values())


def names(kind: type[Settings]) -> set[str]:
    """The names of the settings that a class declares."""
    return {rule.name for rule in rules(kind)}


def defaults(kind: type[Settings]) -> dict[str, Any]:
    """The default of each setting that a class declares."""
    return {rule.name: rule.default for rule in rules(kind)}


def kind_of(rule: Rule) -> type:
    """int, float or str: the type of the default."""
    return type(rule.default)


def parse(rule: Rule, text: str) -> Any:
    """The value of a setting from its text, such as "0.01". Raises ValueError for text of another kind."""
    kind = kind_of(rule)
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{rule.name} = {shown(text)}: this setting takes {_KINDS[kind]}") from None


def shown(value: Any) -> str:
    """A value as an error repeats it: as Python writes it, and of a long one the beginning."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:80]}... ({len(text):,} characters)"


def check_choice(name: str, given: str, choices: Iterable[str]) -> None:
    """Raises ValueError, naming what is allowed, unless `given` is one of the `choices`."""
    if given not in (allowed := tuple(choices)):
        raise ValueError(f"{name} = {shown(given)}: choose one of {', '.join(allowed)}")


def _check(rule: Rule, value: Any) -> None:
    given, limits, kind = f"{rule.name} = {shown(value)}", rule.metadata, kind_of(rule)
    if isinstance(value, bool) or not isinstance(value, _ACCEPTED[kind]):
        raise ValueError(f"{given}: this setting takes {_KINDS[kind]}")
    if limits["choices"] and value not in limits["choices"] and not _begins(value, limits["prefix"]):
        other = f", or {limits['prefix']}PATH" if limits["prefix"] else ""
        raise ValueError(f"{given}: choose one of {', '.join(limits['choices'])}{other}")
    if kind is str and len(value) > _LONGEST:
        raise ValueError(f"{given}: it must have at most {_LONGEST} characters")
    if kind is not str and not _in_range(value, limits["low"], limits["above"], limits["high"]):
        raise ValueError(f"{given}: {_range(rule, value)}")


def _begins(word: str, prefix: str | None) -> bool:
    return prefix is not None and word.startswith(prefix)


def _in_range(value: float, low: float | None, above: float | None, high: float | None) -> bool:
    """NaN and infinity are in no range."""
    return (
        -_LARGEST < value < _LARGEST
        and (low is None or value >= low)
        and (above is None or value > above)
        and (high is None or value <= high)
    )


def _range(rule: Rule, value: float) -> str:
    limits = rule.metadata
    bounds = {"above": limits["above"], "at least": limits["low"], "at most": limits["high"]}
    words = [f"{word} {bound}" for word, bound in bounds.items() if bound is not None]
    if limits["high"] is None and not -_LARGEST < value < _LARGEST:
        words.insert(0, f"below {_LARGEST:g}" if -inf < value < inf else "finite")
    return "it must be " + " and ".join(words)
