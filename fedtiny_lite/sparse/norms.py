"""Batch normalisation with ReLU and the residual sum, one channel at a time, while the channel lies in the cache."""

import numpy as np

from fedtiny_lite.sparse.kernels import clear_padding, kernel, part


@kernel
def forward(z, mean, variance, y, gamma, beta, eps, shortcut, residual, relu, samples, shape):
    """z = norm of y by the batch's own statistics; sets `mean` and the biased `variance` of each channel, float64.

    `shortcut`, `residual` and `relu` are as in `apply`. Sums are taken over distances from the channel's first value,
    which avoids cancellation: a channel of one constant has a variance of exactly 0.
    """
    lead, stride, height, width = shape
    count = samples * height * width
    for c in range(len(mean)):
        at = lead + c * stride
        total, squares = _channel_sums(y, at, samples, height, width)
        mean[c] = y[at] + total / count
        variance[c] = max(squares / count - (total / count) ** 2, 0.0)
        scale = gamma[c] * (1 / np.sqrt(variance[c] + eps))  # as `apply` is given it
        _apply_channel(z, y, at, mean[c], scale, beta[c], shortcut, residual, relu, samples, height, width)


@part
def _channel_sums(y, at, samples, height, width):
    """Sums of the distances from y[at] and of their squares over a channel, float64."""
    total, squares = 0.0, 0.0
    for n in range(-(-samples // 16) * (height + 1)):
        if n % (height + 1) < height:
            line = y[at + n * (width + 1) * 16 :][: width * 16]
            a, b = _sums(line, y[at], min(16, samples - n // (height + 1) * 16))
            total, squares = total + a, squares + b
    return total, squares


@part
def _sums(line, pivot, lanes):
    total, squares = np.float32(0), np.float32(0)
    if lanes == 16:
        for i in range(len(line)):
            distance = line[i] - pivot
            total += distance
            squares += distance * distance
    else:
        for at in range(0, len(line), 16):
            for i in range(at, at + lanes):
                distance = line[i] - pivot
                total += distance
                squares += distance * distance
    return np.float64(total), np.float64(squares)


@kernel
def apply(z, y, mean, scale, beta, shortcut, residual, relu, samples, shape):
    """z = (y - mean) scale + beta by channel, plus `shortcut` if `residual`; negative values become 0 if `relu`."""
    lead, stride, height, width = shape
    for c in range(len(scale)):
        at = lead + c * stride
        _apply_channel(z, y, at, mean[c], scale[c], beta[c], shortcut, residual, relu, samples, height, width)


@part
def _apply_channel(z, y, at, mean, scale, beta, shortcut, residual, relu, samples, height, width):
    middle, factor = np.float32(mean), np.float32(scale)
    floor = np.float32(0 if relu else -np.inf)
    for n in range(-(-samples // 16) * (height + 1)):
        if n % (height + 1) == height:
            continue
        start = at + n * (width + 1) * 16
        out, line = z[start:][: width * 16], y[start:][: width * 16]
        if residual:
            other = shortcut[start:][: width * 16]
            for i in range(len(out)):
                value = (line[i] - middle) * factor + beta + other[i]
                out[i] = floor if value < floor else value
        else:
            for i in range(len(out)):
                value = (line[i] - middle) * factor + beta
                out[i] = floor if value < floor else value
        _clear_lanes(out, samples - n // (height + 1) * 16)
    clear_padding(z, at, 0, -(-samples // 16) * (height + 1), height, width)


@kernel
def backward(y, gscale, gshift, g, z, relu, mean, inverse, gamma, samples, shape):
    """The backward pass of the norm: y, the norm's input, is replaced by the gradient of y.

    g: gradient of the norm's output z. If `relu`, g is first set to 0, in place, where z is 0; what then is in g is the
    gradient of the shortcut. gscale and gshift are set to the gradients of gamma and beta. `inverse`: 1 / standard
    deviation of each channel. With x = (y - mean) inverse, the gradient of y is
    gamma inverse (g - mean of g - x times mean of g x).
    """
    lead, stride, height, width = shape
    count = samples * height * width
    lines = -(-samples // 16) * (height + 1)
    for c in range(len(mean)):
        at = lead + c * stride
        m = np.float32(mean[c])
        total, product = 0.0, 0.0
        for n in range(lines):
            start = at + n * (width + 1) * 16
            a, b = _masked_sums(g[start:][: width * 16], y[start:][: width * 16], z[start:][: width * 16], m, relu)
            total, product = total + a, product + b
        gscale[c], gshift[c] = product * inverse[c], total
        factor = np.float32(gamma[c] * inverse[c])
        slope = np.float32(-gamma[c] * inverse[c] ** 3 * product / count)
        offset = np.float32(-gamma[c] * inverse[c] * total / count)
        for n in range(lines):
            if n % (height + 1) < height:
                start = at + n * (width + 1) * 16
                line, grad = y[start:][: width * 16], g[start:][: width * 16]
                for i in range(len(line)):
                    line[i] = grad[i] * factor + (line[i] - m) * slope + offset
                _clear_lanes(line, samples - n // (height + 1) * 16)


@part
def _masked_sums(g, y, z, mean, relu):
    """Sums of g and of g (y - mean); if `relu`, g is first set to 0 where z is 0."""
    total, product = np.float32(0), np.float32(0)
    if relu:
        for i in range(len(g)):
            value = g[i] if z[i] > 0 else np.float32(0)
            g[i] = value
            total += value
            product += value * (y[i] - mean)
    else:
        for i in range(len(g)):
            total += g[i]
            product += g[i] * (y[i] - mean)
    return np.float64(total), np.float64(product)


@part
def _clear_lanes(line, lanes):
    """Sets to zero the lanes of a line of pixels that hold no sample; `lanes`: how many hold one."""
    if lanes < 16:
        for at in range(0, len(line), 16):
            for i in range(at + lanes, at + 16):
                line[i] = 0


@kernel
def max_pool(out, x, samples, shape, wide):
    """out = the largest of each 2x2 pixels of x. `shape`: shape of `out`; `wide`: shape of x."""
    lead, stride, height, width = shape
    blocks = -(-samples // 16)
    for c in range((len(out) - lead) // stride):
        for n in range(blocks * height):
            to, at = _window(c, n, shape, wide)
            for j in range(width):
                for i in range(16):
                    a = at + j * 32 + i
                    b = a + (wide[3] + 1) * 16
                    out[to + j * 16 + i] = max(max(x[a], x[a + 16]), max(x[b], x[b + 16]))
        clear_padding(out, lead + c * stride, 0, blocks * (height + 1), height, width)


@kernel
def max_pool_backward(gx, g, x, samples, shape, wide):
    """gx = g at the largest of each 2x2 pixels of x, at the first of equal ones; 0 at the others."""
    gx[:] = 0
    for c in range((len(g) - shape[0]) // shape[1]):
        for n in range(-(-samples // 16) * shape[2]):
            to, at = _window(c, n, shape, wide)
            for j in range(shape[3]):
                for i in range(16):
                    a = at + j * 32 + i
                    b = a + (wide[3] + 1) * 16
                    largest, value = max(max(x[a], x[a + 16]), max(x[b], x[b + 16])), g[to + j * 16 + i]
                    if x[a] == largest:
                        gx[a] = value
                    elif x[a + 16] == largest:
                        gx[a + 16] = value
                    elif x[b] == largest:
                        gx[b] = value
                    else:
                        gx[b + 16] = value


@part
def _window(c, n, shape, wide):
    """Row n of channel c: (where the row starts in the small image, where its first row starts in the wide image)."""
    block, i = n // shape[2], n % shape[2]
    to = shape[0] + c * shape[1] + (block * (shape[2] + 1) + i) * (shape[3] + 1) * 16
    return to, wide[0] + c * wide[1] + (block * (wide[2] + 1) + 2 * i) * (wide[3] + 1) * 16
