"""Does a round cost more, and does a run hold more, when there are more clients that are not asked?

    python -m benchmarks.scale
    python -m benchmarks.scale --flower

FedTiny with 100 clients a round, of 100, 1,000 and 10,000 clients that hold five images each, on noisy copies of
digits; then the start of ResNet18 of width 64 at density 0.01, up to the first questions of training, and what a
question and a reply of two networks weigh and take to fold. Each measurement has a process of its own. Seconds are of
the processor, not of the clock, so that other work on the machine counts little: the median over rounds after the
first. Peaks are by how much a process grows. Exits with 1 if a target is missed. With `--flower`: the rounds of 100
clients that share digits, in this process and in Flower's simulation engine, by the clock.
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
from fedtiny_lite.config import PROFILES, Config, load_method, make_config
from fedtiny_lite.data.datasets import Dataset, Split, load_dataset
from fedtiny_lite.federated.ledger import accept, address, begin
from fedtiny_lite.federated.messages import encode_state, pack
from fedtiny_lite.federated.participation import in_round
from fedtiny_lite.records.environment import cpu_model
from fedtiny_lite.records.files import ROOT
from fedtiny_lite.simulation import setup
from fedtiny_lite.simulation.rounds import run
from fedtiny_lite.simulation.setup import Federation, build_federation

CLIENTS, PER_ROUND, ROUNDS, EACH = (100, 1_000, 10_000), 100, 6, 5
SLOWER, LARGER = 1.2, 1.3
"""Targets: a round of 10,000 clients over one of 1,000; the peak of 10,000 over that of 100."""
LARGE = ("fedtiny", "lotteryfl")
"""Methods whose start is measured at ResNet18: with one mask for all clients, and with one for each."""
NETWORKS = (("cnn", 8, 0.02), ("resnet18", 64, 0.01))
"""Those whose messages are weighed and folded: name, width, density."""


def main() -> int:
    """Print a line for each number of clients; 1 with a line for each target that was missed, else 0."""
    print(f"{cpu_model()}, {os.cpu_count()} cores, torch {torch.__version__}, one thread", flush=True)
    found = {clients: in_own_process("rounds", clients) for clients in CLIENTS}
    for clients, one in found.items():
        print(
            f"{clients:>6} clients: {one['round']:.3f} s a round, start {one['start']:.1f} s, "
            f"peak {one['peak'] / 1e6:.0f} MB, {one['first']:,} bytes in round 0, {one['later']:,} at most later",
            flush=True,
        )
    ratios = {
        f"a round of 10,000 over 1,000, at most {SLOWER}": (found[10_000]["round"] / found[1_000]["round"], SLOWER),
        f"the peak of 10,000 over 100, at most {LARGER}": (found[10_000]["peak"] / found[100]["peak"], LARGER),
    }
    for method in LARGE:
        few, many = (in_own_process("start", clients, method) for clients in (100, 10_000))
        what = f"the peak of {method}'s start at ResNet18 w64, 10,000 over 100, at most {LARGER}"
        ratios[what] = many["peak"] / few["peak"], LARGER
        print(
            f"{method} at ResNet18 w64: a start of 100 clients grows by {few['peak'] / 1e6:.0f} MB, of 10,000 by "
            f"{many['peak'] / 1e6:.0f} MB; 10,000 masks, a bit a weight, would be {many['masks'] / 1e6:,.0f} MB",
            flush=True,
        )
    for network in NETWORKS:
        print(*network, in_own_process("fold", *network), flush=True)
    for what, (ratio, target) in ratios.items():
        print(f"{what}: {ratio:.2f}{' MISSED' if ratio > target else ''}")
    return int(any(ratio > target for ratio, target in ratios.values()))


def in_own_process(what: str, *given: object) -> dict:
    """What a function of MEASURES finds."""
    command = [sys.executable, "-m", "benchmarks.scale", what, *map(str, given)]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def config_of(clients: int, **settings: object) -> Config:
    """A run of so many clients, who share noisy digits."""
    setup.load_dataset = lambda *_: noisy_digits(20 * 10 + EACH * clients)
    return make_config(PROFILES["digits"] | small(clients) | settings)


def small(clients: int) -> dict:
    """Settings of such a run that differ from profile digits."""
    return dict(
        clients=clients, clients_per_round=PER_ROUND, partition="iid", samples=0, test_samples=10, pretrain_epochs=1,
        min_samples=2, selection_clients=PER_ROUND, rounds=ROUNDS, adjust_until=ROUNDS,
    )  # fmt: skip


def rounds(clients: str) -> dict:
    """Processor seconds of the start and of a round, the peak in bytes, and the bytes that rounds write."""
    config, times, written = config_of(int(clients)), [time.process_time()], [0]
    counts, write = [], Path.write_bytes

    def counted(path: Path, data: bytes) -> int:
        written[0] += len(data)
        return write(path, data)

    def note(entry: dict, state: object) -> None:
        times.append(time.process_time())
        counts.append(written[0])

    Path.write_bytes = counted
    with tempfile.TemporaryDirectory() as out:
        _, peak = peak_growth(lambda: run(config, out, note))
    seconds, by_round = np.diff(times), np.diff(counts)
    later = int(by_round[1:].max())
    return {"start": seconds[0], "round": median(seconds[2:]), "peak": peak, "first": int(by_round[0]), "later": later}


def start(clients: str, method: str) -> dict:
    """The peak in bytes of a start, up to the first questions of training; the bytes of a mask for each client."""
    config = config_of(int(clients), method=method, model="resnet18", width=64, density=0.01, server_shots=2)

    def begun() -> Federation:
        federation, chosen = build_federation(config), load_method(method)
        state = chosen.start(federation.server)
        ledger = begin(chosen, federation.server, state, federation.samples)
        question = chosen.training.ask(federation.server, state, 0)
        address(chosen, federation.server, state, ledger, question, in_round(config, 0))
        return federation

    federation, peak = peak_growth(begun)
    return {"peak": peak, "masks": config.clients * sum(federation.task.sizes.values()) / 8}


def fold(model: str, width: str, density: str, replies: int = 60) -> dict:
    """Bytes of a question and a reply of a round, and the server's processor seconds for each reply."""
    config = config_of(
        PER_ROUND, method="magnitude", model=model, width=int(width), density=float(density), server_shots=2
    )
    federation, method = build_federation(config), load_method("magnitude")
    server, state = federation.server, method.start(federation.server)
    ledger = begin(method, server, state, federation.samples)
    question = address(method, server, state, ledger, method.training.ask(server, state, 0), [0])[0]
    reply = pack({"weights": encode_state(state.weights, state.mask)}, samples=ledger.samples[0], version=1, holds=1)
    ledger, began = begin(method, server, state, {}), time.process_time()
    accepted = accept(method, method.training, server, state, 0, ledger, dict.fromkeys(range(replies), reply))
    method.training.fold(server, state, 0, accepted.replies)
    seconds = (time.process_time() - began) / replies
    dense = 4 * federation.task.parameters
    return {"down": len(question), "up": len(reply), "dense": dense, "seconds": seconds}


