"""What the sparse engine saves: a whole training step, sparse against dense torch, and where its time goes.

    python -m benchmarks.sparse_step [--quick]

ResNet18 of width 64 and 16 and VGG11 of width 64, batches of 64 CIFAR-sized noise images, random masks of uniform and
of ERK densities. A step is forward, backward and SGD, on one thread. Dense torch runs in float32, contiguous and
channels_last, and under bfloat16 autocast. All engines and densities of a model take turns; times are the thread's
CPU seconds, which other programs on the machine disturb least, and medians over the turns. Then more sparse steps tell
where their time goes, by kernel and, for ResNet18 of width 64, by layer, beside the layers of a dense step in the
better layout. There too: the growth step, building the patterns, and in processes of their own peak memory and two
clients at once. These last ones are wall seconds: leave them two cores with nothing else to do.

--quick: fewer turns and only what the targets are about. Without it, the record of this kind of machine is written,
records/sparse_step/<machine>.json. Exits with 1 and a line for each target that was missed; of a step also how long its
bytes alone would take at the bandwidth that was measured beside it. Needs Linux and 5 GB of memory. Modules: `steps` is
what is timed, `step_parts` where time goes, `step_processes` what needs processes of its own.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from llvmlite.binding import get_host_cpu_name

from benchmarks.step_parts import bandwidth, dense_layers, growth_seconds, pattern_seconds, sparse_parts, step_bytes
from benchmarks.step_processes import pair_seconds, peak_bytes
from benchmarks.steps import BATCH, FLOAT32, LAYOUTS, Case, counted, interleaved, prepare
from fedtiny_lite.records.bundles import COMMITTED
from fedtiny_lite.records.environment import cpu_model, environment
from fedtiny_lite.records.files import write_json
from fedtiny_lite.sparse.pixels import RUN

RESNET, MODELS = ("resnet18", 64), (("resnet18", 64), ("resnet18", 16), ("vgg11", 64))
# Times as fast as the best dense float32 at least, uniform masks. Dense torch gains more from wide registers.
STEP_TARGETS = {
    "avx512": {0.1: 3.5, 0.05: 6, 0.01: 13, 0.005: 16, 0.001: 22},
    "avx2": {0.1: 4.5, 0.05: 7.5, 0.01: 16, 0.005: 19, 0.001: 25},
}
DENSITIES = tuple(STEP_TARGETS["avx512"])
OTHER_TARGETS = {("resnet18", 16): {0.05: 4.5, 0.01: 6}, ("vgg11", 64): {0.01: 9}}
BF16_TARGET, MEMORY_TARGET, GROWTH_TARGET = 7, 0.45, 1.6  # all at density 0.01
PAIR_TARGETS = {0.1: 1.8, 0.01: 1.5}
PAIR_STEPS = {None: 2, 0.1: 6, 0.01: 15}  # some seconds of work
MEMORY_STEPS, PAIR_TURNS, PROCESSES = 2, 3, 3
BF16_FLAGS = {"avx512_bf16", "amx_bf16"}


def main(arguments: list[str]) -> int:
    """Print all timings; 1 with a line for each target that was missed, else 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sparse_step")
    parser.add_argument("--quick", action="store_true", help="fewer turns, only what the targets are about; no record")
    quick = parser.parse_args(arguments).quick
    torch.set_num_threads(1)
    for model in ("resnet18", "vgg11"):  # compiles the kernels, so that no timed step does
        prepare(Case(model, 8, "sparse", "uniform", 0.1, batch=16)).step()
    print(machine(), flush=True)
    record = measure(quick)
    if not quick:
        print(write_json(COMMITTED / "sparse_step" / f"{record['machine']}.json", record))
    return report(record["targets"])


def machine() -> str:
    """Processor, cores, torch, threads; and what to know of bfloat16."""
    text = f"{cpu_model()}, {os.cpu_count()} cores, torch {torch.__version__}, one thread"
    if has_bf16() is False:
        text += f"\nno instructions for bfloat16 ({' or '.join(sorted(BF16_FLAGS))}): dense bf16 is emulated and slow"
    return text


def registers() -> str:
    """The widest vector registers that the kernels use: a key of STEP_TARGETS."""
    return "avx512" if RUN == 8 else "avx2"


def machine_kind() -> str:
    """A name for this kind of processor: its maker's name for it, the compiler's, its registers, bf16 if it has that.

    The compiler's name tells generations apart, as the maker's may not. Example: amd_epyc_znver5_avx512_bf16.
    """
    maker = re.sub(r"\(\w+\)", "", cpu_model().lower())  # Intel writes "Xeon(R)"
    words = [*maker.split(), get_host_cpu_name(), registers(), *(["bf16"] if has_bf16() else [])]
    return "_".join(re.sub("[^a-z0-9]+", "", word) for word in words)


