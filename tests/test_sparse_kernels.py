"""Sparse convolution, norm and pooling against torch in float64, for all shapes, and no worse than torch's float32."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from fedtiny_lite.sparse import kernels, layout, norms
from fedtiny_lite.sparse.layers import phases_of
from fedtiny_lite.sparse.layout import LANES, Geometry, Workspace, block_count, pack, tiles, unpack
from fedtiny_lite.sparse.patterns import build_pattern
from tests.helpers import seeded

SAMPLES = st.sampled_from([1, 2, 15, 16, 17, 33])
SIZES = st.integers(1, 9)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=seeded(seed))


def empty(geometry: Geometry, samples: int):
    """A buffer where something else lay before."""
    workspace = Workspace()
    old = workspace.take(replace(geometry, channels=geometry.channels + 1), samples)
    old.data.fill(np.nan)
    workspace.give(old)
    return workspace.take(geometry, samples)


def planes(images: torch.Tensor, spare_blocks: int = 0):
    """Images in such a buffer."""
    geometry = Geometry(*images.shape[1:], block_count(len(images)) + spare_blocks)
    return pack(images, empty(geometry, len(images)))


def assert_no_worse(found, torch32, exact, factor=4):
    """As near to float64 as torch's float32 is, times `factor`, or within its last digits."""
    scale = float(exact.norm()) + 1e-30
    own, torchs = (float((x.double() - exact).norm()) / scale for x in (found, torch32))
    assert own <= max(factor * torchs, 1e-6)


def padding_is_zero(p) -> bool:
    """Whether nothing but the pixels of the samples holds a value, in the blocks in use and where a tap may reach."""
    g, tensor = p.geometry, torch.from_numpy(p.data)
    ends = tensor.as_strided((g.channels, g.lead), (g.stride, 1)).abs().sum() + tensor[-LANES:].abs().sum()
    borders = p.padded().clone()
    borders[:, :, :-1, :-1] = 0
    lanes = p.images().permute(1, 4, 0, 2, 3).flatten(0, 1)[p.samples :]
    return float(ends) == 0 and not borders.any() and not lanes.any()


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=30))
@settings(max_examples=50, deadline=None)
def test_buffers_of_a_workspace_lie_apart_and_low(requests):
    """Each request takes a buffer of so many channels and gives back the one that was taken so many requests before."""
    workspace, lent, most = Workspace(), [], 0
    for number, (channels, back) in enumerate(requests):
        planes = workspace.take(Geometry(channels, 3, 3, 1), 16)
        assert planes.data.ctypes.data % 64 == 0
        planes.data.fill(number)
        lent.append((number, planes))
        assert all((other.data == n).all() for n, other in lent)
        most += planes.data.nbytes
        assert workspace.lent == len(lent) and workspace.bytes <= most
        if back < len(lent):
            workspace.give(lent.pop(-1 - back)[1])
    workspace.clear()
    held = workspace.bytes
    assert workspace.take(Geometry(1, 3, 3, 1), 16).data.nbytes <= held == workspace.bytes


def test_the_lowest_place_that_is_large_enough_is_taken():
    workspace = Workspace()
    first, second, _ = (workspace.take(Geometry(channels, 2, 2, 1), 16) for channels in (3, 1, 1))
    workspace.give(first)
    held, again = workspace.bytes, workspace.take(Geometry(2, 2, 2, 1), 16)
    assert np.shares_memory(again.data, first.data) and not np.shares_memory(again.data, second.data)
    assert workspace.bytes == held
    workspace.take(Geometry(3, 2, 2, 1), 16)
    assert workspace.bytes == held + first.data.nbytes


def test_what_a_slab_cannot_hold_has_one_of_its_own(monkeypatch):
    monkeypatch.setattr(layout, "SLAB", 1000)
    workspace = Workspace()
    buffers = [workspace.take(Geometry(channels, 2, 2, 1), 16) for channels in (1, 9, 1, 1)]
    assert not any(np.shares_memory(a.data, b.data) for a, b in combinations(buffers, 2))
    assert workspace.bytes == sum(planes.data.nbytes for planes in buffers)


