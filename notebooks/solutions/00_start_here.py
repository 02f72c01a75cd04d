"""Solutions of the exercises in notebook 00. Try yours first; `check` says what is wrong with it."""

import torch


def density(masks):
    return sum(keep.sum() for keep in masks) / sum(keep.numel() for keep in masks)


def masked_step(weight, velocity, gradient, keep, lr, momentum):
    velocity = momentum * velocity + gradient
    return (weight - lr * velocity) * keep


def average(weights, sizes):
    share = sizes / sizes.sum()
    return share @ weights


def kept_values(tensors, masks):
    return torch.cat([tensor[keep] for tensor, keep in zip(tensors, masks, strict=True)])
