"""The Flower ServerApp: the round loop of every run, with the clients on Flower's nodes.

Its settings are the run config in pyproject.toml, which `flwr run . --run-config '…'` overrides. Flower reports success
for a run that failed, so judge by the record: a finished one says `"complete": true`.
"""

import shlex
from dataclasses import replace
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedtiny_lite.config import Config, make_config, parse_settings
from fedtiny_lite.flower.folders import read_holdings
from fedtiny_lite.flower.place import OnFlower
from fedtiny_lite.simulation.rounds import run
from fedtiny_lite.simulation.setup import Holdings, hand_out, resolved

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """One run; the last line printed is the path of its record."""
    own = context.run_config
    config = make_config(str(own["profile"]), **parse_settings(shlex.split(str(own["settings"]))))
    config, held = holdings(resolved(config), str(own["holdings"]))
    numbers = [float(own[name]) for name in ("min-clients", "wait", "round-timeout")]
    place = OnFlower(grid, config, held, int(numbers[0]), *numbers[1:])
    folder = Path(str(own["out"])) / "runs"
    record = run(config, folder, place=place)
    print(folder / record["run_id"] / "record.json", flush=True)


def holdings(config: Config, folder: str) -> tuple[Config, Holdings]:
    """What the server holds: its folder, or its part of the data set that the settings name; the settings with the name
    of the data.
    """
    if not folder:
        return config, hand_out(config)
    dataset, held = read_holdings(Path(folder), config.torch_device)
    return replace(config, dataset=dataset), held
