"""Sparse convolution, norm and pooling against torch in float64, for all shapes, and no worse than torch's float32."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from fedtiny_lite.sparse import kernels, layout, norms
from fedtiny_lite.sparse.activations import Activation, stored
from fedtiny_lite.sparse.layout import Geometry, Planes, Workspace, aligned, block_count, in_use, pack, unpack, window
from fedtiny_lite.sparse.patterns import build_pattern
from tests.helpers import seeded

SAMPLES = st.sampled_from([1, 2, 15, 16, 17, 33])
SIZES = st.integers(1, 9)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=seeded(seed))


def empty(geometry: Geometry, samples: int) -> Planes:
    """An activation where something else lay before."""
    planes = Workspace().take(geometry, samples)
    planes.data.fill(np.nan)
    return planes


def planes(images: torch.Tensor) -> Planes:
    """Images in such memory; what lies in lanes without a sample is no number."""
    packed = pack(images, empty(Geometry(*images.shape[1:]), len(images)))
    packed.data[:, -1, :, :, in_use(len(images))[-1] == 0] = 12.5
    return packed


def scratch(floats: int) -> np.ndarray:
    """Memory of no number."""
    memory = aligned(floats)
    memory.fill(np.nan)
    return memory


def assert_no_worse(found, torch32, exact, factor=4):
    """As near to float64 as torch's float32 is, times `factor`, or within its last digits."""
    scale = float(exact.norm()) + 1e-30
    own, torchs = (float((x.double() - exact).norm()) / scale for x in (found, torch32))
    assert own <= max(factor * torchs, 1e-6)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=30))
@settings(max_examples=50, deadline=None)
def test_buffers_of_a_workspace_lie_apart_and_low(requests):
    """Each request takes a buffer of so many channels and gives back the one that was taken so many requests before."""
    workspace, lent, most = Workspace(), [], 0
    for number, (channels, back) in enumerate(requests):
        planes = workspace.take(Geometry(channels, 3, 3), 16)
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
    assert workspace.take(Geometry(1, 3, 3), 16).data.nbytes <= held == workspace.bytes


def test_the_lowest_gap_that_is_large_enough_is_taken_at_its_end():
    workspace = Workspace()
    first, second, _ = (workspace.take(Geometry(channels, 2, 2), 16) for channels in (3, 1, 1))
    workspace.give(first)
    held, again = workspace.bytes, workspace.take(Geometry(2, 2, 2), 16)
    assert np.shares_memory(again.data, first.data[1:]) and not np.shares_memory(again.data, first.data[:1])
    assert not np.shares_memory(again.data, second.data)
    assert workspace.bytes == held
    workspace.take(Geometry(3, 2, 2), 16)
    assert workspace.bytes == held + first.data.nbytes


def test_what_a_slab_cannot_hold_has_one_of_its_own(monkeypatch):
    monkeypatch.setattr(layout, "SLAB", 1000)
    workspace = Workspace()
    buffers = [workspace.take(Geometry(channels, 2, 2), 16) for channels in (1, 9, 1, 1)]
    assert not any(np.shares_memory(a.data, b.data) for a, b in combinations(buffers, 2))
    assert workspace.bytes == sum(planes.data.nbytes for planes in buffers)


@given(st.integers(1, 5), SIZES, SIZES, SAMPLES)
@settings(max_examples=30, deadline=None)
def test_packing_gives_back_the_images(channels, height, width, samples):
    images = draw(samples, channels, height, width)
    packed = pack(images, empty(Geometry(channels, height, width), samples))
    assert torch.equal(unpack(packed), images)
    assert not packed.data[:, -1, :, :, in_use(samples)[-1] == 0].any()
    assert int(in_use(samples).sum()) == samples and in_use(samples).shape == (block_count(samples), 16)


