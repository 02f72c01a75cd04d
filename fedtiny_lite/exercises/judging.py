"""Judges a reader's function on random inputs: against what the package computes, then against known mistakes.

A known mistake is itself a small function, and its docstring says what is wrong. An answer that agrees with a mistake
on every input has made that mistake. Any other wrong answer is described: its kind, shape, sign or scale, or the first
value that differs.
"""

import copy
import inspect
import linecache
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

CASES = 24
"""Random inputs for each judgement."""
RIGHT = "✓ Right: it agrees with the package on random inputs."
PLURALS = {"has": "have", "is": "are", "differs": "differ", "differs:": "differ:"}
"""The verbs with which a fault begins, and what they become for several."""
LONGEST_ARGUMENTS = 100
"""Characters of the arguments that a judgement still quotes."""
NOT_TRIED = "– Not tried yet: the function returns nothing. Write it, and end it with `return`."
SOMETIMES_NOTHING = "✗ For some inputs your function returns nothing; end every branch of it with `return`."


def as_returned(*parts: Tensor) -> tuple[Tensor, ...]:
    """The parts of a result in the order in which they were returned."""
    return parts


def whole_number(generator: torch.Generator, low: int, high: int) -> int:
    """An input of an exercise: a whole number from low to high, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


class Exercise(NamedTuple):
    """One exercise of a notebook.

    `inputs(generator)`: random arguments for the reader's function. `right`: the same function made of the package.
    `parts`: what it returns, a word for each part. `mistakes`: functions that each make one mistake, which their
    docstring tells the reader. `hints`: two of them, the second says more. `ordered(*parts)`: the parts in the order in
    which they are compared, where the reader is free to choose another.
    """

    inputs: Callable[[torch.Generator], tuple[Any, ...]]
    right: Callable[..., Any]
    parts: tuple[str, ...]
    mistakes: Sequence[Callable[..., Any]]
    hints: tuple[str, str]
    ordered: Callable[..., tuple[Tensor, ...]] = as_returned


class Case(NamedTuple):
    """Arguments, what they became in the reader's function, and what it returned."""

    given: tuple[Any, ...]
    after: tuple[Any, ...]
    found: Any


def judge(exercise: Exercise, answer: Callable[..., Any]) -> str:
    """One line on the reader's function `answer`: right, not tried yet, or what is wrong.

    Never raises for what the reader wrote: an error in it becomes one sentence that quotes the reader's line.
    """
    generator = torch.Generator().manual_seed(0)
    cases = []
    for _ in range(CASES):
        given = exercise.inputs(generator)
        after = copy.deepcopy(given)
        try:
            found = answer(*after)
        except Exception as error:
            return f"✗ {raised(error, answer)}"
        cases.append(Case(given, after, found))
    empty = [case for case in cases if case.found is None or case.found is ...]
    if empty:
        return NOT_TRIED if len(empty) == CASES else SOMETIMES_NOTHING
    wrong = _what_is_wrong(exercise, cases)
    return f"✗ {wrong}" if wrong else RIGHT


def _what_is_wrong(exercise: Exercise, cases: list[Case]) -> str | None:
    faults = [fault for case in cases if (fault := _fault(exercise, case, exercise.right))]
    if not faults:
        changed = any(not _unchanged(a, b) for case in cases for a, b in zip(case.given, case.after, strict=True))
        return "The result is right, but your function changes its arguments; work on a copy." if changed else None
    for mistake in exercise.mistakes:
        if not any(_fault(exercise, case, mistake) for case in cases):
            return mistake.__doc__
    if len(exercise.parts) == 2 and not any(_fault(exercise, _turned(case), exercise.right) for case in cases):
        return f"Your two results are right, but in the other order; `return {', '.join(exercise.parts)}`."
    if all(_inverted(exercise, case) for case in cases):
        return f"The {exercise.parts[0]} is inverted: True stands where False is right, and False where True is."
    return faults[0]


def _inverted(exercise: Exercise, case: Case) -> bool:
    """Whether a single bool result is the opposite of the right one."""
    found, right = in_parts(case.found, exercise.parts), exercise.right(*copy.deepcopy(case.given))
    if isinstance(found, str) or not isinstance(right, Tensor) or right.dtype != torch.bool:
        return False
    return torch.equal(found[0], ~right)


def _turned(case: Case) -> Case:
    """The case with a returned pair the other way round."""
    return case._replace(found=case.found[::-1]) if isinstance(case.found, tuple | list) else case


def _fault(exercise: Exercise, case: Case, function: Callable[..., Any]) -> str | None:
    """How what the reader's function returned differs from what `function` returns; None if it does not.

    A mistake returns None where its result is open, as where it prunes one of several zeros: nothing differs from that.
    """
    returned = function(*copy.deepcopy(case.given))
    if returned is None:
        return None
    expected = in_parts(returned, exercise.parts)
    found = in_parts(case.found, exercise.parts)
    if isinstance(found, str) or isinstance(expected, str):  # what the package returns never is
        return str(found)
    pairs = list(zip(exercise.parts, found, expected, strict=True))
    if misshapen := [_sentence(part, fault) for part, a, b in pairs if (fault := shape_fault(a, b))]:
        return misshapen[0]
    pairs = list(zip(exercise.parts, exercise.ordered(*found), exercise.ordered(*expected), strict=True))
    fault = next((_sentence(part, fault) for part, a, b in pairs if (fault := value_fault(a, b))), None)
    return fault and fault + _arguments(exercise, case)


