"""Figures of the candidate pool and of who judges it best."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedtiny_lite.plots.strips import strip
from fedtiny_lite.plots.style import PALETTE, WIDE, figure, subtitle

MARKERS = "osD^vP*Xph"


def pool_figure(
    kept: Sequence[Mapping[str, int]], sizes: Mapping[str, int], losses: Sequence[float], text: str
) -> Figure:
    """The pool layer by layer: densities of all candidates as a heat map, and below it each one's loss.

    `kept`: kept weights per layer of each candidate. `sizes`: weights per layer. `losses`: one per
    candidate; the least is the one chosen.
    """
    densities = np.array([[candidate[name] / size for candidate in kept] for name, size in sizes.items()])
    fig = figure((WIDE[0], 4.8))
    top, bottom = fig.subplots(2, sharex=True, height_ratios=[1.3, 1])
    _heat_map(fig, top, densities, [name.removesuffix(".weight") for name in sizes])
    colours = [PALETTE[1] if loss == min(losses) else PALETTE[0] for loss in losses]
    bottom.scatter(range(len(losses)), losses, c=colours, s=50, zorder=2)
    for candidate, loss in enumerate(losses):
        bottom.annotate(f"{loss:.2f}", (candidate, loss), (0, 7), textcoords="offset points", ha="center", fontsize=8)
    bottom.margins(y=0.3)
    bottom.grid(axis="y", alpha=0.3)
    bottom.set_xticks(range(len(losses)))
    bottom.set(xlabel="candidate (orange: least loss, chosen)", ylabel="mean loss on\nclients' images (nats)")
    subtitle(fig, "The candidate pool: same weights, other masks", text)
    return fig


def _heat_map(fig: Figure, ax: Axes, densities: np.ndarray, layers: Sequence[str]) -> None:
    image = ax.imshow(densities, aspect="auto", cmap="viridis")
    ax.set_yticks(range(len(layers)), layers)
    ax.set_ylabel("prunable layer")
    middle = (densities.min() + densities.max()) / 2
    if densities.shape[1] <= 12:
        for (row, column), density in np.ndenumerate(densities):
            ink = "white" if density < middle else "black"
            ax.text(column, row, f"{density:.1%}", ha="center", va="center", fontsize=8, color=ink)
    fig.colorbar(image, ax=ax, label="layer density\n(kept / all)", pad=0.01)


def loss_figure(
    losses: Mapping[str, Sequence[Sequence[float]]],
    accuracy: Sequence[Sequence[float]],
    correlations: Mapping[str, Sequence[float]],
    seeds: Sequence[int],
    text: str,
) -> Figure:
    """Each candidate's loss before training against its accuracy after it: a panel per judge, a colour per seed.

    `losses[judge][seed][candidate]`, `accuracy[seed][candidate]`, `correlations[judge][seed]`: rank
    correlation of minus loss with accuracy.
    """
    fig = figure((WIDE[0], 4.0))
    panels = fig.subplots(1, len(losses), sharey=True, squeeze=False)[0]
    for ax, (judge, by_seed) in zip(panels, losses.items(), strict=True):
        for number, (seed, x, y) in enumerate(zip(seeds, by_seed, accuracy, strict=True)):
            colour, marker = PALETTE[number % len(PALETTE)], MARKERS[number % len(MARKERS)]
            ax.scatter(x, y, s=26, color=colour, marker=marker, alpha=0.85, label=f"seed {seed}")
        ax.set_title(f"{judge}\nmean rank correlation {np.mean(correlations[judge]):.2f}", fontsize=10)
        ax.set_xlabel("loss before training (nats)")
    panels[0].set_ylabel("test accuracy after training")
    fig.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    subtitle(fig, "Does a candidate's loss foretell its accuracy?", text)
    return fig


def judge_figure(
    correlations: Mapping[str, Sequence[float]], gains: Mapping[str, Sequence[float]], text: str
) -> Figure:
    """Per judge and seed: rank correlation, and what the choice gains over an average candidate."""
    fig = figure((WIDE[0], 4.2))
    left, right = fig.subplots(1, 2)
    strip(left, correlations, "rank correlation of -loss with\nfinal accuracy", zero=True)
    left.set_ylim(-1.05, 1.05)
    strip(right, gains, "accuracy of the chosen candidate\nminus the pool's mean", zero=True)
    subtitle(fig, "Which judge ranks the candidates rightly?", text)
    return fig


def control_figure(correlations: Mapping[str, Mapping[str, Sequence[float]]], text: str) -> Figure:
    """`correlations[server set][judge][seed]`: the same judges when the server's images look otherwise."""
    fig = figure((WIDE[0], 4.0))
    panels = fig.subplots(1, len(correlations), sharey=True, squeeze=False)[0]
    for ax, (title, by_judge) in zip(panels, correlations.items(), strict=True):
        strip(ax, by_judge, "rank correlation of -loss with\nfinal accuracy", zero=True)
        ax.set_title(title, fontsize=10)
        ax.set_ylim(-1.05, 1.05)
        ax.label_outer()
    subtitle(fig, "The control: what the server's images do to the judges", text)
    return fig


