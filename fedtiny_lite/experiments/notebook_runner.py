"""Run the notebooks without a browser: papermill executes them.

Below the output folder: `notebooks/` (executed copies), `claims/` (what each notebook checked), `outcomes/` (how each
ended). `pages.site` makes pages of them.
"""

import time
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import papermill
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from papermill.exceptions import PapermillExecutionError

from fedtiny_lite.records.claims import claims_path
from fedtiny_lite.records.explored import changed_parameters, own_folder
from fedtiny_lite.records.files import ROOT, aside, write_json


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
    """Execute the notebooks in order, each in its own folder, and write copies and outcomes below `out`.

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
    return [_run_one(source, folder, given) for source, folder in zip(sources, folders, strict=True)]


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
    """Execute one notebook, its copy and outcome below `out`; `given` may name another folder for its records."""
    executed, outcome = out / "notebooks" / source.name, out / "outcomes" / f"{source.stem}.json"
    for path in (claims_path(out, source.name), outcome):  # those of an earlier run are not this run's
        path.unlink(missing_ok=True)
    print(f"{source.stem}: running at profile {given['profile']}", flush=True)
    start = time.perf_counter()
    error = _execute(source, executed, given)
    run = NotebookRun(source.stem, time.perf_counter() - start, error)
    print(f"{run.name}: {error or 'ok'} ({run.seconds:.1f} s)", flush=True)
    write_json(outcome, {"profile": given["profile"]} | run._asdict())
    return run


def _execute(source: Path, executed: Path, given: Mapping[str, object]) -> str | None:
    """Run one notebook; returns None, or the cell and the error that stopped it, on one line.

    The copy is written aside, so that another run into the same folder, a kill or a full disk tears none.
    """
    try:
        with aside(executed) as beside:
            return _execute_to(beside, source, given)
    except OSError as error:
        return f"failed: {type(error).__name__}: {error}"


def _execute_to(copy: Path, source: Path, given: Mapping[str, object]) -> str | None:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"The specified file .* does not end in", UserWarning)
            papermill.execute_notebook(
                _literal(source),
                _literal(copy),
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
    except OSError:  # a full disk: the copy may be torn
        raise
    except Exception as error:  # a dead kernel: the other notebooks still run
        return f"failed: {type(error).__name__}: {' '.join(str(error).split())}"
    return None
