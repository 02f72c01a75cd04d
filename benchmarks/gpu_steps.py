"""Training steps of ResNet18 on a GPU, replayed from a CUDA graph as runs do, and in a loop.

    python -m benchmarks.gpu_steps

Width 16, density 0.04, batches of 64 noise images, crops and flips: median milliseconds of a step over TURNS epochs,
and how far apart the states of two epochs from the same start end, as a share of how far they moved.
"""

import time
from statistics import median

import torch
from torch import Tensor, nn

from fedtiny_lite.config import Config
from fedtiny_lite.data.datasets import Split
from fedtiny_lite.experiments.claim import ARMS, config_of
from fedtiny_lite.model.masks import Mask, random_mask, uniform_counts
from fedtiny_lite.model.networks import build_model, load_state, prunable_names, state_of
from fedtiny_lite.model.training import Normalisation, OnGradient, epoch_batches, train

IMAGES, TURNS = 5_000, 5


def main() -> None:
    """Print a line for each way to take a step."""
    generator = torch.Generator().manual_seed(0)
    model = build_model("resnet18", 16, 10, (3, 32, 32), generator)
    weights = {name: model.get_parameter(name) for name in prunable_names(model, prune_linear=False)}
    sizes = {name: weight.numel() for name, weight in weights.items()}
    mask = random_mask(weights, uniform_counts(sizes, int(0.04 * sum(sizes.values()))), generator).to("cuda")
    images = torch.randint(256, (IMAGES, 3, 32, 32), generator=generator, dtype=torch.uint8)
    split = Split(images, torch.randint(10, (IMAGES,), generator=generator)).to("cuda")
    model, config = model.to("cuda"), config_of(ARMS["random"], seed=0)
    start = state_of(model)
    ways: dict[str, OnGradient | None] = {"replayed": None, "in a loop": lambda parameters: None}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    ends: dict[str, list[dict[str, Tensor]]] = {way: [] for way in ways}
    for _ in range(TURNS + 1):  # the first turn makes libraries ready
        for way, on_gradient in ways.items():
            load_state(model, start)
            seconds[way].append(epoch(model, mask, split, config, on_gradient))
            ends[way].append(state_of(model))
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {TURNS} turns")
    loop = ends["in a loop"][-1]
    for way in ways:
        apart = distance(ends[way][0], loop) / distance(start, loop)
        print(f"{way}: {1e3 * median(seconds[way][1:]):.2f} ms a step; from the last loop's end {apart:.3f}")


def epoch(model: nn.Module, mask: Mask, split: Split, config: Config, on_gradient: OnGradient | None) -> float:
    """Seconds a step of one epoch, always over the same batches. Steps with `on_gradient` are never replayed."""
    generator = torch.Generator().manual_seed(1)
    schedule, pixels = epoch_batches(split, 1, config, generator), Normalisation((0.5,) * 3, (0.25,) * 3)
    torch.cuda.synchronize()
    began = time.perf_counter()
    train(model, split, pixels, mask, config, schedule, generator, on_gradient)
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / len(schedule)


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The Euclidean distance of two states."""
    return sum(float((one[name] - other[name]).square().sum()) for name in one) ** 0.5


if __name__ == "__main__":
    main()