@given(st.integers(1, 5), SIZES, SIZES, SAMPLES, st.integers(0, 2))
@settings(max_examples=30, deadline=None)
def test_packing_gives_back_the_images_between_zeros(channels, height, width, samples, spare):
    images = draw(samples, channels, height, width)
    packed = planes(images)
    assert torch.equal(unpack(packed), images)
    assert padding_is_zero(packed)
    assert torch.equal(unpack(planes(images, spare)), images)


@given(SIZES | st.integers(10, 40), SIZES | st.integers(10, 40), SAMPLES)
@settings(max_examples=50, deadline=None)
def test_tiles_meet_every_line_of_pixels_once(height, width, samples):
    lines = [n for first, rows in tiles(height, width, samples) for n in range(first, first + rows)]
    assert len(lines) == len(set(lines))
    needed = {n for n in range(block_count(samples) * (height + 1)) if n % (height + 1) < height}
    assert needed <= set(lines)
    assert max(lines) < block_count(samples) * (height + 1)


def test_distances_of_a_three_by_three_kernel_by_hand():
    """Images of 2x2 pixels: three pixels a line, nine a block; the second channel begins one block later."""
    pattern = build_pattern(torch.ones(1, 2, 3, 3, dtype=torch.bool), 1, Geometry(2, 2, 2, 1))
    assert (pattern.tap // 16).tolist() == [*(-4, -3, -2, -1, 0, 1, 2, 3, 4), *(5, 6, 7, 8, 9, 10, 11, 12, 13)]
    assert pattern.first.tolist() == [0, 18]
    assert pattern.back_first.tolist() == [0, 9, 18]
    assert (pattern.back_tap // 16).tolist() == [4, 3, 2, 1, 0, -1, -2, -3, -4] * 2


@given(
    SIZES, SIZES, SIZES | st.just(33), SIZES | st.just(40), st.sampled_from([1, 3]), st.sampled_from([1, 2]), SAMPLES,
    st.integers(0, 2), st.floats(0.0005, 0.5), st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_convolution_and_both_gradients_equal_torch(
    c_out, c_in, height, width, size, stride, samples, spare, density, seed
):
    keep = torch.rand(c_out, c_in, size, size, generator=seeded(seed)) < density
    weight, images = draw(*keep.shape, seed=seed) * keep, draw(samples, c_in, height, width, seed=seed + 1)

    def reference(kind):
        x, w = (t.to(kind, copy=True).requires_grad_() for t in (images, weight))
        y = F.conv2d(x, w, stride=stride, padding=size // 2)
        grad = draw(*y.shape, seed=seed + 2).to(kind)
        return y.detach(), *torch.autograd.grad(y, (x, w), grad), grad

    exact, single = reference(torch.float64), reference(torch.float32)
    wide = planes(images, spare)
    x = wide
    if stride == 2:
        x = empty(phases_of(wide.geometry), samples)
        kernels.split_phases(x.data, wide.data, block_count(samples), x.geometry.shape, wide.geometry.shape)
        assert padding_is_zero(x)
    run = tiles(x.geometry.height, x.geometry.width, samples)
    shape, p = x.geometry.shape, build_pattern(keep, stride, x.geometry)
    values = weight[keep].numpy()
    y = empty(replace(x.geometry, channels=c_out), samples)
    kernels.conv_forward(y.data, x.data, p.first, p.tap, values, run, shape)
    assert_no_worse(unpack(y), single[0], exact[0])
    assert padding_is_zero(y)

    gy, gx, gvalue = planes(single[3], spare), empty(x.geometry, samples), np.zeros(len(values), np.float32)
    back = (p.back_first, p.back_tap)
    kernels.conv_backward(gx.data, gvalue, gy.data, x.data, *back, values[p.back_order], run, shape, False)
    alone = np.zeros_like(gvalue)
    kernels.weight_gradient(alone, gy.data, x.data, *back, run, shape)
    for found in (gvalue, alone):
        ordered = np.empty_like(found)
        ordered[p.back_order] = found
        assert_no_worse(torch.from_numpy(ordered), single[2][keep], exact[2][keep])
    assert padding_is_zero(gx)
    twice = empty(x.geometry, samples)
    twice.data[:] = gx.data
    kernels.conv_backward(twice.data, alone, gy.data, x.data, *back, values[p.back_order], run, shape, True)
    np.testing.assert_allclose(twice.data, 2 * gx.data, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(alone, 2 * gvalue, rtol=1e-3, atol=1e-3)
    whole = gx
    if stride == 2:
        whole = empty(wide.geometry, samples)
        kernels.merge_phases(whole.data, gx.data, block_count(samples), shape, wide.geometry.shape)
    assert_no_worse(unpack(whole), single[1], exact[1])


@given(SIZES, SIZES, SIZES, SAMPLES, st.booleans(), st.booleans(), st.floats(-30, 30))
@settings(max_examples=60, deadline=None)
def test_norm_with_residual_and_relu_equals_torch(channels, height, width, samples, residual, relu, mean):
    if samples * height * width == 1:
        return
    images = draw(samples, channels, height, width) + mean
    images[:, 0] = images[0, 0, 0, 0]  # a channel of one constant
    other, gamma, beta = draw(*images.shape, seed=1), draw(channels, seed=2), draw(channels, seed=3)
    grad = draw(*images.shape, seed=4)

    def reference(kind):
        y, s, a, b = (t.to(kind, copy=True).requires_grad_() for t in (images, other, gamma, beta))
        z = F.batch_norm(y, None, None, a, b, training=True) + (s if residual else 0 * s)
        z = F.relu(z) if relu else z
        gradients = torch.autograd.grad(z, (y, s, a, b), grad.to(kind))
        return z.detach(), gradients[0], gradients[2], gradients[3]

    exact, single = reference(torch.float64), reference(torch.float32)
    y = planes(images)
    shape = y.geometry.shape
    m, variance, z = np.empty(channels), np.empty(channels), empty(y.geometry, samples)
    norms.forward(
        z.data, m, variance, y.data, gamma.numpy(), beta.numpy(), 1e-5, planes(other).data, residual, relu,
        samples, shape,
    )  # fmt: skip
    assert variance[0] == 0
    np.testing.assert_allclose(variance[1:], images.double().var((0, 2, 3), correction=0)[1:], rtol=1e-4)
    inverse = 1 / np.sqrt(variance + 1e-5)
    assert padding_is_zero(z)
    assert_no_worse(unpack(z), single[0], exact[0])
    g, gscale, gshift = planes(grad), np.empty(channels, np.float32), np.empty(channels, np.float32)
    z = planes(single[0])
    norms.backward(y.data, gscale, gshift, g.data, z.data, relu, m, inverse, gamma.numpy(), samples, shape)
    assert padding_is_zero(y)
    masked = grad * (single[0] > 0) if relu else grad
    assert torch.equal(unpack(g), masked) and padding_is_zero(g)
    for found, own, right in zip((unpack(y), gscale, gshift), single[1:], exact[1:], strict=True):
        assert_no_worse(torch.as_tensor(found)[..., :], own, right, factor=20)


@given(st.integers(1, 3), st.integers(2, 9), st.integers(2, 9), SAMPLES)
@settings(max_examples=30, deadline=None)
def test_max_pool_gives_ties_to_the_first_as_torch_does(channels, height, width, samples):
    images = draw(samples, channels, height, width).relu().requires_grad_()
    pooled = F.max_pool2d(images, 2)
    grad = draw(*pooled.shape, seed=1)
    (expected,) = torch.autograd.grad(pooled, images, grad)
    x = planes(images.detach())
    out = empty(replace(x.geometry, height=height // 2, width=width // 2), samples)
    narrow, wide = out.geometry.shape, x.geometry.shape
    norms.max_pool(out.data, x.data, samples, narrow, wide)
    assert torch.equal(unpack(out), pooled.detach())
    gx = empty(x.geometry, samples)
    norms.max_pool_backward(gx.data, planes(grad).data, x.data, samples, narrow, wide)
    assert torch.equal(unpack(gx), expected)
    assert padding_is_zero(gx)
