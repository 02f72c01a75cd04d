"""Training steps on a GPU as replays of a CUDA graph: the same kernels, without Python's time between them."""

from collections.abc import Callable

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor], None]
"""One step of SGD on float images [B, C, H, W] and labels [B]."""

WARM_UP = 3
"""Steps before the one that is recorded: libraries get ready, and the optimiser makes its momentum, in the first."""


def replayed(step: Step, images: Tensor, labels: Tensor) -> Step:
    """`step`, recorded as a CUDA graph for batches of the shape of `images`; a batch of another shape is not replayed.

    What `step` changes must be tensors that stay where they are, as parameters, momentum and running statistics do, and
    it must not wait for the GPU. Nothing is computed before the first replay.
    """
    still_images, still_labels = images.clone(), labels.clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(still_images, still_labels)

    def replay(images: Tensor, labels: Tensor) -> None:
        if images.shape != still_images.shape:
            return step(images, labels)
        still_images.copy_(images)
        still_labels.copy_(labels)
        graph.replay()

    return replay