@given(st.integers(1, 600), st.integers(1, 40), st.integers(1, 40), st.integers(0, 1), st.integers(0, 1))
def test_tiles_are_about_equal_and_fit_the_window(channels, height, width, above, below):
    found = window(channels, height, width, above, below)
    tiles = -(-height // found.rows)
    assert 1 <= found.rows <= height and tiles * found.rows < height + tiles
    assert found.size <= layout.WINDOW + 16 or found.rows == 1


def test_distances_of_a_three_by_three_kernel_by_hand():
    """Images of 2x2 pixels: three pixels a line; two rows and one above and one below are 12 pixels a channel."""
    ahead, back = window(2, 2, 2, 1, 1), window(1, 2, 2, 1, 1)
    pattern = build_pattern(torch.ones(1, 2, 3, 3, dtype=torch.bool), 1, ahead, back)
    assert (pattern.tap // 16).tolist() == [*(-4, -3, -2, -1, 0, 1, 2, 3, 4), *(8, 9, 10, 11, 12, 13, 14, 15, 16)]
    assert pattern.first.tolist() == [0, 18] and pattern.longest == 18
    assert pattern.back_first.tolist() == [0, 9, 18]
    assert (pattern.back_tap // 16).tolist() == [4, 3, 2, 1, 0, -1, -2, -3, -4] * 2


def test_distances_at_stride_two_by_hand():
    """Phases of 2x2 pixels: the middle of a 3x3 reads phase 0 in place, the first tap reads phase 3 one row up."""
    ahead, back = window(4, 2, 2, 1, 0), window(1, 2, 2, 0, 1)
    keep = torch.isin(torch.arange(9), torch.tensor([0, 4])).view(1, 1, 3, 3)
    pattern = build_pattern(keep, 2, ahead, back)
    assert (pattern.tap // 16).tolist() == [3 * 9 - 4, 0]
    assert pattern.back_first.tolist() == [0, 1, 1, 1, 2]
    assert (pattern.back_tap // 16).tolist() == [0, 4]


def reading(channels: int, relu: bool, planes: Planes) -> Activation:
    """Some norm's output, with or without ReLU."""
    norm = torch.stack([draw(channels, seed=s) for s in (5, 6, 7)]).numpy()
    return Activation(planes, norm, relu, planes.data, norm[0])


def stands_for(x: Activation, images: torch.Tensor) -> torch.Tensor:
    """What x, which holds these images, stands for, in their kind."""
    mean, factor, shift = (torch.from_numpy(row).to(images.dtype).view(-1, 1, 1) for row in x.norm)
    values = (images - mean) * factor + shift
    return values.relu() if x.relu else values


@given(
    SIZES, SIZES, SIZES | st.just(33), SIZES | st.just(40), st.sampled_from([1, 3]), st.sampled_from([1, 2]), SAMPLES,
    st.floats(0.0005, 0.5), st.integers(0, 99), st.booleans(), st.booleans(), st.sampled_from([2**18, 2**12]),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_convolution_and_both_gradients_equal_torch(
    c_out, c_in, height, width, size, stride, samples, density, seed, relu, add, room
):
    """With the norms on either side: x stands for a norm's output, and the gradient is that of a norm's output."""
    keep = torch.rand(c_out, c_in, size, size, generator=seeded(seed)) < density
    weight, images = draw(*keep.shape, seed=seed) * keep, draw(samples, c_in, height, width, seed=seed + 1)
    x = reading(c_in, relu, planes(images))
    old = draw(samples, c_in, height, width, seed=seed + 4)

    def reference(kind):
        """Output, its own gradient; then gradients of the input and the weight."""
        values = stands_for(x, images.to(kind)).requires_grad_()
        w = weight.to(kind, copy=True).requires_grad_()
        y = F.conv2d(values, w, stride=stride, padding=size // 2)
        g, terms = draw(*y.shape, seed=seed + 2).to(kind), draw(4, c_out, seed=seed + 3).to(kind).view(4, -1, 1, 1)
        grad = g * terms[1] + (y.detach().float().to(kind) - terms[0]) * terms[2] + terms[3]
        gx, gw = torch.autograd.grad(y, (values, w), grad)
        gx = gx + old if add else gx
        return y.detach(), torch.where(values > 0, gx, 0 * gx) if relu else gx, gw, g

    exact, single = reference(torch.float64), reference(torch.float32)
    was, layout.WINDOW = layout.WINDOW, room
    sides = exact[0].shape[2:]
    ahead, back = window(stride**2 * c_in, *sides, 1, 2 - stride), window(c_out, *sides, 2 - stride, 1)
    layout.WINDOW = was
    p = build_pattern(F.pad(keep, [(3 - size) // 2] * 4), stride, ahead, back)
    values, used = weight[keep].numpy(), in_use(samples)
    y, sums = empty(Geometry(c_out, *sides), samples), np.full((3, c_out), np.nan)
    memory = scratch(max(ahead.size, back.size) + 16 * p.longest)
    kernels.conv_forward(y.data, sums, *x.reading, p.first, p.tap, values, used, memory, ahead.shape, stride)
    assert_no_worse(unpack(y), single[0], exact[0])
    count, channels = exact[0][:, 0].numel(), exact[0].transpose(0, 1).flatten(1)
    np.testing.assert_allclose(sums[0] + sums[1] / count, channels.mean(1), rtol=1e-5, atol=1e-6 * channels.abs().max())
    variance = torch.from_numpy(sums[2] / count - (sums[1] / count) ** 2)
    torch.testing.assert_close(variance, channels.var(1, correction=0), rtol=1e-4, atol=1e-6)

    g, terms = planes(single[3]), draw(4, c_out, seed=seed + 3).numpy()
    y.data[:, -1, :, :, used[-1] == 0] = 12.5
    gvalue, gsums = np.full(len(values), np.nan, np.float32), np.full((2, c_in), np.nan)
    gx = empty(Geometry(c_in, height, width), samples)
    gx = pack(old, gx) if add else gx
    half = c_out // 2  # the gradient may lie in two places
    memory.fill(np.nan)
    kernels.conv_backward(
        gx.data, gvalue, gsums, g.data[:half], g.data[half:], y.data, terms, *x.reading, x.of, x.mean, p.back_first,
        p.back_tap, values[p.back_order], used, memory, back.shape, stride, add, relu,
    )  # fmt: skip
    assert_no_worse(unpack(gx), single[1], exact[1], factor=10)
    summed = exact[1].transpose(0, 1).flatten(1)
    np.testing.assert_allclose(gsums[0], summed.sum(1), rtol=1e-3, atol=1e-3 * float(summed.abs().sum()))
    distances = images.double() - torch.from_numpy(x.mean).double().view(-1, 1, 1)
    products = (exact[1] * distances).transpose(0, 1).flatten(1)
    np.testing.assert_allclose(gsums[1], products.sum(1), rtol=1e-3, atol=1e-3 * float(products.abs().sum()))
    ordered = np.empty_like(gvalue)
    ordered[p.back_order] = gvalue
    memory.fill(np.nan)
    kernels.weight_gradient(
        gvalue, g.data, y.data, terms, *x.reading, p.first, p.tap, used, memory, ahead.shape, stride
    )
    for found in (gvalue, ordered):
        assert_no_worse(torch.from_numpy(found), single[2][keep], exact[2][keep], factor=20)


@given(SIZES, SIZES, SIZES, SAMPLES, st.booleans(), st.floats(-30, 30))
@settings(max_examples=60, deadline=None)
def test_norm_with_residual_and_relu_equals_torch(channels, height, width, samples, residual, mean):
    """The sums are those of a convolution that passes its input on."""
    if samples * height * width == 1:
        return
    images = draw(samples, channels, height, width) + mean
    images[:, 0] = images[0, 0, 0, 0]  # a channel of one constant
    other, gamma, beta = draw(*images.shape, seed=1), draw(channels, seed=2), draw(channels, seed=3)
    other = other if residual else 0 * other
    grad = draw(*images.shape, seed=4)

    def reference(kind):
        y, a, b = (t.to(kind, copy=True).requires_grad_() for t in (images, gamma, beta))
        z = F.relu(F.batch_norm(y, None, None, a, b, training=True) + other)
        return z.detach(), *torch.autograd.grad(z, (y, a, b), grad.to(kind))

    exact, single = reference(torch.float64), reference(torch.float32)
    y, sums, geometry = empty(Geometry(channels, height, width), samples), np.empty((3, channels)), (height, width)
    ahead = window(channels, *geometry, 1, 1)
    p = build_pattern(torch.eye(channels).bool().view(channels, channels, 1, 1), 1, ahead, ahead)
    kernels.conv_forward(
        y.data, sums, *stored(planes(images)).reading, p.first, p.tap, np.ones(channels, np.float32), in_use(samples),
        scratch(ahead.size + 16), ahead.shape, 1,
    )  # fmt: skip
    assert torch.equal(unpack(y), images)
    m, variance, count, eps = np.empty(channels), np.empty(channels), samples * height * width, np.full(channels, 1e-5)
    norms.moments(m, variance, sums, count)
    assert variance[0] == 0
    np.testing.assert_allclose(variance[1:], images.double().var((0, 2, 3), correction=0)[1:], rtol=1e-4)
    norm, z = np.empty((3, channels), np.float32), empty(y.geometry, samples)
    norms.reading(norm, m, variance, gamma.numpy(), beta.numpy(), eps)
    norms.join(z.data, y.data, norm, *stored(planes(other)).reading)
    assert_no_worse(unpack(z), single[0], exact[0])

    z, g = replace(stored(planes(single[0])), relu=True), pack(grad, empty(y.geometry, samples))
    gsums, terms = np.empty((2, channels)), np.empty((4, channels), np.float32)
    y.data[:, -1, :, :, in_use(samples)[-1] == 0] = 12.5
    norms.output_gradient(g.data, gsums, *z.reading, y.data, norm[0], True)
    assert torch.equal(unpack(g), grad * (single[0] > 0))
    gscale, gshift = np.empty(channels, np.float32), np.empty(channels, np.float32)
    norms.gradient_terms(terms, gscale, gshift, gsums, m, variance, gamma.numpy(), eps, count)
    norms.apply_gradient(y.data, g.data, y.data, terms)
    for found, own, right in zip((unpack(y), gscale, gshift), single[1:], exact[1:], strict=True):
        assert_no_worse(torch.as_tensor(found)[..., :], own, right, factor=20)


@given(st.integers(1, 3), st.integers(2, 9), st.integers(2, 9), SAMPLES)
@settings(max_examples=30, deadline=None)
def test_max_pool_gives_ties_to_the_first_as_torch_does(channels, height, width, samples):
    images = draw(samples, channels, height, width)
    x = reading(channels, True, planes(images))
    values = stands_for(x, images).requires_grad_()
    pooled = F.max_pool2d(values, 2)
    grad = draw(*pooled.shape, seed=1)
    (expected,) = torch.autograd.grad(pooled, values, grad)
    expected = torch.where(values > 0, expected, 0)
    out = empty(Geometry(channels, height // 2, width // 2), samples)
    norms.max_pool(out.data, *x.reading)
    torch.testing.assert_close(unpack(out), pooled.detach(), rtol=1e-6, atol=1e-6)
    gx, sums = empty(x.planes.geometry, samples), np.empty((2, channels))
    norms.max_pool_backward(gx.data, sums, pack(grad, empty(out.geometry, samples)).data, out.data, *x.reading)
    assert torch.equal(unpack(gx), expected)
    np.testing.assert_allclose(sums[0], expected.double().sum((0, 2, 3)), rtol=1e-4, atol=1e-4)
    products = (expected * (images - torch.from_numpy(x.mean).view(-1, 1, 1))).double()
    np.testing.assert_allclose(sums[1], products.sum((0, 2, 3)), rtol=1e-4, atol=1e-4)
