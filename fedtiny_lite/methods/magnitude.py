"""Uniform magnitude pruning on the server: each layer keeps its largest weights, at one density; then FedAvg."""

from fedtiny_lite.federated.protocol import Method, State
from fedtiny_lite.federated.server import Server, masked_start, pretrained
from fedtiny_lite.methods._averaging import AVERAGING
from fedtiny_lite.model.masks import magnitude_mask, uniform_counts


def start(server: Server) -> State:
    """The pretrained weights under the uniform magnitude mask."""
    weights = pretrained(server)
    return masked_start(weights, magnitude_mask(weights, uniform_counts(server.sizes, server.budget)))


METHOD = Method(start, AVERAGING)
