"""Figures and tables of notebook 07: what is drawn is what lies in memory or in a record; its density panel."""

from dataclasses import replace

import ipywidgets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from fedtiny_lite.config import make_config
from fedtiny_lite.experiments import two_engines
from fedtiny_lite.experiments.counted import kept_by_mask
from fedtiny_lite.model.costs import forward_flops
from fedtiny_lite.plots import export, planes, sparse
from fedtiny_lite.records.files import write_json
from fedtiny_lite.report import engines
from fedtiny_lite.widgets.densities import macs_by_mask, predicted_speed
from fedtiny_lite.widgets.sparse import draw_speed, speed_panel
from tests.helpers import seeded

ENVIRONMENT = {"cpu": "a processor", "packages": {"torch": "2"}, "commit": None}
DENSITIES = (0.5, 0.1)
PARTS = {"conv_forward": 0.01, "conv_backward": 0.02, "max_pool": 0.005, "norm_forward": 0.03, "norm_again": 0.01}
LAYERS = [
    {"name": "conv1", "forward": 0.002, "backward": 0.004},
    {"name": "conv2", "forward": 0.001, "backward": 0.003},
]


def step(engine, seconds, mask=None, density=None, macs=1000, **more):
    case = {"model": "cnn", "width": 8, "mask": mask, "density": density, "engine": engine}
    return case | {"seconds": seconds, "macs": macs} | more


def sparse_step(mask, density, macs):
    """By the line seconds = 0.05 + macs / 1000."""
    seconds = 0.05 + macs / 1000
    return step("sparse", seconds, mask, density, macs, parts=PARTS | {"rest": seconds - 0.075}, layers=LAYERS)


RECORD = {
    "machine": "wide",
    "environment": ENVIRONMENT,
    "threads": 1,
    "batch": 64,
    "turns": 5,
    "steps": [
        step("dense contiguous", 3.0),
        step("dense channels_last", 2.0, layers=LAYERS),
        step("dense bf16", 8.0),
        *(sparse_step("uniform", d, 1000 * d) for d in DENSITIES),
        *(sparse_step("erk", d, 1500 * d) for d in DENSITIES),
    ],
    "memory": [
        {"model": "cnn", "width": 8, "density": None, "engine": "dense contiguous", "peak_bytes": 8_000_000},
        {"model": "cnn", "width": 8, "density": 0.1, "engine": "sparse", "peak_bytes": 3_000_000},
    ],
    "growth": [{"density": 0.1, "seconds": 0.6, "step_seconds": 0.4}],
    "pairs": [
        {"density": 0.1, "engine": "sparse", "speedup": 1.9},
        {"density": None, "engine": "dense channels_last", "speedup": 1.5},
    ],
}

pytestmark = pytest.mark.usefixtures("no_figure_left_open")


# Where numbers lie


def convolved(images: torch.Tensor, keep: torch.Tensor, weights: np.ndarray):
    """Output [N, 1, H, W], and the window [size] it was read from with its shape and the pattern."""
    weight = torch.zeros(keep.shape).masked_scatter(keep, torch.from_numpy(weights))
    one = two_engines.convolve(images, weight, keep)
    return one.output.data, one.window, one.shape, one.pattern


@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5))
@settings(deadline=None)  # the first call compiles
def test_pixels_are_where_the_engine_writes_them(channels, height, width):
    """Ones, all lanes in use, are what `is_pixel` calls pixels of the window."""
    nothing = torch.zeros(1, channels, 3, 3, dtype=torch.bool)
    _, memory, shape, _ = convolved(torch.ones(16, channels, height, width), nothing, np.empty(0, np.float32))
    written = memory.reshape(-1, planes.LANES).all(1)
    assert planes.is_pixel(memory.size, shape).tolist() == written.tolist()


def test_a_plane_is_what_a_kept_weight_reads():
    """The sum of planes times weights is what the kernel puts out, and what torch does."""
    images = torch.randn(3, 1, 4, 5, generator=seeded())
    keep, weights = torch.tensor([1, 0, 0, 0, 1, 0, 0, 1, 0]).bool(), np.array([2, -1, 0.5], np.float32)
    y, memory, shape, pattern = convolved(images, keep.view(1, 1, 3, 3), weights)
    read = [planes.plane(memory, shape, int(tap), lane=2) for tap in pattern.tap]
    total = y[0, 0, :, :, 2]
    np.testing.assert_allclose(
        sum(w * p for w, p in zip(weights, read, strict=True))[:, :5], total, rtol=1e-5, atol=1e-6
    )
    kernel = torch.zeros(9).masked_scatter(keep, torch.from_numpy(weights)).view(1, 1, 3, 3)
    right = torch.nn.functional.conv2d(images, kernel, padding=1)[2, 0]
    np.testing.assert_allclose(total, right, rtol=1e-5, atol=1e-6)
    *parts, whole, bar = planes.planes_figure(
        dict(zip(pattern.tap, zip(weights, read, strict=True), strict=True)), total, ""
    ).axes
    assert [ax.get_title() for ax in parts] == ["+2.00 × plane −7", "−1.00 × plane 0", "+0.50 × plane +6"]
    terms = [weight * plane for weight, plane in zip(weights, read, strict=True)]
    assert [ax.images[0].get_array().tolist() for ax in parts] == [term.tolist() for term in terms]
    limits = {ax.images[0].get_clim() for ax in (*parts, whole)}
    assert len(limits) == 1 and bar.get_ylabel() == "weight × pixel, and their sum"
    assert whole.images[0].get_array()[:, :5].tolist() == total.tolist()