def has_bf16() -> bool | None:
    """Whether the processor multiplies bfloat16, by Linux's list of its features; None where there is no list."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.exists() else ""
    return bool(BF16_FLAGS & set(text.split())) if "flags" in text else None


def measure(quick: bool) -> dict:
    """The record, printed as it comes."""
    turns, masks = (2, ("uniform",)) if quick else (5, ("uniform", "erk"))
    uniform = {density: Case(*RESNET, "sparse", "uniform", density) for density in DENSITIES}
    dense = [Case(*RESNET, engine) for engine in FLOAT32]
    at_target = [uniform[0.01]] if quick else list(uniform.values())
    pairs = [uniform[density] for density in PAIR_TARGETS] + ([] if quick else dense[1:])
    record = {
        "environment": environment(),
        "machine": machine_kind(),
        "registers": registers(),
        "has_bf16": has_bf16(),
        "bandwidth": bandwidth(),
        "threads": torch.get_num_threads(),
        "batch": BATCH,
        "turns": turns,
        "steps": [row for model in MODELS for row in time_steps(cases(*model, masks), turns)],
        "patterns": rows("patterns of all layers", at_target, lambda case: pattern_seconds(case, turns)),
        "growth": rows("growth step on the slowest block", at_target, lambda case: growth_seconds(case, turns)),
        "memory": rows("peak of a process", dense + at_target, lambda case: peak_bytes(case, MEMORY_STEPS, PROCESSES)),
        "pairs": rows("two at once", pairs, lambda case: pair_seconds(case, PAIR_STEPS[case.density], PAIR_TURNS)),
    }
    return record | {"targets": targets(record)}


def cases(model: str, width: int, masks: Sequence[str]) -> list[Case]:
    """Every dense engine, and the sparse one at every density of each kind of mask."""
    dense = [Case(model, width, engine) for engine in LAYOUTS]
    return dense + [Case(model, width, "sparse", mask, density) for mask in masks for density in DENSITIES]


def rows(what: str, timed: Sequence[Case], measure_one: Callable[[Case], dict]) -> list[dict]:
    """What `measure_one` finds of each case, with the case's own entries."""
    found = []
    print(f"\n{what}, {describe(timed[0])}", flush=True)
    for case in timed:
        measured = measure_one(case)
        found.append(asdict(case) | measured)
        text = [f"{key} {value:,}" if value > 1e6 else f"{key} {value:.4g}" for key, value in measured.items()]
        print(f"{label(found[-1]):<32}{', '.join(text)}", flush=True)
    return found


# --- whole steps ----------------------------------------------------------------------------------------------


def time_steps(timed: Sequence[Case], turns: int) -> list[dict]:
    """Rows of `steps` in the record: seconds, sizes, parts of the sparse step; layers of RESNET."""
    clients = {case: prepare(case) for case in timed}
    seconds = interleaved({case: client.step for case, client in clients.items()}, turns)
    found = [asdict(case) | {"seconds": seconds[case]} | counted(case) for case in timed]
    best, in_detail = best_dense(found), (timed[0].model, timed[0].width) == RESNET
    for row, client in zip(found, clients.values(), strict=True):
        if client.network:
            row["parts"], layers = sparse_parts(client, turns)
            row["bytes"] = step_bytes(client.network, BATCH)
            row |= {"layers": layers} if in_detail else {}
        elif in_detail and row is best:
            row["layers"] = dense_layers(client, turns)
    print_steps(describe(timed[0]), found)
    print_layers([row for row in found if "layers" in row and row["mask"] != "erk"])
    return found


def best_dense(found: Sequence[dict]) -> dict:
    """The fastest dense float32 row of these."""
    return min((row for row in found if row["engine"] in FLOAT32), key=lambda row: row["seconds"])


def describe(case: Case) -> str:
    return f"{case.model} of width {case.width}, batch {case.batch}"


def label(row: dict) -> str:
    return f"sparse {row['mask']} {row['density']:g}" if row["density"] else row["engine"]


def print_steps(what: str, found: Sequence[dict]) -> None:
    """A line a step; the sparse ones with the shares of what bounds them."""
    dense = best_dense(found)["seconds"]
    print(f"\n{what:<32}{'ms a step':>10}{'as fast as dense':>18}{'MMACs a sample':>16}    time in", flush=True)
    for row in found:
        times = f"{dense / row['seconds']:.2f} x"
        numbers = f"{1000 * row['seconds']:>10.1f}{times:>18}{row['macs'] / 1e6:>16.2f}"
        shares = ", ".join(f"{name} {share:.0%}" for name, share in bounds(row.get("parts", {})).items())
        print(f"{label(row):<32}{numbers}    {shares}".rstrip(), flush=True)


