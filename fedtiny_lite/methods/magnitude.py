"""Uniform magnitude pruning on the server: each layer keeps its largest weights, at one density; then FedAvg."""

from fedtiny_lite.federated.protocol import Method
from fedtiny_lite.federated.server import Server, pretrained
from fedtiny_lite.federated.state import State, masked_start
from fedtiny_lite.methods._averaging import AVERAGING
from fedtiny_lite.model.masks import magnitude_mask, uniform_counts


def start(server: Server) -> State:
    """The pretrained weights under the uniform magnitude mask."""
    weights, task = pretrained(server), server.task
    return masked_start(weights, magnitude_mask(weights, uniform_counts(task.sizes, task.budget)))


METHOD = Method("magnitude", "masks that stay", start, AVERAGING)
