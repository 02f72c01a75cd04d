"""Exercises: each solution is right, each way of breaking it is named, and no answer breaks a notebook.

A row of `BREAKS` is a solution's text with one piece exchanged, and a word that the judgement must hold. A file of
solutions stands in `notebooks/solutions/` under the name of its notebook.
"""

import ast
import linecache

import pytest
import torch

from fedtiny_lite.exercises.checking import EXERCISES, check, hint
from fedtiny_lite.exercises.judging import NOT_TRIED, RIGHT, judge
from fedtiny_lite.records.files import ROOT

SOLUTIONS = sorted((ROOT / "notebooks" / "solutions").glob("*.py"))
SOURCES = {
    node.name: ast.unparse(node)
    for path in SOLUTIONS
    for node in ast.parse(path.read_text(encoding="utf-8")).body
    if isinstance(node, ast.FunctionDef)
}
BREAKS = [
    # exercise, what is exchanged, for what, what the judgement says
    ("keep_largest", ".abs()", "", "signed"),
    ("keep_largest", "topk(count)", "topk(count, largest=False)", "smallest"),
    ("keep_largest", "return mask.", "return ~mask.", "True means kept"),
    ("keep_largest", "topk(count)", "topk(count + 1)", "one weight too many"),
    ("keep_largest", "topk(count)", "topk(count - 1)", "one weight too few"),
    ("keep_largest", ".view(weight.shape)", "", "shape [108]"),
    ("keep_largest", "mask.view(weight.shape)", "mask.view(weight.shape).float()", "expected is bool"),
    ("reestimate", "len(batch) / images", "1 / len(batches)", "every batch alike"),
    ("reestimate", "batch.var((0, 2, 3))", "batch.var((0, 2, 3), correction=0)", "unbiased"),
    ("reestimate", "batch.var(", "batch.std(", "standard deviations"),
    (
        "reestimate",
        "batch.mean((0, 2, 3)) for batch in batches",
        "batch.mean((0, 2, 3)) for batch in batches[-1:]",
        "mean",
    ),
    ("reestimate", "return (mean, variance)", "return mean", "return mean, variance"),
    ("reestimate", "batch.mean((0, 2, 3))", "batch.mean(0)", "shape [3, 4, 4]"),
    ("combine", "counts / counts.sum()", "torch.ones(len(counts)) / len(counts)", "every client alike"),
    ("combine", "w @ variances", "variances.mean(0)", "your variance counts every client alike"),
    ("combine", "(w @ means, w @ variances)", "(means[-1], variances[-1])", "last client's statistics"),
    ("combine", "(w @ means, w @ variances)", "(w[-1] * means[-1], w[-1] * variances[-1])", "share of the sum"),
    ("combine", "counts / counts.sum()", "counts.float()", "sum to one"),
    ("combine", "w @ variances", "w @ variances + w @ (means - w @ means) ** 2", "spread of the clients' means"),
    ("combine", "w @ variances", "(w @ variances.sqrt()) ** 2", "standard deviations"),
    ("combine", "w @ variances", "w ** 2 @ variances", "squares the weights"),
    ("combine", "w @ means", "-(w @ means)", "wrong sign"),
    ("combine", "w @ means", "w * means", "raises RuntimeError"),
    ("choose", "argmin", "argmax", "largest loss"),
    ("choose", "loss_sums.sum(0) / counts.sum()", "(loss_sums / counts[:, None]).mean(0)", "clients' means"),
    ("choose", " / counts.sum()", "", "are sums"),
    ("choose", " / counts.sum()", " / len(counts)", "number of clients"),
    ("choose", "sum(0)", "sum(1)", "chooses a client"),
    ("pool_variance", " + w @ (means - mean) ** 2", "", "lie apart"),
    ("pool_variance", "+ w @ (means", "- w @ (means", "subtracts"),
    ("pool_variance", "w @ (means - mean) ** 2", "((means - mean) ** 2).mean(0)", "spread of the means counts every"),
    ("pool_variance", "(means - mean)", "(means - means.mean(0))", "around the unweighted mean"),
    ("pool_variance", "(means - mean)", "means", "squared means"),
    ("turn", "(r // every - 1) % blocks", "r % blocks", "number of the round"),
    ("turn", " - 1", "", "begin with block 1"),
    ("turn", " % blocks", "", "beyond the last block"),
    ("exchange_count", "(1 + math.cos(math.pi * r / until))", "2", "does not decay"),
    ("exchange_count", "rate / 2", "rate", "twice"),
    ("exchange_count", "math.pi * ", "", "π"),
    ("exchange_count", "rate / 2 * (1 + math.cos(math.pi * r / until))", "rate * (1 - r / until)", "line"),
    ("exchange_count", "int(", "round(", "round down"),
    ("exchange_count", "max(int(share * kept), 1)", "int(share * kept)", "can be 0"),
    ("exchange_count", "min(max(int(share * kept), 1), pruned)", "max(int(share * kept), 1)", "can grow"),
    ("exchange_count", "min(max(int(share * kept), 1), pruned)", "int(share * kept)", "no bounds"),
    ("exchange_count", "share * kept", "share * (kept + pruned)", "share of all"),
    ("growth_list", ".abs()", "", "signed"),
    ("growth_list", "-1).flatten().topk(count)", "9).flatten().topk(count, largest=False)", "smallest"),
    ("growth_list", ".masked_fill(keep, -1)", "", "kept weights too"),
    ("growth_list", "masked_fill(keep, -1)", "masked_fill(~keep, -1)", "True in the mask means kept"),
    ("growth_list", "gradient.flatten()[places]", "gradient.flatten()[places].abs()", "lost their sign"),
    ("merge", "share * values", "values / len(lists)", "every client alike"),
    ("merge", "share * values", "values", "plain sum"),
    ("merge", "+= share", "= share", "overwrite"),
    ("merge", "share * values", "share * values.abs()", "keep the signs"),
    ("grow_and_prune", "gradient.abs()", "gradient", "signed gradients"),
    ("grow_and_prune", "weight.abs()", "weight", "signed weights"),
    (
        "grow_and_prune",
        "math.inf).flatten().topk(count, largest=False)",
        "0).flatten().topk(count)",
        "prunes the largest",
    ),
    ("grow_and_prune", ".masked_fill(~keep, math.inf)", "", "entries that are True; expected are 16"),
    ("grow_and_prune", "gradient.abs().masked_fill(keep, -1)", "-gradient.abs()", "mask"),
    ("grow_and_prune", ".masked_fill(keep, -1)", "", "grows kept weights"),
    ("grow_and_prune", "new[grown], new[pruned] = (True, False)", "new[grown] = True", "grows without pruning"),
    ("grow_and_prune", "weight * new.view(keep.shape))", "weight)", "still hold their values"),
    ("grow_and_prune", "keep.flatten().clone()", "keep.flatten()", "changes its arguments"),
]


