"""The panels of notebooks 00 and 01: one plain call per figure, and what cannot be is said."""

import pytest
from matplotlib.figure import Figure

from fedtiny_lite.config import make_config
from fedtiny_lite.model.masks import uniform_counts
from fedtiny_lite.simulation.setup import build_federation, hand_out
from fedtiny_lite.widgets import clients

CONFIG = make_config("smoke")


@pytest.mark.parametrize("make", [clients.density_panel, clients.partition_panel])
def test_not_interactive_is_a_plain_figure(make):
    assert isinstance(make(CONFIG, interactive=False), Figure)


@pytest.mark.parametrize(
    "make, controls", [(clients.density_panel, 1), (clients.partition_panel, 3)], ids=["density", "partition"]
)
def test_interactive_has_its_controls_above_the_figure(make, controls):
    assert len(make(CONFIG, interactive=True).children) == controls + 2


@pytest.mark.parametrize("density", [0.001, 0.05, 1.0])
def test_density_counts_what_the_package_counts(density):
    task = build_federation(make_config("smoke", density=density)).task
    counts = uniform_counts(task.sizes, task.budget)
    picture, densities, _ = clients.draw_density(CONFIG, density).axes
    shown = [int(text.get_text().replace(",", "")) for text in densities.texts]
    assert [kept for kept in shown if kept in counts.values()] == list(counts.values())
    assert picture.images[0].get_array().sum() == max(counts.values())


def test_a_partition_that_does_not_use_alpha_names_none():
    names = {kind: clients.draw_partition(CONFIG, kind, 0.5, 4).axes[0].get_title() for kind in ("iid", "dirichlet")}
    assert names == {"iid": "iid", "dirichlet": "dirichlet, α = 0.5"}


def test_partition_shows_the_runs_own_partition():
    summary = hand_out(CONFIG).summary
    ax = clients.draw_partition(CONFIG, CONFIG.partition, CONFIG.alpha, CONFIG.clients).axes[0]
    assert ax.images[0].get_array().tolist() == summary["histogram"]


def test_impossible_sliders_say_why():
    tiny = make_config("smoke", width=1)
    assert "density" in clients.draw_density(tiny, 0.001).texts[0].get_text()