def test_memory_figure_has_an_arrow_per_pixel_all_of_one_length():
    keep = torch.arange(18).view(1, 2, 3, 3) == 9
    _, memory, shape, pattern = convolved(torch.rand(3, 2, 2, 3), keep, np.ones(1, np.float32))
    assert pattern.tap[0] // 16 == 16 - 4 - 1  # a channel of four lines of four cells on, a line up and a cell left
    fig = planes.memory_figure(memory, 3, shape, int(pattern.tap[0]), "drawn")
    strip, *taps = fig.axes
    assert np.array_equal(strip.images[0].get_array(), memory.reshape(-1, 16).T)
    ends = [arrow._posA_posB for arrow in strip.patches if isinstance(arrow, FancyArrowPatch)]
    assert [first[0] for first, _ in ends] == [5, 6, 7, 9, 10, 11]
    assert {last[0] - first[0] for first, last in ends} == {11}
    assert [[text.get_text() for text in ax.texts] for ax in taps] == [
        ["-5", "-4", "-3", "-1", "0", "+1", "+3", "+4", "+5"]
    ] * 3


# From the record


def test_records_of_all_processors_are_read_and_figures_are_of_one(tmp_path):
    for name in ("b", "a"):
        write_json(tmp_path / "sparse_step" / f"{name}.json", {"turns": name})
    assert engines.step_records(tmp_path) == {name: {"turns": name, "machine": name} for name in ("a", "b")}
    assert engines.step_record()["machine"] == "amd_epyc_avx512_bf16"


def test_speed_is_against_the_faster_dense_layout():
    assert engines.best_dense(RECORD["steps"])["seconds"] == 2
    assert engines.times_as_fast(RECORD, "cnn", 8, "uniform") == pytest.approx({0.5: 2 / 0.55, 0.1: 2 / 0.15})
    left, right = sparse.speed_figure(RECORD).axes
    uniform, erk, bf16 = left.lines[:3]
    assert list(uniform.get_xdata()) == [0.5, 0.1] and list(right.lines[0].get_xdata()) == [0.5, 0.1]
    assert list(erk.get_ydata()) == pytest.approx([2 / 0.8, 2 / 0.2]) == list(right.lines[1].get_ydata())
    assert list(right.lines[1].get_xdata()) == pytest.approx([0.75, 0.15])
    assert list(bf16.get_ydata()) == [0.25, 0.25]


def test_speed_table_says_the_same():
    table = engines.speed_table(RECORD).loc["cnn width 8"]
    assert table.loc["dense channels_last", 1.0].tolist() == [2000, 1, 1]
    assert table.loc["uniform", 0.1].tolist() == [150, 13.3, 0.1]
    assert table.loc["ERK", 0.5].tolist() == [800, 2.5, 0.75]


def test_captions_name_machine_and_method():
    text = engines.measured(RECORD)
    assert text.startswith("measured on wide (a processor, torch 2, commit unknown); 1 thread, batch 64, ")
    assert text.endswith("CPU seconds, medians of 5 turns")
    text = engines.measured(RECORD, sparse.MEANS)
    assert text.endswith("CPU seconds, means of 5 steps, timed part by part")
    assert text in sparse.parts_figure(RECORD, "cnn", 8, "erk").texts[-1].get_text()


def test_parts_lose_nothing():
    groups = engines.grouped_parts(PARTS | {"rest": 0.5, "something new": 0.25})
    assert list(groups.values()) == pytest.approx([0.01, 0.02, 0.04, 0.005, 0.75])


def test_parts_figure_stacks_up_to_the_step():
    left, right = sparse.parts_figure(RECORD, "cnn", 8, "uniform").axes
    assert left.patches[0].get_height() == 2000
    for ax in (left, right):
        tops = [max(bar.get_y() + bar.get_height() for bar in bars) for bars in zip(*ax.containers[-5:], strict=True)]
        assert tops == pytest.approx([550, 150])
    assert [text.get_text() for text in right.texts] == ["550", "150"]


def test_layer_figure_has_a_line_per_step_in_both_directions():
    forward, backward = sparse.layer_figure(RECORD, "cnn", 8, "uniform").axes
    assert [list(line.get_ydata()) for line in forward.lines] == [[2, 1]] * 3
    assert [list(line.get_ydata()) for line in backward.lines] == [[4, 3]] * 3
    assert [text.get_text() for text in backward.get_xticklabels()] == ["conv1", "conv2"]


