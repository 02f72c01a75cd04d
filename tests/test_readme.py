"""README and docs: short, their links lead somewhere, and the verdicts are those of the records."""

import re
from statistics import mean

import pytest

from fedtiny_lite.experiments.claim import DENSITIES
from fedtiny_lite.experiments.notebook_runner import find_notebooks
from fedtiny_lite.records.bundles import COMMITTED, read_bundle
from fedtiny_lite.records.files import ROOT
from fedtiny_lite.report.arms import arms_at, gaps_over
from fedtiny_lite.report.intervals import holm, p_value
from fedtiny_lite.report.readme import PLACES, marks, with_verdicts, write_readme
from fedtiny_lite.report.verdicts import verdicts

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_verdicts_are_those_of_the_committed_records(tmp_path):
    assert with_verdicts(README, verdicts(tmp_path)) == README, "run: python -m fedtiny_lite report --readme"


def test_the_readme_takes_a_few_minutes_to_read():
    words = [word for word in README.split() if re.search(r"\w", word)]  # no rules of tables, no signs
    assert len(words) <= 900


def test_the_readme_leads_to_every_notebook_and_every_page():
    for path in find_notebooks():
        assert f"notebooks/{path.name}" in README
    linked = {
        target
        for page in PAGES
        for target in re.findall(r"\]\((?:docs/|)(\w+\.md)\)", page.read_text(encoding="utf-8"))
    }
    assert {path.name for path in (ROOT / "docs").glob("*.md")} <= linked


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_inside_the_repository_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if not target.startswith("https://"):
            assert (page.parent / target).exists(), target


def test_every_room_is_explained():
    text = (ROOT / "docs" / "package.md").read_text(encoding="utf-8")
    rooms = {path.stem for path in (ROOT / "fedtiny_lite").iterdir() if path.stem[0] not in "_."}
    assert {room for room in rooms if f"[{room}/]" not in text and f"`{room}`" not in text} == set()


def test_only_what_is_between_the_marks_changes(tmp_path):
    path, ours = tmp_path / "README.md", [marks(name) for name in PLACES]
    path.write_text("a\n" + "b\n".join(f"{begin}\nold\n{end}\n" for begin, end in ours) + "c\n", encoding="utf-8")
    text = write_readme(verdicts(tmp_path), path).read_text(encoding="utf-8")
    (begin, end), (after, last) = ours
    assert text.startswith(f"a\n{begin}\n**Its abstract, checked here.** More accurate than every baseline: **")
    assert (
        "**holds against PruneFL only** in an adjusting round, **does not hold** over 300 rounds; 94.01 % less memory"
        in text
    )
    assert f".\n{end}\nb\n{after}\n| the paper claims |" in text and text.endswith(f"|\n{last}\nc\n")
    with pytest.raises(ValueError, match="no place for the answer"):
        with_verdicts("no marks", [])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_link_waits_for_the_name_of_an_account(page):
    assert not re.search(r"\]\([^)]*OWNER", page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("paper", DENSITIES)
def test_two_baselines_surely_lead_at_each_density_of_the_resnet(paper):
    gaps = gaps_over(arms_at(read_bundle(COMMITTED / "claim.json"), paper))
    corrected = holm([p_value(values) for values in gaps.values()])
    behind = [name for name, p in zip(gaps, corrected, strict=True) if p < 0.05 and mean(gaps[name]) < 0]
    assert (len(gaps), len(behind)) == (10, 2)
    assert "At each ResNet18 density two baselines surely lead." in README
