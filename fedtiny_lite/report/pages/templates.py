"""The HTML files of this folder, filled in. Values are escaped unless the template says that they are HTML."""

from pathlib import Path

import jinja2

_FOLDER = Path(__file__).parent
_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_FOLDER), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
)


def fill(name: str, **values: object) -> str:
    """The text of the template `name`. Raises jinja2.UndefinedError for a value that it needs and is not given."""
    style = (_FOLDER / "style.css").read_text(encoding="utf-8")
    return _TEMPLATES.get_template(name).render(style=style, **values)
