"""What one client pays in each method, message by message, and its memory three ways, from `report.exchanges`."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from fedtiny_lite.plots.style import GREY, PALETTE, figure, subtitle
from fedtiny_lite.report.exchanges import CONTENTS, PHASES, by_content, label_of, phases

_CONTENT_COLOURS = (0, 9, 1, 8, 2, 4, 3, 7)
_LEAST_SEEN = 1 / 500
"""Of an axis: a bar shorter than that is thinner than its edge."""


def message_figure(methods: Mapping[str, Mapping], limit: float, text: str) -> Figure:
    """Bytes of one client's messages by what they carry, upper bar down, lower bar up; cut off at `limit` MB.

    What is too small to be seen in any bar is named below the axes and has no colour in the legend.
    """
    kinds = [phase for phase in PHASES if any(phase in phases(cost) for cost in methods.values())]
    fig = figure((3.4 * len(kinds), 1.9 + 0.42 * len(methods)))
    for ax, kind in zip(fig.subplots(1, len(kinds), sharey=True), kinds, strict=True):
        for y, cost in enumerate(methods.values()):
            for shift, way in ((-0.19, "down"), (0.19, "up")):
                _message_bar(ax, y + shift, by_content(phases(cost).get(kind, []), way), limit)
        ax.set_title(kind, fontsize=10)
        ax.set(xlabel="MB of one client", xlim=(0, 1.22 * limit))
    ax.set_yticks(range(len(methods)), [label_of(name, cost).label for name, cost in methods.items()])
    ax.set_ylim(len(methods) - 0.5, -0.5)
    largest = _largest_by_content(methods)
    seen = [content for content, size in largest.items() if size / 1e6 > limit * _LEAST_SEEN]
    colours = dict(zip(CONTENTS, _CONTENT_COLOURS, strict=True))
    fig.legend(
        [Patch(color=PALETTE[colours[content]]) for content in seen], seen, loc="outside lower center", ncols=4,
        title=_unseen({content: size for content, size in largest.items() if size and content not in seen}),
        fontsize=8.5, title_fontsize=8.5,
    )  # fmt: skip
    subtitle(fig, "What the messages carry: upper bar down to the client, lower bar up to the server", text)
    return fig


def _largest_by_content(methods: Mapping[str, Mapping]) -> dict[str, int]:
    """The most bytes of each content in any bar."""
    bars = [by_content(of, way) for cost in methods.values() for of in phases(cost).values() for way in ("down", "up")]
    return {content: max(bar[content] for bar in bars) for content in CONTENTS}


def _unseen(sizes: Mapping[str, int]) -> str | None:
    """What crosses without a visible bar, and how much at most."""
    words = ", ".join(f"{content} ({size:,} bytes at most)" for content, size in sizes.items())
    return f"too small to be seen: {words}" if words else None


def _message_bar(ax: Axes, y: float, sizes: Mapping[str, int], limit: float) -> None:
    start, total = 0.0, sum(sizes.values()) / 1e6
    for size, colour in zip(sizes.values(), _CONTENT_COLOURS, strict=True):
        end = min(start + size / 1e6, limit)
        if end > start:
            ax.barh(y, end - start, 0.36, left=start, color=PALETTE[colour])
        start = end
    if total:
        label = f"{total:.1f} ▸" if total > limit else f"{total:.2f}"
        ax.text(start + 0.015 * limit, y, label, va="center", fontsize=7, color=GREY)


def memory_figure(memory: Mapping[str, Mapping[str, float]], before: Mapping[str, float], text: str) -> Figure:
    """`memory[what][method]` in bytes: a bar per method and way of counting; diamonds: state held `before` training."""
    names = list(next(iter(memory.values())))
    fig = figure((9.5, 1.9 + 0.45 * len(names)))
    ax, y = fig.subplots(), np.arange(len(names))
    for i, (what, colour) in enumerate(zip(memory, (PALETTE[0], PALETTE[9], PALETTE[3]), strict=True)):
        place, sizes = y + 0.8 * ((i + 0.5) / len(memory) - 0.5), [memory[what][name] / 1e6 for name in names]
        bars = ax.barh(place, sizes, 0.8 / len(memory), color=colour, label=what)
        labels = [f"{size:,.0f}" if size >= 10 else f"{size:.2f}" for size in sizes]
        ax.bar_label(bars, labels, padding=3, fontsize=7, color=GREY)
    earlier = [(before[name] / 1e6, i - 0.27) for i, name in enumerate(names) if before[name]]
    ax.plot(
        *np.array(earlier).reshape(-1, 2).T,
        "D",
        color="black",
        ms=4,
        clip_on=False,
        label="model state before training",
    )
    ax.set(xlabel="MB of one client", ylim=(len(names) - 0.5, -0.5))
    ax.set_yticks(y, [label_of(name).label for name in names])
    ax.margins(x=0.08)
    ax.set_xlim(left=0)
    fig.legend(loc="outside lower center", ncols=2, fontsize=9)
    subtitle(fig, "Memory of a client, three ways", text)
    return fig
