"""A random mask of uniform density on the server: the floor that every criterion must beat; then FedAvg."""

from fedtiny_lite.federated.protocol import Method, State
from fedtiny_lite.federated.server import Server, masked_start, pretrained
from fedtiny_lite.methods._averaging import AVERAGING
from fedtiny_lite.model.masks import random_mask, uniform_counts
from fedtiny_lite.seeding import torch_generator


def start(server: Server) -> State:
    """The pretrained weights under a random mask."""
    weights, counts = pretrained(server), uniform_counts(server.sizes, server.budget)
    return masked_start(weights, random_mask(weights, counts, torch_generator(server.config.seed, "random_mask")))


METHOD = Method(start, AVERAGING)
