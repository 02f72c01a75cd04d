"""What passes between the layers of a sparse network: activations, and their gradients."""

from dataclasses import dataclass

import numpy as np

from fedtiny_lite.sparse import norms
from fedtiny_lite.sparse.layout import Planes, Workspace


@dataclass(frozen=True, eq=False)
class Activation:
    """What a layer hands on: values in memory, and what they stand for.

    A value v of channel c stands for max((v - norm[0, c]) norm[1, c] + norm[2, c], floor); `norm` float32 [3, C].
    `relu`: whether the floor is 0, where gradients stop; else it is -infinity. `of`, `mean`: the result of the
    convolution whose norm came last, and the mean that the norm took off, float32 [C]. `terms`: of the sum that ends a
    residual block, what is added before the ReLU; else None.
    """

    planes: Planes
    norm: np.ndarray
    relu: bool
    of: np.ndarray
    mean: np.ndarray
    terms: tuple["Activation", "Activation"] | None = None

    @property
    def floor(self) -> np.float32:
        return np.float32(0 if self.relu else -np.inf)

    @property
    def reading(self) -> tuple[np.ndarray, np.ndarray, np.float32]:
        """Memory, norm and floor, as the kernels take them."""
        return self.planes.data, self.norm, self.floor


@dataclass(frozen=True, eq=False)
class Gradient:
    """The gradient of what an activation stands for; `sums` float64 [2, C]: of it, and of it times (of - mean)."""

    planes: Planes
    sums: np.ndarray


def stored(planes: Planes, terms: tuple[Activation, Activation] | None = None) -> Activation:
    """An activation that lies in memory as it is; with `terms`, the sum that `add_terms` writes there."""
    norm = np.zeros((3, planes.geometry.channels), np.float32)
    norm[1] = 1
    if terms:
        return Activation(planes, norm, True, terms[0].of, terms[0].mean, terms)
    return Activation(planes, norm, False, planes.data, norm[0])


def add_terms(z: Activation) -> None:
    """Writes z, the ReLU of the sum of its terms. The first term is taken without a ReLU of its own."""
    assert z.terms
    branch, shortcut = z.terms
    norms.join(z.planes.data, branch.planes.data, branch.norm, *shortcut.reading)


def restore(x: Activation, workspace: Workspace) -> None:
    """Makes a sum again that went back to the workspace, and before it the sum that is a term of it, if one is."""
    if x.terms and not workspace.holds(x.planes):
        for term in x.terms:
            restore(term, workspace)
        workspace.take_again(x.planes)
        add_terms(x)


def summed(g: Planes, z: Activation) -> Gradient:
    """The gradient g of what z stands for, set to 0 where z's ReLU stopped it, with its sums."""
    gradient = Gradient(g, np.empty((2, g.geometry.channels)))
    norms.output_gradient(g.data, gradient.sums, *z.reading, z.of, z.mean, z.relu)
    return gradient