def cost_figure(entries: Mapping[str, Mapping[str, float]], clients: int, text: str) -> Figure:
    """Bytes and FLOPs per client of each step; `entries`: bytes_up, bytes_down, training_flops of all clients."""
    fig = figure((WIDE[0], 4.0))
    left, right = fig.subplots(1, 2)
    x = range(len(entries))
    up, down, flops = (
        [entry[key] / clients / unit for entry in entries.values()]
        for key, unit in (("bytes_up", 1e3), ("bytes_down", 1e3), ("training_flops", 1e6))
    )
    left.bar(x, down, color=PALETTE[0], label="server to client")
    upper = left.bar(x, up, bottom=down, color=PALETTE[1], label="client to server")
    left.bar_label(upper, [f"{a + b:.1f}" for a, b in zip(up, down, strict=True)], fontsize=8)
    fig.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    right.bar_label(right.bar(x, flops, color=PALETTE[2]), fmt="%.1f", fontsize=8)
    left.set_ylabel("kB per client")
    right.set_ylabel("MFLOPs per client")
    for ax in (left, right):
        ax.set_xticks(x, entries, fontsize=8)
        ax.set_xlabel("step")
        ax.margins(y=0.15)
    subtitle(fig, "What selection costs a client", text)
    return fig


def statistics_figure(
    stored: Sequence[float], clients: Sequence[Sequence[float]], combined: Sequence[float], text: str
) -> Figure:
    """One BN layer of a candidate, channel by channel: means stored before pruning, of each client, and combined.

    `clients[k][channel]`.
    """
    fig = figure((WIDE[0], 3.6))
    ax = fig.subplots()
    channels = range(len(stored))
    for k, means in enumerate(clients):
        ax.plot(channels, means, "o", color=PALETTE[0], alpha=0.4, markersize=5, label=None if k else "each client")
    ax.plot(channels, combined, "_", color="black", markersize=16, label="combined by the server")
    ax.plot(channels, stored, "x", color=PALETTE[3], label="stored before pruning")
    ax.set(xlabel="channel", ylabel="running mean of\nbatch normalisation")
    ax.legend(fontsize=8)
    subtitle(fig, "The stored statistics belong to another network", text)
    return fig


def judged_figure(losses: Mapping[str, Sequence[float]], text: str) -> Figure:
    """Each candidate's loss under other BN statistics; `losses[statistics][candidate]`."""
    fig = figure((WIDE[0] * 0.7, 3.4))
    ax = fig.subplots()
    for (statistics, values), marker, colour in zip(losses.items(), MARKERS, PALETTE, strict=False):
        ax.plot(range(len(values)), values, marker, color=colour, markersize=8, label=statistics)
    ax.set_xticks(range(len(next(iter(losses.values())))))
    ax.set(xlabel="candidate", ylabel="mean loss on\nclients' images (nats)")
    ax.margins(x=0.2)
    fig.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9)
    subtitle(fig, "The same candidates under two sets of statistics", text)
    return fig
