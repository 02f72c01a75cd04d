"""Both sides of a simulated run, built from its settings alone and so the same in every process."""

import importlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fedtiny_lite.config import Config
from fedtiny_lite.data.datasets import Dataset, Split, distort, limit, load_dataset, public_split
from fedtiny_lite.data.partition import partition, summarise
from fedtiny_lite.federated.client import Client
from fedtiny_lite.federated.protocol import Method
from fedtiny_lite.federated.server import Server
from fedtiny_lite.model.costs import LayerShape, layer_shapes
from fedtiny_lite.model.masks import weight_budget
from fedtiny_lite.model.networks import build_model, prunable_blocks, state_of
from fedtiny_lite.model.training import Normalisation
from fedtiny_lite.pruning.progressive import adjustment_units
from fedtiny_lite.seeding import numpy_generator, torch_generator
from fedtiny_lite.sparse.engine import check_engine


@dataclass(frozen=True)
class Federation:
    """Both sides of a simulated run: the server, each client's samples, and the test images."""

    server: Server
    splits: tuple[Split, ...]
    test: Split
    layers: tuple[LayerShape, ...]
    classes: int
    summary: dict


@lru_cache(maxsize=2)
def build_federation(config: Config) -> Federation:
    """Data, partition and untrained model of a run, the same in every process. Raises ValueError if they clash."""
    dataset, device = load_dataset(config.dataset), resolve_device(config.torch_device)
    train, test = _scored_apart(config, dataset)
    train = limit(train, config.samples, numpy_generator(config.seed, "train_samples"))
    test = limit(test, config.test_samples, numpy_generator(config.seed, "test_samples"))
    public, rest = public_split(train, config.server_shots, numpy_generator(config.seed, "public_set"))
    if config.server_set == "distorted":
        public = distort(public, torch_generator(config.seed, "distortion"))
    private = train.take(rest)
    labels = private.labels.numpy()
    rng = numpy_generator(config.seed, "partition")
    parts = partition(config.partition, labels, config.clients, config.alpha, config.min_samples, rng)
    splits = tuple(private.take(part).to(device) for part in parts.parts)
    in_shape = tuple(train.images.shape[1:])
    server, layers = _build_server(config, public.to(device), dataset, in_shape)
    summary = {"fingerprint": dataset.fingerprint, "public_images": len(public), f"{config.score_on}_images": len(test)}
    summary |= {"redraws": parts.redraws} | summarise(labels, parts.parts, len(dataset.classes))
    return Federation(server, splits, test.to(device), layers, len(dataset.classes), summary)


def _scored_apart(config: Config, dataset: Dataset) -> tuple[Split, Split]:
    """The images to train on and those to score on: the test images, or a fifth of the training images."""
    if config.score_on == "test":
        return dataset.train, dataset.test
    order = numpy_generator(config.seed, "validation").permutation(len(dataset.train))
    held_out = len(order) // 5
    return dataset.train.take(np.sort(order[held_out:])), dataset.train.take(np.sort(order[:held_out]))


def _build_server(config: Config, public: Split, dataset: Dataset, in_shape) -> tuple[Server, tuple[LayerShape, ...]]:
    generator, classes = torch_generator(config.seed, "initial_weights"), len(dataset.classes)
    model = build_model(config.model, config.width, classes, in_shape, generator)
    blocks = prunable_blocks(model, config.prunes_linear)
    adjustment_units(blocks, config.granularity, config.order, config.adjust_blocks)  # refuses unknown blocks
    sizes = {name: model.get_parameter(name).numel() for block in blocks for name in block}
    parameters = sum(p.numel() for p in model.parameters())
    dense = parameters - sum(sizes.values())
    budget = weight_budget(sizes, config.density, dense if config.density_of == "model" else 0)
    allowed, own_model = dense + budget, load_method(config.method).model
    if own_model:
        model = own_model(config, allowed, classes, in_shape, generator)
        blocks = prunable_blocks(model, prune_linear=True)
        budget = sum(model.get_parameter(name).numel() for block in blocks for name in block)
    check_engine(config, model, public.images.device)
    initial = state_of(model)
    server = Server(
        config=config,
        public=public,
        pixels=Normalisation(dataset.mean, dataset.std),
        model=model.to(public.images.device),
        initial=initial,
        blocks=blocks,
        state_shapes={name: tensor.shape for name, tensor in initial.items()},
        mask_shapes={name: initial[name].shape for block in blocks for name in block},
        budget=budget,
        allowed=allowed,
        parameters=parameters,
    )
    return server, layer_shapes(model, in_shape)


def load_method(name: str) -> Method:
    """The METHOD of the file of that name in `methods/`."""
    return importlib.import_module(f"fedtiny_lite.methods.{name}").METHOD


def client_of(federation: Federation, k: int, r: int, memory: dict[str, Tensor]) -> Client:
    """Client k in round r, with what it remembers."""
    server = federation.server
    return Client(
        id=k,
        round=r,
        config=server.config,
        split=federation.splits[k],
        pixels=server.pixels,
        model=server.model,
        layers=federation.layers,
        state_shapes=server.state_shapes,
        mask_shapes=server.mask_shapes,
        memory=memory,
    )


def resolve_device(name: str) -> str:
    """ "auto" is a GPU when there is one. Raises RuntimeError for a GPU that is not there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("torch_device = 'cuda', but torch sees no GPU here; use torch_device=auto or cpu")
    return name
