"""All sides of a simulated run, built from its settings alone and so the same in every process."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import nn

from fedtiny_lite.config import Config
from fedtiny_lite.data.datasets import Dataset, Split, distort, limit, load_dataset, public_split
from fedtiny_lite.data.partition import partition, summarise
from fedtiny_lite.federated.client import EMPTY_MEMORY, Client, build_client
from fedtiny_lite.federated.ledger import needed
from fedtiny_lite.federated.protocol import Lost
from fedtiny_lite.federated.server import Server, build_server
from fedtiny_lite.federated.survey import QUESTION, answer_survey, normalisation, read_survey, sums_of_pixels
from fedtiny_lite.federated.task import SMALLER, Task, batch_memory, make_task, new_model
from fedtiny_lite.model.training import Normalisation
from fedtiny_lite.records.environment import check_memory
from fedtiny_lite.seeding import numpy_generator, torch_generator


@dataclass(frozen=True, eq=False)
class Holdings:
    """Who holds which images: the server's public set, each client's own, those that the run is scored on.

    `summary`: how different the clients are, for the record. `sizes`: the number of images of each client. To take a
    client's split, even for its length, copies its images.
    """

    public: Split
    splits: Sequence[Split]
    test: Split
    classes: tuple[str, ...]
    summary: dict[str, Any]
    sizes: Sequence[int] = ()

    @property
    def in_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        return self.public.in_shape


class Splits(Sequence[Split]):
    """Each client's own images, copied out of those of all clients when they are asked for."""

    def __init__(self, private: Split, parts: Sequence[np.ndarray]) -> None:
        self.private, self.parts = private, parts

    def __len__(self) -> int:
        return len(self.parts)

    @overload
    def __getitem__(self, k: int) -> Split: ...

    @overload
    def __getitem__(self, k: slice) -> "Splits": ...

    def __getitem__(self, k: int | slice) -> "Split | Splits":
        return Splits(self.private, self.parts[k]) if isinstance(k, slice) else self.private.take(self.parts[k])


@lru_cache(maxsize=2)
def hand_out(config: Config, data: Path | None = None) -> Holdings:
    """The images of a run, of a data set in `data`. Raises ValueError if settings and data clash."""
    dataset, device = load_dataset(config.dataset, data), resolve_device(config.torch_device)
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
    splits = Splits(private.to(device), parts.parts)
    summary = {"fingerprint": dataset.fingerprint, "public_images": len(public), f"{config.score_on}_images": len(test)}
    summary |= {"redraws": parts.redraws} | ({"moved": parts.moved} if parts.moved else {})
    summary |= summarise(labels, parts.parts, len(dataset.classes))
    return Holdings(public, splits, test.to(device), dataset.classes, summary, [*map(len, parts.parts)])


def _scored_apart(config: Config, dataset: Dataset) -> tuple[Split, Split]:
    """The images to train on and those to score on: the test images, or a fifth of the training images."""
    if config.score_on == "test":
        return dataset.train, dataset.test
    order = numpy_generator(config.seed, "validation").permutation(len(dataset.train))
    held_out = len(order) // 5
    return dataset.train.take(np.sort(order[held_out:])), dataset.train.take(np.sort(order[:held_out]))


@dataclass(frozen=True, eq=False)
class Federation:
    """All sides of a run after the survey of pixels.

    `samples`: the number of images of each client, as it said; `survey`: what the survey cost, for the record.
    """

    server: Server
    holdings: Holdings
    samples: dict[int, int] = field(default_factory=dict)
    survey: dict[str, Any] = field(default_factory=dict)

    @property
    def task(self) -> Task:
        """What both sides know."""
        return self.server.task


@lru_cache(maxsize=2)
def build_federation(config: Config) -> Federation:
    """Everything but the clients, which are built one at a time (`client_of`). Raises ValueError for what clashes."""
    holdings = hand_out(config)
    found = federate(config, holdings, lambda: {k: answer_survey(split) for k, split in enumerate(holdings.splits)})
    check_memory(batch_memory(config, found.task.layers, max(holdings.sizes)), SMALLER)
    return found


def federate(config: Config, holdings: Holdings, survey: Callable[[], Mapping[int, bytes | Lost]]) -> Federation:
    """The server's side, from what the server holds and the clients' answers to `survey`, should it be needed."""
    if config.pixel_statistics == "server":
        public = holdings.public
        pixels = normalisation([sums_of_pixels(public.images)], len(public), holdings.in_shape)
        return Federation(build_server(_task_of(config, holdings, pixels), public), holdings)
    pixels, samples, cost = _surveyed(config, holdings, survey)
    return Federation(build_server(_task_of(config, holdings, pixels), holdings.public), holdings, samples, cost)


def with_pixels(federation: Federation, pixels: Normalisation) -> Federation:
    """The federation with the statistics of pixels that its run began with, whoever answered the survey since."""
    if pixels == federation.task.pixels:
        return federation
    task = replace(federation.task, pixels=pixels)
    return replace(federation, server=build_server(task, federation.holdings.public))


def _task_of(config: Config, holdings: Holdings, pixels: Normalisation) -> Task:
    return make_task(resolved(config), len(holdings.classes), holdings.in_shape, pixels)


def _surveyed(
    config: Config, holdings: Holdings, survey: Callable[[], Mapping[int, bytes | Lost]]
) -> tuple[Normalisation, dict[int, int], dict[str, Any]]:
    began, answers = time.perf_counter(), survey()
    replies = {k: found for k, found in sorted(answers.items()) if not isinstance(found, Lost)}
    lost = {k: found.why for k, found in sorted(answers.items()) if isinstance(found, Lost)}
    pixels, samples, rejections = read_survey(answers, holdings.in_shape, needed(len(answers), config.min_replies))
    cost = {
        "exchange": "pixel_statistics",
        "asked": sorted(answers),
        "bytes_up": sum(map(len, replies.values())),
        "bytes_down": len(QUESTION) * len(answers),
        **dict.fromkeys(("training_flops", "client_flops", "client_kept", "client_state_bytes"), 0),
        "rejected_clients": list(rejections),
        "trained_on": [],
        "seconds": time.perf_counter() - began,
    }
    reasons = {"rejections": rejections, "lost": lost}
    told = {name: {str(k): why for k, why in found.items()} for name, found in reasons.items() if found}
    return pixels, samples, cost | told


@lru_cache(maxsize=2)
def _task(config: Config, pixels: Normalisation) -> Task:
    return _task_of(config, hand_out(config), pixels)


@lru_cache(maxsize=2)
def _scratch(config: Config, pixels: Normalisation) -> nn.Module:
    """The model in which the clients of this process compute, one after the other."""
    return new_model(_task(config, pixels))


def client_of(config: Config, pixels: Normalisation, k: int, r: int, memory: bytes = EMPTY_MEMORY) -> Client:
    """Client k in round r, built from the task, its own images and what it remembers."""
    return build_client(_task(config, pixels), k, r, hand_out(config).splits[k], memory, _scratch(config, pixels))


def largest_first(holdings: Holdings, clients: Sequence[int]) -> list[int]:
    """These clients, those with most images first, so that workers finish together."""
    return sorted(clients, key=lambda k: -holdings.sizes[k])


def resolved(config: Config) -> Config:
    """The same settings with the device that they mean here. Raises RuntimeError for a GPU that is not there."""
    return replace(config, torch_device=resolve_device(config.torch_device))


def resolve_device(name: str) -> str:
    """ "auto" is a GPU when there is one. Raises RuntimeError for a GPU that is not there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("torch_device = 'cuda', but torch sees no GPU here; use torch_device=auto or cpu")
    return name
