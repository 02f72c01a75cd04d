"""Exercises: each solution is right, each way of breaking it is named, and no answer breaks a notebook.

A row of `BREAKS` is a solution's text with one piece exchanged, and a word that the judgement must hold. A file of
solutions stands in `notebooks/solutions/` under the name of its notebook.
"""

import ast
import inspect
import linecache

import nbformat
import pandas as pd
import pytest
import torch

from benchmarks.notebook_counts import as_python
from fedtiny_lite.exercises.checking import EXERCISES, check, hint
from fedtiny_lite.exercises.judging import CASES, NOT_TRIED, RIGHT, SOMETIMES_NOTHING, judge
from fedtiny_lite.experiments.notebook_runner import find_notebooks
from fedtiny_lite.records.files import ROOT
from fedtiny_lite.report import intervals

SOLUTIONS = sorted((ROOT / "notebooks" / "solutions").glob("*.py"))
SOURCES = {
    node.name: ast.unparse(node)
    for path in SOLUTIONS
    for node in ast.parse(path.read_text(encoding="utf-8")).body
    if isinstance(node, ast.FunctionDef)
}
LESSONS = [path for path in find_notebooks() if "exercises.checking" in path.read_text(encoding="utf-8")]
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
    ("reestimate", "return (mean, variance)", "return (mean, variance ** 0.5)", "stores its square"),
    ("reestimate", "return (mean, variance)", "return (variance, mean)", "in the other order; `return mean, variance`"),
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
    ("choose", "(losses.argmin(), losses)", "(losses, losses.argmin())", "in the other order"),
    ("choose", "loss_sums.sum(0) / counts.sum()", "(loss_sums / counts[:, None]).mean(0)", "clients' means"),
    ("choose", " / counts.sum()", "", "are sums"),
    ("choose", " / counts.sum()", " / len(counts)", "number of clients"),
    ("choose", "sum(0)", "sum(1)", "chooses a client"),
    ("pool_variance", " + w @ (means - mean) ** 2", "", "lie apart"),
    ("pool_variance", "+ w @ (means", "- w @ (means", "subtracts"),
    ("pool_variance", "w @ (means - mean) ** 2", "((means - mean) ** 2).mean(0)", "spread of the means counts every"),
    ("pool_variance", "(means - mean)", "(means - means.mean(0))", "around the unweighted mean"),
    ("pool_variance", "(means - mean)", "means", "squared means"),
    ("pool_variance", " ** 2", "", "unsquared, the sum is 0"),
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
    ("exchange_count", "share * kept", "share * pruned", "share of the pruned"),
    ("growth_list", ".abs()", "", "signed"),
    ("growth_list", "-1).flatten().topk(count)", "9).flatten().topk(count, largest=False)", "smallest"),
    ("growth_list", ".masked_fill(keep, -1)", "", "kept weights too"),
    ("growth_list", "masked_fill(keep, -1)", "masked_fill(~keep, -1)", "True in the mask means kept"),
    ("growth_list", "gradient.flatten()[places]", "gradient.flatten()[places].abs()", "lost their sign"),
    ("growth_list", "(places, gradient.flatten()[places])", "(gradient.flatten()[places], places)", "other order"),
    ("merge", "share * values", "values / len(lists)", "every client alike"),
    ("merge", "share * values", "values", "plain sum"),
    ("merge", "+= share", "= share", "overwrite"),
    ("merge", "share * values", "share * values.abs()", "keep the signs"),
    ("grow_and_prune", "gradient.abs()", "gradient", "signed gradients"),
    ("grow_and_prune", "weight.abs()", "weight", "signed weights"),
    ("grow_and_prune", ".abs()", "", "compares signed numbers"),
    (
        "grow_and_prune",
        "return (new.view",
        "new = keep.flatten().clone()\n    new[pruned] = False\n    "
        "new[gradient.abs().flatten().masked_fill(new, -1).topk(count).indices] = True\n    return (new.view",
        "old value",
    ),
    (
        "grow_and_prune",
        "math.inf).flatten().topk(count, largest=False)",
        "0).flatten().topk(count)",
        "prunes the largest",
    ),
    ("grow_and_prune", ".masked_fill(~keep, math.inf)", "", "True instead of False at [2, 2], [5, 2]"),
    ("grow_and_prune", "gradient.abs().masked_fill(keep, -1)", "-gradient.abs()", "mask"),
    ("grow_and_prune", ".masked_fill(keep, -1)", "", "grows kept weights"),
    ("grow_and_prune", "new[grown], new[pruned] = (True, False)", "new[grown] = True", "grows without pruning"),
    ("grow_and_prune", "weight * new.view(keep.shape))", "weight)", "still hold their values"),
    ("grow_and_prune", "new = keep", "keep = weight != 0; new = keep", "may be 0"),
    ("grow_and_prune", "keep.flatten().clone()", "keep.flatten()", "changes its arguments"),
    ("density", "sum((keep.sum() for", "sum(((~keep).sum() for", "sparsity"),
    ("density", " / sum((keep.numel() for keep in masks))", "", "divide them by all"),
    ("density", "keep.numel()", "(~keep).sum()", "kept by pruned"),
    ("density", "return ", "return sum(keep.float().mean() for keep in masks) / len(masks) or ", "mean of the layers"),
    ("masked_step", ") * keep", ")", "move away from 0"),
    (
        "masked_step",
        "+ gradient\n    return (weight - lr * velocity) * keep",
        "+ gradient * keep\n    return weight - lr * velocity",
        "momentum still moves",
    ),
    ("masked_step", "weight - lr", "weight + lr", "uphill"),
    ("masked_step", "momentum * velocity + gradient", "gradient", "forgets the velocity"),
    ("masked_step", "+ gradient", "+ (1 - momentum) * gradient", "adds it whole"),
    ("masked_step", "* keep", "* (weight != 0)", "may be 0"),
    ("masked_step", "* keep", "* ~keep", "True means kept"),
    ("average", "sizes / sizes.sum()", "torch.ones(len(sizes)) / len(sizes)", "every client alike"),
    ("average", "sizes / sizes.sum()", "sizes.float()", "sum to one"),
    ("average", "sizes / sizes.sum()", "sizes / sizes.sum() / len(sizes)", "number of clients too"),
    ("average", "share @ weights", "weights[-1]", "last client"),
    ("average", "share @ weights", "weights.mean(1)", "over the clients"),
    ("kept_values", "tensor[keep]", "tensor.flatten()", "pruned weights too"),
    ("kept_values", "tensor[keep]", "tensor[tensor != 0]", "just grown"),
    ("kept_values", "tensor[keep]", "tensor[~keep]", "what is pruned"),
    ("kept_values", "zip(tensors, masks, strict=True)", "zip(tensors[:1], masks, strict=False)", "first tensor alone"),
    ("kept_values", "tensor[keep]", "tensor * keep", "raises RuntimeError"),
    ("kept_values", "torch.cat", "list", "the message, as one tensor or plain numbers; it returns a list of 2"),
    ("owners", "(share.cumsum(0)[:-1] * images).long()", "(share * images).long().cumsum(0)[:-1]", "last client takes"),
    ("owners", ".long()", ".round().long()", "nearest"),
    ("owners", "share.cumsum", "torch.ones_like(share).div(len(share)).cumsum", "as many images"),
    ("owners", "right=True", "right=False", "differs"),
    ("label_distance", " / 2", "", "twice as large"),
    ("label_distance", "counts.sum(0) / counts.sum()", "1 / counts.shape[1]", "equal shares"),
    ("label_distance", "counts.sum(0) / counts.sum()", "local.mean(0)", "mean of the clients"),
    ("label_distance", "sum(1).mean()", "sum(1) @ (counts.sum(1) / counts.sum())", "weighs clients"),
    ("label_distance", "sum(1).mean()", "sum()", "add up the clients"),
    ("effective_classes", "torch.exp(torch.special.entr(local).sum(1))", "torch.special.entr(local).sum(1)", "entropy"),
    ("effective_classes", "torch.special.entr(local)", "(-local * local.log2()).nan_to_num()", "bits"),
    ("effective_classes", "torch.special.entr(local)", "(-local * local.log())", "not finite"),
    ("effective_classes", "torch.exp(torch.special.entr(local).sum(1))", "(counts > 0).sum(1)", "occur at all"),
    ("effective_classes", "torch.exp(torch.special.entr(local).sum(1))", "1 / (local ** 2).sum(1)", "another measure"),
    ("bn_distance", "variance.sqrt()", "variance", "square root"),
    ("bn_distance", " / variance.sqrt()", "", "divide by σ"),
    ("bn_distance", "- mean)", "- means.mean(0))", "large clients count more"),
    ("bn_distance", ".square().mean().sqrt()", ".abs().mean()", "absolute values"),
    ("bn_distance", ".mean().sqrt()", ".mean()", "take its root"),
    ("bn_distance", ".square().mean().sqrt()", ".mean().abs()", "cancel"),
    ("paired", "first[seed] - second[seed]", "second[seed] - first[seed]", "wrong sign"),
    ("paired", "first[seed] - second[seed]", "abs(first[seed] - second[seed])", "lost their sign"),
    ("paired", "- second[seed]", "/ second[seed] - 1", "divide by the second"),
    (
        "paired",
        "first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())",
        "a - b for a, b in zip(first.values(), second.values())",
        "place in the dictionary",
    ),
    (
        "paired",
        "first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())",
        "first.get(s, 0) - second.get(s, 0) for s in range(7)",
        "leave it out",
    ),
    ("paired", "first.keys() & second.keys()", "first", "KeyError"),
    ("interval", " / len(gaps) ** 0.5", "", "single difference"),
    ("interval", "** 0.5", "", "divide by its root"),
    ("interval", "t * gaps.std()", "1.96 * gaps.std()", "1.96"),
    ("interval", "gaps.std()", "gaps.std(correction=0)", "n − 1"),
    ("interval", "gaps.std()", "gaps.var()", "standard deviation"),
    ("interval", "(gaps.mean() - half, gaps.mean() + half)", "(gaps.min(), gaps.max())", "grows with more seeds"),
    ("interval", "(gaps.mean() - half, gaps.mean() + half)", "half", "return low, high"),
    ("interval", "(gaps.mean() - half, gaps.mean() + half)", "(gaps.mean(), half)", "two ends are asked for"),
    ("global_counts", ".abs()", "", "signed"),
    ("global_counts", "topk(budget)", "topk(budget + 1)", "one weight more"),
    ("global_counts", "layer.abs() >= threshold", "layer.abs() > threshold", "one weight less"),
    ("global_counts", "topk(budget)", "topk(budget, largest=False)", "counts"),
    (
        "global_counts",
        "int((layer.abs() >= threshold).sum())",
        "int(budget / sum(map(len, layers)) * len(layer) + 1e-9)",
        "same share",
    ),
    ("layer_flops", "3 * ", "", "backward pass"),
    ("layer_flops", "keep.sum()", "(keep.sum() + 1)", "The FLOPs differ: "),
    ("layer_flops", "3 * 2", "2 * 2", "gradients of the inputs and of the weights"),
    ("layer_flops", "3 * 2", "3", "2 FLOPs"),
    ("layer_flops", "keep.sum()", "keep.numel()", "all weights"),
    ("layer_flops", "keep.sum()", "(~keep).sum()", "pruned weights"),
    ("layer_flops", " * height * width", "", "every weight once"),
    ("csr_bytes", "-(-bits // 8)", "bits", "return bits"),
    ("csr_bytes", "-(-bits // 8)", "bits // 8", "last byte down"),
    ("csr_bytes", "-(-bits // 8)", "bits / 8", "parts of a byte"),
    ("csr_bytes", "(rows, cols)", "(cols, rows)", "exchange rows and columns"),
    ("csr_bytes", "(cols))) + rows * math.ceil(math.log2(kept))", "(rows * cols)))", "COO"),
    ("csr_bytes", " + rows * math.ceil(math.log2(kept))", "", "counts of the rows"),
    (
        "csr_bytes",
        "math.ceil(math.log2(cols))) + rows * math.ceil(math.log2(kept))",
        "cols.bit_length()) + rows * kept.bit_length()",
        "a bit too many for 32 or 64 things",
    ),
    ("csr_bytes", "32 + ", "", "leave out the values"),
    ("csr_bytes", "math.ceil(math.log2(cols))", "32", "bytes"),
    ("adjusting_round", "+ block_dense - block_sparse", "+ batches * (block_dense - block_sparse)", "in every batch"),
    ("adjusting_round", "block_dense - block_sparse", "dense - sparse", "whole model"),
    (
        "adjusting_round",
        "3 * sparse * batches + block_dense - block_sparse",
        "(2 * sparse + dense) * batches",
        "PruneFL",
    ),
    ("adjusting_round", " - block_sparse", "", "count twice"),
    ("adjusting_round", "3 * ", "", "3 F_s"),
    ("adjusting_round", " * batches", "", "one batch of training"),
    (
        "adjusting_round",
        "3 * sparse * batches + block_dense - block_sparse",
        "3 * sparse + (block_dense - block_sparse) / batches",
        "the whole round is asked for",
    ),
    ("state_bytes", "3 * kept + 2 * dense", "2 * kept + dense", "gradients"),
    ("state_bytes", "3 * kept", "2 * kept", "positions"),
    ("state_bytes", "+ statistics", "+ 2 * statistics", "not trained"),
    ("state_bytes", "2 * entries", "entries", "one word"),
    ("state_bytes", " + 2 * entries", "", "growth list"),
    ("state_bytes", "4 * ", "", "4 bytes"),
    ("state_bytes", "4 * ", "32 * ", "return bits"),
    ("multiply_adds", "keep.sum()", "keep.numel()", "all weights"),
    ("multiply_adds", "keep.sum()", "(~keep).sum()", "pruned weights"),
    ("multiply_adds", " * height * width", "", "each kept weight once"),
    ("multiply_adds", "return ", "return 2 * ", "FLOPs"),
    ("shift", "def shift(plane, down, right)", "def shift(plane, right, down)", "exchanges rows and columns"),
    ("shift", "return torch.nn", "return (down, right) != (0, 0) and torch.nn", "shape []; expected is [4, 5]"),
    ("shift", "rows, columns = plane.shape", "rows, columns, down, right = *plane.shape, -down, -right", "other way"),
    ("shift", "return torch.nn", "return plane.roll((-down, -right), (0, 1)) + 0 * torch.nn", "wraps around"),
    ("shift_and_add", "weight[o, c, i, j]", "weight[o, c, 2 - i, 2 - j]", "differs"),
    (
        "shift_and_add",
        "padded[c, i:i + image.shape[1], j:j",
        "padded[c, j:j + image.shape[1], i:i",
        "columns exchanged",
    ),
    ("shift_and_add", "padded[c,", "padded.sum(0)[", "channel c alone"),
    ("shift_and_add", "out[o] += ", "out[o] = ", "differs"),
    ("shift_and_add", "return out", "return torch.nn.functional.conv2d(image[None], weight, padding=1)[0]", "is NaN"),
    ("shift_and_add", "weight.nonzero()", "(weight == weight).nonzero()", "by pruned weights"),
    ("lacks", "versions > held", "versions >= held", "those it has"),
    ("lacks", "(versions > held) | (held > versions.max())", "versions >= held", "those it has"),
    ("lacks", "held > versions.max()", "torch.tensor(held not in versions)", "above all of `versions`"),
    ("lacks", "held > versions.max()", "versions == 1", "is True instead of False at"),
    ("lacks", "held > versions.max()", "versions == 1", "Tried with versions = ["),
    ("lacks", "(versions > held) | (held > versions.max())", "versions > held", "never gave"),
    (
        "lacks",
        "(versions > held) | (held > versions.max())",
        "(versions == versions.max()) & ((versions > held) | (held > versions.max()))",
        "missed two adjustments",
    ),
    ("lacks", "(versions > held) |", "((versions > held).any() & (versions > 0)) |", "every layer to whoever"),
    ("lacks", "return (versions > held) |", "return (versions <= held) & ~", "those that it lacks"),
    ("question_bytes", "-(-bits // 8)", "bits", "bits to bytes"),
    ("question_bytes", "-(-bits // 8)", "bits // 8", "positions down"),
    ("question_bytes", "-(-bits // 8)", "bits / 8", "parts of a byte"),
    ("question_bytes", "min(n, kept * math.ceil(math.log2(n)))", "n", "always write a bitmap"),
    ("question_bytes", "min(n, kept * math.ceil(math.log2(n)))", "kept * math.ceil(math.log2(n))", "always write ind"),
    ("question_bytes", "math.ceil(math.log2(n))", "n.bit_length()", "a bit too many for 512 weights"),
    ("question_bytes", " + 7", "", "7 bytes in front"),
    ("question_bytes", "4 * (kept + others)", "4 * (n + others)", "every weight"),
    ("question_bytes", "4 * (kept + others)", "4 * kept", "never pruned"),
    ("question_bytes", "math.ceil(math.log2(n))", "32", "32 bits for an index"),
    ("folded", "(seconds <= timeout) & passed", "(seconds < math.inf) & passed", "after the timeout"),
    ("folded", "(seconds <= timeout) & passed", "seconds <= timeout", "failed a check"),
    ("folded", "accepted & enough", "accepted", "however few"),
    ("folded", "max(len(seconds) / 2, min(min_replies, len(seconds)))", "len(seconds) / 2", "half of the clients"),
    ("folded", "max(len(seconds) / 2, min(min_replies, len(seconds)))", "min(min_replies, len(seconds))", "alone"),
    ("folded", "min(min_replies, len(seconds))", "min_replies", "more replies than there are"),
    ("folded", "seconds <= timeout", "seconds < timeout", "at the timeout itself"),
    ("folded", "accepted.sum() >= ", "accepted.sum() > ", "more replies than are needed"),
    ("folded", "len(seconds) / 2", "len(seconds) // 2", "odd number"),
    ("folded", "len(seconds) / 2", "len(seconds) // 2 + 1", "half of them is enough"),
    ("lead", "rivals[rivals.mean(1).argmax()]", "rivals.max(0).values", "noisy numbers"),
    ("lead", "rivals[rivals.mean(1).argmax()]", "rivals.mean(0)", "mean of the baselines"),
    ("lead", "rivals[rivals.mean(1).argmax()]", "accuracies.max(0).values", "never above 0"),
    (
        "lead",
        "accuracies[0] - rivals[rivals.mean(1).argmax()]",
        "rivals[rivals.mean(1).argmax()] - accuracies[0]",
        "sign",
    ),
    ("lead", "mean(1)", "mean(0)", "raises IndexError"),
    ("holm", "torch.arange(len(p), 0, -1)", "len(p)", "Bonferroni"),
    ("holm", "torch.arange(len(p), 0, -1)", "torch.arange(len(p) - 1, -1, -1)", "by n, not by n − 1"),
    ("holm", "torch.arange(len(p), 0, -1)", "torch.arange(1, len(p) + 1)", "wrong way"),
    ("holm", "corrected[order.argsort()]", "corrected", "sorted"),
    ("holm", ".cummax(0).values", "", "smaller than one before"),
    ("holm", ".clamp(max=1)", "", "exceed 1"),
    ("holm", ".cummax(0).values.clamp(max=1)", "", "mend both"),
    ("holm", "torch.arange(len(p), 0, -1)).cummax(0).values.clamp(max=1)", "len(p))", "Bonferroni"),
    ("holm", "corrected[order.argsort()]", "corrected[order]", "its inverse"),
    ("saved", "1 - ours / theirs", "ours / theirs", "what is left"),
    ("saved", "1 - ours / theirs", "theirs / ours - 1", "FedTiny's own cost"),
    ("saved", "1 - ours / theirs", "theirs - ours", "has a unit"),
    ("saved", "1 - ours / theirs", "max(0, 1 - ours / theirs)", "fall below 0"),
    ("saved", "1 - ours / theirs", "abs(1 - ours / theirs)", "lost its sign"),
    ("saved", "1 - ours / theirs", "1 - theirs / ours", "exchange the two costs"),
    ("saved", "1 - ours / theirs", "100 * (1 - ours / theirs)", "per cent"),
    ("saved", "1 - ours / theirs", "2 - ours / theirs", "Tried with ours = "),
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
    def answer(*given):
        found = mistake(*given)
        return EXERCISES[name].right(*given) if found is None else found  # None: what the mistake gives is open

    assert judge(EXERCISES[name], answer) == f"✗ {mistake.__doc__}"


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
    assert "as one tensor or plain numbers; it returns a str" in judge(turn, lambda *a: "two")
    assert "not finite" in judge(turn, lambda *a: float("nan"))
    folded = EXERCISES["folded"]
    assert judge(folded, lambda *a: ~folded.right(*a)).startswith("✗ The set of clients is inverted: ")
    pair = EXERCISES["combine"]
    assert judge(pair, lambda *a: [part.numpy() for part in pair.right(*a)]) == RIGHT
    assert judge(pair, lambda *a: [part.double() for part in pair.right(*a)]) == RIGHT
    assert "it returns a tuple of 3" in judge(pair, lambda *a: (1, 2, 3))
    assert "it returns an int" in judge(pair, lambda *a: 1)
    lists = EXERCISES["growth_list"]
    assert "The positions differ in" in judge(lists, lambda *a: (lists.right(*a)[0] + 1, lists.right(*a)[1]))
    assert "The values are 2 times" in judge(lists, lambda *a: (lists.right(*a)[0], 2 * lists.right(*a)[1]))
    assert "The positions have shape [1]" in judge(lists, lambda *a: (torch.zeros(1), lists.right(*a)[1]))
    assert "2 times as large as expected" in judge(pair, lambda *a: (2 * pair.right(*a)[0], pair.right(*a)[1]))
    assert "differs in 1 of 3 values, at [1]" in judge(
        pair, lambda *a: (pair.right(*a)[0] + torch.tensor([0, 1, 0]), pair.right(*a)[1])
    )


