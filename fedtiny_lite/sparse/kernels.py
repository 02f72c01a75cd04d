"""Sparse convolution: every output plane is a sum of shifted input planes, one for each kept weight.

    y[o] = sum over kept k of row o:   value[k] * x[from tap[k] on]

A pattern gives, for row o, the kept weights k = first[o] .. first[o+1] - 1. For each of them, tap[k] is the distance in
memory from a pixel of channel 0 to the pixel that the weight reads; the distance covers channel and shift. Example: in
a layout of lines of L floats, the weight of channel c and tap (0, 0) of a 3x3 kernel has tap[k] = c stride - L - 16.

Four weights are taken in one pass, so that a row is loaded and stored once for four multiplications. The work goes tile
by tile, and in each tile channel by channel. The row then lies in the first cache, and the tile of all channels in the
second cache. Kernels run on one thread; clients run side by side in processes.

Compiled code is kept in `__pycache__` beside this file, or in NUMBA_CACHE_DIR. numba compiles a function anew when the
function's own file changes. `norms` holds copies of `kernel` and `clear_padding`: after a change of these two, empty
that folder.
"""

import numba
import numpy as np

# Sums may be taken in any order and fused with products; NaN and infinity in them stay what they are.
_FAST = {"reassoc", "contract", "nsz"}
kernel = numba.njit(fastmath=_FAST, error_model="numpy", cache=True)
part = numba.njit(fastmath=_FAST, error_model="numpy", cache=True, forceinline=True)
"""A part of kernels, put whole into each. As a function it would be compiled by itself and once more with its caller;
which of the two ran, and so the last bits, would depend on what the cache held."""


@kernel
def conv_forward(y, x, first, tap, value, tiles, shape):
    """y = convolution of x. `shape`: (lead, stride, height, width) of x and of y (see `layout.Geometry`).

    `first` int32 [C_out + 1] and `tap` int32 [K]: the pattern; `value` float32 [K]: the kept weights; `tiles`: see
    `layout.tiles`.
    """
    lead, stride, height, width = shape
    line = (width + 1) * 16
    for t in range(len(tiles)):
        run, start = tiles[t, 1] * line, lead + tiles[t, 0] * line
        for o in range(len(first) - 1):
            row = y[start + o * stride : start + o * stride + run]
            _add_planes(row, x, first[o], first[o + 1], tap, value, start)
            clear_padding(y, start + o * stride, tiles[t, 0], tiles[t, 1], height, width)


@part
def _add_planes(row, x, k, end, tap, value, start):
    """row = the sum of the shifted planes of the kept weights k .. end."""
    run = len(row)
    if k == end:
        row[:] = 0
    else:
        x0, w0 = x[start + tap[k] :][:run], value[k]
        for i in range(run):
            row[i] = w0 * x0[i]
        k += 1
    while k + 4 <= end:
        x0, x1 = x[start + tap[k] :][:run], x[start + tap[k + 1] :][:run]
        x2, x3 = x[start + tap[k + 2] :][:run], x[start + tap[k + 3] :][:run]
        w0, w1, w2, w3 = value[k], value[k + 1], value[k + 2], value[k + 3]
        for i in range(run):
            row[i] += w0 * x0[i] + w1 * x1[i] + w2 * x2[i] + w3 * x3[i]
        k += 4
    while k < end:
        x0, w0 = x[start + tap[k] :][:run], value[k]
        for i in range(run):
            row[i] += w0 * x0[i]
        k += 1


@kernel
def conv_backward(gx, gvalue, gy, x, first, tap, value, tiles, shape, add):
    """Both gradients of a convolution: gvalue += the gradient of the kept weights; gx = (or +=, if `add`) that of x.

    The pattern is the transposed one. Row c holds the weights that read channel c, and tap[k] leads from a pixel of x
    to the pixel of gy that it contributed to. So gx is a sum of shifted planes of gy, as y is a sum of shifted planes
    of x. The dot product of each such plane with x is the gradient of its weight.
    """
    lead, stride, height, width = shape
    line = (width + 1) * 16
    for t in range(len(tiles)):
        run, start = tiles[t, 1] * line, lead + tiles[t, 0] * line
        for c in range(len(first) - 1):
            row = gx[start + c * stride : start + c * stride + run]
            if not add:
                row[:] = 0
            _both_gradients(row, gvalue, x[start + c * stride :][:run], gy, first[c], first[c + 1], tap, value, start)
            clear_padding(gx, start + c * stride, tiles[t, 0], tiles[t, 1], height, width)


