"""Pool size and noise -> the pool and its losses."""

from typing import Any

import ipywidgets
from matplotlib.figure import Figure

from fedtiny_lite.config import Config
from fedtiny_lite.methods._selection import Selection, pool_size
from fedtiny_lite.plots.candidates import pool_figure
from fedtiny_lite.simulation.rounds import run
from fedtiny_lite.widgets.panel import panel


def pool_panel(config: Config, interactive: bool) -> ipywidgets.Widget | Figure:
    """Sliders for the pool's size and noise over the pool of `config` and the clients' losses; nothing is trained.

    A pool begins with the candidates of any smaller one, so what was judged once is not judged again.
    """
    judged: dict[float, dict[str, Any]] = {}

    def draw(candidates: int, noise: float) -> Figure:
        if noise not in judged or len(judged[noise]["losses"]) < candidates:
            judged[noise] = judge(config.changed(rounds=0, pool_size=candidates, pool_noise=noise))
        kept, losses = (judged[noise][name][:candidates] for name in ("kept", "losses"))
        text = f"{candidates} candidates, noise {noise:g}, density {config.density:g}, seed {config.seed}; measured"
        return pool_figure(kept, judged[noise]["prunable"], losses, text)

    return panel(
        draw,
        interactive,
        candidates=ipywidgets.IntSlider(pool_size(config), 1, 20, description="pool size", continuous_update=False),
        noise=ipywidgets.FloatSlider(
            value=config.of(Selection).pool_noise, min=0, max=1, step=0.05, description="noise", continuous_update=False
        ),
    )


def judge(config: Config) -> dict[str, Any]:
    """What a run without rounds records of its selection, and the sizes of its `prunable` layers."""
    record = run(config)
    return record["prelude"][-1]["selection"] | {"prunable": record["model"]["prunable"]}
