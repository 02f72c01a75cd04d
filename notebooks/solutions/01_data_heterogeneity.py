"""Solutions of the exercises in notebook 01. Try yours first; `check` says what is wrong with it."""

import torch


def label_distance(counts):
    local = counts / counts.sum(1, keepdim=True)
    overall = counts.sum(0) / counts.sum()
    return (local - overall).abs().sum(1).mean() / 2


def effective_classes(counts):
    local = counts / counts.sum(1, keepdim=True)
    return torch.exp(torch.special.entr(local).sum(1))


def owners(share, images):
    cuts = (share.cumsum(0)[:-1] * images).long()
    return torch.bucketize(torch.arange(images), cuts, right=True)


def bn_distance(means, mean, variance):
    return ((means - mean) / variance.sqrt()).square().mean().sqrt()
