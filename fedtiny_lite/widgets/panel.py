"""Controls above a picture, or, where nobody can move them, the figure at their starting values."""

import base64
import html
import io
from collections.abc import Callable

import ipywidgets
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

SCREEN_DPI = 90
BUSY = "computing …"
Places = dict[tuple, list[Bbox]]
"""Where the axes of a figure lie, by its size, its number of axes and the words of its legend."""


def panel(draw: Callable[..., Figure], interactive: bool, **controls: ipywidgets.Widget) -> ipywidgets.Widget | Figure:
    """`draw(**values)` under one control per argument; not `interactive`: the figure at the starting values.

    While it draws, the line between controls and picture says so.
    """

    def drawn() -> Figure:
        return draw(**{name: control.value for name, control in controls.items()})

    if not interactive:
        return drawn()
    places: Places = {}
    busy, picture = (
        ipywidgets.Label(layout={"height": "1.2em", "margin": "0"}),
        ipywidgets.HTML(as_html(drawn(), places)),
    )

    def redraw(_: object) -> None:
        busy.value = BUSY
        picture.value = as_html(drawn(), places)
        busy.value = ""

    for control in controls.values():
        control.observe(redraw, "value")
    return ipywidgets.VBox([*controls.values(), busy, picture])


def as_html(figure: Figure, places: Places) -> str:
    """The figure as an <img> that carries its pixels, with its title and subtitle as the alternative text.

    `places`: those of earlier figures of the panel. The first figure is laid out and its places are remembered, and
    later ones take them, because finding them takes longer than drawing.
    """
    labels = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    key = (*figure.get_size_inches(), len(figure.axes), *labels)
    if key in places:
        figure.set_layout_engine("none")
        for ax, place in zip(figure.axes, places[key], strict=True):
            ax.set_position(place)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=SCREEN_DPI)
    places[key] = [ax.get_position() for ax in figure.axes]
    pixels = base64.b64encode(file.getvalue()).decode()
    words = html.escape(" ".join(" ".join(text.get_text() for text in figure.texts).split()))
    return f'<img alt="{words}" style="max-width: 100%" src="data:image/png;base64,{pixels}">'
