"""The basis of `engine=auto`: where the sparse engine is faster than the dense one, and what the rule chooses there.

    python -m benchmarks.engine_choice

One training step on batches of 32 CIFAR-sized noise images, uniform random masks, one thread; the dense engine as a run
has it, in contiguous float32. Steps take turns; times are medians of the thread's CPU seconds. Exits with 1 and a line
for each case where `auto` takes the sparse engine though it is slower, or the dense one though it is more than MARGIN
times as slow.
"""

import os
import sys

import torch

from benchmarks.steps import Case, counted, interleaved, prepare
from fedtiny_lite.records.environment import cpu_model
from fedtiny_lite.sparse.engine import SPARSE_SHARE

MODELS = (("cnn", 8), ("cnn", 32), ("resnet18", 8), ("resnet18", 16), ("resnet18", 32), ("vgg11", 8), ("vgg11", 32))
DENSITIES = (0.9, 0.5, 0.25, 0.1, 0.02)
BATCH, TURNS = 32, 5
MARGIN = 3.0
"""`auto` may leave a gain of up to this: its rule is for other processors too, so it keeps away from the break-even."""


def main() -> int:
    """Print a line a case; 1 with a line for each poor choice, else 0."""
    torch.set_num_threads(1)
    print(f"{cpu_model()}, {os.cpu_count()} cores, torch {torch.__version__}, one thread, {TURNS} turns")
    poor = [line for model, width in MODELS for line in compare(model, width)]
    print(*poor, sep="\n")
    return int(bool(poor))


def compare(model: str, width: int) -> list[str]:
    """Prints one model's cases and returns a line for each poor choice."""
    dense = Case(model, width, "dense contiguous", batch=BATCH)
    sparse = [Case(model, width, "sparse", "uniform", density, BATCH) for density in DENSITIES]
    seconds = interleaved({case: prepare(case).step for case in (dense, *sparse)}, TURNS)
    total, poor = counted(dense)["macs"], []
    for case in sparse:
        gain, share = seconds[dense] / seconds[case], counted(case)["macs"] / total
        line = f"{model} of width {width}, density {case.density:g}: {verdict(share, gain)}"
        print(line, flush=True)
        poor += [f"poor: {line}"] if is_poor(share, gain) else []
    return poor


def is_poor(share: float, gain: float) -> bool:
    """Whether `auto` loses time at `share` of the multiply-adds, where sparse is `gain` times as fast."""
    return gain < 1 if share <= SPARSE_SHARE else gain > MARGIN


def verdict(share: float, gain: float) -> str:
    """What was measured and what `auto` takes."""
    choice = "sparse" if share <= SPARSE_SHARE else "dense"
    return f"{share:.0%} of the multiply-adds, sparse {gain:.2f} times as fast, auto takes {choice}"


if __name__ == "__main__":
    sys.exit(main())
