"""The report and the pages of notebooks: they need no network, link to each other, and say what they were given."""

import re
from html.parser import HTMLParser

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from fedtiny_lite.plots.verdicts import CAPTION, verdicts_figure
from fedtiny_lite.records.claims import check, save_claims
from fedtiny_lite.records.files import ROOT, write_json
from fedtiny_lite.report.pages.notebook_page import with_formulas, write_page
from fedtiny_lite.report.pages.site import colour, write_site
from fedtiny_lite.report.pages.templates import fill
from fedtiny_lite.report.verdicts import verdicts

DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
NAMES = ("00_start_here", "01_data_heterogeneity")


class Page(HTMLParser):
    """What a page links to, the pictures it shows, and the places in it that can be linked to."""

    def __init__(self, text: str):
        super().__init__()
        self.links, self.pictures, self.ids = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids |= {found["id"]} if "id" in found else set()
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag == "img":
            self.pictures.append((found["src"], found.get("alt")))
        assert tag not in ("script", "link", "iframe"), "it would fetch something"


def notebook(path, heading, *outputs):
    cells = [
        new_markdown_cell(f"# {heading}\n\nFor $a_i < b$ it is `$x$`.\n\n$$\\sum_i x_i$$"),
        new_code_cell("price = '$5 to $6'  # why", outputs=list(outputs), execution_count=1),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells), path)


def site(out):
    found = verdicts(out)
    return write_site(out, found, verdicts_figure(found), CAPTION)


def picture(**metadata):
    return new_output("display_data", data={"image/png": DOT}, metadata={"image/png": metadata} if metadata else {})


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A results' folder of two notebooks, the second of which failed, and the report made of it."""
    out = tmp_path_factory.mktemp("out")
    notebook(out / "notebooks" / f"{NAMES[0]}.ipynb", "Start <here>", picture(alt="One dot."), picture())
    notebook(out / "notebooks" / f"{NAMES[1]}.ipynb", "Clients")
    for name, error in zip(NAMES, (None, "failed in cell [3]: KeyError: '<x>'"), strict=True):
        write_json(out / "outcomes" / f"{name}.json", {"profile": "smoke", "name": name, "seconds": 2, "error": error})
    rows = [check("00-within-budget", 1.0, "smoke"), check("00-bytes", 5.0, "smoke"), check("00-accuracy", 1, "smoke")]
    save_claims(rows, out, NAMES[0])
    (out / "figures").mkdir()
    Image.new("RGB", (4, 4)).save(out / "figures" / "01_split.png")
    site(out)
    return out / "report"


def test_every_page_is_linked_and_every_link_and_picture_is_there(report):
    pages = {path.name: Page(path.read_text(encoding="utf-8")) for path in report.glob("*.html")}
    texts = {f"{path.stem}.html" for path in (ROOT / "docs").glob("*.md")}
    assert pages.keys() == {"index.html", *(f"{name}.html" for name in NAMES)} | texts
    for name, page in pages.items():
        inside = [link for link in page.links if not link.startswith("https://")]
        for link in inside:
            target, _, place = link.partition("#")
            assert not place or place in pages[target or name].ids, link
            assert not target or (report / target).is_file(), link
        assert name in texts or {f"{other}.html" for other in NAMES} - {name} <= set(inside)
        assert name == "index.html" or "index.html" in inside
        for source, text in page.pictures:
            assert text and (source.startswith("data:") or (report / source).is_file())


def test_a_heading_lies_where_links_in_markdown_expect_it(tmp_path):
    node = new_notebook(cells=[new_markdown_cell("# Why\n\n## The kit's own `Pool`, α < 1")])
    write_page(node, tmp_path / "page.html", tmp_path)
    assert Page((tmp_path / "page.html").read_text(encoding="utf-8")).ids >= {"why", "the-kits-own-pool-α--1"}


def test_pictures_have_the_text_that_the_notebook_gave_them(report):
    texts = [text for _, text in Page((report / f"{NAMES[0]}.html").read_text(encoding="utf-8")).pictures]
    assert texts == ["One dot.", f"a figure of {NAMES[0]}"]


def test_the_report_opens_with_every_verdict(report, tmp_path):
    text = (report / "index.html").read_text(encoding="utf-8")
    for found in verdicts(tmp_path):
        assert fill_in(found.claim) in text and fill_in(found.decisive.numbers) in text
    assert text.index('id="verdicts"') < text.index('id="gallery"') < text.index('id="recorded"')


def fill_in(words: str) -> str:
    return words.replace("'", "&#39;")


def test_same_as_recorded_is_told_apart_from_a_claim_that_holds(report):
    _, recorded = (report / "index.html").read_text(encoding="utf-8").split('id="recorded"')
    outcomes = re.findall(r'<td class="outcome (\w+)">(.*?)</td>', recorded)
    assert outcomes == [("good", "same"), ("bad", "differs"), ("open", "not judged: no band at profile smoke")]
    assert "It does not say that the paper is right" in recorded


def test_a_failed_notebook_is_named_and_text_is_escaped(report):
    text = (report / "index.html").read_text(encoding="utf-8")
    assert "failed in cell [3]: KeyError: &#39;&lt;x&gt;&#39;" in text
    assert "Start &lt;here&gt;" in text and "Split." in text


def test_an_empty_folder_has_a_report_too(tmp_path):
    text = site(tmp_path).read_text(encoding="utf-8")
    assert "No notebook was run." in text and "does not hold" in text


def test_formulas_of_text_cells_are_mathml_and_code_is_left_alone(report):
    text = (report / f"{NAMES[0]}.html").read_text(encoding="utf-8")
    assert text.count("<math ") == 2 and 'display="block"' in text
    assert "<code>$x$</code>" in text and "$5 to $6" in text
    assert with_formulas("<p>$a$</p>") == "<p>$a$</p>", "it is no cell"


def test_no_formula_of_the_texts_is_left_as_typed(report):
    for path in report.glob("*.html"):
        shown = re.sub(r"<(style|code|pre).*?</\1>", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert not re.findall(r"\$[^$<]+\$|\\[a-z]+", shown), path.name


def test_a_notebook_without_a_heading_goes_by_its_name(tmp_path):
    write_page(new_notebook(cells=[new_code_cell("# no heading")]), tmp_path / "03_x.html", tmp_path)
    assert "<title>03_x</title>" in (tmp_path / "03_x.html").read_text()


def test_links_lead_to_pages_or_become_text(tmp_path):
    text = "[a](../docs/glossary.md#words) [b](01_data.ipynb) [c](../fedtiny_lite/config.py) [d](https://e.org) [f](#g)"
    node = new_notebook(cells=[new_markdown_cell(text)])
    write_page(node, tmp_path / "x.html", tmp_path, pages=["glossary", "01_data"])
    links = Page((tmp_path / "x.html").read_text()).links
    assert links[1:-1] == ["glossary.html#words", "01_data.html", "https://e.org", "#g"]
    assert " c " in (tmp_path / "x.html").read_text()


def test_the_pages_know_dark_screens_and_narrow_ones():
    style = fill("notebook.html", title="t", body="", neighbours=())
    assert "prefers-color-scheme: dark" in style and "max-width: 40rem" in style and "width=device-width" in style


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [("holds", "good"), ("holds against A only", "fair"), ("partly", "fair"), ("does not hold", "bad")],
)
def test_colours_of_outcomes(outcome, expected):
    assert colour(outcome) == expected
