"""The layers of a sparse network, forward and backward: `Convolutions`, max-pool, residual block.

Every layer has two methods.
- `forward` takes the input activation and returns the output activation. With a `momentum`, a norm uses the statistics
  of the batch, and the running statistics move towards them by `momentum`; if `momentum` is None, it uses the running
  statistics. If not `keep`, there is no backward pass, and a residual block gives back what lies inside it. The other
  layers have nothing inside, and do not look.
- `backward` takes the gradient of the output and returns that of the input. It gives the former and what the layer kept
  back to the workspace. The input lies in memory again (`activations.restore`).
"""

from dataclasses import replace

import numpy as np
from torch import nn

from fedtiny_lite.model.architectures import BasicBlock
from fedtiny_lite.sparse import norms
from fedtiny_lite.sparse.activations import Activation, Gradient, add_terms, stored, summed
from fedtiny_lite.sparse.convolutions import ConvNorm, Convolutions
from fedtiny_lite.sparse.layout import Geometry, Workspace


class MaxPool:
    """The largest of each 2x2 pixels. The last row or column of an image of odd size is left out."""

    def __init__(self, before: Geometry, workspace: Workspace):
        self.before, self.workspace = before, workspace
        self.after = replace(before, height=before.height // 2, width=before.width // 2)

    def forward(self, x: Activation, momentum: float | None, keep: bool) -> Activation:
        self.x, self.out = x, self.workspace.take(self.after, x.planes.samples)
        norms.max_pool(self.out.data, *x.reading)
        return stored(self.out)

    def backward(self, g: Gradient) -> Gradient:
        gx = Gradient(self.workspace.take(self.before, self.out.samples), np.empty((2, self.before.channels)))
        norms.max_pool_backward(gx.planes.data, gx.sums, g.planes.data, self.out.data, *self.x.reading)
        self.workspace.give(g.planes)
        self.workspace.give(self.out)
        return gx


class Residual:
    """Two convolutions and a shortcut, which is the input itself or, where shapes change, its 1x1 convolution."""

    def __init__(self, model: nn.Module, name: str, before: Geometry, workspace: Workspace):
        unit = model.get_submodule(name)
        assert isinstance(unit, BasicBlock)
        self.workspace, reading = workspace, [ConvNorm(model, f"{name}.conv1", f"{name}.bn1")]
        if len(unit.downsample):
            reading.append(ConvNorm(model, f"{name}.downsample.0", f"{name}.downsample.1"))
        self.conv1 = Convolutions(reading, before, workspace)
        self.after = self.conv1.after
        self.conv2 = Convolutions([ConvNorm(model, f"{name}.conv2", f"{name}.bn2")], self.after, workspace)

    def forward(self, x: Activation, momentum: float | None, keep: bool) -> Activation:
        z1, *beside = self.conv1.forward_all(x, momentum)
        [z2], self.beside = self.conv2.forward_all(z1, momentum), beside
        self.z = self.workspace.take(self.after, x.planes.samples)
        z = stored(self.z, terms=(z2, beside[0] if beside else x))
        add_terms(z)
        if not keep:
            self.workspace.give(self.conv1.y)
            self.workspace.give(self.conv2.y)
        return z

    def backward(self, g: Gradient) -> Gradient | None:
        self.workspace.give(self.z)
        g1 = self.conv2.backward_all([g])
        assert g1
        if self.beside:
            gx = self.conv1.backward_all([g1, summed(g.planes, self.beside[0])])
            self.workspace.give(g.planes)
        else:
            gx = self.conv1.backward_all([g1], onto=g.planes)
        self.workspace.give(g1.planes)
        return gx


Layer = Convolutions | MaxPool | Residual


def convolutions_of(layer: Layer) -> list[Convolutions]:
    """The convolutions of a layer, in the order of the torch model's modules."""
    if isinstance(layer, Residual):
        return [layer.conv1, layer.conv2]
    return [layer] if isinstance(layer, Convolutions) else []
