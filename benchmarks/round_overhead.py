"""What federation costs in time: a federated round against the same optimiser steps in a bare torch loop.

    python -m benchmarks.round_overhead

A round is timed inside `simulation.rounds.run`, as its record times it: asking, packing, clients' masked training,
unpacking, averaging, and here a test set of ten images. The bare loop takes the same number of batches of the
same sizes from the same clients' images, augmented and normalised by the same functions (so that is in both),
through the same model and SGD (torch's default loop over parameters, where the kit asks for `foreach`), with no
mask, message or client. A round on the sparse engine goes against a bare loop on that engine, under the round's mask.
Everything runs on one torch thread. Rounds and bare loops alternate, and so do the rounds with one and with two
workers; ratios are medians over pairs, a round against the mean of the loops before and after it, so that a machine
that slows down favours neither.
Evaluation and the checkpoint are timed apart. Exits with 1 if a target is missed.
"""

import copy
import itertools
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from fedtiny_lite.config import Config, make_config
from fedtiny_lite.data.datasets import batches, default_data_dir, load_dataset
from fedtiny_lite.federated.state import State
from fedtiny_lite.model.masks import Mask
from fedtiny_lite.model.training import evaluate, training_batch
from fedtiny_lite.records.environment import cpu_model
from fedtiny_lite.simulation.rounds import run
from fedtiny_lite.simulation.setup import Federation, build_federation
from fedtiny_lite.sparse.network import SparseNetwork

DIGITS_OVERHEAD, RESNET_OVERHEAD, SPARSE_OVERHEAD, TWO_WORKERS = 1.15, 1.05, 1.08, 1.6
SPARSE_WIDTHS, SPARSE_ROUNDS = (16, 64), 5
PAPER_EPOCHS = 13  # over 360 images: 78 steps a client, as one epoch over the 5,000 images of the paper's clients
# No time goes into a start; one run times rounds with and without an adjustment.
SHORT = dict(selection="fixed", pretrain_epochs=0, test_samples=10, torch_device="cpu", workers=1)
DIGITS = make_config("digits", **SHORT | dict(rounds=31, adjust_every=2, adjust_until=31))
# Clients of 360 images, the server's 200 apart: a round of some seconds on one thread.
FEWER = dict(width=16, clients=4, samples=1640, partition="iid")
TWO = dict(clients=2, samples=920)
RESNET = make_config("laptop", **SHORT | FEWER | dict(rounds=8, adjust_every=4, adjust_until=8))
EVALUATED = 2000  # test images, at most
NOISE_IMAGES = 420  # per class and split


def main() -> int:
    """Print all timings; 1 with a line for each target that was missed, else 0."""
    print(f"{cpu_model()}, {os.cpu_count()} cores, torch {torch.__version__}, one thread a process", flush=True)
    misses = overhead("digits, cnn of width 8", time_rounds([DIGITS]), DIGITS_OVERHEAD)
    print_evaluation(DIGITS)
    config = replace(RESNET, dataset=image_folder())
    timings = time_rounds([config, replace(config, workers=2)])
    misses += overhead(f"{config.dataset}, resnet18 of width {config.width}", timings, RESNET_OVERHEAD)
    misses += speed_up(timings)
    print_evaluation(config)
    for width, epochs in itertools.product(SPARSE_WIDTHS, (1, PAPER_EPOCHS)):
        setting = TWO | dict(engine="sparse", width=width, density=0.01, local_epochs=epochs, rounds=SPARSE_ROUNDS)
        sparse = replace(config, **setting)
        name = f"sparse engine at 0.01, resnet18 of width {width}, {6 * epochs} steps a client"
        misses += overhead(name, time_rounds([sparse]), SPARSE_OVERHEAD)
    print(*misses, sep="\n")
    return int(bool(misses))


def time_rounds(configs: Sequence[Config]) -> list[dict]:
    """Seconds of each round after the first, which warms up: one dict a round.

    `round0`, `round1`, ...: of each config; `bare`: of the same steps as in the first config, mean of the loops
    before and after its round; `checkpoint`: of the first config; `adjusted`: whether its round grew and pruned.
    """
    federation = build_federation(configs[0])
    step = bare_step(configs[0], federation)
    timings: list[dict] = [{} for _ in range(configs[0].rounds + 1)]

    def after_round(number: int, entry: dict, state: State, wall: float) -> None:
        row = timings[entry["round"] + 1]
        row[f"round{number}"] = entry.get("seconds", 0.0)
        if number == 0:
            row["checkpoint"], row["adjusted"] = wall - row["round0"], "adjusted" in entry
            row["after"] = seconds(lambda: bare_round(step(state.mask), federation, configs[0]))

    alternate(configs, after_round)
    bare = [{"bare": (before["after"] + row["after"]) / 2} for before, row in itertools.pairwise(timings)]
    return [row | around for row, around in zip(timings[1:], bare, strict=True)][1:]


