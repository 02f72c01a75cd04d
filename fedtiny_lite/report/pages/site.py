"""The report: verdicts first, then pictures, notebooks with their outputs, and the numbers held against their bands.

Written from what is in the results' folder; nothing is run. The folder `report` holds all of it and can be published.
"""

import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import nbformat
from matplotlib.figure import Figure
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell, new_notebook
from PIL import Image

from fedtiny_lite.records.claims import claim_cells, expected_bands, load_claims
from fedtiny_lite.records.environment import environment
from fedtiny_lite.records.files import ROOT, read_json, write_bytes
from fedtiny_lite.report import deciding
from fedtiny_lite.report.pages.notebook_page import title_of, write_page
from fedtiny_lite.report.pages.templates import fill
from fedtiny_lite.report.verdicts import Verdict

PAPER = "https://arxiv.org/abs/2212.01977"
_COLOURS = {deciding.HOLDS: "good", deciding.FAILS: "bad", deciding.OPEN: "open", deciding.UNTESTED: "open"}
_AGREES = {True: ("same", "good"), False: ("differs", "bad")}


def write_site(out: Path, found: Sequence[Verdict], picture: Figure, caption: str) -> Path:
    """Write `out`/report, which opens with the verdicts and their picture; returns the page to open first."""
    folder = out / "report"
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    notebooks = {path.stem: nbformat.read(path, as_version=4) for path in sorted((out / "notebooks").glob("*.ipynb"))}
    texts = {path.stem: _text(path) for path in sorted((ROOT / "docs").glob("*.md"))}
    titles = {name: title_of(node) or name for name, node in (notebooks | texts).items()}
    _write_pages(folder, list(notebooks), notebooks | texts, titles)
    picture.savefig(folder / "figures" / "verdicts.png", dpi=150)
    page = fill(
        "index.html",
        paper=PAPER,
        verdicts=found,
        colour=colour,
        picture={"source": "figures/verdicts.png", "caption": caption},
        figures=_gallery(out, folder, list(notebooks)),
        texts=[(name, titles[name]) for name in texts],
        outcomes=[_outcome(path, titles) for path in sorted((out / "outcomes").glob("*.json"))],
        claims=_claims(out, titles),
        machine=_machine(),
    )
    return write_bytes(folder / "index.html", page.encode())


def colour(outcome: str) -> str:
    """The class of an outcome in style.css; what holds only in part is neither good nor bad."""
    return _COLOURS.get(outcome, "fair")


def _text(path: Path) -> NotebookNode:
    """A page of docs/ as a notebook of one text cell."""
    return new_notebook(cells=[new_markdown_cell(path.read_text(encoding="utf-8"))])


def _write_pages(folder: Path, order: list[str], nodes: dict[str, NotebookNode], titles: dict[str, str]) -> None:
    """A page for each notebook and text; notebooks lead to the one before and the one after."""
    for name, node in nodes.items():
        place = order.index(name) if name in order else len(order) + 1
        beside = [order[other] for other in (place - 1, place + 1) if 0 <= other < len(order)]
        images = ROOT / ("notebooks" if name in order else "docs")
        write_page(node, folder / f"{name}.html", images, [(other, titles[other]) for other in beside], nodes)


def _gallery(out: Path, folder: Path, notebooks: Sequence[str]) -> list[dict[str, str]]:
    """The figures of the notebooks, copied; each carries its caption in the file."""
    shown = []
    for path in sorted((out / "figures").glob("*.png")):
        notebook = next((name for name in notebooks if name.split("_")[0] == path.stem.split("_")[0]), "")
        if notebook:
            shutil.copyfile(path, folder / "figures" / path.name)
            source, page = f"figures/{path.name}", f"{notebook}.html"
            shown.append({"source": source, "caption": _caption(path), "page": page, "notebook": notebook})
    return shown


def _caption(figure: Path) -> str:
    """The description in the file, or its name in words."""
    with Image.open(figure) as image:
        return image.info.get("Description", figure.stem.partition("_")[2].replace("_", " ").capitalize() + ".")


def _outcome(path: Path, titles: dict[str, str]) -> dict:
    name = path.stem
    return read_json(path) | {
        "title": titles.get(name, name),
        "page": f"{name}.html" if name in titles else "",
    }


def _claims(out: Path, titles: dict[str, str]) -> list[tuple[str, list[tuple[str, str, str, str, str]]]]:
    """(title of the notebook, its rows): what was recorded, what this run measured, and whether they agree."""
    notebooks = {claim_id: entry["notebook"] for claim_id, entry in expected_bands().items()}
    groups = defaultdict(list)
    for row in load_claims(out):
        claim, band, measured, verdict = claim_cells(row)
        name = notebooks.get(row["id"], "")
        groups[titles.get(name, name)].append((claim, band, measured, *_AGREES.get(row["ok"], (verdict, "open"))))
    return list(groups.items())


def _machine() -> str:
    here = environment()
    packages = here["packages"]
    return f"Written on {here['cpu']}, {here['cpu_count']} cores, Python {here['python']}, torch {packages['torch']}."
