"""Sparse convolution: every output plane is a sum of shifted input planes, one for each kept weight.

    y[o] = sum over kept k of row o:   value[k] * x[from tap[k] on]

A pattern gives, for row o, the kept weights k = first[o] .. first[o+1] - 1. For each of them, tap[k] is the distance in
the window (see `layout`) from a pixel of channel 0 to the pixel that the weight reads; the distance covers channel and
shift. Example: with lines of L floats, the weight of channel c and tap (0, 0) of a 3x3 kernel has
tap[k] = c stride - L - 16.

The work goes tile by tile, and in each tile channel by channel. Some pixels of an output row stay in registers until
all their weights are added. What a norm does to a value, forward and backward, is done where the value is read, and
what a norm needs to know of a value is summed where the value is written, so that each activation passes through memory
as few times as can be. Kernels run on one thread; clients run side by side in processes.

How an activation is read (`norm` float32 [3, C], `floor`): a value v of channel c stands for
max((v - norm[0, c]) norm[1, c] + norm[2, c], floor). So a convolution's result is its norm's output, with ReLU where
the floor is 0; a stored output has the norm (0, 1, 0) and the floor -infinity.

Compiled code is kept in `__pycache__` beside this file, or in NUMBA_CACHE_DIR. numba compiles a function anew when the
function's own file changes. This file's kernels hold copies of `pixels`, and those of `norms` of this file's parts:
after a change of one of these, empty that folder.
"""

import numba
import numpy as np

from fedtiny_lite.sparse.pixels import (
    RUN,
    at_least,
    first_lane,
    float_sum,
    load,
    pixel_sum,
    repeat,
    store,
    where_above,
    zeros,
)

kernel = numba.njit(error_model="numpy", cache=True)
part = numba.njit(error_model="numpy", cache=True, forceinline=True)
"""A part of kernels, put whole into each. As a function it would be compiled by itself and once more with its caller;
which of the two ran, and so the last bits, would depend on what the cache held."""


@kernel
def conv_forward(y, sums, x, norm, floor, first, tap, value, in_use, window, shape, stride):
    """y = convolution of x; sets `sums`, float64 [3, C_out], for the norm that follows.

    The sums are a pivot, the channel's first value, and the sums of the distances from it and of their squares. The
    pivot avoids cancellation: a channel of one constant has sums of exactly 0. `first` int32 [C_out + 1] and `tap`
    int32 [K]: the pattern; `value` float32 [K]: the kept weights. `in_use` [blocks, 16]: 1 in the lanes that hold a
    sample, else 0. `window`: memory for the window of this `shape` (rows, above, stride, line).
    """
    channels, blocks, height, width, _ = y.shape
    rows, above, _, line = shape
    sums[:] = 0
    for b in range(blocks):
        used = load(in_use, 16 * b, 16, zeros(1))
        for top in range(0, height, rows):
            count = min(rows, height - top)
            fill(window, x, norm, floor, used, b, top - above, count + 3 - stride, shape, stride)
            for o in range(channels):
                start, end = first[o], first[o + 1]
                if b == 0 and top == 0:
                    sums[0, o] = first_lane(_weighted(window, 16 + above * line, start, end, tap, value, zeros(1)))
                pivot, total, squares = np.float32(sums[0, o]), zeros(1), zeros(1)
                for r in range(count):
                    at = 16 + (above + r) * line
                    to = (((o * blocks + b) * height + top + r) * width) * 16
                    j = 0
                    while j + RUN <= width:
                        a = _weighted(window, at + 16 * j, start, end, tap, value, zeros(RUN))
                        store(y, to + 16 * j, 16, a)
                        a = (a - pivot) * repeat(used, a)
                        total, squares = total + pixel_sum(a), squares + pixel_sum(a * a)
                        j += RUN
                    while j + 4 <= width:
                        a = _weighted(window, at + 16 * j, start, end, tap, value, zeros(4))
                        store(y, to + 16 * j, 16, a)
                        a = (a - pivot) * repeat(used, a)
                        total, squares = total + pixel_sum(a), squares + pixel_sum(a * a)
                        j += 4
                    while j < width:
                        a = _weighted(window, at + 16 * j, start, end, tap, value, zeros(1))
                        store(y, to + 16 * j, 16, a)
                        a = (a - pivot) * used
                        total, squares = total + a, squares + a * a
                        j += 1
                sums[1, o] += float_sum(total)
                sums[2, o] += float_sum(squares)


