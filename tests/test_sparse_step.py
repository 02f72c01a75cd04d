"""The benchmark's arithmetic, turns and verdicts, on fake clocks and steps; times themselves are never asserted."""

import itertools
from dataclasses import asdict, replace
from types import ModuleType, SimpleNamespace

import pytest
import torch

from benchmarks import engine_choice, step_parts, step_processes, steps
from benchmarks import sparse_step as bench
from benchmarks.steps import Case
from fedtiny_lite.records.files import read_json

TINY = Case("resnet18", 2, "sparse", "uniform", 0.1, batch=4)
DENSE = replace(TINY, engine="dense contiguous", mask=None, density=None)
# torch 2.13 writes past its memory in channels_last convolutions of fewer than 8 channels.
CHANNELS_LAST = replace(DENSE, engine="dense channels_last", width=8)

pytestmark = pytest.mark.usefixtures("one_thread")


# --- turns ----------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless it is told: clock.now += seconds."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(steps.time, "thread_time", lambda: clock.now)
    return clock


def fake_step(clock, seconds, calls, name):
    """Takes the next of `seconds` each time it is called."""
    left = iter(seconds)

    def step():
        calls.append(name)
        clock.now += next(left)

    return step


def test_steps_take_turns_and_the_first_one_does_not_count(clock):
    calls = []
    fakes = {name: fake_step(clock, (9, 3, 1, 2 * k), calls, name) for k, name in enumerate("abc")}
    assert steps.interleaved(fakes, turns=3) == {"a": 1, "b": 2, "c": 3}  # medians of (3, 1, 0), (3, 1, 2), (3, 1, 4)
    assert calls == list("abc" * 4)


def test_a_slow_step_runs_once(clock):
    calls = []
    fakes = {"slow": fake_step(clock, [60], calls, "slow"), "fast": fake_step(clock, (5, 1, 1), calls, "fast")}
    assert steps.interleaved(fakes, turns=2, slow=20) == {"slow": 60, "fast": 1}
    assert calls == ["slow", "fast", "fast", "fast"]


# --- what is timed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [TINY, DENSE, CHANNELS_LAST])
def test_a_step_trains(case):
    client = steps.prepare(case)
    before = client.model.conv1.weight.detach().clone()
    client.step()
    if client.network:
        client.network.store(client.model)
    assert not torch.equal(client.model.conv1.weight, before)


@pytest.mark.parametrize(
    ("cpu", "core", "bf16", "name"),
    [
        ("AMD EPYC", "znver3", False, "amd_epyc_znver3_avx512"),
        ("Intel(R) Xeon(R) Processor", "sapphirerapids", True, "intel_xeon_processor_sapphirerapids_avx512_bf16"),
    ],
)
def test_a_record_is_named_after_its_kind_of_processor(cpu, core, bf16, name, monkeypatch):
    told = {"cpu_model": cpu, "get_host_cpu_name": core, "registers": "avx512", "has_bf16": bf16}
    for what, value in told.items():
        monkeypatch.setattr(bench, what, lambda value=value: value)
    assert bench.machine_kind() == name


@pytest.mark.parametrize("mask", ["uniform", "erk"])
@pytest.mark.parametrize("density", [0.1, 0.01])
def test_masks_keep_the_budget(mask, density):
    case = replace(TINY, width=8, mask=mask, density=density)
    built = steps.new_mask(case, steps.new_model(case))
    assert built.total == pytest.approx(density * sum(keep.numel() for keep in built.values()), rel=0.03)
    assert "conv1.weight" not in built
    shares = {name: keep.float().mean().item() for name, keep in built.items()}
    narrow, wide = shares["layer1.0.conv1.weight"], shares["layer4.1.conv2.weight"]
    assert narrow > 3 * wide if mask == "erk" else narrow == pytest.approx(wide, rel=0.2)


