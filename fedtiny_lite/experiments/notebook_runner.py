"""Run the notebooks without a browser: papermill executes them, nbconvert makes pages of them.

Below the output folder: `notebooks/` (executed copies), `html/` (one page each, nothing fetched from the
network), `claims/` (what each notebook checked) and `report.html`, the page to open first.
"""

import html
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import nbformat
import papermill
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbconvert import HTMLExporter
from papermill.exceptions import PapermillExecutionError

from fedtiny_lite.records.claims import claim_cells, claims_path, load_claims
from fedtiny_lite.records.explored import changed_parameters, own_folder
from fedtiny_lite.records.files import ROOT

PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>FedTiny-Lite report</title><style>
body {{ font-family: sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse; margin-bottom: 2rem }}
td, th {{ border-bottom: 1px solid #ccc; padding: .4rem .8rem; text-align: left; vertical-align: top }}
.bad {{ color: #b00020; font-weight: bold }}
</style></head><body>
<h1>FedTiny-Lite report</h1>
<p>Profile <b>{profile}</b></p>
<h2>Notebooks</h2>
<table><tr><th>notebook</th><th>seconds</th><th>outcome</th></tr>
{notebooks}
</table>
<h2>Claims</h2>
<table><tr><th>claim</th><th>expected</th><th>measured</th><th>outcome</th></tr>
{claims}
</table>
</body></html>
"""


SCRIPT_URLS = (
    "mathjax_url",
    "require_js_url",
    "jquery_url",
    "mermaid_js_url",
    "mermaid_layout_elk_js_url",
    "jupyter_widgets_base_url",
    "widget_renderer_url",
)


class NotebookRun(NamedTuple):
    """One executed notebook: its name without ending, wall seconds, and the error that stopped it, if any."""

    name: str
    seconds: float
    error: str | None


class OwnPython(AsyncKernelManager):
    """Starts the kernel with the running Python, whichever kernels are registered on the machine."""

    transport_encryption = "auto"  # others on this machine cannot read along, where Jupyter knows how

    @property
    def kernel_spec(self) -> KernelSpec:
        # With no folder to search, Jupyter falls back to the ipykernel of sys.executable.
        spec = KernelSpecManager(kernel_dirs=[]).get_kernel_spec(self.kernel_name)
        spec.env["TQDM_DISABLE"] = "1"  # nobody watches the bars, and a page cannot move them
        return spec


def find_notebooks(names: Iterable[str] = ()) -> list[Path]:
    """The project's notebooks in order; with `names`, those whose file name starts with one of them.

    Raises ValueError for a name that fits no notebook.
    """
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    names = tuple(names)
    for name in names:
        if not any(path.name.startswith(name) for path in notebooks):
            known = ", ".join(path.stem for path in notebooks) or f"none in {ROOT / 'notebooks'}"
            raise ValueError(f"no notebook is called {name!r}; there are: {known}")
    return [path for path in notebooks if not names or path.name.startswith(names)]


def run_notebooks(
    notebooks: Iterable[str | Path],
    profile: str,
    out: str | Path,
    parameters: Mapping[str, object] | None = None,
) -> list[NotebookRun]:
    """Execute the notebooks in order, each in its own folder, and write copies, pages and report below `out`.

    Each gets `parameters` and profile, out (an absolute path) and interactive=False. If one of the `parameters` differs
    from a notebook's own, everything is written below `out`/explored. One line is printed for each notebook; one that
    fails does not stop the others. Raises ValueError, before anything is run, for a
    parameter that a notebook lacks, a missing notebook, or an `out` that would overwrite the sources.
    """
    out = Path(out).resolve()
    sources = [Path(notebook).resolve() for notebook in notebooks]
    given = {**(parameters or {}), "profile": profile, "out": str(out), "interactive": False}
    for source in sources:
        _refuse_bad_input(source, out, given)
    folders = [own_folder(out, changed_parameters(source, given)) for source in sources]
    runs = [_run_one(source, folder, given) for source, folder in zip(sources, folders, strict=True)]
    for folder in dict.fromkeys(folders):
        write_report([run for run, of_run in zip(runs, folders, strict=True) if of_run == folder], profile, folder)
    return runs


def _refuse_bad_input(source: Path, out: Path, given: Mapping[str, object]) -> None:
    if not source.is_file():
        raise ValueError(f"there is no notebook {source}")
    if source == out / "notebooks" / source.name:
        raise ValueError(f"output folder {out} would overwrite {source}; use another, as {out / 'results'}")
    known = papermill.inspect_notebook(_literal(source))
    unknown = sorted(given.keys() - known.keys())
    if unknown:
        allowed = ", ".join(known) or "none (no cell is tagged 'parameters')"
        raise ValueError(f"{source.name} has no parameter {', '.join(unknown)}; allowed are: {allowed}")


def _literal(path: Path) -> str:
    """`path` for papermill, which reads braces in a path as fields to fill in."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _run_one(source: Path, out: Path, given: Mapping[str, object]) -> NotebookRun:
    """Execute one notebook, its copy and its page below `out`; `given` may name another folder for its records."""
    executed = out / "notebooks" / source.name
    executed.parent.mkdir(parents=True, exist_ok=True)
    claims_path(out, source.name).unlink(missing_ok=True)  # claims of an earlier run are not this run's
    print(f"{source.stem}: running at profile {given['profile']}", flush=True)
    start = time.perf_counter()
    error = _execute(source, executed, given)
    run = NotebookRun(source.stem, time.perf_counter() - start, error)
    print(f"{run.name}: {error or 'ok'} ({run.seconds:.1f} s)", flush=True)
    if executed.is_file():
        write_page(executed, out / "html" / f"{source.stem}.html", images=source.parent)
    return run


def _execute(source: Path, executed: Path, given: Mapping[str, object]) -> str | None:
    """Run one notebook; returns None, or the cell and the error that stopped it, on one line."""
    executed.unlink(missing_ok=True)
    try:
        papermill.execute_notebook(
            _literal(source),
            _literal(executed),
            dict(given),
            kernel_name="python3",
            language="python",
            cwd=source.parent,
            progress_bar={"desc": source.stem, "leave": False},
            kernel_manager_class=OwnPython,
        )
    except PapermillExecutionError as error:
        lines = [*str(error.evalue).splitlines(), ""]
        return f"failed in cell [{error.exec_count}]: {error.ename}: {lines[0]}"
    except Exception as error:  # a dead kernel, a full disk: the other notebooks still run
        return f"failed: {type(error).__name__}: {' '.join(str(error).split())}"
    return None


def write_page(notebook: Path, page: Path, images: Path) -> None:
    """Convert an executed notebook to one HTML file that fetches nothing.

    Pictures are embedded, those that markdown cells name relative to the folder `images`. Widgets are left
    out, and formulas stay as they were typed: drawing either takes scripts from a network.
    """
    errors_only = logging.Logger(__name__, logging.ERROR)  # that figures carry no alternative text is known
    exporter = HTMLExporter(embed_images=True, log=errors_only)
    for url in SCRIPT_URLS:
        setattr(exporter, url, "")
    node = nbformat.read(notebook, as_version=4)
    node.metadata.pop("widgets", None)
    text, _ = exporter.from_notebook_node(node, {"metadata": {"name": notebook.stem, "path": str(images)}})
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(text, encoding="utf-8")


def write_report(runs: Sequence[NotebookRun], profile: str, out: Path) -> Path:
    """Write `out`/report.html: the notebooks just run, linked, and the claims they checked."""
    rows = [
        _row(_link(run, out), f"{run.seconds:.1f}", html.escape(run.error or "ok"), bad=run.error is not None)
        for run in runs
    ]
    claims = [
        _row(*(html.escape(text) for text in claim_cells(claim)), bad=claim["ok"] is False)
        for claim in load_claims(out, [run.name for run in runs])
    ]
    page = PAGE.format(profile=html.escape(profile), notebooks="\n".join(rows), claims="\n".join(claims))
    report = out / "report.html"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(page, encoding="utf-8")
    return report


def _link(run: NotebookRun, out: Path) -> str:
    name = html.escape(run.name)
    return f'<a href="html/{name}.html">{name}</a>' if (out / "html" / f"{run.name}.html").is_file() else name


def _row(*cells: str, bad: bool) -> str:
    *first, last = cells
    outcome = f'<td class="bad">{last}</td>' if bad else f"<td>{last}</td>"
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in first) + outcome + "</tr>"