@part
def _weighted(window, at, k, end, tap, value, total):
    """The pixels `total` and, of the kept weights k .. end, those at `at` + tap[k] times the weight."""
    while k < end:
        total = total + value[k] * load(window, at + tap[k], 16, total)
        k += 1
    return total


@part
def fill(window, x, norm, floor, used, b, top, count, shape, stride):
    """Copies `count` rows of block b of all channels from row `top` on, which may lie outside the image.

    At stride 2 these are rows of the phases of x: phase channel 4 c + 2 py + px holds the pixels of channel c in odd
    (py = 1) or even (py = 0) rows, and in odd or even columns by px. A phase of an image of odd size has a row or
    column less than the others; the missing pixels are zero.
    """
    channels, blocks, height, width, _ = x.shape
    _, _, plane, line = shape
    zero = zeros(1)
    store(window, 0, 16, zero)
    for c in range(channels * stride * stride):
        channel, py, px = c // (stride * stride), c // stride % stride, c % stride
        middle, factor, shift = norm[0, channel], norm[1, channel], norm[2, channel]
        columns = (width - px + stride - 1) // stride
        for n in range(count):
            to, row = 16 + c * plane + n * line, (top + n) * stride + py
            filled = columns if 0 <= row < height else 0
            at = (((channel * blocks + b) * height + row) * width + px) * 16
            for j in range(filled):
                value = (load(x, at + 16 * stride * j, 16, zero) - middle) * factor + shift
                store(window, to + 16 * j, 16, at_least(value, floor) * used)
            for j in range(16 * filled, line, 16):
                store(window, to + j, 16, zero)


@kernel
def conv_backward(
    gx, gvalue, sums, g, beside, y, terms, x, norm, floor, of, middle, first, tap, value, in_use, window, shape,
    stride, add, relu,
):  # fmt: skip
    """Both gradients of a convolution, from the gradient of the norm's output that follows it.

    g: that gradient, of the first channels; `beside`: of the others; y: the convolution's result; `terms`: see
    `gradient_terms`. Sets gvalue to the gradient of the kept weights and gx to the gradient of what x stands for, or
    adds to what is in gx, if `add`. If `relu`, gx is then set to 0 where x stands for 0. Sets `sums`, float64 [2, C],
    to the sums of gx and of gx (of - middle[c]), by which the norm whose result is `of` goes on.

    The pattern is the transposed one. Row c holds the weights that read channel c, or at stride 2 phase c, and tap[k]
    leads from a pixel of x to the pixel of gy that it contributed to. So gx is a sum of shifted planes of gy, as y is a
    sum of shifted planes of x. The dot product of each such plane with x is the gradient of its weight.
    """
    _, blocks, tall, wide, _ = x.shape
    height = y.shape[2]
    rows, above, plane, line = shape
    partial = 16 + len(y) * plane  # where in the window's memory the partial dot products of a row lie
    sums[:] = 0
    gvalue[:] = 0
    for b in range(blocks):
        used = load(in_use, 16 * b, 16, zeros(1))
        for top in range(0, height, rows):
            count = min(rows, height - top)
            fill_gradient(window, g, y, terms, 0, len(g), used, b, top - above, count + above + 1, shape)
            fill_gradient(window, beside, y, terms, len(g), len(y), used, b, top - above, count + above + 1, shape)
            for c in range(len(first) - 1):
                channel, py, px = c // (stride * stride), c // stride % stride, c % stride
                start, end, columns = first[c], first[c + 1], (wide - px + stride - 1) // stride
                how = (norm[0, channel], norm[1, channel], norm[2, channel], floor, middle[channel], add, relu)
                total, product = zeros(1), zeros(1)
                for k in range(end - start):
                    store(window, partial + 16 * k, 16, zeros(1))
                for r in range(count):
                    row = (top + r) * stride + py
                    at = 16 + (above + r) * line
                    to = (((channel * blocks + b) * tall + row) * wide + px) * 16
                    j = columns if row >= tall else 0
                    while j + RUN <= columns:
                        a, p = _input_gradient(
                            gx, x, of, to + 16 * stride * j, 16 * stride, how, window, at + 16 * j, partial, start, end,
                            tap, value, zeros(RUN),
                        )  # fmt: skip
                        total, product, j = total + a, product + p, j + RUN
                    while j + 4 <= columns:
                        a, p = _input_gradient(
                            gx, x, of, to + 16 * stride * j, 16 * stride, how, window, at + 16 * j, partial, start, end,
                            tap, value, zeros(4),
                        )  # fmt: skip
                        total, product, j = total + a, product + p, j + 4
                    while j < columns:
                        a, p = _input_gradient(
                            gx, x, of, to + 16 * stride * j, 16 * stride, how, window, at + 16 * j, partial, start, end,
                            tap, value, zeros(1),
                        )  # fmt: skip
                        total, product, j = total + a, product + p, j + 1
                for k in range(end - start):
                    gvalue[start + k] += float_sum(load(window, partial + 16 * k, 16, zeros(1)))
                sums[0, channel] += float_sum(total)
                sums[1, channel] += float_sum(product)


