"""Figures of a federation of devices: what a question holds, who answered when, bytes by kind, a server's line."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedtiny_lite.plots.style import GREY, PALETTE, WIDE, figure, subtitle

ANSWERED, LOST = PALETTE[0], PALETTE[3]
_WAYS = (("down", PALETTE[9]), ("up", PALETTE[1]))


def question_figure(questions: Mapping[str, Mapping[str, int]], text: str) -> Figure:
    """`questions[who][part]` in bytes: a bar for each question, divided into its parts."""
    fig = figure((WIDE[0], 1.7 + 0.45 * len(questions)))
    ax, start = fig.subplots(), np.zeros(len(questions))
    parts = dict.fromkeys(part for sizes in questions.values() for part in sizes)
    for part, colour in zip(parts, (GREY, PALETTE[0], PALETTE[9], PALETTE[1], PALETTE[4]), strict=False):
        sizes = np.array([of_one.get(part, 0) for of_one in questions.values()])
        ax.barh(range(len(questions)), sizes, 0.6, left=start, color=colour, label=part)
        start += sizes
    for y, total in enumerate(start):
        ax.text(total, y, f" {total:,.0f}", va="center", fontsize=8, color=GREY)
    ax.set_yticks(range(len(questions)), list(questions))
    ax.set(xlabel="bytes", ylim=(len(questions) - 0.5, -0.5), xlim=(0, 1.1 * start.max()))
    fig.legend(loc="outside lower center", ncols=len(parts), fontsize=9)
    subtitle(fig, "One question, byte by byte", text)
    return fig


def answers_figure(rounds: Sequence[Mapping[str, Any]], text: str) -> Figure:
    """Who answered in each round of a record, how long the round took, and its bytes both ways."""
    fig = figure((WIDE[0], 3.8))
    left, middle, right = fig.subplots(1, 3)
    _answers(left, rounds)
    number = [entry["round"] for entry in rounds]
    bars = middle.bar(number, [entry["seconds"] for entry in rounds], 0.6, color=GREY)
    middle.bar_label(bars, fmt="%.3g", fontsize=8)
    middle.margins(y=0.15)
    middle.set(ylabel="seconds", title="until the round closed")
    for shift, name, (label, colour) in zip((-0.2, 0.2), ("bytes_down", "bytes_up"), _WAYS, strict=True):
        right.bar(np.add(number, shift), [entry[name] / 1e3 for entry in rounds], 0.4, color=colour, label=label)
    right.set(ylabel="kB, all clients", title="messages")
    right.margins(y=0.25)
    right.legend(fontsize=8)
    for ax in (left, middle, right):
        ax.set_xlabel("round")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.title.set_fontsize(10)
    subtitle(fig, "A round closes without a client that is lost", text)
    return fig


def _answers(ax: Axes, rounds: Sequence[Mapping[str, Any]]) -> None:
    places = [(entry["round"], k) for entry in rounds for k in entry["asked"]]
    gone = {(entry["round"], int(k)) for entry in rounds for k in entry.get("lost", ())}
    for label, wanted, marker, colour in (
        ("answered", [place for place in places if place not in gone], "o", ANSWERED),
        ("lost", sorted(gone), "X", LOST),
    ):
        rounds_of, clients_of = np.array(wanted).reshape(-1, 2).T
        ax.scatter(rounds_of, clients_of, s=90, label=label, marker=marker, color=colour)
    ax.set(ylabel="client", title="who answered", xlim=(-0.5, len(rounds) - 0.5))
    clients = sorted({k for _, k in places})
    ax.set_yticks(clients)
    ax.set_ylim(clients[-1] + 1.1, clients[0] - 0.5)
    ax.legend(fontsize=8, ncols=2, loc="lower center")


def kinds_figure(panels: Mapping[str, Mapping[str, tuple[float, float]]], text: str) -> Figure:
    """`panels[method][kind of message] = (down, up)`, bytes of one client; all panels have one scale."""
    rows = max(len(kinds) for kinds in panels.values())
    fig = figure((WIDE[0], 1.8 + 0.5 * rows))
    axes = fig.subplots(1, len(panels), sharex=True, squeeze=False)[0]
    for ax, (method, kinds) in zip(axes, panels.items(), strict=True):
        for shift, way, (label, colour) in zip((-0.2, 0.2), (0, 1), _WAYS, strict=True):
            sizes = [pair[way] for pair in kinds.values()]
            bars = ax.barh(np.arange(len(kinds)) + shift, sizes, 0.4, color=colour, label=label)
            ax.bar_label(bars, [f"{size:,.0f}" for size in sizes], padding=2, fontsize=8, color=GREY)
        ax.set_yticks(range(len(kinds)), list(kinds), fontsize=8)
        ax.set(xlabel="bytes", ylim=(rows - 0.5, -0.5))
        ax.set_title(method, fontsize=10)
        ax.margins(x=0.25)
    fig.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9)
    subtitle(fig, "Messages of one client, by kind", text)
    return fig


def line_figure(sizes: Mapping[str, float], bits_per_second: float, text: str) -> Figure:
    """Seconds that a server's line needs for a round over the clients asked; `sizes[what]`: bytes of one client."""
    fig = figure((WIDE[0] * 0.8, 4.0))
    ax, clients = fig.subplots(), np.geomspace(10, 1e6, 50)
    for (what, size), colour in zip(sizes.items(), (GREY, *PALETTE), strict=False):
        ax.plot(clients, 8 * size * clients / bits_per_second, color=colour, label=f"{what}: {size / 1e6:.2f} MB")
    for seconds, name in ((1, "a second"), (60, "a minute"), (3600, "an hour"), (86400, "a day")):
        ax.axhline(seconds, color=GREY, linewidth=0.5, linestyle=":")
        ax.text(1.01, seconds, name, fontsize=8, color=GREY, va="center", transform=ax.get_yaxis_transform())
    ax.set(xscale="log", yscale="log", xlabel="clients asked in a round", ylabel="seconds")
    ax.legend(fontsize=8, title="one client, both ways", title_fontsize=8)
    subtitle(fig, "What a round takes on the server's line", text)
    return fig