def test_counts_by_hand():
    """VGG11 of width 1 at 32 x 32: channels 1, 2, 4, 4, 8, 8, 8, 8 on sides 32, 16, 8, 8, 4, 4, 2, 2."""
    channels, sides = (3, 1, 2, 4, 4, 8, 8, 8, 8), (32, 16, 8, 8, 4, 4, 2, 2)
    layers = [(a, b, side**2) for (a, b), side in zip(itertools.pairwise(channels), sides, strict=True)]
    assert steps.counted(replace(DENSE, model="vgg11", width=1)) == {
        "macs": sum(9 * a * b * pixels for a, b, pixels in layers) + 8 * 10,
        "activations": sum(b * pixels for _, b, pixels in layers),
    }


def test_counts_follow_the_mask():
    dense, sparse = steps.counted(DENSE), steps.counted(replace(TINY, density=0.5))
    assert sparse["activations"] == dense["activations"]
    first = 3 * 2 * 9 * 32 * 32  # never pruned
    assert sparse["macs"] - first == pytest.approx(0.5 * (dense["macs"] - first), rel=0.01)


# --- where the time goes --------------------------------------------------------------------------------------


def test_the_stopwatch_counts_calls_and_goes(clock):
    def work(seconds, more=0):
        clock.now += seconds + more
        return seconds

    class Layer:
        forward = staticmethod(work)

    owner, layer = ModuleType("owner"), Layer()
    owner.work = work
    with step_parts.stopwatch({(owner, "work"): "a", (layer, "forward"): "b"}) as spent:
        assert owner.work(2) == 2
        owner.work(3, more=1)
        layer.forward(5)
        Layer().forward(7)  # another layer
        with pytest.raises(TypeError):
            layer.forward("x")
    owner.work(8)
    layer.forward(8)
    assert spent == {"a": 6, "b": 5}
    assert owner.work is work and not vars(layer)


def test_every_kernel_has_a_part():
    parts = set(step_parts.kernel_parts().values())
    assert {"conv_forward", "conv_backward", "weight_gradient", "norm_join", "norm_moments", "max_pool"} <= parts
    assert len(parts) == len(step_parts.kernel_parts())
    assert not any(part.startswith(("_", "norm__")) for part in parts)


@pytest.mark.parametrize("model", ["resnet18", "vgg11"])
def test_parts_are_of_the_step_and_layers_have_its_multiply_adds(model, monkeypatch):
    monkeypatch.setattr(steps.time, "thread_time", itertools.count().__next__)
    for case in (replace(TINY, model=model), replace(DENSE, model=model)):
        client, counted = steps.prepare(case), steps.counted(case)
        client.step()
        if client.network:
            parts, layers = step_parts.sparse_parts(client, 2)
            assert parts.keys() >= {"conv_forward", "conv_backward", "norm_moments", "norm_gradient_terms", "rest"}
            assert ("max_pool" in parts) == (model == "vgg11")
            assert min(parts.values()) > 0
        else:
            layers = step_parts.dense_layers(client, 2)
            assert not any(module._forward_hooks for module in client.model.modules())
        assert [layer["name"] for layer in layers] == [
            n for n in step_parts.conv_norms(client.model) if "down" not in n
        ]
        assert all(layer["forward"] > 0 and layer["backward"] > 0 for layer in layers)
        linear = client.mask.kept["linear.weight"] if client.mask else client.model.linear.weight.numel()
        assert sum(layer["macs"] for layer in layers) == counted["macs"] - linear


def test_shares_of_what_bounds_a_step():
    parts = {"conv_forward": 2, "weight_gradient": 1, "norm_apply": 3, "split_phases": 1, "max_pool": 1, "rest": 2}
    assert bench.bounds(parts) == pytest.approx({"convolutions": 0.3, "norms": 0.3, "rest": 0.4})
    assert bench.bounds({}) == {}


def test_growth_and_patterns_are_timed_beside_a_training_step(clock):
    clock.now = 1.0
    assert step_parts.growth_seconds(replace(TINY, density=0.3), 1) == {"seconds": 0, "step_seconds": 0}
    assert step_parts.pattern_seconds(TINY, 1) == {"seconds": 0}


