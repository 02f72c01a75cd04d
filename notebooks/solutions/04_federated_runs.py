"""Solutions of the exercises in notebook 04. Try yours first; `check` says what is wrong with it."""

import torch


def paired(first, second):
    return [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]


def interval(gaps, t):
    half = t * gaps.std() / len(gaps) ** 0.5
    return gaps.mean() - half, gaps.mean() + half


def global_counts(layers, budget):
    threshold = torch.cat(layers).abs().topk(budget).values[-1]
    return [int((layer.abs() >= threshold).sum()) for layer in layers]
