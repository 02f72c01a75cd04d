"""Batch normalisation where no convolution does it on the way: its numbers, residual sums, pooling, the last output.

How an activation is read, by `norm` and `floor`, is told in `kernels`.
"""

import numpy as np

from fedtiny_lite.sparse.kernels import kernel, norm_gradient, part
from fedtiny_lite.sparse.pixels import (
    at_least,
    float_sum,
    larger,
    load,
    store,
    where_above,
    where_equal,
    where_other,
    zeros,
)


@kernel
def reading(norm, mean, variance, gamma, beta, eps):
    """Sets `norm`, float32 [3, C], to how the norm's output is read from its input."""
    for c in range(len(mean)):
        norm[0, c] = mean[c]
        norm[1, c] = gamma[c] / np.sqrt(variance[c] + eps[c])
        norm[2, c] = beta[c]


@kernel
def moments(mean, variance, sums, count):
    """Mean and biased variance of each channel, float64, from the `sums` of `conv_forward` over `count` values."""
    for c in range(len(mean)):
        shift = sums[1, c] / count
        mean[c] = sums[0, c] + shift
        squares = sums[2, c] / count - shift**2
        variance[c] = 0.0 if squares < 0 else squares


@kernel
def gradient_terms(terms, gscale, gshift, sums, mean, variance, gamma, eps, count):
    """The norm's backward pass but for its last step: gradients of gamma and beta, and `terms`, float32 [4, C].

    `sums`: of `conv_backward`. The gradient of the norm's input y is g terms[1] + (y - terms[0]) terms[2] + terms[3].
    """
    for c in range(len(mean)):
        inverse = 1 / np.sqrt(variance[c] + eps[c])
        gscale[c], gshift[c] = sums[1, c] * inverse, sums[0, c]
        terms[0, c] = mean[c]
        terms[1, c] = gamma[c] * inverse
        terms[2, c] = -gamma[c] * inverse**3 * sums[1, c] / count
        terms[3, c] = -gamma[c] * inverse * sums[0, c] / count


@part
def value_at(x, at, norm, floor, c):
    """One pixel of what x stands for."""
    return at_least((load(x, at, 16, zeros(1)) - norm[0, c]) * norm[1, c] + norm[2, c], floor)


@kernel
def apply(z, x, norm, floor):
    """z = what x stands for."""
    plane = z[0].size
    for c in range(len(z)):
        for at in range(c * plane, (c + 1) * plane, 16):
            store(z, at, 16, value_at(x, at, norm, floor, c))


@kernel
def join(z, y, norm, x, x_norm, floor):
    """z = ReLU of the norm of y plus what x stands for."""
    plane, none = z[0].size, np.float32(-np.inf)
    for c in range(len(z)):
        for at in range(c * plane, (c + 1) * plane, 16):
            total = value_at(y, at, norm, none, c) + value_at(x, at, x_norm, floor, c)
            store(z, at, 16, at_least(total, np.float32(0)))


@kernel
def apply_gradient(gy, g, y, terms):
    """gy = the gradient of y, from the gradient g of its norm's output."""
    plane = y[0].size
    for c in range(len(y)):
        for at in range(c * plane, (c + 1) * plane, 16):
            store(gy, at, 16, norm_gradient(g, at, y, at, terms, c, zeros(1)))


@kernel
def output_gradient(g, sums, x, norm, floor, of, middle, relu):
    """Sets g to 0 where x stands for 0, if `relu`, and sets `sums` as `conv_backward` does."""
    plane = g[0].size
    for c in range(len(g)):
        sums[0, c], sums[1, c] = 0, 0
        for first in range(c * plane, (c + 1) * plane, 4096):
            total, product = zeros(1), zeros(1)
            for at in range(first, min(first + 4096, (c + 1) * plane), 16):
                gradient = load(g, at, 16, total)
                if relu:
                    gradient = where_above(gradient, value_at(x, at, norm, floor, c), np.float32(0))
                    store(g, at, 16, gradient)
                total = total + gradient
                product = product + gradient * (load(of, at, 16, total) - middle[c])
            sums[0, c] += float_sum(total)
            sums[1, c] += float_sum(product)


@kernel
def max_pool(out, x, norm, floor):
    """out = the largest of each 2x2 pixels of what x stands for."""
    channels, blocks, height, width, _ = out.shape
    for c in range(channels):
        for n in range(blocks * height):
            for j in range(width):
                a, b, to = _corners(out, x, c, n, j)
                upper = larger(value_at(x, a, norm, floor, c), value_at(x, a + 16, norm, floor, c))
                lower = larger(value_at(x, b, norm, floor, c), value_at(x, b + 16, norm, floor, c))
                store(out, to, 16, larger(upper, lower))


@kernel
def max_pool_backward(gx, sums, g, out, x, norm, floor):
    """gx = g at the largest of each 2x2 pixels of what x stands for, the first of equal ones, if that is above the
    floor; 0 at the others. `out`: of `max_pool`. Sets `sums` as `conv_backward` does, with x for `of`.
    """
    channels, blocks, height, width, _ = out.shape
    gx[:] = 0
    sums[:] = 0
    for c in range(channels):
        for n in range(blocks * height):
            total, product = zeros(1), zeros(1)
            for j in range(width):
                a, b, to = _corners(out, x, c, n, j)
                largest = load(out, to, 16, total)
                left = where_above(load(g, to, 16, total), largest, floor)
                for at in (a, a + 16, b, b + 16):
                    value = value_at(x, at, norm, floor, c)
                    own = where_equal(left, value, largest)
                    left = where_other(left, value, largest)
                    store(gx, at, 16, own)
                    total, product = total + own, product + own * (load(x, at, 16, total) - norm[0, c])
            sums[0, c] += float_sum(total)
            sums[1, c] += float_sum(product)


@part
def _corners(out, x, c, n, j):
    """Where pixel j of row n of channel c is made from, a place in each of two rows, and where it lies itself."""
    height, width = out.shape[2:4]
    tall, wide = x.shape[2:4]
    row = (c * out.shape[1] + n // height) * tall + n % height * 2
    at = (row * wide + 2 * j) * 16
    return at, at + 16 * wide, ((c * out.shape[1] * height + n) * width + j) * 16