def _sentence(part: str, fault: str) -> str:
    """The part and what is wrong with it, the verb in the plural where the part's first noun is."""
    verb = fault.split(" ", 1)[0]
    plural = PLURALS[verb] if part.split(" of ")[0].endswith("s") else verb
    return f"The {part} {plural}{fault.removeprefix(verb)}."


def _arguments(exercise: Exercise, case: Case) -> str:
    """` Tried with a = 1, b = [2, 3].`, the arguments of the case; nothing if they are long."""
    names = inspect.signature(exercise.right).parameters  # those that the reader does not know come last
    listed = ", ".join(f"{name} = {_plain(value)}" for name, value in zip(names, case.given, strict=False))
    return f" Tried with {listed}." if len(listed) <= LONGEST_ARGUMENTS else ""


def _plain(value: Any) -> str:
    """An argument as text: a tensor as its list, a fraction with four digits."""
    if isinstance(value, Tensor):
        return _plain(value.tolist())
    if isinstance(value, list):
        return f"[{', '.join(map(_plain, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def in_parts(result: Any, parts: tuple[str, ...]) -> tuple[Tensor, ...] | str:
    """What a function returned as one tensor per part, or a sentence on what it should have returned."""
    several = result if len(parts) > 1 else (result,)
    wanted = f"It should return the {' and the '.join(parts)}"
    if not isinstance(several, tuple | list) or len(several) != len(parts):
        return f"{wanted}, as `return {', '.join(parts)}`; it returns {_kind(result)}."
    try:
        return tuple(_as_tensor(part).detach() for part in several)
    except Exception:
        each = "each as" if len(parts) > 1 else "as"
        return f"{wanted}, {each} one tensor or plain numbers; it returns {_kind(result)}."


def _as_tensor(part: Any) -> Tensor:
    """A part of a result as a tensor; a pandas Series by its values, whatever its index."""
    return torch.as_tensor(part.to_numpy(copy=True) if hasattr(part, "to_numpy") else part)


def _kind(result: Any) -> str:
    name = type(result).__name__
    size = f" of {len(result)}" if isinstance(result, tuple | list) else ""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}{size}"


def shape_fault(found: Tensor, expected: Tensor) -> str | None:
    """How shape or type of `found` differ; whole numbers may stand for fractions, and any precision is fine."""
    if found.shape != expected.shape:
        return f"has shape {list(found.shape)}; expected is {list(expected.shape)}"
    if found.dtype != expected.dtype and torch.bool in (found.dtype, expected.dtype):
        return f"is {str(found.dtype).removeprefix('torch.')}; expected is {str(expected.dtype).removeprefix('torch.')}"
    return None


def value_fault(found: Tensor, expected: Tensor) -> str | None:
    """How the values of `found` differ from `expected`, of the same shape; None if they agree to rounding."""
    if expected.dtype == torch.bool:
        return _bool_fault(found, expected)
    a, b = found.double(), expected.double()
    if close(a, b).all():
        return None
    if not a.isfinite().all():
        return "has values that are not finite"
    if close(a, -b).all():
        return "has the wrong sign"
    ratio = (a * b).sum() / (b * b).sum()  # of a = ratio * b
    if a.numel() > 1 and close(a, ratio * b).all():
        return f"is {ratio:.3g} times as large as expected"
    return _first_difference(a, b, ~close(a, b))


def _bool_fault(found: Tensor, expected: Tensor) -> str | None:
    if torch.equal(found, expected):
        return None
    sides = {"True instead of False": found & ~expected, "False instead of True": expected & ~found}
    return "is " + " and ".join(f"{what} at {_places(where)}" for what, where in sides.items() if where.any())


def close(a: Tensor, b: Tensor) -> Tensor:
    """Where two float64 tensors agree to what float32 and another order of additions leave; NaN agrees with NaN.

    What the package returns is finite, so this tells apart only mistakes.
    """
    return torch.isclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)


def _first_difference(found: Tensor, expected: Tensor, where: Tensor) -> str:
    place = tuple(where.nonzero()[0].tolist())
    at = f" at {list(place)}" if place else ""
    many = f"differs in {int(where.sum())} of {where.numel()} values," if place else "differs:"
    return f"{many}{at} {_number(found[place])} instead of {_number(expected[place])}"


def _number(value: Tensor) -> str:
    """Whole numbers with all digits, others with four."""
    number = value.item()
    return f"{number:.0f}" if float(number).is_integer() else f"{number:.4g}"


def _places(where: Tensor) -> str:
    """The first three places at which a bool tensor is True, and how many more there are."""
    if where.dim() == 0:
        return "its one place"
    places = where.nonzero().tolist()
    more = f" and {len(places) - 3} more" if len(places) > 3 else ""
    return ", ".join(map(str, places[:3])) + more


def _unchanged(before: Any, after: Any) -> bool:
    if isinstance(before, Tensor):
        return torch.equal(before, after)
    if isinstance(before, tuple | list):
        return len(before) == len(after) and all(map(_unchanged, before, after))
    return bool(before == after)


def raised(error: Exception, answer: Callable[..., Any]) -> str:
    """One sentence on an error in the reader's function, with the reader's own line where it has one."""
    what = f"{type(error).__name__}: {' '.join(str(error).split())}"
    own = getattr(getattr(answer, "__code__", None), "co_filename", None)
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == own]
    if not lines:
        return f"The function could not be called ({what})."
    line = linecache.getline(lines[-1].filename, lines[-1].lineno or 0).strip()
    return f"Line {lines[-1].lineno} of your cell, `{line}`, raises {what}"
