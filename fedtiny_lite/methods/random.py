"""A random mask of uniform density on the server: the floor that every criterion must beat; then FedAvg."""

from fedtiny_lite.federated.protocol import Method
from fedtiny_lite.federated.server import Server, pretrained
from fedtiny_lite.federated.state import State, masked_start
from fedtiny_lite.methods._averaging import AVERAGING
from fedtiny_lite.model.masks import random_mask, uniform_counts
from fedtiny_lite.seeding import torch_generator


def start(server: Server) -> State:
    """The pretrained weights under a random mask."""
    weights, task = pretrained(server), server.task
    generator = torch_generator(task.config.seed, "random_mask")
    return masked_start(weights, random_mask(weights, uniform_counts(task.sizes, task.budget), generator))


METHOD = Method("random", "reference", start, AVERAGING)
