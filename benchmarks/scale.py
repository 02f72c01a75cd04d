"""Does a round cost more, and does a run hold more, when there are more clients that are not asked?

    python -m benchmarks.scale

FedTiny with 100 clients a round, of 100, 1,000 and 10,000 clients that hold five images each, on noisy copies of
digits. Each number of clients has a process of its own. Seconds are of the processor, not of the clock, so that other
work on the machine counts little: the median over rounds after the first. Peaks are by how much a process grows.
Exits with 1 if a target is missed.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks.memory import peak_growth
from fedtiny_lite.config import make_config
from fedtiny_lite.data.datasets import Dataset, Split, load_dataset
from fedtiny_lite.records.environment import cpu_model
from fedtiny_lite.records.files import ROOT
from fedtiny_lite.simulation import setup
from fedtiny_lite.simulation.rounds import run

CLIENTS, PER_ROUND, ROUNDS, EACH = (100, 1_000, 10_000), 100, 6, 5
SLOWER, LARGER = 1.2, 1.3
"""Targets: a round of 10,000 clients over one of 1,000; the peak of 10,000 over that of 100."""


def main() -> int:
    """Print a line for each number of clients; 1 with a line for each target that was missed, else 0."""
    print(f"{cpu_model()}, {os.cpu_count()} cores, torch {torch.__version__}, one thread", flush=True)
    found = {clients: in_own_process(clients) for clients in CLIENTS}
    for clients, one in found.items():
        peak, start, written = one["peak"] / 1e6, one["start"], one["checkpoint"]
        print(
            f"{clients:>6} clients: {one['round']:.3f} s a round, start {start:.1f} s, peak {peak:.0f} MB, "
            f"checkpoint {written[0]:,} to {written[-1]:,} bytes"
        )
    ratios = {
        f"a round of 10,000 over 1,000, at most {SLOWER}": (found[10_000]["round"] / found[1_000]["round"], SLOWER),
        f"the peak of 10,000 over 100, at most {LARGER}": (found[10_000]["peak"] / found[100]["peak"], LARGER),
    }
    for what, (ratio, target) in ratios.items():
        print(f"{what}: {ratio:.2f}{' MISSED' if ratio > target else ''}")
    return int(any(ratio > target for ratio, target in ratios.values()))


def in_own_process(clients: int) -> dict:
    """What `measure` finds."""
    command = [sys.executable, "-m", "benchmarks.scale", str(clients)]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(clients: int) -> dict:
    """Processor seconds of the start and of a round, the peak in bytes, and the checkpoint's bytes by round."""
    setup.load_dataset = lambda *_: noisy_digits(20 * 10 + EACH * clients)
    config = make_config(
        clients=clients, clients_per_round=PER_ROUND, selection_clients=PER_ROUND, rounds=ROUNDS, adjust_until=ROUNDS,
        partition="iid", samples=0, test_samples=10, pretrain_epochs=1, min_samples=2,
    )  # fmt: skip
    times, written = [time.process_time()], []

    with tempfile.TemporaryDirectory() as out:

        def note(entry: dict, state: object) -> None:
            times.append(time.process_time())
            if entry["round"] >= 0:
                written.append((Path(out) / config.run_id / "checkpoint.ftl").stat().st_size)

        _, peak = peak_growth(lambda: run(config, out, note))
    rounds = np.diff(times)
    return {"start": rounds[0], "round": median(rounds[2:]), "peak": peak, "checkpoint": written}


def noisy_digits(images: int) -> Dataset:
    """Digits over and over, each with noise of its own, so that there are enough for all clients."""
    digits, rng = load_dataset("digits"), np.random.default_rng(0)
    index = rng.integers(len(digits.train), size=images)
    noise = torch.from_numpy(rng.integers(0, 32, (images, *digits.train.images.shape[1:]), dtype=np.uint8))
    train = Split((digits.train.images[index] // 2 + noise).to(torch.uint8), digits.train.labels[index])
    return Dataset("noisy digits", train, digits.test, digits.classes, "")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(int(sys.argv[1]))))
    else:
        sys.exit(main())
