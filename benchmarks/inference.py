"""What the tiny model's file is worth on a device's CPU: its size, and the latency of one image and of batches.

    python -m benchmarks.inference

ResNet18 of width 64 under uniform random masks, saved, loaded and given CIFAR-sized noise, from pixels to logits:
dense torch, ONNX runtime on the dense network, and the sparse engine, one thread each. They take turns; times are the
thread's CPU seconds, which other programs on the machine disturb least, medians over the turns. The sparse engine lays
sixteen images side by side, so one image takes it about as long as sixteen. Writes records/inference.json. Needs the
extra `onnx`.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from benchmarks.steps import CLASSES, FLOAT32, LAYOUTS, SHAPE, Case, interleaved, new_mask, new_model
from fedtiny_lite.data.datasets import Split, to_float
from fedtiny_lite.export.tiny_model import TinyModel, export_onnx, fold_bn, load_tiny, predictor, save_tiny
from fedtiny_lite.model.masks import apply_mask
from fedtiny_lite.model.networks import load_state, state_of
from fedtiny_lite.model.training import Normalisation
from fedtiny_lite.pruning.bn_selection import recalibrate_bn
from fedtiny_lite.records.environment import cpu_model, environment
from fedtiny_lite.records.files import ROOT, write_json

DENSITIES, BATCHES, TURNS = (0.1, 0.01, 0.001), (1, 16, 64), 11
PIXELS = Normalisation((0.5,) * 3, (0.25,) * 3)
RECORD = ROOT / "records" / "inference.json"


def main(record: Path = RECORD) -> int:
    """Measure, print and record sizes and latencies."""
    torch.set_num_threads(1)
    packages = f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}"
    print(f"{cpu_model()}, {os.cpu_count()} cores, {packages}, one thread", flush=True)
    with TemporaryDirectory() as name:
        models, sizes = {}, []
        for density in DENSITIES:
            models[density], row = written(density, Path(name))
            sizes.append(row)
            print("  ".join(f"{key} {value:,}" for key, value in row.items()), flush=True)
        rows = [row for batch in BATCHES for row in latencies(models, Path(name) / "model.onnx", batch)]
    found = {"environment": environment(), "threads": 1, "turns": TURNS, "model": "resnet18", "width": 64}
    found |= {"onnxruntime": onnxruntime.__version__, "rows": rows, "sizes": sizes}
    print(write_json(record, found))
    return 0


def written(density: float, folder: Path) -> tuple[TinyModel, dict]:
    """A model of that density as its file gives it back, and the bytes of its forms."""
    case = Case("resnet18", 64, "sparse", "uniform", density)
    network = new_model(case)
    mask = new_mask(case, network)
    apply_mask(dict(network.named_parameters()), mask)
    # Statistics as after training: with those of a new network, activations fade to numbers that slow a CPU down.
    load_state(network, state_of(network) | recalibrate_bn(network, Split(noise(64), torch.zeros(64).long()), PIXELS))
    classes = tuple(map(str, range(CLASSES)))
    tiny = TinyModel("resnet18", 64, classes, SHAPE, PIXELS, state_of(network), mask)
    path = save_tiny(folder / "model.tiny", tiny)
    return load_tiny(path), {
        "density": density,
        "file": path.stat().st_size,
        "counted": tiny.counted_bytes,
        "folded": save_tiny(folder / "model.folded.tiny", fold_bn(tiny)).stat().st_size,
        "onnx": export_onnx(tiny, folder / "model.onnx").stat().st_size,
        "dense": tiny.dense_bytes,
    }


def latencies(models: dict[float, TinyModel], onnx: Path, batch: int) -> list[dict]:
    """Seconds of one batch on each engine. The dense ones take as long at any density: they have none in the record."""
    images, dense = noise(batch), models[DENSITIES[0]]
    calls = {(None, layout): dense_torch(dense, images, LAYOUTS[layout]) for layout in FLOAT32}
    calls[None, "onnxruntime"] = dense_onnx(onnx, images)
    for density, tiny in models.items():
        calls[density, "sparse"] = sparse(tiny, images)
    seconds = interleaved(calls, TURNS)
    best = min(value for (density, _), value in seconds.items() if density is None)
    for (density, engine), value in seconds.items():
        label = engine if density is None else f"{engine} {density:g}"
        ratio = f"{best / value:5.2f} times as fast as the best dense"
        print(f"batch {batch:>2}, {label:>18}: {1000 * value:8.1f} ms, {ratio}", flush=True)
    return [
        {"density": density, "batch": batch, "engine": engine, "seconds": value}
        for (density, engine), value in seconds.items()
    ]


def noise(batch: int) -> Tensor:
    """Images, uint8 [batch, 3, 32, 32]."""
    return torch.randint(256, (batch, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def dense_torch(tiny: TinyModel, images: Tensor, layout: torch.memory_format) -> Callable[[], Tensor]:
    network = tiny.build().to(memory_format=layout)

    @torch.no_grad()
    def call() -> Tensor:
        return network(to_float(images, tiny.pixels.mean, tiny.pixels.std).to(memory_format=layout))

    return call


def dense_onnx(path: Path, images: Tensor) -> Callable[[], list]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # then its work is done by the calling thread
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"images": images.numpy().astype(np.float32) / 255})


def sparse(tiny: TinyModel, images: Tensor) -> Callable[[], Tensor]:
    predict = predictor(tiny, "sparse", batch_size=len(images))
    return lambda: predict(images)


if __name__ == "__main__":
    sys.exit(main())