def test_memory_figure_draws_megabytes_and_ratios():
    memory, growth, pairs = sparse.memory_figure(RECORD, "cnn", 8).axes
    assert [bar.get_width() for bar in memory.patches] == [8, 3]
    assert [bar.get_height() for bar in growth.patches] == pytest.approx([1.5])
    assert [bar.get_height() for bar in pairs.patches] == [1.9, 1.5]
    names = [text.get_text() for text in pairs.get_xticklabels()]
    assert names == ["sparse\ndensity 0.1", "dense\nchannels_last\nunmasked"]


# The fitted line


@given(st.floats(0.001, 10), st.floats(1e-9, 1), st.lists(st.floats(1, 1e3), min_size=2, max_size=6, unique=True))
def test_a_line_is_found_again(fixed, rate, macs):
    if max(macs) < 1.1 * min(macs):
        macs = [*macs, 2 * max(macs)]
    found = engines.fitted([{"seconds": fixed + rate * m, "macs": m} for m in macs])
    for m in macs:
        assert found[0] + found[1] * m == pytest.approx(fixed + rate * m, rel=1e-6)


def test_fit_table_splits_the_step():
    assert engines.fit_table(RECORD).loc["cnn width 8"].to_dict() == {
        "ms no mask saves": 50,
        "of a step at 0.5": "9%",
        "of a step at 0.1": "33%",
        "sparse rate": 0,
        "dense rate": 0,
        "off the line": "0%",
    }


# The exported model


def test_export_figure_and_table():
    record = {
        "environment": ENVIRONMENT,
        "sizes": [
            {"density": d, "dense": 4e6, "counted": 4e6 * d, "file": 5e6 * d, "folded": 3e6 * d} for d in DENSITIES
        ],
        "rows": [
            *({"density": d, "batch": 1, "engine": "sparse", "seconds": d / 100} for d in DENSITIES),
            {"density": None, "batch": 1, "engine": "dense", "seconds": 0.02},
        ],
    }
    left, right = export.export_figure(record, "a model").axes
    assert [list(line.get_ydata()) for line in left.lines] == [[4, 4], [2, 0.4], [2.5, 0.5], [1.5, 0.3]]
    assert [list(line.get_ydata()) for line in right.lines] == [[5, 1], [20, 20]]
    table = engines.latency_table(record)
    assert list(table.columns) == ["density 0.5", "density 0.1", "unmasked"]
    assert table.loc["sparse", 1].dropna().tolist() == [5, 1] and table.loc["dense", 1].dropna().tolist() == [20]


# The panel

CONFIG = make_config("smoke", density=0.1)


def test_multiply_adds_are_those_of_costs(model, layers):
    found, kept = macs_by_mask(CONFIG, model, layers), kept_by_mask(CONFIG, model)
    assert list(found) == ["dense", "uniform", "erk"] and list(found["dense"]) == [64, 16, 1]
    for counts, layer_counts in zip(found.values(), kept.values(), strict=True):
        assert 2 * sum(counts.values()) == forward_flops(layers, layer_counts)


def test_predicted_speed_follows_the_line(model, layers):
    macs = macs_by_mask(CONFIG, model, layers)
    speeds = predicted_speed(RECORD, CONFIG, model, layers, [0.1])
    for mask, speed in speeds.items():
        assert speed[0.1] == pytest.approx(2 / (0.05 + sum(macs[mask].values()) / 1000))


def test_speed_panel_is_a_slider_or_a_plain_figure(model, layers):
    assert isinstance(speed_panel(RECORD, CONFIG, model, layers, interactive=False), Figure)
    slider = speed_panel(RECORD, CONFIG, model, layers, interactive=True).children[0]
    assert isinstance(slider, ipywidgets.FloatLogSlider) and slider.value == CONFIG.density
    slider.value = 0.2


def test_the_figure_marks_the_density_and_says_what_it_saves(model, layers):
    fig = draw_speed(RECORD, CONFIG, model, layers)
    left, right = fig.axes
    assert [len(line.get_ydata()) for line in left.lines] == [3, 3, 3]
    stars = [line for line in right.lines if line.get_marker() == "*"]
    assert [list(line.get_xdata()) for line in stars] == [[0.1], [0.1]]
    assert "uniform: 0." in fig.texts[-1].get_text() and "ERK: 0." in fig.texts[-1].get_text()


def test_a_density_that_leaves_nothing_says_why(model, layers):
    assert "density" in draw_speed(RECORD, replace(CONFIG, density=0.0001), model, layers).texts[0].get_text()


def test_parts_figure_leaves_out_what_takes_no_time():
    steps = [step | ({"parts": step["parts"] | {"max_pool": 0}} if "parts" in step else {}) for step in RECORD["steps"]]
    drawn = sparse.parts_figure(RECORD | {"steps": steps}, "cnn", 8, "uniform")
    assert "strides, pooling" not in [text.get_text() for text in drawn.legends[0].get_texts()]


def test_every_part_of_a_committed_record_has_a_group():
    """Else its time would be drawn as the rest."""
    drawn = tuple(beginning for beginnings in engines.PARTS.values() for beginning in beginnings)
    records = engines.step_records().values()
    names = {name for record in records for step in record["steps"] for name in step.get("parts", {})}
    assert {name for name in names if not name.startswith(drawn)} == {"rest"}
