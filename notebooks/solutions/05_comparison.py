"""Solutions of the exercises in notebook 05. Try yours first; `check` says what is wrong with it."""

import torch


def lead(accuracies):
    rivals = accuracies[1:]
    return accuracies[0] - rivals[rivals.mean(1).argmax()]


def holm(p):
    order = p.argsort()
    corrected = (p[order] * torch.arange(len(p), 0, -1)).cummax(0).values.clamp(max=1)
    return corrected[order.argsort()]


def saved(ours, theirs):
    return 1 - ours / theirs
