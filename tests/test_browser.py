"""The notebooks in JupyterLab, in a real browser, with its keyboard and its mouse.

`make lab` starts JupyterLab on loopback over a copy of the notebooks at profile smoke, and Debian's Chromium opens it.
Screenshots are kept in results/browser. Without Chromium or Playwright the tests are skipped.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.error import URLError
from urllib.request import urlopen

import nbformat
import pytest

from fedtiny_lite.experiments.notebook_runner import find_notebooks
from fedtiny_lite.records.files import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium"),
]
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run",
)  # fmt: skip
SCREENSHOTS = ROOT / "results" / "browser"
IDLE = "Python 3 (ipykernel) | Idle"
NOTEBOOKS = [path.stem for path in find_notebooks()]
WAIT = 240_000  # at most, in ms as Playwright counts: for machines that are busy with something else too
RAN = """() => {
    const prompts = [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(part => part.textContent);
    const failed = document.querySelector('[data-mime-type="application/vnd.jupyter.error"]');
    return failed || (prompts.every(text => !text.includes('*')) && /[0-9]/.test(prompts.at(-1)));
}"""
"""Whether the last cell was run, or some cell failed."""


class Lab(NamedTuple):
    """A running JupyterLab: its address, ending in a slash, its token, and the folder it shows."""

    url: str
    token: str
    folder: Path


# --- JupyterLab and the browser ---------------------------------------------------------------------------


def at_smoke(source: Path, target: Path, out: Path) -> None:
    """A copy of a notebook whose parameters say profile smoke and where its results go."""
    notebook = nbformat.read(source, as_version=4)
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            for name, value in (("profile", "smoke"), ("out", str(out))):
                cell.source = re.sub(
                    rf"^{name}: str = \S+", f"{name}: str = {value!r}", cell.source, flags=re.MULTILINE
                )
    nbformat.write(notebook, target)


def recipe(stamp: Path) -> str:
    """What `make lab` runs where all is installed, with the Python of the tests. `stamp`: a file newer than all."""
    stamp.touch()
    given = ["BROWSER=no", "PORT=0", f"INSTALLED={stamp}", f"BIN={Path(sys.executable).parent}"]
    call = ["make", "--no-print-directory", "-n", "-C", str(ROOT), "lab", *given]
    return subprocess.run(call, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[Lab]:
    """JupyterLab as `make lab` starts it, for somebody whose home is empty."""
    folder, home = tmp_path_factory.mktemp("lab"), tmp_path_factory.mktemp("home")
    shutil.copytree(ROOT / "docs", folder / "docs")
    (folder / "notebooks").mkdir()
    for path in find_notebooks():
        at_smoke(path, folder / "notebooks" / path.name, folder / "results")
    runtime = {"HOME": str(home), "JUPYTER_RUNTIME_DIR": str(home / "runtime")}
    paths = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (home / "log").open("wb") as log:
        server = subprocess.Popen(
            recipe(home / "installed"),
            shell=True,
            cwd=folder,
            env=paths | runtime,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield Lab(*started(home / "runtime", server), folder)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def started(runtime: Path, server: subprocess.Popen) -> tuple[str, str]:
    """Address and token of the server, once it has written them down and answers."""
    for _ in range(WAIT // 100):
        for path in runtime.glob("jpserver-*.json"):
            with contextlib.suppress(ValueError, URLError):  # half written, or not yet listening
                found = json.loads(path.read_text())
                urlopen(f"{found['url']}login").close()
                return found["url"], found["token"]
        assert server.poll() is None, (runtime.parent / "log").read_text()
        time.sleep(0.1)
    raise TimeoutError((runtime.parent / "log").read_text())


@pytest.fixture(scope="module")
def browser():
    """A Chromium that nobody sees, with nothing remembered."""
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        context = chromium.new_context(viewport={"width": 1400, "height": 1000})
        context.set_default_timeout(WAIT)
        yield context
        chromium.close()


@pytest.fixture(scope="module")
def notebook(request, lab, browser):
    """A page on the notebook that the test asks for by name, run from its first to its last cell.

    When the notebook's tests are through, nothing may have been asked of another host, and no error logged.
    """
    page, problems = browser.new_page(), []
    page.on("console", lambda said: problems.append(f"console: {said.text}") if said.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(f"page: {error}"))
    ours = (lab.url, lab.url.replace("http", "ws", 1), "data:", "blob:")
    page.on("request", lambda one: None if one.url.startswith(ours) else problems.append(f"asked for {one.url}"))
    page.goto(f"{lab.url}lab/tree/notebooks/{request.param}.ipynb?token={lab.token}&reset")
    page.get_by_text(IDLE).wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_function(RAN)
    page.get_by_text(IDLE).wait_for()
    yield page
    shoot(page, request.param, "end")
    shut_down(page)
    page.close()
    assert problems == []


def shut_down(page) -> None:
    """End the notebook's kernel, so that the next one has the machine to itself."""
    page.get_by_role("menuitem", name="Kernel", exact=True).click()
    page.get_by_role("menuitem", name="Shut Down Kernel", exact=True).click()
    page.get_by_text("No Kernel").first.wait_for()


def shoot(page, notebook: str, what: str) -> None:
    """Keep a picture of the window."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{notebook}_{what}.png")


def of_notebook(*names: str):
    return pytest.mark.parametrize("notebook", names, indirect=True)


# --- notebooks --------------------------------------------------------------------------------------------


def test_nobody_enters_without_the_token(lab):
    with urlopen(f"{lab.url}lab") as answer:
        assert "/login" in answer.url


def test_it_opens_notebook_00_and_asks_nothing(lab, browser):
    page = browser.new_page()
    page.goto(f"{lab.url}?token={lab.token}")
    page.get_by_role("tab", name="00_start_here.ipynb").wait_for()
    page.get_by_text(IDLE).wait_for()
    page.wait_for_timeout(1000)  # a question would come up by now
    assert page.locator(".Toastify__toast, .jp-Dialog").count() == 0
    shut_down(page)
    page.close()


@of_notebook(*NOTEBOOKS)
def test_every_cell_runs_and_nothing_warns(notebook):
    for kind in ("error", "stderr"):
        told = notebook.locator(f'[data-mime-type="application/vnd.jupyter.{kind}"]')
        assert told.all_text_contents() == []


@of_notebook(*NOTEBOOKS)
def test_every_panel_answers_keyboard_and_mouse(notebook, request):
    for number, panel in enumerate(panels(notebook)):
        panel.scroll_into_view_if_needed()
        for slider in panel.locator(".widget-slider").all():
            move_slider(notebook, panel, slider)
        for menu in reversed(panel.locator("select").all()):  # one density may be all that the first run has
            move_menu(notebook, panel, menu)
        shoot(notebook, request.node.callspec.params["notebook"], f"panel{number}")


def panels(page) -> list:
    """The boxes that hold controls above a picture, and no box of that kind."""
    return page.locator(".widget-vbox:has(> .widget-html img)").filter(has=page.locator("select, .widget-slider")).all()


def move_slider(page, panel, slider) -> None:
    """A step by an arrow key, then by a click near the end that is farther off; the picture changes both times."""
    handle, line = slider.locator(".noUi-handle").first, slider.locator(".noUi-base").first
    with picture_changes(page, panel):
        key = "ArrowRight" if is_left(handle, line) else "ArrowLeft"
        handle.press(key)
    with picture_changes(page, panel):
        x, y = middle_of(line)
        away = 0.4 * line.bounding_box()["width"]
        page.mouse.click(x + (away if is_left(handle, line) else -away), y)


def is_left(handle, line) -> bool:
    return middle_of(handle)[0] < middle_of(line)[0]


def middle_of(part) -> tuple[float, float]:
    box = part.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def move_menu(page, panel, menu) -> None:
    """Where there is a choice: to the last entry by the keyboard, then to the first as the mouse does."""
    values = menu.locator("option").all_text_contents()
    if len(values) == 1:
        return
    for value in (values[-1], values[0]):
        if menu.input_value() != value:
            with picture_changes(page, panel):
                menu.focus()
                menu.select_option(value)


@contextlib.contextmanager
def picture_changes(page, panel) -> Iterator[None]:
    """Wait until the panel shows another picture than before and is no longer busy."""
    picture = panel.locator("> .widget-html img").element_handle()
    before = picture.get_attribute("src")
    yield
    arguments = [panel.element_handle(), before]
    changed = "([panel, before]) => panel.querySelector('img').src != before && !panel.innerText.includes('computing')"
    page.wait_for_function(changed, arg=arguments)


# --- the tour ---------------------------------------------------------------------------------------------

TOUR = NOTEBOOKS[0]
WRONG = "def average(weights, sizes):\n    return weights.mean(0)\n"
RIGHT = "def average(weights, sizes):\n    return (sizes / sizes.sum()) @ weights\n"


@of_notebook(TOUR)
@pytest.mark.parametrize(
    ("name", "answer", "said"),
    [("wrong", WRONG, "✗ Your average counts every client alike"), ("right", RIGHT, "✓ Right")],
)
def test_an_exercise_is_judged(notebook, name, answer, said):
    cell = notebook.locator(".jp-CodeCell").filter(has_text='check("average"').first
    cell.scroll_into_view_if_needed()
    cell.locator(".cm-content").click()
    notebook.keyboard.press("Control+a")
    notebook.keyboard.insert_text(f'{answer}\n\ncheck("average", average)')
    notebook.keyboard.press("Shift+Enter")
    cell.locator(".jp-OutputArea-output").get_by_text(said).wait_for()
    shoot(notebook, TOUR, f"exercise_{name}")


@of_notebook(TOUR)
def test_train_it_stop_and_go_on(notebook):
    """By mouse, then by keyboard."""
    train, stop = (notebook.get_by_role("button", name=name, exact=True) for name in ("train it", "stop"))
    panel = notebook.locator(".widget-vbox").filter(has=train)
    train.scroll_into_view_if_needed()
    train.click()
    stop.click()
    panel.get_by_text("rounds are kept").wait_for()
    assert re.search(r"stopped; [12] of 2 rounds are kept", panel.inner_text())
    shoot(notebook, TOUR, "stopped")
    train.focus()
    notebook.keyboard.press("Enter")
    panel.get_by_text("finished", exact=True).wait_for()
    assert panel.locator("img").get_attribute("alt").startswith("Round 2 of 2")
    shoot(notebook, TOUR, "trained")
