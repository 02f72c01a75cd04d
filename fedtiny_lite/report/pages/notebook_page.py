"""An executed notebook as one HTML page that fetches nothing: pictures inside, formulas as MathML."""

import html
import logging
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from urllib.parse import unquote

from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbformat import NotebookNode

from fedtiny_lite.records.files import write_bytes
from fedtiny_lite.report.pages.templates import fill

_MARKDOWN = re.compile(r'(<div class="text_cell_render.*?\n</div>\n</div>\n</div>)', re.DOTALL)
_CODE = re.compile(r"(<(?:code|pre)\b.*?</(?:code|pre)>)", re.DOTALL)
_FORMULA = re.compile(r"\$\$(?P<block>.+?)\$\$|\$(?P<inline>[^\s$](?:[^$]*[^\s$])?)\$", re.DOTALL)
_LINK = re.compile(r'<a href="(?P<target>[^"]+)">(?P<text>.*?)</a>', re.DOTALL)
_HEADING = re.compile(
    r'<h(?P<level>[1-6]) id="(?P<place>[^"]+)">(?P<text>.*?)<a class="anchor-link" href="#[^"]+">', re.DOTALL
)
_NO_ALT = 'alt="No description has been provided for this image"'


def write_page(
    node: NotebookNode,
    page: Path,
    images: Path,
    neighbours: Sequence[tuple[str, str]] = (),
    pages: Collection[str] = (),
) -> None:
    """Convert an executed notebook to `page`.

    Pictures are embedded, those that markdown cells name relative to the folder `images`. Widgets are left out: they
    need scripts. `neighbours`: (name, title) of the pages before and after this one. `pages`: the names of all, to
    which links to notebooks and texts lead; a link to any other file of the repository becomes plain text.
    """
    quiet = logging.Logger(__name__, logging.ERROR)  # pictures without a description get one below
    exporter = HTMLExporter(template_name="basic", embed_images=True, log=quiet)
    node.metadata.pop("widgets", None)
    body, _ = exporter.from_notebook_node(node, {"metadata": {"name": page.stem, "path": str(images)}})
    body = body.replace(_NO_ALT, f'alt="a figure of {html.escape(page.stem)}"')
    body = _HEADING.sub(_with_usual_place, body)
    body = _LINK.sub(lambda link: _relinked(link, pages), with_formulas(body))
    text = fill("notebook.html", title=title_of(node) or page.stem, body=body, neighbours=neighbours)
    write_bytes(page, text.encode())


def title_of(node: NotebookNode) -> str:
    """The first heading of a notebook, or nothing."""
    lines = (line for cell in node.cells if cell.cell_type == "markdown" for line in cell.source.splitlines())
    return next((line.removeprefix("# ") for line in lines if line.startswith("# ")), "")


def _with_usual_place(heading: re.Match) -> str:
    """A heading under the id that links in Markdown expect, as on GitHub: "The kit's own" is `the-kits-own`."""
    place = re.sub(r"[^\w-]", "", unquote(html.unescape(heading["place"])).lower())
    level, text = heading["level"], heading["text"]
    return f'<h{level} id="{place}">{text}<a class="anchor-link" href="#{place}">'


def _relinked(link: re.Match, pages: Collection[str]) -> str:
    """A link as it is, or to the page of that name, or its text alone."""
    target, text = link["target"], link["text"]
    if target.startswith(("#", "https:")):
        return link[0]
    name, place = Path(target.partition("#")[0]).stem, target.partition("#")[2]
    return f'<a href="{name}.html{"#" * bool(place)}{place}">{text}</a>' if name in pages else text


def with_formulas(body: str) -> str:
    """The HTML of a notebook with $…$ and $$…$$ of its markdown cells as MathML, which browsers draw by themselves."""
    return _MARKDOWN.sub(lambda cell: _outside_code(cell[0]), body)


def _outside_code(text: str) -> str:
    parts = _CODE.split(text)
    return "".join(part if place % 2 else _FORMULA.sub(_mathml, part) for place, part in enumerate(parts))


def _mathml(formula: re.Match) -> str:
    kind = "block" if formula["block"] else "inline"
    latex = html.unescape(formula[kind]).strip().replace(r"\arg", r"\operatorname{arg}")  # it knows no \arg
    return convert(latex, display=kind)
