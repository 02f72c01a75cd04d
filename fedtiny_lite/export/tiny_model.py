"""The tiny model as a file: what a device needs to use it, in as many bytes as the cost model counts.

A file is one message (`messages.pack`): a header of a few hundred bytes, the kept weights and all that is never pruned
as float32, and each layer's mask in its smallest format. Reading one executes nothing.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from warnings import catch_warnings, filterwarnings

import torch
from torch import Tensor, nn

from fedtiny_lite.data.datasets import to_float
from fedtiny_lite.export.tiny_header import VERSION, check_declared, read_header
from fedtiny_lite.federated.checks import check_variances, inspect, numbers
from fedtiny_lite.federated.formats import decode_mask, encode_mask, mask_counts
from fedtiny_lite.federated.messages import decode_state, encode_state, pack, unpack
from fedtiny_lite.federated.server import Server
from fedtiny_lite.federated.state import State
from fedtiny_lite.model.architectures import SmallNet
from fedtiny_lite.model.costs import layer_shapes, model_bytes
from fedtiny_lite.model.masks import Mask, apply_mask
from fedtiny_lite.model.networks import (
    empty_model,
    live_state,
    load_state,
    materialise,
    prunable_names,
)
from fedtiny_lite.model.training import Normalisation, Predict
from fedtiny_lite.records.files import read_bytes, write_bytes
from fedtiny_lite.settings import check_choice
from fedtiny_lite.sparse.network import SparseNetwork


@dataclass(frozen=True, eq=False)
class TinyModel:
    """A trained model under its mask, and what it takes to give it images.

    `model`, `width`, `in_shape` (channels, height, width): as `networks.empty_model` takes them. `classes`: their
    names, in the order of the logits. `state`: as `networks.state_of` gives it, zero outside `mask`. `folded`: batch
    norm lies in the weights; of each there is a bias left (`fold_bn`).
    """

    model: str
    width: int
    classes: tuple[str, ...]
    in_shape: tuple[int, int, int]
    pixels: Normalisation
    state: dict[str, Tensor]
    mask: Mask
    folded: bool = False

    def empty(self) -> nn.Module:
        """The network without data, on torch's "meta" device."""
        return empty_model(self.model, self.width, len(self.classes), self.in_shape)

    def build(self) -> nn.Module:
        """The network with its weights, on the CPU, in evaluation mode."""
        network = materialise(self.empty(), torch.Generator())
        load_state(network, self.state)
        if self.folded:
            for _, _, norm in _norms(network):
                norm.eps = 0
        return network.eval()

    @property
    def counted_bytes(self) -> int:
        """What the cost model counts for it: layers in their smallest formats, the rest plain (`costs.model_bytes`)."""
        layers = layer_shapes(self.empty(), self.in_shape)
        others = self.state.keys() - {layer.name for layer in layers} - _constants(self).keys()
        return model_bytes(layers, self.mask.kept, sum(self.state[name].numel() for name in others))

    @property
    def dense_bytes(self) -> int:
        """What the whole state takes as float32, nothing pruned and no batch norm folded."""
        return sum(4 * tensor.numel() for tensor in self.state.values())


def final_model(server: Server, state: State, classes: tuple[str, ...]) -> TinyModel:
    """The server's model as a run leaves it; also of a method whose clients end with models of their own.

    `classes`: their names, in the order of the logits.
    """
    task, name, width = server.task, server.task.config.model, server.task.config.width
    if isinstance(server.model, SmallNet):
        name, width = "small", len(state.weights["conv1.weight"])
    return TinyModel(name, width, classes, task.in_shape, task.pixels, state.weights, state.mask)


# --- the file ---------------------------------------------------------------------------------------------


def save_tiny(path: str | Path, tiny: TinyModel) -> Path:
    """Write the model to `path`; equal models give equal bytes. Raises OSError if it cannot be written."""
    constants = _constants(tiny)
    stored = {name: tensor for name, tensor in tiny.state.items() if name not in constants}
    tensors = {
        "values": encode_state(stored, tiny.mask),
        "mask": encode_mask(tiny.mask, list(prunable_names(tiny.empty(), prune_linear=True))),
    }
    header = {name: getattr(tiny, name) for name in ("model", "width", "classes", "in_shape", "folded")}
    return write_bytes(path, pack(tensors, tiny_model=VERSION, **header, mean=tiny.pixels.mean, std=tiny.pixels.std))


