"""What notebook 07 says of records: each number is one that a person reads off the record below."""

import pytest

from fedtiny_lite.report import engine_findings, engines

RESNET = ("resnet18", 64)


def step(engine, seconds, macs, density=None, **more):
    mask = density and "uniform"
    case = {"model": "resnet18", "width": 64, "mask": mask, "density": density, "engine": engine}
    return case | {"seconds": seconds, "macs": macs} | more


def layers(first, second, third):
    times = {"conv1": first, "conv2": second, "conv3": third}
    return [{"name": name, "forward": seconds, "backward": 2 * seconds} for name, seconds in times.items()]


RECORD = {
    "has_bf16": True,
    "steps": [
        step("dense contiguous", 4.0, 1000, layers=layers(1, 2, 3)),
        step("dense bf16", 1.5, 1000),
        step("sparse", 1.0, 200, 0.1, parts={"conv_forward": 0.5, "conv_backward": 0.25, "rest": 0.25}),
        step("sparse", 0.5, 20, 0.01, parts={"weight_gradient": 0.22, "rest": 0.33}, layers=layers(2, 0.5, 0.3)),
    ],
    "memory": [
        {"engine": "dense contiguous", "density": None, "peak_bytes": 800},
        {"engine": "sparse", "density": 0.01, "peak_bytes": 200},
    ],
    "growth": [
        {"density": 0.1, "seconds": 3, "step_seconds": 2},
        {"density": 0.01, "seconds": 2, "step_seconds": 1},
    ],
    "pairs": [{"engine": "sparse", "density": 0.1, "speedup": 1.75}],
}


def test_recorded_ratios():
    assert engines.recorded(RECORD, *RESNET) == pytest.approx(
        {"speed-0.1": 4, "speed-0.01": 8, "pair-0.1": 1.75, "bf16": 3, "memory": 0.25, "growth": 2}
    )


def test_speed_is_told_beside_multiply_adds_and_the_fixed_part():
    """The line through (200, 1.0) and (20, 0.5) is at 0.444 where there are no multiply-adds."""
    assert engine_findings.of_speed(RECORD, *RESNET) == (
        "4.0 times as fast at 0.1 (by multiply-adds alone 5) and 8.0 times as fast at 0.01 (by multiply-adds alone "
        "50): what no mask saves is 44% and 89% of these steps, by the fitted line."
    )


@pytest.mark.parametrize(("has", "word"), [(True, "has instructions for"), (False, "emulates")])
def test_bfloat16_is_told_by_what_the_processor_has(has, word):
    found = engine_findings.of_bfloat16(RECORD | {"has_bf16": has}, *RESNET)
    assert word in found and "3.0 times as fast" in found


def test_parts_layers_and_memory():
    found = engine_findings.of_parts(RECORD, *RESNET, "uniform")
    assert found == (
        "Of the sparse step, convolutions take 75% at density 0.1 and 40% at density 0.01, their fixed part included. "
        "Timed one by one, the parts add up to 100% and 110% of these steps."
    )
    found = engine_findings.of_layers(RECORD, *RESNET, "uniform")
    assert "conv1 0.5 (never pruned), the others conv2 4.0 to conv3 10.0" in found
    assert engine_findings.of_memory(RECORD, *RESNET) == (
        "At 0.01 the peak is 0.25 of dense; a growth step is 1.5 to 2.0 training steps; two sparse clients at once are "
        "1.75 times as fast at 0.1."
    )


def test_predictions_are_against_the_best_dense_program():
    times = {("dense contiguous", None): (4, 9), ("onnxruntime", None): (2, 10), ("sparse", 0.01): (1, 6)}
    rows = [
        {"engine": engine, "density": density, "batch": batch, "seconds": seconds}
        for (engine, density), pair in times.items()
        for batch, seconds in zip((1, 64), pair, strict=True)
    ]
    assert engines.predictions({"rows": rows}) == {1: 2, 64: 1.5}
    assert "2.0 and 1.5 times as fast as the best dense program, for 1 and 64 images" in engine_findings.of_predictions(
        {"rows": rows}
    )


def test_whole_rounds_have_a_row_for_each_run():
    rounds = [{"seconds": 4}, {"seconds": 2}, {"seconds": 3}]
    table = engines.whole_rounds([{"config": {"method": "fedtiny", "engine": "sparse"}, "rounds": rounds}])
    assert table.loc["fedtiny", "sparse"].to_dict() == {"rounds": 3, "s a round": 3}