def test_bytes_of_a_step_by_hand():
    """VGG11 of width 1, 4 images in a block of 16: what each layer's input and output are read and written."""
    network = steps.prepare(replace(TINY, model="vgg11", width=1)).network
    channels, sides = (3, 1, 2, 4, 4, 8, 8, 8, 8), (32, 16, 8, 8, 4, 4, 2, 2)
    floats = [(a * side**2, b * side**2) for (a, b), side in zip(itertools.pairwise(channels), sides, strict=True)]
    convolutions = sum(3 * x + 3 * y for x, y in floats) - floats[0][0]
    pooled = sum(3 * y + 3 * y // 4 for number, (_, y) in enumerate(floats) if number in (0, 1, 3, 5, 7))
    assert step_parts.step_bytes(network, 4) == 4 * 16 * (convolutions + pooled)
    assert step_parts.step_bytes(network, 17) == 2 * step_parts.step_bytes(network, 16)


def test_bandwidth_counts_what_is_read_and_written(clock, monkeypatch):
    monkeypatch.setattr(step_parts, "cpu_seconds", lambda call: 2.0)
    assert step_parts.bandwidth(floats=100) == 2 * 400 / 2


# --- processes ------------------------------------------------------------------------------------------------


def test_a_pair_is_as_slow_as_its_slower_client():
    turn = step_processes.Turn
    first = [turn(1.0, 1.1, 0.9), turn(1.2, 1.2, 1.0), turn(5.0, 1.4, 1.0)]
    second = [turn(0.0, 1.3, 1.0), turn(0.0, 1.0, 0.8), turn(0.0, 1.2, 0.7)]
    # alone: median of 1, 1.2, 5; together: of 1.3, 1.2, 1.4; running: of 0.9, 0.8, 0.7
    found = step_processes.paired(first, second)
    assert found == pytest.approx({"alone_seconds": 1.2, "together_seconds": 1.3, "speedup": 2.4 / 1.3, "running": 0.8})


# --- verdicts -------------------------------------------------------------------------------------------------


def row(engine, density=None, mask="uniform", **values):
    return asdict(Case(*bench.RESNET, engine, mask if density else None, density)) | values


def others(dense):
    """Rows of the other models, which just meet their targets."""
    for (model, width), targets in bench.OTHER_TARGETS.items():
        named = {"model": model, "width": width}
        yield row("dense contiguous", seconds=dense) | named
        yield from (row("sparse", d, seconds=dense / times, bytes=1e9) | named for d, times in targets.items())


def record(dense=12.0, **changed):
    """A record in which every target is just met, but for what is changed."""
    targets = bench.STEP_TARGETS["avx512"]
    return {
        "registers": "avx512",
        "bandwidth": 2e9,
        "steps": [
            row("dense contiguous", seconds=dense + 1),
            row("dense channels_last", seconds=dense),
            row("dense bf16", seconds=7 * dense / 13),
            *(row("sparse", density, seconds=dense / times, bytes=1e9) for density, times in targets.items()),
            *(row("sparse", density, "erk", seconds=99 * dense) for density in targets),
            *others(dense),
        ],
        "memory": [
            row("dense contiguous", peak_bytes=200),
            row("dense channels_last", peak_bytes=100),
            row("sparse", 0.1, peak_bytes=90),
            row("sparse", 0.01, peak_bytes=45),
        ],
        "growth": [row("sparse", 0.1, seconds=9, step_seconds=1), row("sparse", 0.01, seconds=1.6, step_seconds=1)],
        "pairs": [row("sparse", 0.1, speedup=1.8), row("sparse", 0.01, speedup=1.5), row(bench.FLOAT32[0], speedup=1)],
    } | changed


def missed(found):
    return [judged["what"] for judged in bench.targets(found) if not judged["ok"]]


def test_targets_that_are_just_met():
    judged = bench.targets(record())
    assert [found["measured"] for found in judged] == pytest.approx(
        [3.5, 6, 13, 16, 22, 4.5, 6, 9, 7, 0.45, 1.6, 1.8, 1.5]
    )
    assert missed(record()) == []


def test_each_miss_is_a_line_and_the_exit_code(capsys):
    found = record(
        memory=[
            row("dense contiguous", peak_bytes=100),
            row("dense channels_last", peak_bytes=120),
            row("sparse", 0.01, peak_bytes=46),
        ],
        growth=[row("sparse", 0.01, seconds=2.1, step_seconds=1)],
        pairs=[row("sparse", 0.1, speedup=1.79), row("sparse", 0.01, speedup=1.5)],
    )
    found["steps"][3] = row("sparse", 0.1, seconds=5, bytes=3e9)
    assert bench.report(bench.targets(found)) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("MISS")] == [
        "MISS: resnet18 64 at 0.1, times as fast as dense fp32: 2.40, target >= 3.5; "
        "3000 MB at 2.0 GB/s take 1500 of its 5000 ms",
        "MISS: peak memory at 0.01, share of dense fp32: 0.46, target <= 0.45",
        "MISS: growth step at 0.01, in training steps: 2.10, target <= 1.6",
        "MISS: two clients at once at 0.1, speed-up: 1.79, target >= 1.8",
    ]
    assert bench.report(bench.targets(record())) == 0
    assert "MISS" not in capsys.readouterr().out


