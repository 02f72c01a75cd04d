"""Solutions of the exercises in notebook 07. Try yours first; `check` says what is wrong with it."""

import torch


def multiply_adds(keep, height, width):
    return keep.sum() * height * width


def shift(plane, down, right):
    rows, columns = plane.shape
    return torch.nn.functional.pad(plane, (1, 1, 1, 1))[1 + down : 1 + down + rows, 1 + right : 1 + right + columns]


def shift_and_add(image, weight):
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1))
    out = torch.zeros(len(weight), *image.shape[1:])
    for o, c, i, j in weight.nonzero().tolist():
        out[o] += weight[o, c, i, j] * padded[c, i : i + image.shape[1], j : j + image.shape[2]]
    return out