def load_tiny(path: str | Path) -> TinyModel:
    """The model that `save_tiny` wrote, bit for bit.

    Raises FileNotFoundError, or ValueError for a file that is torn, altered, something else, or crafted: whatever it
    says of itself is checked, sizes against the bytes that are there before memory is taken for them.
    """
    try:
        return _read(read_bytes(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}; copy the file again, or run again what wrote it") from error


def _read(data: bytes) -> TinyModel:
    message = unpack(data)
    tiny = TinyModel(**read_header(message.meta), state={}, mask=Mask({}))
    shapes = {name: tensor.shape for name, tensor in live_state(tiny.empty()).items()}
    check_declared(sum(shape.numel() for shape in shapes.values()), len(data))
    prunable = {name: shapes[name] for name in prunable_names(tiny.empty(), prune_linear=True)}
    constants = _constants(tiny)
    stored = {name: shape for name, shape in shapes.items() if name not in constants}
    packed = message.tensors.get("mask", torch.empty(0, dtype=torch.uint8))
    kept = mask_counts(packed, prunable)
    values = sum(kept.get(name, shape.numel()) for name, shape in stored.items())
    inspect(message, {"mask": numbers(len(packed), dtype=torch.uint8), "values": numbers(values)})
    mask = Mask(decode_mask(message.tensors["mask"], prunable))
    known = constants | decode_state(message.tensors["values"], mask, stored)
    check_variances(shapes, (known[name] for name in shapes))
    return replace(tiny, state={name: known[name] for name in shapes}, mask=mask)


# --- batch norm, folded -----------------------------------------------------------------------------------


def fold_bn(tiny: TinyModel) -> TinyModel:
    """The same function with each batch norm folded into the convolution before it; given back as it is if it is folded
    or has no batch norm.

    Per output channel, weights become weight * gamma / sqrt(var + eps) and the shift beta - mean * gamma / sqrt(var +
    eps). What else the norm has is then 1 or 0, and not stored.
    """
    network, state = tiny.build(), {name: tensor.clone() for name, tensor in tiny.state.items()}
    norms = list(_norms(network))
    if tiny.folded or not norms:
        return tiny
    for conv, norm, module in norms:
        names = [f"{norm}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
        gamma, beta, mean, var = (state[name].double() for name in names)
        scale = gamma / (var + module.eps).sqrt()
        weight = state[f"{conv}.weight"]
        state[f"{conv}.weight"] = (weight.double() * scale.view(-1, 1, 1, 1)).to(weight.dtype)
        state[f"{norm}.bias"] = (beta - mean * scale).to(weight.dtype)
    apply_mask(state, tiny.mask)  # a zero times a negative scale is -0
    folded = replace(tiny, folded=True)
    return replace(folded, state=state | _constants(folded))


def _norms(network: nn.Module) -> Iterator[tuple[str, str, nn.BatchNorm2d]]:
    """Each norm: name of the convolution before it, own name, module. In the networks here the two are neighbours."""
    modules = [(name, module) for name, module in network.named_modules() if not list(module.children())]
    for (before, _), (name, module) in pairwise(modules):
        if isinstance(module, nn.BatchNorm2d):
            yield before, name, module


def _constants(tiny: TinyModel) -> dict[str, Tensor]:
    """What a folded norm has beside its bias, and the file leaves out; with eps = 0 it passes its input on."""
    parts = {"weight": torch.ones, "running_mean": torch.zeros, "running_var": torch.ones}
    return {
        f"{name}.{part}": fill(norm.num_features)
        for _, name, norm in (_norms(tiny.empty()) if tiny.folded else ())
        for part, fill in parts.items()
    }


# --- inference --------------------------------------------------------------------------------------------


def predictor(tiny: TinyModel, engine: str = "dense", batch_size: int = 64) -> Callable[[Tensor], Tensor]:
    """A function from uint8 images [N, C, H, W] to logits [N, classes], `batch_size` images at a time, on the CPU.

    `engine`: "dense" is torch; "sparse" multiplies kept weights alone, and has no small model: ValueError. The function
    raises ValueError for images of another shape or kind.
    """
    check_choice("engine", engine, ("dense", "sparse"))
    network = tiny.build()
    forward: Predict = network
    if engine == "sparse":
        twin = SparseNetwork(network, tiny.in_shape)
        twin.load(network, tiny.mask)
        forward = twin.predict

    @torch.no_grad()
    def predict(images: object) -> Tensor:
        if not isinstance(images, Tensor) or images.dtype != torch.uint8 or images.shape[1:] != tiny.in_shape:
            dtype, shape = getattr(images, "dtype", "no"), tuple(getattr(images, "shape", ()))
            given = f"{type(images).__name__} of {dtype} and shape {shape}"
            raise ValueError(f"images are a {given}; give a uint8 torch tensor of shape (N, {str(tiny.in_shape)[1:]}")
        parts = (to_float(part, tiny.pixels.mean, tiny.pixels.std) for part in images.split(batch_size))
        return torch.cat([forward(part) for part in parts])

    return predict


def export_onnx(tiny: TinyModel, path: str | Path) -> Path:
    """Write the network as ONNX: `images`, float32 [batch, C, H, W] of pixels in [0, 1], to `logits` [batch, classes].

    Normalisation is part of the graph, `batch` is any number, and pruned weights are there as zeros. Raises
    RuntimeError if the packages of the extra `onnx` are missing.
    """
    if not (find_spec("onnx") and find_spec("onnxscript")):
        raise RuntimeError("an ONNX file takes two more packages; get them with: pip install 'fedtiny-lite[onnx]'")
    pixels = nn.BatchNorm2d(tiny.in_shape[0], eps=0, affine=False)  # of fixed statistics: (x - mean) / std
    pixels.running_mean, pixels.running_var = torch.tensor(tiny.pixels.mean), torch.tensor(tiny.pixels.std).square()
    with catch_warnings():
        filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)  # torch's own
        program = torch.onnx.export(
            nn.Sequential(pixels, tiny.build()).eval(),
            (torch.zeros(2, *tiny.in_shape),),
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
    assert program is not None  # by dynamo=True
    graph = program.model_proto
    for node in graph.graph.node:
        del node.metadata_props[:]  # the exporter's stack traces, with paths of this machine
    return write_bytes(path, graph.SerializeToString())