def test_the_better_dense_layout_is_the_rival():
    found = record()
    found["steps"][0]["seconds"] = 11.9  # contiguous
    assert missed(found) == [f"resnet18 64 at {d:g}, times as fast as dense fp32" for d in bench.DENSITIES]


def test_all_cases_of_a_model():
    found = bench.cases("vgg11", 64, ("uniform", "erk"))
    assert [case.engine for case in found[:3]] == list(steps.LAYOUTS)
    assert {(case.mask, case.density) for case in found[3:]} == set(
        itertools.product(("uniform", "erk"), bench.DENSITIES)
    )


@pytest.mark.parametrize("missing", [False, True])
def test_main_writes_the_record_and_exits_by_the_targets(missing, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench, "COMMITTED", tmp_path)
    monkeypatch.setattr(bench, "registers", lambda: "avx512")
    monkeypatch.setattr(bench, "machine_kind", lambda: "a_processor")
    monkeypatch.setattr(bench, "bandwidth", lambda: 1e9)
    monkeypatch.setattr(bench, "time_steps", lambda timed, turns: [
        row for row in record()["steps"] if (row["model"], row["width"]) == (timed[0].model, timed[0].width)
    ])  # fmt: skip
    monkeypatch.setattr(bench, "pattern_seconds", lambda case, turns: {"seconds": 1.0})
    monkeypatch.setattr(bench, "growth_seconds", lambda case, turns: {"seconds": 1.0, "step_seconds": 1.0})
    monkeypatch.setattr(bench, "pair_seconds", lambda case, steps, turns: {"speedup": 1.0 if missing else 2.0})
    monkeypatch.setattr(bench, "peak_bytes", lambda case, steps, processes: {"peak_bytes": 40 if case.density else 100})
    assert bench.main(["--quick"]) == missing
    assert not list(tmp_path.iterdir())
    assert bench.main([]) == missing
    found = read_json(tmp_path / "sparse_step" / "a_processor.json")
    assert found["targets"] == bench.targets(found)
    assert found["threads"] == 1 and found["batch"] == 64
    assert capsys.readouterr().out.count("MISS: two clients") == 4 * missing


# --- engine=auto ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "gain", "poor"), [(0.25, 0.99, True), (0.25, 1, False), (0.26, 3, False), (0.26, 3.1, True)]
)
def test_auto_is_poor_where_it_takes_the_slower_engine(share, gain, poor):
    assert engine_choice.is_poor(share, gain) == poor
    assert ("takes sparse" in engine_choice.verdict(share, gain)) == (share == 0.25)
