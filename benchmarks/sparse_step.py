"""What the sparse engine saves: a whole training step of ResNet18, sparse against dense torch.

    python -m benchmarks.sparse_step

Width 64, batch 64, CIFAR-sized noise, uniform masks, one thread. A step is forward, backward and SGD. Dense torch runs
masked weights in float32, contiguous and channels_last, and under bfloat16 autocast. Engines and densities take turns;
times are the thread's CPU seconds, which other programs on the machine disturb least, and medians over the turns. Then
where the sparse step's time goes, and its buffers. Exits with 1 and a line for each target that was missed.
"""

import os
import sys
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import nn
from torch.nn import functional as F

from fedtiny_lite.masks import Mask, random_mask, uniform_counts
from fedtiny_lite.models import build_model, prunable_names
from fedtiny_lite.records import cpu_model
from fedtiny_lite.sparse import kernels, norms
from fedtiny_lite.sparse.network import SparseNetwork

SHAPE, BATCH, WIDTH, TURNS = (3, 32, 32), 64, 64, 3
TARGETS = {0.1: 2.5, 0.05: 4, 0.01: 8, 0.005: 10, 0.001: 12}  # against the best dense float32
BF16_TARGET = 4  # at density 0.01
PARTS = {
    kernels: ("conv_forward", "conv_backward", "weight_gradient", "split_phases", "merge_phases"),
    norms: ("forward", "apply", "backward"),
}


def main() -> int:
    """Print all timings; 1 with a line for each target that was missed, else 0."""
    torch.set_num_threads(1)
    print(f"{cpu_model()}, {os.cpu_count()} cores, torch {torch.__version__}, one thread", flush=True)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, *SHAPE, generator=generator)
    labels = torch.randint(10, (BATCH,), generator=generator)
    dense = {
        "contiguous": dense_step(images, labels, torch.contiguous_format),
        "channels_last": dense_step(images, labels, torch.channels_last),
    }
    networks = {density: sparse_network(density) for density in TARGETS}
    sparse = {density: sparse_step(network, images, labels) for density, network in networks.items()}
    seconds = interleaved(dense | sparse, TURNS)
    for name, value in seconds.items():
        print(f"{name if name in dense else f'sparse {name:g}':>14}: {1000 * value:7.0f} ms", flush=True)
    for density, step in sparse.items():
        print_parts(density, step, networks[density])
    misses = missed(min(seconds[name] for name in dense), "dense fp32", seconds, TARGETS)
    bf16 = dense_step(images, labels, torch.channels_last, bf16=True)
    pair = interleaved({"bf16": bf16, 0.01: sparse[0.01]}, 1)  # without bfloat16 instructions it takes minutes
    misses += missed(pair["bf16"], "dense bf16", pair, {0.01: BF16_TARGET})
    print(*misses, sep="\n")
    return 1 if misses else 0


def new_model() -> nn.Module:
    return build_model("resnet18", WIDTH, 10, SHAPE, torch.Generator().manual_seed(0))


def sgd(parameters) -> torch.optim.SGD:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=5e-4, foreach=True)


def dense_step(images, labels, layout, bf16: bool = False) -> Callable[[], None]:
    """One step of dense torch in a memory layout; the mask, which only adds to it, is left out."""
    model = new_model().to(memory_format=layout)
    images, optimiser = images.to(memory_format=layout), sgd(model.parameters())

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(model(images), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def sparse_network(density: float) -> SparseNetwork:
    model = new_model()
    weights = {name: model.get_parameter(name) for name in prunable_names(model, prune_linear=True)}
    sizes = {name: weight.numel() for name, weight in weights.items()}
    counts = uniform_counts(sizes, int(density * sum(sizes.values())))
    mask: Mask = random_mask(weights, counts, torch.Generator().manual_seed(1))
    network = SparseNetwork(model, BATCH, SHAPE)
    network.load(model, mask)
    return network


def sparse_step(network: SparseNetwork, images, labels) -> Callable[[], None]:
    optimiser = sgd(network.parameters())

    def step():
        network.backward(images, labels)
        optimiser.step()
        network.mask_linear()

    return step


def interleaved(steps: dict, turns: int) -> dict:
    """Median seconds of each step, which take turns, after one untimed turn."""
    times = {name: [] for name in steps}
    for turn in range(turns + 1):
        for name, step in steps.items():
            start = time.thread_time()
            step()
            if turn:
                times[name].append(time.thread_time() - start)
    return {name: median(values) for name, values in times.items()}


def print_parts(density: float, step: Callable[[], None], network: SparseNetwork) -> None:
    """Where one step's time goes, kernel by kernel."""
    spent = {}

    def timed(label, function):
        def call(*args):
            start = time.thread_time()
            function(*args)
            spent[label] = spent.get(label, 0) + time.thread_time() - start

        return call

    originals = {(module, name): getattr(module, name) for module, names in PARTS.items() for name in names}
    for (module, name), function in originals.items():
        setattr(module, name, timed(name if module is kernels else f"norm_{name}", function))
    start = time.thread_time()
    step()
    spent["rest"] = time.thread_time() - start - sum(spent.values())
    for (module, name), function in originals.items():
        setattr(module, name, function)
    parts = ", ".join(f"{label} {1000 * value:.0f}" for label, value in spent.items())
    print(f"sparse {density:g}, ms: {parts}; buffers {network.workspace.bytes / 2**20:.0f} MiB", flush=True)


def missed(dense: float, what: str, seconds: dict, targets: dict) -> list[str]:
    """A line for each density whose step is not `targets` times as fast as `dense` seconds; prints all ratios."""
    lines = []
    for density, target in targets.items():
        ratio = dense / seconds[density]
        line = f"density {density:g} against {what}: {ratio:.1f} times as fast, target {target:g}"
        print(line, flush=True)
        lines += [f"missed: {line}"] if ratio < target else []
    return lines


if __name__ == "__main__":
    sys.exit(main())