def flower() -> dict:
    """Seconds by the clock of a round in this process and on Flower's simulated nodes, which read digits themselves."""
    from fedtiny_lite.flower.simulated import simulated

    config = make_config(PROFILES["digits"] | small(PER_ROUND))
    records = {"here": run(config), "on Flower": simulated(config)}
    return {place: median(entry["seconds"] for entry in found["rounds"][1:]) for place, found in records.items()}


MEASURES = {"rounds": rounds, "start": start, "fold": fold}


def noisy_digits(images: int) -> Dataset:
    """Digits over and over, each with noise of its own, so that there are enough for all clients."""
    digits, rng = load_dataset("digits"), np.random.default_rng(0)
    index = rng.integers(len(digits.train), size=images)
    noise = torch.from_numpy(rng.integers(0, 32, (images, *digits.train.images.shape[1:]), dtype=np.uint8))
    train = Split((digits.train.images[index] // 2 + noise).to(torch.uint8), digits.train.labels[index])
    return Dataset("noisy digits", train, digits.test, digits.classes, "")


if __name__ == "__main__":
    if "--flower" in sys.argv:
        seconds = flower()
        print(seconds, f"ratio {seconds['on Flower'] / seconds['here']:.1f}")
    elif len(sys.argv) > 1:
        print(json.dumps(MEASURES[sys.argv[1]](*sys.argv[2:])))
    else:
        sys.exit(main())
