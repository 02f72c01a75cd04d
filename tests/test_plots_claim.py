"""The claim in pictures: what has run is drawn, what has not leaves no empty panel, and captions count the seeds."""

import pytest

from fedtiny_lite.experiments.claim import ARMS, DENSITIES, MIDDLE, UNPRUNED, at_density
from fedtiny_lite.plots import claim as pictures
from fedtiny_lite.report import claim_costs
from tests.helpers import claim_record

FIRST = ("FedTiny", "SynFlow", "magnitude")
NAMES = ["accuracy_over_density", "accuracy_over_rounds", "accuracy_over_work", "leads"]


def runs(arms=FIRST, papers=(MIDDLE,), seeds=(10, 11, 12)) -> list[dict]:
    """Two rounds each; arms are 0.01 apart, a seed adds 0.1."""
    return [
        claim_record(arm, [0.1, reached - 0.1, reached], 10**12, seed, **at_density(paper))
        for seed in seeds
        for paper in papers
        for place, arm in enumerate(arms)
        if arm != UNPRUNED or paper == MIDDLE
        for reached in [0.5 - 0.01 * place + 0.1 * (seed - 10)]
    ]


def text(fig) -> str:
    return " ".join(part.get_text() for part in fig.texts)


def drawn(records) -> dict:
    return {name: fig for fig, name, _ in pictures.figures(records)}


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([], []),
        (runs([UNPRUNED]), []),
        (runs(["FedTiny"]), NAMES[1:3]),
        (runs(["SynFlow", "magnitude"]), NAMES[1:3]),
        (runs(), NAMES[1:]),
        (runs(papers=(MIDDLE, 0.01), seeds=(10,)), NAMES),
        (runs(ARMS, DENSITIES), NAMES),
    ],
    ids=["none", "dense alone", "FedTiny alone", "no FedTiny", "one density", "one seed", "all"],
)
def test_what_can_be_drawn_is(records, expected):
    assert list(drawn(records)) == expected


def test_a_run_that_diverged_cuts_no_curve_and_has_no_point():
    """SNIP's two finished runs have three scores each; one that stopped after a round leaves these as they are."""
    stopped = claim_record("SNIP", [0.1, 0.2], 10**12, 12, complete=False)
    found = drawn([*runs(["FedTiny", "SNIP"], seeds=(10, 11)), stopped, stopped | {"start": {}, "rounds": []}])
    [line] = [line for line in found["accuracy_over_rounds"].axes[0].lines if line.get_label() == "SNIP"]
    assert len(line.get_xdata()) == 3
    alone = drawn([*runs(["FedTiny"]), stopped | {"start": {}, "rounds": []}])
    assert "SNIP" not in [dots.get_label() for dots in alone["accuracy_over_work"].axes[0].collections]
    assert [ax.get_title() for ax in alone["leads"].axes] == ["density 0.012, equal rounds"]  # its cost is not known


def test_densities_without_runs_have_no_panel():
    few, whole = drawn(runs(papers=(MIDDLE, 0.01))), drawn(runs(ARMS, DENSITIES))
    assert [ax.get_title() for ax in few["accuracy_over_work"].axes] == ["density 0.04", "density 0.012"] * 2
    assert [len(found["leads"].axes) for found in (drawn(runs()), few, whole)] == [2, 4, 6]
    assert [len(found["accuracy_over_rounds"].axes) for found in (few, whole)] == [1, 2]


def test_a_lead_needs_a_seed_of_both():
    apart = [*runs(["FedTiny"], seeds=(10,)), *runs(["SynFlow"], seeds=(11,))]
    with pytest.raises(ValueError, match="no run of FedTiny has one of another arm beside it"):
        pictures.lead_figure(apart)


@pytest.mark.parametrize(
    ("records", "seeds", "interval"),
    [
        (runs(), "3 seeds", True),
        (runs(seeds=(10,)), "1 seed", False),
        ([*runs(), *runs(["SNIP"], seeds=(10,))], "1 to 3 seeds", True),
    ],
)
def test_captions_count_the_seeds_and_promise_no_interval_of_one(records, seeds, interval):
    found = drawn(records)
    assert all(seeds in text(found[name]) for name in NAMES[1:3])
    assert ("interval" in text(found["leads"]).replace("no interval", "")) is interval
    assert ("band" in text(found["accuracy_over_rounds"])) is interval


def test_points_are_the_means_over_the_last_rounds():
    """Of two rounds: 0.45 and 0.55 in seeds 10 and 11."""
    ax, below = drawn(runs(["FedTiny"], seeds=(10, 11)))["accuracy_over_work"].axes
    [point], [again] = ax.collections, below.collections
    assert again.get_offsets()[0, 1] == pytest.approx(0.5)
    assert point.get_offsets().tolist() == [[pytest.approx(2), pytest.approx(0.5)]]


def test_without_the_time_of_a_step_work_is_shown_alone(monkeypatch):
    monkeypatch.setattr(claim_costs, "_steps", dict)
    ax, below = drawn(runs(["FedTiny"]))["accuracy_over_work"].axes
    assert [len(panel.collections) for panel in (ax, below)] == [1, 0]


def test_points_are_filled_where_the_mask_changes():
    """A mask drawn at random stays too, and so does a small model."""
    ax, _ = drawn(runs(["FedTiny", "SNIP", "random", "small model", "FedRTS"]))["accuracy_over_work"].axes
    white = {point.get_label() for point in ax.collections if point.get_facecolor()[0, :3].tolist() == [1, 1, 1]}
    assert white == {"SNIP", "random", "small model"}


def test_no_two_arms_of_a_panel_look_alike():
    for ax in drawn(runs(ARMS, DENSITIES))["accuracy_over_density"].axes:
        looks = [(line.get_color(), line.get_linestyle(), line.get_marker()) for line in ax.lines]
        assert len(set(looks)) == len(looks)
        labels = [line.get_label() for line in ax.lines]
        assert {"FedTiny", UNPRUNED} <= set(labels)
    in_one = [pictures._styles([arm])[arm][:2] for arm in ARMS]
    assert len(set(in_one)) == len(ARMS), "all arms stand in one panel of the picture of work"