def compiled(source: str):
    """The function that `source` defines, with its lines where tracebacks look for them, as in a notebook."""
    name = f"<answer {hash(source)}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    namespace = {"torch": torch, "math": __import__("math")}
    exec(compile(source, name, "exec"), namespace)
    return namespace[source.removeprefix("def ").split("(")[0]]


def broken(exercise: str, piece: str, other: str):
    """The solution of an exercise with `piece` of its text exchanged for `other`."""
    source = SOURCES[exercise]
    assert piece in source, f"the solution of {exercise} has no {piece!r}"
    return compiled(source.replace(piece, other))


@pytest.mark.parametrize("name", EXERCISES)
def test_the_solution_is_right(name):
    assert judge(EXERCISES[name], compiled(SOURCES[name])) == RIGHT


@pytest.mark.parametrize(("exercise", "piece", "other", "said"), BREAKS)
def test_a_broken_solution_is_told_what_is_wrong(exercise, piece, other, said):
    judgement = judge(EXERCISES[exercise], broken(exercise, piece, other))
    assert judgement.startswith("✗") and said in judgement, judgement


@pytest.mark.parametrize(
    ("name", "mistake"),
    [(name, mistake) for name, exercise in EXERCISES.items() for mistake in exercise.mistakes],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_each_known_mistake_is_told_apart_from_the_others(name, mistake):
    assert judge(EXERCISES[name], mistake) == f"✗ {mistake.__doc__}"


@pytest.mark.parametrize("name", EXERCISES)
def test_inputs_are_random_and_the_same_each_time(name):
    first, again = (EXERCISES[name].inputs(torch.Generator().manual_seed(7)) for _ in range(2))
    other = EXERCISES[name].inputs(torch.Generator().manual_seed(8))
    assert repr(first) == repr(again) != repr(other)


def test_an_exercise_that_nobody_tried_is_no_error(capsys):
    def combine(means, variances, counts): ...  # your code

    check("combine", combine)
    check("combine", lambda means, variances, counts: ...)
    assert capsys.readouterr().out == f"{NOT_TRIED}\n{NOT_TRIED}\n"


def test_an_error_quotes_the_readers_line():
    judgement = judge(EXERCISES["turn"], compiled("def turn(r, every, blocks):\n    return r // (every - every)\n"))
    assert (
        judgement
        == "✗ Line 2 of your cell, `return r // (every - every)`, raises ZeroDivisionError: "
        + (judgement.rsplit("ZeroDivisionError: ")[-1])
    )
    assert "could not be called" in judge(EXERCISES["turn"], lambda r: r)


def test_kinds_of_answers():
    turn = EXERCISES["turn"]
    assert judge(turn, lambda *a: torch.tensor(turn.right(*a))) == RIGHT
    assert "a str" in judge(turn, lambda *a: "two")
    assert "not finite" in judge(turn, lambda *a: float("nan"))
    pair = EXERCISES["combine"]
    assert judge(pair, lambda *a: [part.numpy() for part in pair.right(*a)]) == RIGHT
    assert judge(pair, lambda *a: [part.double() for part in pair.right(*a)]) == RIGHT
    assert "it returns a tuple of 3" in judge(pair, lambda *a: (1, 2, 3))
    assert "2 times what it should be" in judge(pair, lambda *a: (2 * pair.right(*a)[0], pair.right(*a)[1]))
    assert "at [1] it is" in judge(pair, lambda *a: (pair.right(*a)[0] + torch.tensor([0, 1, 0]), pair.right(*a)[1]))


def test_the_order_of_a_growth_list_is_free():
    right = EXERCISES["growth_list"].right
    assert judge(EXERCISES["growth_list"], lambda *a: [part.flip(0) for part in right(*a)]) == RIGHT


def test_hints(capsys):
    for name, exercise in EXERCISES.items():
        hint(name)
        hint(name, 2)
        first, second = exercise.hints
        assert capsys.readouterr().out == f'{first}  More: hint("{name}", 2)\n{second}\n'
    with pytest.raises(ValueError, match="there are two hints"):
        hint("combine", 3)
    with pytest.raises(ValueError, match="no exercise is called 'x'; there are: keep_largest"):
        check("x", print)
