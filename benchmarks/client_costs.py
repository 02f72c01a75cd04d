"""What one client pays in each method on the paper's model: FLOPs, bytes, model state, and measured peak memory.

    python -m benchmarks.client_costs [METHOD ...]

ResNet18 of width 64, density 0.01, images of 3x32x32 (noise: costs do not depend on what is in them), one client with
one batch of 64, one local epoch, one torch thread. Every method runs its exchanges before training, its first round,
an ordinary and an adjusting one (r = 0, 1 and 10 of R_stop = 100, as in the paper), in a process of its own. FLOPs,
model state and bytes are counted from masks and packed messages; the sums of pixels that a client says once, the same
in every method, are left out. The peak is measured: how much the process grows while the client answers, with dense
torch underneath. Writes records/client_costs.json; needs Linux.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.memory import peak_growth
from fedtiny_lite.config import METHODS, Config, load_method, make_config
from fedtiny_lite.federated.encodings import GROWTH_PARTS
from fedtiny_lite.federated.ledger import begin
from fedtiny_lite.federated.messages import Message, unpack
from fedtiny_lite.model.costs import activation_bytes
from fedtiny_lite.records.bundles import COMMITTED
from fedtiny_lite.records.environment import environment
from fedtiny_lite.records.files import read_json, write_json
from fedtiny_lite.simulation.exchanges import carry_out
from fedtiny_lite.simulation.places import InProcess, answer
from fedtiny_lite.simulation.progress import Progress
from fedtiny_lite.simulation.setup import build_federation

BATCH, CLASSES, SHOTS = 64, 10, 5
IN_SHAPE = (3, 32, 32)
ROUNDS = {"first": 0, "ordinary": 1, "adjusting": 10}


def main(methods: list[str]) -> int:
    """Measure `methods`, by default all, and write them into the record; 1 if one of them failed."""
    path, failed = COMMITTED / "client_costs.json", []
    with tempfile.TemporaryDirectory() as folder:
        write_noise(Path(folder))
        found = read_json(path) if path.exists() and methods else {"methods": {}}
        for method in methods or METHODS:
            command = [sys.executable, "-m", "benchmarks.client_costs", "--one", method, folder]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                failed.append(f"{method}: {done.stderr.strip().splitlines()[-1]}")
                continue
            found["methods"][method] = json.loads(done.stdout.splitlines()[-1])
            print(f"{method}: {_summary(found['methods'][method])}", flush=True)
        found |= {"model": describe(config_of("fedavg", folder)), "environment": environment(), "samples": BATCH}
    write_json(path, found)
    print(*failed, path, sep="\n")
    return int(bool(failed))


def config_of(method: str, folder: str | Path) -> Config:
    """The paper's model and density; as few clients, images and rounds as show the costs."""
    sizes = dict(clients=1, samples=CLASSES * SHOTS + BATCH, server_shots=SHOTS, pretrain_epochs=1, local_epochs=1)
    return make_config("paper", method=method, dataset=f"folder:{folder}", torch_device="cpu", engine="dense", **sizes)


def write_noise(folder: Path) -> None:
    """An image folder: the public set and a batch, or a little more, to train on, one image a class to test on."""
    rng, counts = np.random.default_rng(0), {"train": SHOTS + BATCH // CLASSES + 1, "test": 1}
    for split, count in counts.items():
        for label in range(CLASSES):
            (folder / split / str(label)).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (*IN_SHAPE[1:], IN_SHAPE[0]), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / str(label) / f"{number}.png")


def describe(config: Config) -> dict:
    """The dense model that costs are compared with."""
    federation = build_federation(config)
    model = {"name": config.model, "width": config.width, "density": config.density, "batch": BATCH}
    return model | {
        "parameters": federation.task.parameters,
        "activation_bytes": activation_bytes(federation.server.model, federation.task.in_shape, BATCH),
    }


class Measuring(InProcess):
    """The one client answers here, and `cost` is what it paid for its last answer."""

    def ask(self, call, questions):
        """As `Place.ask`, for one client."""
        [(k, (message, name))] = questions.items()
        answered, peak = peak_growth(lambda: answer(call, k, message, self.memories.recall(name)))
        reply = answered.reply
        self.cost = {
            "flops": answered.flops,
            "state_bytes": answered.state_bytes,
            "peak_bytes": peak,
            "bytes_down": len(message),
            "bytes_up": len(reply),
            "down": tensor_bytes(unpack(message)),
            "up": tensor_bytes(unpack(reply)),
        }
        yield k, self.heard(answered)


def tensor_bytes(message: Message) -> dict[str, int]:
    """Bytes of each tensor of a message; the two of growth lists together."""
    sizes: dict[str, int] = {}
    for name, tensor in message.tensors.items():
        name = "growth list" if name in GROWTH_PARTS else name
        sizes[name] = sizes.get(name, 0) + tensor.nbytes
    return sizes


def measure(method_name: str, folder: str) -> dict:
    """Costs of a client in each exchange before training, an ordinary and an adjusting round; how figures name it."""
    torch.set_num_threads(1)
    config, method = config_of(method_name, folder), load_method(method_name)
    federation, place = build_federation(config), Measuring(config)
    state = method.start(federation.server)
    progress = Progress(state, begin(method, federation.server, state, federation.samples))
    found: dict = {"label": method.label, "family": method.family, "prelude": []}
    for index, exchange in enumerate(method.prelude(config)):
        progress, _ = carry_out(federation, method, index, progress, -1, place)
        found["prelude"].append({"exchange": exchange.name} | place.cost)
    for kind, r in ROUNDS.items():
        progress, _ = carry_out(federation, method, -1, progress, r, place)
        found[kind] = place.cost
    return found


def _summary(cost: dict) -> str:
    parts = [
        f"{kind} {cost[kind]['flops'] / 1e9:.2f} GFLOP, {cost[kind]['peak_bytes'] / 1e6:.0f} MB" for kind in ROUNDS
    ]
    return "; ".join(parts)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(*sys.argv[2:])))
        sys.exit()
    sys.exit(main(sys.argv[1:]))
