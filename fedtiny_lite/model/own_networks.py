"""A network in a file of one's own, and what is asked of it, so that it is trained, pruned and counted rightly."""

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from fedtiny_lite.model.networks import allocated, prunable_blocks

WITH_PARAMETERS = (nn.Conv2d, nn.Linear, nn.BatchNorm2d)
"""The layers whose initial weights the kit draws, and whose parameters and statistics clients exchange."""


def check_network(network: nn.Module, classes: int, in_shape: tuple[int, int, int]) -> None:
    """Raises ValueError, saying what to change, for a network that the kit would train, prune or count wrongly."""
    problem = next(_problems(network, classes, in_shape), None)
    if problem:
        raise ValueError(f"the network {type(network).__name__} does not fit: {problem}")


def _problems(network: nn.Module, classes: int, in_shape: tuple[int, int, int]) -> Iterator[str]:
    yield from _of_parameters(network)
    if not any(isinstance(module, nn.Linear) for module in network.modules()):
        yield "it has no nn.Linear; the last of its layers must be one"
    yield from _of_blocks(network)
    yield from _of_passes(network, classes, in_shape)


def _of_parameters(network: nn.Module) -> Iterator[str]:
    for name, module in network.named_modules():
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if own and not isinstance(module, WITH_PARAMETERS):
            kind = type(module).__name__
            yield f"{name or 'it'} ({kind}) has parameters or buffers; only Conv2d, Linear and BatchNorm2d may"
        if isinstance(module, nn.BatchNorm2d) and module.momentum is None:
            yield f"{name} has momentum=None, and averages over batches that nobody counts; give it a number"
    named = dict(network.named_parameters(remove_duplicate=False))
    if len({*named.values()}) < len(named):
        yield "two of its layers share a parameter; give each its own"
    for name, parameter in named.items():
        if not parameter.requires_grad:
            yield f"{name} has requires_grad=False, and every parameter is trained; leave it as torch makes it"


def _of_blocks(network: nn.Module) -> Iterator[str]:
    names = [name for block in prunable_blocks(network, prune_linear=True) for name in block]
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


def _of_passes(network: nn.Module, classes: int, in_shape: tuple[int, int, int]) -> Iterator[str]:
    """What a batch of two images shows, and one of none, on a copy whose weights are 0."""
    twin = allocated(copy.deepcopy(network), "cpu")
    outputs = _noted(twin)
    with torch.random.fork_rng(devices=[]):
        before = torch.get_rng_state()
        try:
            logits = twin.train()(torch.zeros(2, *in_shape))
        except Exception as error:  # whatever a reader's network does wrong
            yield f"its forward pass fails on images {list(in_shape)}: {type(error).__name__}: {error}"
            return
        if not torch.equal(before, torch.get_rng_state()):
            yield "its forward pass draws random numbers, as dropout does, and no seed of a run fixes them"
    if not isinstance(logits, Tensor) or logits.shape != (2, classes):
        found = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        yield f"two images give {found}; they must give logits, a tensor [2, {classes}]"
    for name, found in outputs.items():
        if len(found) != 1:
            yield f"a batch passes {name} {len(found)} times; it must pass each layer once"
        if isinstance(twin.get_submodule(name), nn.Linear) and found != [2]:
            yield f"{name} gives {found[0]} dimensions; an nn.Linear must give two, [images, features]"
    try:
        twin.eval()(torch.zeros(0, *in_shape))
    except RuntimeError:
        yield "a batch of no images, by which layers are counted, fails; write x.flatten(1) for x.view(len(x), -1)"


def _noted(network: nn.Module) -> dict[str, list[int]]:
    """Layer -> the dimensions of its output, each time that a batch passes it from now on."""
    outputs: dict[str, list[int]] = {}

    def note(name: str) -> Callable:
        return lambda module, inputs, output: outputs[name].append(output.dim())

    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            outputs[name] = []
            module.register_forward_hook(note(name))
    return outputs
