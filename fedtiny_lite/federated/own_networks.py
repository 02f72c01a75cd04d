"""What is asked of a network in a file of one's own, so that it is trained, pruned and counted rightly.

Passes of random images under random weights say most of it: which layers they pass, whether two passes agree, whether
the gradients by which weights grow are those of autograd.
"""

import copy
import pickle
import random
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedtiny_lite.model.masks import Mask
from fedtiny_lite.model.networks import build_model, prunable_blocks
from fedtiny_lite.pruning.progressive import growth_lists

WITH_PARAMETERS = (nn.Conv2d, nn.Linear, nn.BatchNorm2d)
"""The layers whose initial weights the kit draws, and whose parameters and statistics clients exchange."""
KNOWN = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
"""The names of all parameters and buffers that such a layer has by itself."""
IMAGES = 4
"""Images that pass the network in a batch."""
InShape = tuple[int, int, int]


@lru_cache
def check_own(name: str, width: int, classes: int, in_shape: InShape) -> None:
    """As `check_network`, of the network that a name and its sizes give."""
    check_network(build_model(name, width, classes, in_shape, torch.Generator().manual_seed(0)), classes, in_shape)


def check_network(network: nn.Module, classes: int, in_shape: InShape) -> None:
    """Raises ValueError, saying what to change, for a network that the kit would train, prune or count wrongly.

    `network`: with its weights, on the CPU; it stays as it is.
    """
    problem = next(_problems(copy.deepcopy(network), classes, in_shape), None)
    if problem:
        raise ValueError(f"the network {type(network).__name__} does not fit: {problem}")


def _problems(network: nn.Module, classes: int, in_shape: InShape) -> Iterator[str]:
    yield from _of_parameters(network)
    yield from _of_blocks(network)
    images = torch.randn(IMAGES, *in_shape, generator=torch.Generator().manual_seed(1))
    yield from _of_passes(network, images, classes)
    yield from _of_gradients(network, images, classes)


# --- what it is made of -----------------------------------------------------------------------------------


def _of_parameters(network: nn.Module) -> Iterator[str]:
    for name, module in network.named_modules():
        own = module._parameters.keys() | module._buffers.keys()
        if own and not (type(module) in WITH_PARAMETERS and own <= KNOWN):
            kind = f"{name or 'it'} ({type(module).__name__})"
            yield f"{kind} has parameters or buffers; only torch's own Conv2d, Linear and BatchNorm2d may"
        if isinstance(module, nn.BatchNorm2d) and module.momentum is None:
            yield f"{name} has momentum=None, and averages over batches that nobody counts; give it a number"
        if module._forward_hooks or module._forward_pre_hooks:
            yield f"{name or 'it'} has hooks, which may change what it computes; leave them away"
    named = dict(network.named_parameters(remove_duplicate=False))
    if len({*named.values()}) < len(named):
        yield "two of its layers share a parameter; give each its own"
    for name, parameter in named.items():
        if not parameter.requires_grad or parameter.dtype != torch.float32:
            yield f"{name} is not a float32 parameter that is trained; leave it as torch makes it"


def _of_blocks(network: nn.Module) -> Iterator[str]:
    names = [name for block in _blocks(network) for name in block]
    for name in names:
        layer, _, parameter = name.rpartition(".")
        if names.count(name) > 1:
            yield f"its `blocks` name {name} {names.count(name)} times; name it once"
        if parameter != "weight" or not _prunable(network.get_submodule(layer)):
            yield (
                f"its `blocks` name {name}; an nn.Linear's weight can be pruned, and that of an nn.Conv2d without "
                "groups and dilation whose padding is a number. Leave it out of `blocks`, and it stays dense"
            )


def _prunable(layer: nn.Module) -> bool:
    """Whether `progressive.layer_growth_list` knows the gradient of the layer's weights."""
    if not isinstance(layer, nn.Conv2d):
        return isinstance(layer, nn.Linear)
    plain = layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
    return plain and not isinstance(layer.padding, str)


# --- what passes it ---------------------------------------------------------------------------------------


class Pass(NamedTuple):
    """The logits of a batch, and for each layer with weights, in the order of the pass, the shape of its output."""

    logits: Tensor
    layers: list[tuple[str, torch.Size]]