def alternate(configs: Sequence[Config], after_round: Callable[[int, dict, State, float], None]) -> None:
    """Run all configs, one round of each in turn. after_round(config's number, entry, state, seconds of its turn)."""
    turns = [threading.Semaphore(int(number == 0)) for number in range(len(configs))]

    def one_run(number: int) -> None:
        mine, next_one = turns[number], turns[(number + 1) % len(configs)]
        mine.acquire()
        began = time.perf_counter()

        def hand_over(entry: dict, state) -> None:
            nonlocal began
            after_round(number, entry, state, time.perf_counter() - began)
            next_one.release()
            mine.acquire()
            began = time.perf_counter()

        try:
            with tempfile.TemporaryDirectory() as folder:
                run(configs[number], folder, hand_over)
        finally:  # whoever is left need not wait for this run again
            next_one.release(configs[number].rounds + 2)

    with ThreadPoolExecutor(len(configs)) as pool:
        list(pool.map(one_run, range(len(configs))))


def bare_step(config: Config, federation: Federation) -> Callable[[Mask], Callable[[Tensor, Tensor], None]]:
    """Mask -> an optimiser step on a batch (images, labels) as one would write it without federation, in the config's
    engine. The dense one takes no notice of the mask.
    """
    model = copy.deepcopy(federation.server.model)
    if config.engine != "sparse":
        return lambda mask: dense_step(model, config)
    network = SparseNetwork(model, federation.task.in_shape)
    return lambda mask: sparse_step(network, model, mask, config)


def dense_step(model: torch.nn.Module, config: Config) -> Callable[[Tensor, Tensor], None]:
    model.train()
    optimiser = _sgd(model.parameters(), config)

    def step(images: Tensor, labels: Tensor) -> None:
        loss = F.cross_entropy(model(images), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def sparse_step(
    network: SparseNetwork, model: torch.nn.Module, mask: Mask, config: Config
) -> Callable[[Tensor, Tensor], None]:
    network.load(model, mask)
    optimiser = _sgd(network.parameters(), config)

    def step(images: Tensor, labels: Tensor) -> None:
        network.backward(images, labels)
        optimiser.step()
        network.mask_linear()

    return step


def _sgd(parameters: Iterable[Tensor], config: Config) -> torch.optim.SGD:
    return torch.optim.SGD(parameters, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)


def bare_round(step: Callable[[Tensor, Tensor], None], federation: Federation, config: Config) -> int:
    """The optimiser steps of one round; returns their number."""
    generator, steps = torch.Generator().manual_seed(0), 0
    for split in [*federation.holdings.splits] * config.local_epochs:
        for index in batches(len(split), config.batch_size, generator):
            step(*training_batch(split, index, federation.task.pixels, config.augment, generator))
            steps += 1
    return steps


def seconds(call: Callable) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def overhead(name: str, timings: list[dict], target: float) -> list[str]:
    """Print a run's timings; a line if the median of round / bare is above `target`."""
    print(f"{name}; apart from the rounds: checkpoint {median(row['checkpoint'] for row in timings):.3f} s")
    adjusting = [row for row in timings if row["adjusted"]]
    print_ratio("round that adjusts (one more gradient a client)", adjusting, "no target")
    ratio = print_ratio("round", [row for row in timings if not row["adjusted"]], f"target <= {target}")
    return [f"MISS: {name}: a round takes {ratio:.3f} times the bare loop, target <= {target}"] * (ratio > target)


def print_ratio(what: str, rows: list[dict], aim: str) -> float:
    """Print medians of these rounds; returns the median of round / bare."""
    ratio = median(row["round0"] / row["bare"] for row in rows)
    times = [f"{median(row[key] for row in rows):.3f} s" for key in ("round0", "bare")]
    print(f"  {what}: {times[0]}, bare loop {times[1]}, ratio {ratio:.3f} ({len(rows)} pairs), {aim}", flush=True)
    return ratio


def print_evaluation(config: Config) -> None:
    """Print how long the server's evaluation takes, which a round of a real run adds."""
    federation, test = build_federation(config), load_dataset(config.dataset).test.take(slice(EVALUATED))
    model, pixels = federation.server.model, federation.task.pixels
    median_time = median(seconds(lambda: evaluate(model, test, pixels)) for _ in range(3))
    print(f"  evaluation of {len(test)} test images, not in a round here: {median_time:.3f} s")


def speed_up(timings: list[dict]) -> list[str]:
    """Print what two workers gain; a line if it is below the target."""
    gain = median(row["round0"] / row["round1"] for row in timings)
    print(f"  two workers: {gain:.2f} times as fast as one ({len(timings)} pairs), target >= {TWO_WORKERS}")
    return [f"MISS: two workers are {gain:.2f} times as fast as one, target >= {TWO_WORKERS}"] * (gain < TWO_WORKERS)


def image_folder() -> str:
    """The data set of the slim ResNet18: the CIFAR-10 copy if it is there, else noise of the same size."""
    if (default_data_dir() / "cifar10-jpeg").is_dir():
        return "folder:data/cifar10-jpeg"
    folder = default_data_dir() / "synthetic-noise"
    if not folder.is_dir():
        print(f"no data/cifar10-jpeg here: noise images of the same size are written to {folder}", flush=True)
        beside = Path(tempfile.mkdtemp(dir=folder.parent))
        rng = np.random.default_rng(0)
        for part, label in itertools.product(("train", "test"), range(10)):
            place = beside / part / f"class{label}"
            place.mkdir(parents=True)
            for number, pixels in enumerate(rng.integers(0, 256, (NOISE_IMAGES, 32, 32, 3), np.uint8)):
                Image.fromarray(pixels).save(place / f"{number}.png")
        beside.rename(folder)
    return f"folder:{folder}"


if __name__ == "__main__":
    sys.exit(main())
