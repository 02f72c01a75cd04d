"""Pool size and noise -> the pool and its losses."""

from dataclasses import replace

import ipywidgets
from matplotlib.figure import Figure

from fedtiny_lite.config import Config
from fedtiny_lite.plots.selection import pool_figure
from fedtiny_lite.simulation.rounds import run
from fedtiny_lite.widgets.panel import panel


def pool_panel(config: Config, interactive: bool) -> ipywidgets.Widget | Figure:
    """Sliders for the pool's size and noise over the pool of `config` and the clients' losses; nothing is trained."""

    def draw(pool_size: int, pool_noise: float) -> Figure:
        chosen = replace(config, rounds=0, pool_size=pool_size, pool_noise=pool_noise)
        record = run(chosen)
        selection = record["prelude"][-1]["selection"]
        text = f"{pool_size} candidates, noise {pool_noise:g}, density {config.density:g}, seed {config.seed}; measured"
        return pool_figure(selection["kept"], record["model"]["prunable"], selection["losses"], text)

    return panel(
        draw,
        interactive,
        pool_size=ipywidgets.IntSlider(config.candidates, 1, 20, description="pool size", continuous_update=False),
        pool_noise=ipywidgets.FloatSlider(
            value=config.pool_noise, min=0, max=1, step=0.05, description="noise", continuous_update=False
        ),
    )