def _of_passes(network: nn.Module, images: Tensor, classes: int) -> Iterator[str]:
    moved = {name: buffer.clone() for name, buffer in network.named_buffers() if name.endswith("running_mean")}
    before = _random_states()
    try:
        trained, again, found, repeated = (_pass(network, images, training) for training in (True, True, False, False))
        singly = torch.cat([_pass(network, image[None], False).logits for image in images])
    except Exception as error:  # whatever a reader's network does wrong
        yield f"its forward pass fails on images {list(images.shape[1:])}: {type(error).__name__}: {error}"
        return
    for one in (trained, found):
        yield from _of_outputs(network, one, classes)
    if [name for name, _ in trained.layers] != [name for name, _ in found.layers]:
        yield "it passes other layers in training than in evaluation, where they are counted"
    if _random_states() != before or not (_alike(trained, again) and _alike(found, repeated)):
        yield "two passes of the same images differ, or draw random numbers, as dropout does, which no seed fixes"
    if not torch.allclose(found.logits, singly, rtol=1e-2, atol=1e-3):
        yield "in evaluation an image's logits depend on the other images of the batch"
    still = [name for name, mean in moved.items() if torch.equal(network.get_buffer(name), mean)]
    if still:
        yield f"{still[0]} does not move in training; batch norm must observe its batches"
    try:
        _pass(network, images[:0], training=False)
    except Exception as error:  # whatever a reader's network does wrong
        yield (
            f"a batch of no images, by which layers are counted, fails: {type(error).__name__}: {error}; "
            "x.flatten(1) takes one, x.view(len(x), -1) does not"
        )


def _pass(network: nn.Module, images: Tensor, training: bool) -> Pass:
    layers: list[tuple[str, torch.Size]] = []

    def note(name: str) -> Callable:
        return lambda module, inputs, output: layers.append((name, output.shape))

    weighted = [(name, m) for name, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [module.register_forward_hook(note(name)) for name, module in weighted]
    try:
        with torch.no_grad():
            logits = network.train(training)(images.clone())
    finally:
        for hook in hooks:
            hook.remove()
    if not isinstance(logits, Tensor):
        raise TypeError(f"it gives a {type(logits).__name__}, and must give logits, a tensor [images, classes]")
    return Pass(logits, layers)


def _of_outputs(network: nn.Module, found: Pass, classes: int) -> Iterator[str]:
    if found.logits.shape != (IMAGES, classes):
        yield f"{IMAGES} images give {list(found.logits.shape)}; they must give logits [{IMAGES}, {classes}]"
    passed = [name for name, _ in found.layers]
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and passed.count(name) != 1:
            yield f"a batch passes {name} {passed.count(name)} times; it must pass each layer once"
    for name, shape in found.layers:
        linear = isinstance(network.get_submodule(name), nn.Linear)
        if shape[0] != IMAGES or (linear and len(shape) != 2):
            yield f"{name} gives {list(shape)} for {IMAGES} images; a layer must give one map, or one row, an image"
    last = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)][-1:]
    if passed[-1:] != last:
        yield "the layer that is passed last must be an nn.Linear, and the last nn.Linear that the network names"
    firsts = [min(passed.index(name.removesuffix(".weight")) for name in block) for block in _blocks(network)]
    if any(second < first for first, second in pairwise(firsts)):
        yield "its `blocks` are not in the order in which images pass them, from input to output"


def _blocks(network: nn.Module) -> tuple[tuple[str, ...], ...]:
    return prunable_blocks(network, prune_linear=True)


def _random_states() -> tuple[object, ...]:
    """Of torch, of numpy and of Python, as far as they are global."""
    return torch.get_rng_state().numpy().tobytes(), pickle.dumps(np.random.get_state()), random.getstate()


def _alike(one: Pass, other: Pass) -> bool:
    return torch.allclose(one.logits, other.logits, rtol=1e-5, atol=1e-6)


# --- how it is trained and grows --------------------------------------------------------------------------


def _of_gradients(network: nn.Module, images: Tensor, classes: int) -> Iterator[str]:
    labels = torch.arange(IMAGES) % classes
    F.cross_entropy(network.train()(images.clone()), labels).backward()
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    for name in dict(network.named_parameters()).keys() - gradients.keys():
        yield f"no gradient reaches {name}; the loss must depend on every parameter"
    for block in _blocks(network):
        mask = Mask({name: torch.zeros_like(gradients[name], dtype=torch.bool) for name in block})
        lists = growth_lists(network, mask, {name: mask[name].numel() for name in block}, images.clone(), labels)
        for name, (index, value) in lists.items():
            expected = gradients[name].flatten()[index]
            if not torch.allclose(value, expected, rtol=1e-2, atol=1e-3 * float(expected.abs().max())):
                yield f"the gradient of {name} does not follow from its layer's input and output alone"
