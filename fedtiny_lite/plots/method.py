"""The method in one picture, one run in two panels, and what a density means for masks and FLOPs."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from fedtiny_lite.own_files import file_of
from fedtiny_lite.plots.style import GREY, PALETTE, figure, subtitle

DOWN, UP = PALETTE[0], PALETTE[3]

# (title, server's work, clients' work, messages as (direction, label)), left to right
STAGES = (
    (
        "1  Pretraining, coarse pruning",
        "train a dense model on a small public set;\ndraw C candidates: the same weights,\nC masks within the budget",
        "hold their own images;\nadd up pixels, for the normalisation",
        (("up", "sums of\npixels"),),
    ),
    (
        "2  Adaptive BN selection",
        "combine the statistics, then keep\nthe candidate of the smallest loss",
        "for each candidate: re-estimate BN statistics,\nthen measure the loss; no weight changes",
        (
            ("down", "weights,\nC masks"),
            ("up", "BN\nstatistics"),
            ("down", "combined\nstatistics"),
            ("up", "losses,\nright answers"),
        ),
    ),
    (
        "3  Training, progressive pruning",
        "average; in one block grow where gradients\nare large, prune the smallest weights",
        "train; zero outside the mask\nafter every step",
        (
            ("down", "kept weights,\nchanged mask"),
            ("up", "kept\nweights"),
            ("up", "some rounds:\nlargest gradients\nof one block"),
        ),
    ),
)


def method_picture() -> Figure:
    """Server above, clients below, the three stages from left to right, and what crosses between them."""
    fig = figure((11.0, 4.8))
    ax = fig.subplots()
    ax.set(xlim=(0, 3), ylim=(0, 1.04))
    ax.set_axis_off()
    for column, (title, server, clients, messages) in enumerate(STAGES):
        ax.text(column + 0.5, 0.97, title, ha="center", va="center", fontsize=11, fontweight="bold")
        _box(ax, column, 0.66, "server", server, PALETTE[9])
        _box(ax, column, 0.04, "K clients", clients, PALETTE[1])
        for place, (direction, label) in enumerate(messages):
            x = column + 0.05 + 0.93 * place / max(len(messages), 1)
            _message(ax, x, direction, label)
    ax.text(2.5, 0.0, "repeated every round", ha="center", va="bottom", fontsize=8.5, color=GREY)
    subtitle(fig, "FedTiny: what the server does, what clients do, what crosses", "a drawing; nothing here is measured")
    return fig


def _box(ax: Axes, column: int, y: float, who: str, text: str, colour: str) -> None:
    ax.add_patch(
        FancyBboxPatch(
            (column + 0.04, y), 0.92, 0.24, boxstyle="round,pad=0,rounding_size=0.02", fc=colour, ec=GREY, alpha=0.35
        )
    )
    ax.text(column + 0.5, y + 0.2, who, ha="center", va="center", fontsize=9.5, fontweight="bold")
    ax.text(column + 0.5, y + 0.09, text, ha="center", va="center", fontsize=8.5)


def _message(ax: Axes, x: float, direction: str, label: str) -> None:
    start, end, colour = (0.65, 0.29, DOWN) if direction == "down" else (0.29, 0.65, UP)
    ax.annotate("", (x, end), (x, start), arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.8})
    ax.text(x + 0.015, 0.47, label, va="center", fontsize=8.5, color=colour)


def one_run(record: Mapping) -> Figure:
    """One run: test accuracy by round, and the bytes of every exchange, both ways and all clients together."""
    fig = figure((10.0, 3.8))
    left, right = fig.subplots(1, 2, width_ratios=(1, 1.4))
    rounds = record["rounds"]
    accuracy = [record["start"]["test_accuracy"], *(entry["test_accuracy"] for entry in rounds)]
    left.plot(range(len(accuracy)), accuracy, marker="o", color=PALETTE[0])
    left.set(xlabel="rounds finished (0 = after selection)", ylabel="test accuracy (share of images)", ylim=(0, 1))
    left.grid(alpha=0.3)

    exchanges = [*record["prelude"], *rounds]
    x = np.arange(len(exchanges))
    for shift, way, colour, label in (
        (-0.2, "down", DOWN, "down, to the clients"),
        (0.2, "up", UP, "up, to the server"),
    ):
        kilobytes = [entry[f"bytes_{way}"] / 1000 for entry in exchanges]
        right.bar(x + shift, kilobytes, width=0.4, color=colour, label=label)
    names = [entry["exchange"].replace("_", "\n") for entry in record["prelude"]]
    right.set_xticks(x, [*names, *(str(entry["round"] + 1) for entry in rounds)])
    right.tick_params("x", labelrotation=90 if len(exchanges) > 8 else 0)
    right.set(xlabel="exchange: those before training, then rounds", ylabel="kB, all clients together")
    right.margins(y=0.2)  # room for the legend
    right.legend(fontsize=8, loc="upper right", ncols=2)
    c = record["config"]
    where = f"{c['dataset']}, {file_of(c['model']).stem} width {c['width']}"
    what = f"{where}, density {c['density']:g}, {c['clients']} clients"
    subtitle(fig, "One FedTiny run", f"{what}, seed {c['seed']}; accuracy measured, bytes counted from messages")
    return fig


def density_panel(
    mask: np.ndarray,
    layer: str,
    kept: Mapping[str, int],
    sizes: Mapping[str, int],
    flops: Sequence[tuple[int, int]],
    text: str,
) -> Figure:
    """One layer's mask, each layer's density, each layer's FLOPs.

    `mask`: bool [filters, weights per filter] of `layer`, True = kept. `sizes`: weights of all layers, input
    to output; `kept`: of the pruned ones. `flops`: (dense, masked) forward FLOPs of one sample per layer.
    """
    fig = figure((10.5, 3.8))
    picture, densities, costs = fig.subplots(1, 3, width_ratios=(1.1, 1, 1))
    picture.imshow(mask, cmap="Greys", aspect="auto", interpolation="nearest", vmin=0, vmax=1)
    picture.set(
        title=f"{layer.removesuffix('.weight')}: {int(mask.sum())} of {mask.size} kept",
        xlabel="weight of the filter (index)",
        ylabel="filter (index)",
    )
    names = [name.removesuffix(".weight") for name in sizes]
    share = [kept.get(name, size) / size for name, size in sizes.items()]
    bars = densities.barh(names, share, color=[PALETTE[0] if name in kept else "#bbbbbb" for name in sizes])
    densities.bar_label(bars, [f"{kept.get(name, size):,}" for name, size in sizes.items()], padding=2, fontsize=8)
    densities.set(title="weights kept in each layer", xlabel="layer density (kept / all)", xscale="log", xlim=(5e-4, 8))
    y = np.arange(len(names))
    for shift, column, colour, label in ((-0.2, 0, "#bbbbbb", "dense"), (0.2, 1, PALETTE[0], "masked")):
        costs.barh(y + shift, [pair[column] / 1000 for pair in flops], height=0.4, color=colour, label=label)
    costs.set_yticks(y, names)
    dense, masked = (sum(column) for column in zip(*flops, strict=True))
    costs.set(title=f"forward FLOPs: {masked / dense:.3f} of dense", xlabel="kFLOPs per image", xscale="log")
    costs.set_xlim(left=min(masked for _, masked in flops) / 2000)
    costs.legend(fontsize=8)
    for ax in (densities, costs):
        ax.invert_yaxis()
        ax.minorticks_off()
    density = sum(kept.values()) / sum(sizes[name] for name in kept)
    subtitle(fig, f"What prunable density {density:.4f} means", text)
    return fig