@part
def _both_gradients(row, gvalue, x, gy, k, end, tap, value, start):
    run = len(row)
    while k + 4 <= end:
        g0, g1 = gy[start + tap[k] :][:run], gy[start + tap[k + 1] :][:run]
        g2, g3 = gy[start + tap[k + 2] :][:run], gy[start + tap[k + 3] :][:run]
        w0, w1, w2, w3 = value[k], value[k + 1], value[k + 2], value[k + 3]
        s0 = s1 = s2 = s3 = np.float32(0)
        for i in range(run):
            row[i] += w0 * g0[i] + w1 * g1[i] + w2 * g2[i] + w3 * g3[i]
            s0 += g0[i] * x[i]
            s1 += g1[i] * x[i]
            s2 += g2[i] * x[i]
            s3 += g3[i] * x[i]
        gvalue[k] += s0
        gvalue[k + 1] += s1
        gvalue[k + 2] += s2
        gvalue[k + 3] += s3
        k += 4
    while k < end:
        g0, w0, s0 = gy[start + tap[k] :][:run], value[k], np.float32(0)
        for i in range(run):
            row[i] += w0 * g0[i]
            s0 += g0[i] * x[i]
        gvalue[k] += s0
        k += 1


@kernel
def weight_gradient(gvalue, gy, x, first, tap, tiles, shape):
    """gvalue += the gradient of the kept weights alone, for the first layer, whose input needs no gradient.

    The pattern is the transposed one, as in `conv_backward`.
    """
    lead, stride, _, width = shape
    line = (width + 1) * 16
    for t in range(len(tiles)):
        run, start = tiles[t, 1] * line, lead + tiles[t, 0] * line
        for c in range(len(first) - 1):
            row = x[start + c * stride :][:run]
            for k in range(first[c], first[c + 1]):
                plane, total = gy[start + tap[k] :][:run], np.float32(0)
                for i in range(run):
                    total += plane[i] * row[i]
                gvalue[k] += total


@part
def clear_padding(data, start, first, lines, height, width):
    """Sets to zero the padding among `lines` lines from `start` on, and the line after them if it is a line below.

    The padding is the last pixel of each line and the whole line below an image. `first`: number of the line that
    begins at `start`, counted through the blocks.
    """
    line = (width + 1) * 16
    for n in range(lines + 1):
        last = (first + n) % (height + 1) == height
        if last or n < lines:
            pixels = data[start + n * line :][:line]
            pixels[0 if last else width * 16 :] = 0


@kernel
def split_phases(out, x, blocks, shape, wide):
    """out[4 c + 2 py + px] = every second pixel of every second row of x[c], from row py and column px on.

    `shape`: shape of `out`; `wide`: shape of x. A convolution of stride 2 on x is one of stride 1 on the phases.
    """
    lead, stride, height, width = shape
    for c in range((len(out) - lead) // stride):
        for n in range(blocks * height):
            to, at, columns = _phase_line(c, n, shape, wide)
            for j in range(columns):
                pixel, source = out[to + j * 16 :][:16], x[at + j * 32 :][:16]
                for i in range(16):
                    pixel[i] = source[i]
            out[to + columns * 16 : to + width * 16] = 0
        clear_padding(out, lead + c * stride, 0, blocks * (height + 1), height, width)


@kernel
def merge_phases(x, out, blocks, shape, wide):
    """x = the pixels of its four phases `out`: the inverse of `split_phases`."""
    for c in range((len(out) - shape[0]) // shape[1]):
        for n in range(blocks * shape[2]):
            to, at, columns = _phase_line(c, n, shape, wide)
            for j in range(columns):
                pixel, source = x[at + j * 32 :][:16], out[to + j * 16 :][:16]
                for i in range(16):
                    pixel[i] = source[i]
        if c % 4 == 3:
            clear_padding(x, wide[0] + c // 4 * wide[1], 0, blocks * (wide[2] + 1), wide[2], wide[3])


@part
def _phase_line(c, n, shape, wide):
    """Row n of phase channel c: (where the row starts, where its first pixel lies in the wide image, its pixels there).

    A phase of a wide image of odd size has a row or column less than the others; the missing pixels are zero.
    """
    phase, channel = c % 4, c // 4
    block, i = n // shape[2], n % shape[2]
    row, column = 2 * i + phase // 2, phase % 2
    columns = (wide[3] + 1 - column) // 2 if row < wide[2] else 0
    to = shape[0] + c * shape[1] + (block * (shape[2] + 1) + i) * (shape[3] + 1) * 16
    at = wide[0] + channel * wide[1] + (block * (wide[2] + 1) + row) * (wide[3] + 1) * 16 + column * 16
    return to, at, columns
