"""Clients' own accuracy: an exchange after training in which a client's labels stay with it."""

import torch
from torch import Tensor

from fedtiny_lite.federated.messages import pack, unpack


def weigh_classes(labels: Tensor, question: bytes) -> bytes:
    """The client's answer: the accuracies of the classes, float64 [classes], weighed by how often it has each class.

    An accuracy of NaN is unknown: the class is left out of the weights. The answer of a client that has no other class
    is NaN.
    """
    by_class = unpack(question).tensors["accuracy"].cpu()
    known = ~by_class.isnan()
    images = torch.bincount(labels.cpu(), minlength=len(by_class)) * known
    share = images.double() / images.sum()
    return pack({"accuracy": share @ by_class.where(known, 0)})