def bounds(parts: dict[str, float]) -> dict[str, float]:
    """Shares of the step's seconds in convolutions, norms and the rest; empty without parts."""
    total, shares = sum(parts.values()), dict.fromkeys(("convolutions", "norms", "rest") if parts else (), 0.0)
    for name, seconds in parts.items():
        kind = {"conv": "convolutions", "weight": "convolutions", "norm": "norms"}.get(name.split("_")[0], "rest")
        shares[kind] += seconds / total
    return shares


def print_layers(found: Sequence[dict]) -> None:
    """Milliseconds of each convolution with its norm, forward + backward; a column for each of these rows."""
    if not found:
        return
    print("\n" + f"{'ms forward + backward':<24}" + "".join(f"{label(row):>22}" for row in found))
    for layers in zip(*(row["layers"] for row in found), strict=True):
        cells = [f"{1000 * layer['forward']:.1f} + {1000 * layer['backward']:.1f}" for layer in layers]
        print(f"{layers[0]['name']:<24}" + "".join(f"{cell:>22}" for cell in cells), flush=True)


# --- targets --------------------------------------------------------------------------------------------------


def targets(record: dict) -> list[dict]:
    """Every target beside what was measured: {what, measured, target, at_most, ok}; steps also with `bound`."""
    peaks = {label(row): row["peak_bytes"] for row in record["memory"]}
    pairs = {row["density"]: row["speedup"] for row in record["pairs"]}
    [growth] = [row["seconds"] / row["step_seconds"] for row in record["growth"] if row["density"] == 0.01]
    memory = peaks["sparse uniform 0.01"] / min(peaks[engine] for engine in FLOAT32)
    seconds = {label(row): row["seconds"] for row in uniform_steps(record, RESNET)}
    bf16 = seconds["dense bf16"] / seconds["sparse uniform 0.01"]
    wanted = {RESNET: STEP_TARGETS[record["registers"]]} | OTHER_TARGETS
    return [
        *(found for model, at_least in wanted.items() for found in step_targets(record, model, at_least)),
        judge("step at 0.01, times as fast as dense bf16", bf16, BF16_TARGET),
        judge("peak memory at 0.01, share of dense fp32", memory, MEMORY_TARGET, at_most=True),
        judge("growth step at 0.01, in training steps", growth, GROWTH_TARGET, at_most=True),
        *(judge(f"two clients at once at {d:g}, speed-up", pairs[d], t) for d, t in PAIR_TARGETS.items()),
    ]


def uniform_steps(record: dict, model: tuple[str, int]) -> list[dict]:
    """The model's rows of `steps`, dense and under uniform masks."""
    return [row for row in record["steps"] if (row["model"], row["width"]) == model and row["mask"] != "erk"]


def step_targets(record: dict, model: tuple[str, int], at_least: dict[float, float]) -> list[dict]:
    """A target for each density of `at_least`."""
    steps, found = uniform_steps(record, model), []
    dense = best_dense(steps)["seconds"]
    for row in steps:
        if row["density"] in at_least:
            what = f"{model[0]} {model[1]} at {row['density']:g}, times as fast as dense fp32"
            bound = memory_bound(row, record["bandwidth"])
            found.append(judge(what, dense / row["seconds"], at_least[row["density"]]) | {"bound": bound})
    return found


def memory_bound(row: dict, bandwidth: float) -> str:
    """How long a step's bytes alone take."""
    at_least, took = 1000 * row["bytes"] / bandwidth, 1000 * row["seconds"]
    return f"{row['bytes'] / 1e6:.0f} MB at {bandwidth / 1e9:.1f} GB/s take {at_least:.0f} of its {took:.0f} ms"


def judge(what: str, measured: float, target: float, at_most: bool = False) -> dict:
    ok = measured <= target if at_most else measured >= target
    return {"what": what, "measured": measured, "target": target, "at_most": at_most, "ok": ok}


def report(judged: Sequence[dict]) -> int:
    """Print all targets, then a line for each that was missed; 1 if there is one, else 0."""
    misses = []
    print()
    for row in judged:
        target = f"target {'<=' if row['at_most'] else '>='} {row['target']:g}"
        print(f"{row['what']:<50}{row['measured']:>8.2f}   {target:<16}{'ok' if row['ok'] else 'MISSED'}")
        bound = f"; {row['bound']}" if "bound" in row else ""
        misses += [] if row["ok"] else [f"MISS: {row['what']}: {row['measured']:.2f}, {target}{bound}"]
    print(*misses, sep="\n")
    return int(bool(misses))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