def test_a_series_is_judged_by_its_values():
    def paired(first, second):
        return (pd.Series(first) - pd.Series(second)).dropna()

    assert judge(EXERCISES["paired"], paired) == RIGHT


def test_all_nine_shifts_are_tried():
    generator = torch.Generator().manual_seed(0)  # as a judgement begins
    assert len({EXERCISES["shift"].inputs(generator)[1:] for _ in range(CASES)}) == 9


def test_holm_is_that_of_the_reports():
    [p] = EXERCISES["holm"].inputs(torch.Generator().manual_seed(1))
    assert EXERCISES["holm"].right(p).tolist() == pytest.approx(intervals.holm(p.tolist()))


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
    with pytest.raises(ValueError, match="no exercise is called 'x'; there are: density"):
        check("x", print)


def asked(path):
    """Exercise -> the stub that a notebook gives for it, for each of its checks."""
    cells = [as_python(cell.source) for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    nodes = [node for cell in cells for node in ast.walk(ast.parse(cell))]
    stubs = {node.name: node for node in nodes if isinstance(node, ast.FunctionDef)}
    calls = [node for node in nodes if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "check"]
    return {call.args[0].value: stubs[call.args[1].id] for call in calls}


def imported(tree):
    """The names that imports of a syntax tree define."""
    aliases = [
        alias for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names
    ]
    return {alias.asname or alias.name for alias in aliases}


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_solution_needs_only_what_its_notebook_has_imported_by_then(path):
    solutions = ast.parse((path.parent / "solutions" / f"{path.stem}.py").read_text(encoding="utf-8"))
    needed = {
        function.name: {node.id for node in ast.walk(function) if isinstance(node, ast.Name)} & imported(solutions)
        for function in solutions.body
        if isinstance(function, ast.FunctionDef)
    }
    there = set()
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            tree = ast.parse(as_python(cell.source))
            there |= imported(tree)
            for stub in (node for node in tree.body if isinstance(node, ast.FunctionDef)):
                assert needed.get(stub.name, set()) <= there, stub.name


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_asks_for_what_its_solutions_solve(path):
    solutions = ast.parse((path.parent / "solutions" / f"{path.stem}.py").read_text(encoding="utf-8")).body
    solved = {node.name: node for node in solutions if isinstance(node, ast.FunctionDef)}
    stubs = asked(path)
    assert stubs.keys() == solved.keys()
    for name, stub in stubs.items():
        assert ast.dump(stub.args) == ast.dump(solved[name].args), name
        known = list(inspect.signature(EXERCISES[name].right).parameters)
        assert known[: len(stub.args.args)] == [argument.arg for argument in stub.args.args], "judgements name them"
        assert judge(EXERCISES[name], compiled(ast.unparse(stub))) == NOT_TRIED


@pytest.mark.parametrize("order", ["sort", "topk"])
def test_pruning_what_was_just_grown_is_named_however_equal_weights_are_sorted(order):
    """A grown weight is 0, and so is one that is kept: which of them goes is up to the sort."""

    def grow_and_prune(weight, keep, gradient, count):
        new = keep.flatten().clone()
        new[gradient.abs().masked_fill(keep, -1).flatten().topk(count).indices] = True
        size = weight.abs().flatten().masked_fill(~new, torch.inf)
        least = size.topk(count, largest=False) if order == "topk" else size.sort(stable=True)
        new[least.indices[:count]] = False
        return new.view(keep.shape), weight * new.view(keep.shape)

    assert "prunes what it has just grown" in judge(EXERCISES["grow_and_prune"], grow_and_prune)


def test_a_branch_that_returns_nothing_is_named():
    def density_of(masks):
        if masks[0].flatten()[0]:
            return sum(mask.sum() for mask in masks) / sum(mask.numel() for mask in masks)

    assert judge(EXERCISES["density"], density_of) == SOMETIMES_NOTHING