@part
def _input_gradient(gx, x, of, to, step, how, window, at, partial, k, end, tap, value, gradient):
    """Some pixels of gx, and the dot products of the weights k .. end with them; returns the two sums, a pixel each."""
    middle, factor, shift, floor, mean, add, relu = how
    inside = at_least((load(x, to, step, gradient) - middle) * factor + shift, floor)
    if add:
        gradient = load(gx, to, step, gradient)
    while k < end:
        g = load(window, at + tap[k], 16, gradient)
        gradient = gradient + value[k] * g
        store(window, partial, 16, load(window, partial, 16, zeros(1)) + pixel_sum(g * inside))
        partial, k = partial + 16, k + 1
    if relu:
        gradient = where_above(gradient, inside, np.float32(0))
    store(gx, to, step, gradient)
    return pixel_sum(gradient), pixel_sum(gradient * (load(of, to, step, gradient) - mean))


@part
def fill_gradient(window, g, y, terms, begin, end, used, b, top, count, shape):
    """Copies the gradient of y, channels begin .. end, as `fill` copies x. g: gradient of the norm's output."""
    _, blocks, height, width, _ = y.shape
    _, _, plane, line = shape
    zero = zeros(1)
    store(window, 0, 16, zero)
    for c in range(begin, end):
        for n in range(count):
            to, row = 16 + c * plane + n * line, top + n
            filled = width if 0 <= row < height else 0
            at, ahead = (((c * blocks + b) * height + row) * width) * 16, begin * blocks * height * width * 16
            for j in range(0, 16 * filled, 16):
                store(window, to + j, 16, norm_gradient(g, at - ahead + j, y, at + j, terms, c, zero) * used)
            for j in range(16 * filled, line, 16):
                store(window, to + j, 16, zero)


@part
def norm_gradient(g, at, y, place, terms, c, like):
    """Pixels of the gradient of y, from those of the norm's output at g[at]."""
    return load(g, at, 16, like) * terms[1, c] + (load(y, place, 16, like) - terms[0, c]) * terms[2, c] + terms[3, c]


@kernel
def weight_gradient(gvalue, g, y, terms, x, norm, floor, first, tap, in_use, window, shape, stride):
    """Sets gvalue to the gradient of the kept weights alone, for the first layer, whose input needs no gradient.

    The pattern is that of `conv_forward`, the other arguments are those of `conv_backward`.
    """
    channels, blocks, height, width, _ = y.shape
    rows, above, plane, line = shape
    partial = 16 + len(x) * stride * stride * plane
    gvalue[:] = 0
    for b in range(blocks):
        used = load(in_use, 16 * b, 16, zeros(1))
        for top in range(0, height, rows):
            count = min(rows, height - top)
            fill(window, x, norm, floor, used, b, top - above, count + 3 - stride, shape, stride)
            for o in range(channels):
                start, end = first[o], first[o + 1]
                for k in range(end - start):
                    store(window, partial + 16 * k, 16, zeros(1))
                for r in range(count):
                    at = 16 + (above + r) * line
                    place = (((o * blocks + b) * height + top + r) * width) * 16
                    j = 0
                    while j + RUN <= width:
                        gy = norm_gradient(g, place + 16 * j, y, place + 16 * j, terms, o, zeros(RUN))
                        _dot_products(window, at + 16 * j, partial, start, end, tap, gy * repeat(used, gy))
                        j += RUN
                    while j < width:
                        gy = norm_gradient(g, place + 16 * j, y, place + 16 * j, terms, o, zeros(1))
                        _dot_products(window, at + 16 * j, partial, start, end, tap, gy * used)
                        j += 1
                for k in range(end - start):
                    gvalue[start + k] += float_sum(load(window, partial + 16 * k, 16, zeros(1)))


@part
def _dot_products(window, at, partial, k, end, tap, gy):
    while k < end:
        product = pixel_sum(gy * load(window, at + tap[k], 16, gy))
        store(window, partial, 16, load(window, partial, 16, zeros(1)) + product)
        partial, k = partial + 16, k + 1
