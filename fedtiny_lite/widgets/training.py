"""A button that trains, with a live accuracy curve and mask, and a button that stops and keeps the finished rounds."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ipywidgets import HTML, Button, HBox, IntProgress, Label, VBox, Widget
from matplotlib.figure import Figure

from fedtiny_lite.config import Config
from fedtiny_lite.export.tiny_model import load_tiny
from fedtiny_lite.federated.state import State
from fedtiny_lite.model.masks import Mask
from fedtiny_lite.plots.rounds import training_figure
from fedtiny_lite.records.schema import read_record
from fedtiny_lite.simulation import checkpoint
from fedtiny_lite.simulation.rounds import run
from fedtiny_lite.simulation.setup import build_federation, resolved
from fedtiny_lite.widgets.panel import Places, as_html

Entries = list[dict[str, Any]]
"""Of a record: the start and the rounds so far."""


class StopPressed(Exception):
    """The reader pressed "stop"."""


def train_panel(config: Config, out: Path | str, interactive: bool) -> Widget | Figure:
    """Buttons that train and stop a run below `out`; not `interactive`: the figure of that run, carried out now.

    The run is the one that `run(config, out)` gives. A stopped one goes on where it was stopped, and a finished one
    starts anew. It trains in a thread, because a busy kernel would not hear "stop".
    """
    config = resolved(config)
    if not interactive:
        run(config, out)
        return draw_training(config, *known(config, Path(out)))
    train, stop = Button(description="train it"), Button(description="stop", disabled=True)
    bar, told, picture = IntProgress(max=config.rounds), Label(), HTML()
    places, wanted = Places(), threading.Event()

    def show(entries: Entries, masks: list[Mask]) -> None:
        bar.value = entries[-1]["round"] + 1
        picture.value = as_html(draw_training(config, entries, masks), places)

    def work() -> None:
        told.value = "training …"
        try:
            carry_on(config, Path(out), show, wanted)
            told.value = "finished"
        except StopPressed:
            told.value = f"stopped; {bar.value} of {config.rounds} rounds are kept, and “train it” goes on after them"
        except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
            told.value = str(error)
        train.disabled, stop.disabled = False, True

    def start(_: Button) -> None:
        train.disabled, stop.disabled = True, False
        wanted.clear()
        threading.Thread(target=work, daemon=True).start()

    def ask_to_stop(_: Button) -> None:
        told.value = "stopping after this round …"
        wanted.set()

    train.on_click(start)
    stop.on_click(ask_to_stop)
    entries, masks = known(config, Path(out))
    if entries:
        show(entries, masks)
    return VBox([HBox([train, stop]), bar, told, picture])


def known(config: Config, out: Path) -> tuple[Entries, list[Mask]]:
    """The start and the rounds of a finished or stopped run below `out`, and its mask; both empty if there is none.

    A finished run of a network in a file of one's own left no mask.
    """
    folder = out / config.run_id
    path = folder / "record.json"
    masks: list[Mask] = []
    if (folder / "model.tiny").exists():
        record, masks = read_record(path), [load_tiny(folder / "model.tiny").mask]
    elif saved := checkpoint.load(folder, config, build_federation(config).task):
        record, masks = saved.record, [saved.progress.state.mask]
    elif not path.exists() or not (record := read_record(path))["complete"]:
        return [], masks
    return [record["start"], *record["rounds"]], masks


def carry_on(config: Config, out: Path, show: Callable[[Entries, list[Mask]], None], wanted: threading.Event) -> None:
    """Run what is left; show(entries, masks) after the start and each round.

    Raises StopPressed after the round in which a stop was `wanted`.
    """
    folder = out / config.run_id
    if (folder / "record.json").exists():
        shutil.rmtree(folder)
    entries, masks = known(config, out)

    def on_round(entry: dict[str, Any], state: State) -> None:
        entries.append(entry)
        masks.append(state.mask)
        show(entries, masks)
        if wanted.is_set() and entry["round"] >= 0:
            raise StopPressed

    run(config, out, on_round)


def draw_training(config: Config, entries: Entries, masks: list[Mask]) -> Figure:
    """The accuracy of all rounds so far, and what the last one changed in the mask of the largest layer, if known."""
    text = f"{config.method}, {config.dataset}, density {config.density:g}, seed {config.seed}; accuracy measured"
    shown = (entries, config.rounds, config.score_on, text)
    if not masks:
        return training_figure(*shown)
    layer = max(masks[-1], key=lambda name: masks[-1][name].numel())
    matrices = [mask[layer].flatten(1).numpy() for mask in masks[-2:]]
    before = matrices[0] if len(matrices) > 1 else None
    return training_figure(*shown, layer, before, matrices[-1])
